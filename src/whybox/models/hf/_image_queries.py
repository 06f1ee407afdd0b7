"""How OWL-ViT and OWLv2 read images of what is looked for, in the place of texts."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.models.hf._prompts import OwlReader, Prompt
from whybox.network_state import device_of
from whybox.types import Candidates, Detections


class ImageQueryReader(OwlReader):
    """Image-guided detection: an image's object in place of a text.

    The object is the one that the network itself finds in the image: of OWLv2 the patch with the highest objectness, of OWL-ViT
    one whose box covers the image.

    Attributes:
        texts: The architecture's reader of texts.
        process: An image (1,3,h,w) in 0..1 -> the network's input (1,3,H,W).
        images: K images (3,h,w) in 0..1.
        digest: Of the images.
    """

    OVERLAP = 0.3
    """The IoU of post_process_image_guided_detection's non-maximum suppression."""
    LEAST_SHARE = 0.1
    """The share of the best score in the image over which it keeps a box."""

    def __init__(self, texts: OwlReader, process: Callable[[Tensor], Tensor], images: Sequence[Tensor]) -> None:
        """See the attributes."""
        super().__init__(texts.network, texts.tokenizer)
        self.texts, self.process, self.images = texts, process, images
        whole = b"".join(str(tuple(image.shape)).encode() + image.cpu().numpy().tobytes() for image in images)
        self.digest = hashlib.sha256(whole).hexdigest()
        self._queries: Tensor | None = None

    def frame(self, image: Size, network: Size) -> Frame:
        """That of the reader of texts."""
        return self.texts.frame(image, network)

    def extent(self, image: Size) -> Size:
        """That of the reader of texts."""
        return self.texts.extent(image)

    @contextmanager
    def running(self) -> Iterator[None]:
        """With the images' embeddings, of the network as it is now."""
        self._queries = torch.cat([self._embedded(image) for image in self.images])
        try:
            yield
        finally:
            self._queries = None

    def output(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits (B,M,K), and boxes (B,M,4) relative to the extent, as the network's image_guided_detection computes them."""
        assert self._queries is not None  # inside `running`
        interpolate = inputs.get("interpolate_pos_encoding", False)
        grid, patches = self._patches(inputs["pixel_values"], interpolate)
        logits, _ = self.network.class_predictor(patches, self._queries[None].expand(len(patches), -1, -1))
        return logits, self.network.box_predictor(patches, grid, interpolate)

    def answer(self, output: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The output itself."""
        logits, boxes = output
        return logits, boxes

    def detections(self, candidates: Candidates, threshold: float, image: Size) -> Detections:
        """The processor's post_process_image_guided_detection for one image, in its order; the class is the best image."""
        scores, labels = candidates.scores.max(-1)
        kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        kept[nms(candidates.boxes, scores.to(candidates.boxes.dtype), self.OVERLAP)] = True
        kept &= (scores >= threshold) & (scores > 0)
        if kept.any():
            kept &= scores > self.LEAST_SHARE * (scores[kept].max() + 1e-6)
        source = kept.nonzero()[:, 0]
        return Detections(candidates.boxes[source], scores[source], labels[source], source)

    def _embedded(self, image: Tensor) -> Tensor:
        """(1,D) of an image (3,h,w)."""
        pixels = self.process(image[None]).to(device_of(self.network), self.network.dtype)
        interpolate = self.options(pixels).get("interpolate_pos_encoding", False)
        grid, patches = self._patches(pixels, interpolate)
        query, _, _ = self.network.embed_image_query(patches, grid, interpolate)
        if query is None:
            raise WhyboxError(f"{type(self.network).__name__} finds no object in the image of what is looked for")
        found: Tensor = query[0]
        return found

    def _patches(self, pixels: Tensor, interpolate: bool) -> tuple[Tensor, Tensor]:
        """The patches' features on their grid (B,h,w,C), and in a row (B,h*w,C)."""
        grid = self.network.image_embedder(pixel_values=pixels, interpolate_pos_encoding=interpolate)[0]
        return grid, grid.flatten(1, 2)
