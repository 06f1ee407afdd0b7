"""What is measured in one image: the classes of its regions, its embedding and its captions', the classes of its objects."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from whybox import api
from whybox.accuracy.region_classes import rank_classes
from whybox.attention import ImageTextModel
from whybox.errors import WhyboxError
from whybox.runs.clip_scores.folder import Record
from whybox.runs.clip_scores.regions import image_embedding, region_features
from whybox.truth import Sample, Truth
from whybox.types import Trace

GREY = (0.5, 0.5, 0.5)
"""The padding of crops for models without a color of their own."""


@dataclass(frozen=True)
class ClassTask:
    """The classes that regions and objects are compared with.

    Attributes:
        names: K class names.
        embeddings: (K,D) of length 1, on the CPU.
        whole: Whether whole images are classified, and not crops of their objects.
    """

    names: Sequence[str]
    embeddings: Tensor
    whole: bool = False


def score_regions(model: ImageTextModel, sample: Sample, trace: Trace, task: ClassTask) -> Record:
    """Classify the regions of an image by the dense map of one pass.

    Args:
        model: The model.
        sample: The image; objects to ignore are left out.
        trace: The model's pass over it.
        task: The classes.

    Returns:
        For each object its id and class, and by "box" and "mask" the places [above, tied] of its class and the most similar one;
        null where there is no mask, or where the network did not see the region.
    """
    truth = sample.truth[~sample.truth.ignore]
    boxes, masks = region_features(model, trace, truth.boxes, truth.masks)
    columns = [_placed(boxes, truth, task), _placed(masks, truth, task)]
    rows = [{**about, "box": box, "mask": mask} for about, box, mask in zip(_about(truth, task), *columns, strict=True)]
    return {"image": sample.name, "regions": rows}


def score_objects(model: ImageTextModel, sample: Sample, trace: Trace, task: ClassTask) -> Record:
    """Classify an image, or crops of its objects, as a whole.

    Args:
        model: The model.
        sample: The image; objects to ignore are left out.
        trace: The model's pass over it.
        task: The classes; its `whole` decides.

    Returns:
        For each object its id and class, the places [above, tied] of its class, and the most similar one.
    """
    truth = sample.truth[~sample.truth.ignore]
    if task.whole:
        if len(truth) != 1:
            raise WhyboxError(f"{sample.name}: expected one object, got {len(truth)}")
        embeddings = image_embedding(trace)[None]
    else:
        fill = getattr(model, "fill", GREY)
        crops = [padded_crop(sample.image, box, fill) for box in truth.boxes]
        each = [image_embedding(api.trace(model, crop)) for crop in crops]
        embeddings = torch.stack(each) if each else task.embeddings[:0]
    columns = _placed(embeddings, truth, task)
    objects = [{**about, "whole": placed} for about, placed in zip(_about(truth, task), columns, strict=True)]
    return {"image": sample.name, "objects": objects}


def padded_crop(image: Image.Image, box: Tensor, fill: Sequence[float]) -> Image.Image:
    """The pixels of a box in the middle of a square.

    Args:
        image: The picture.
        box: (4,) xyxy in image pixels; the part beyond the image is cut off.
        fill: (3,) the color of the padding, in 0..1.

    Returns:
        A square picture with the box's longer side.
    """
    x1, y1, x2, y2 = clip_boxes_to_image(box[None], (image.height, image.width))[0].tolist()
    # At least one pixel, also of a box on the image's edge.
    left, top = min(math.floor(x1), image.width - 1), min(math.floor(y1), image.height - 1)
    right, bottom = max(math.ceil(x2), left + 1), max(math.ceil(y2), top + 1)
    crop = image.convert("RGB").crop((left, top, right, bottom))
    side = max(crop.size)
    red, green, blue = (round(255 * value) for value in fill)
    square = Image.new("RGB", (side, side), (red, green, blue))
    square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    return square


def score_captions(model: ImageTextModel, sample: Sample, trace: Trace, captions: Sequence[str]) -> Record:
    """Embed an image and its captions.

    Args:
        model: The model.
        sample: The image.
        trace: The model's pass over it.
        captions: At least one.

    Returns:
        The embeddings of length 1, packed, and how many captions the model read only in part.
    """
    asking: Any = model
    # Prompted rather than embedded: the prompts know what did not fit into the model's context.
    read: ImageTextModel = asking.prompt(list(captions))
    return {
        "image": sample.name,
        "embedding": pack(image_embedding(trace)[None]),
        "captions": list(captions),
        "texts": pack(read.prompt_embeddings().float().cpu()),
        "cut": sum(bool(text.cut) for text in read.texts),
    }


def pack(rows: Tensor) -> str:
    """(n,D) float32 as text: base64 of little-endian numbers, row by row."""
    return base64.b64encode(rows.numpy().astype("<f4").tobytes()).decode()


def unpack(text: str, rows: int) -> NDArray[np.float32]:
    """What `pack` made of (rows,D)."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(rows, -1).astype(np.float32)


def _about(truth: Truth, task: ClassTask) -> list[dict[str, Any]]:
    return [{"id": name, "class": task.names[label]} for name, label in zip(truth.ids, truth.labels.tolist(), strict=True)]


def _placed(features: Tensor | None, truth: Truth, task: ClassTask) -> list[dict[str, Any] | None]:
    """The place of each object's class, and the most similar class; None for features (N,D) that are NaN."""
    placed: list[dict[str, Any] | None] = [None] * len(truth)
    if features is None or not len(truth):
        return placed
    seen = torch.nonzero(features.isfinite().all(1))[:, 0]
    similarity = (features[seen] @ task.embeddings.T).numpy()
    places = rank_classes(similarity, truth.labels[seen].numpy())
    for row, above, tied, best in zip(seen.tolist(), places.above, places.tied, similarity.argmax(1), strict=True):
        placed[row] = {"above": int(above), "tied": int(tied), "best": task.names[best]}
    return placed
