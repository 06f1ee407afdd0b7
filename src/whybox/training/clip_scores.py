"""Scores of a CLIP on held-out scenes: recognition of objects and colors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional

from whybox.data.captions import Phrase
from whybox.data.scenes import HELD_OUT_SEED, Scene, draw_scene
from whybox.training.captioned_scenes import PHRASES


@torch.no_grad()
def cosines(network: Any, processor: Any, images: Sequence[Image.Image], texts: Sequence[str], batch: int = 50) -> Tensor:
    """The cosine similarity of images and texts, with the processor's preprocessing.

    Args:
        network: A CLIPModel.
        processor: The processor of its images and texts.
        images: N images.
        texts: T texts.
        batch: Images per forward pass.

    Returns:
        (N,T) on the CPU.
    """
    # No tokenizer takes an empty list.
    if not len(images) or not len(texts):
        return torch.zeros(len(images), len(texts))
    clip, device = network, next(network.parameters()).device
    read = processor.tokenizer(list(texts), padding=True, return_tensors="pt").to(device)
    words = functional.normalize(clip.text_projection(clip.text_model(**read).pooler_output), dim=-1)
    rows = []
    for start in range(0, len(images), batch):
        pixels = processor.image_processor(images[start : start + batch], return_tensors="pt")["pixel_values"].to(device)
        seen = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
        rows.append(functional.normalize(seen, dim=-1) @ words.T)
    return torch.cat(rows).cpu()


def score(network: nn.Module, processor: Any, count: int) -> dict[str, float]:
    """Score the recognition of objects and colors on held-out scenes, with prompts such as "a red ball".

    Args:
        network: A CLIPModel; it is left in the mode that it was in.
        processor: The processor of its images and texts.
        count: Number of scenes with a single object, and of mixed scenes; 0: none, and no scores.

    Returns:
        Shares of the single scenes, in 0..1: "object", the class is right; "color", among the colors of its class the color is
            right; "both", among all classes in all colors both are right. And "auc": the mean over the mixed scenes of the area
            under the ROC curve of phrases of objects in the scene against other phrases; absent where no scene has both.
    """
    if count < 1:
        return {}
    # Scored during training as well: the mode is restored below.
    was_training = network.training
    network.eval()
    single, mixed = (
        [draw_scene(index, seed=HELD_OUT_SEED, variant=variant) for index in range(count)] for variant in ("single", "mixed")
    )
    texts = [str(phrase) for phrase in PHRASES]
    values = cosines(network, processor, [scene.image for scene in single], texts)
    truths = [Phrase(scene.names[0], scene.colors[0]) for scene in single]
    hits = np.asarray([_hits(row, truth) for row, truth in zip(values, truths, strict=True)])
    values = cosines(network, processor, [scene.image for scene in mixed], texts)
    areas = [area for row, scene in zip(values, mixed, strict=True) if (area := _area(row.numpy(), scene)) is not None]
    network.train(was_training)
    names = ("object", "color", "both")
    return dict(zip(names, hits.mean(0).tolist(), strict=True)) | ({"auc": float(np.mean(areas))} if areas else {})


def _hits(values: Tensor, truth: Phrase) -> tuple[bool, bool, bool]:
    """Whether the best class, the best color of the true class, and the best of all phrases with a color are right."""
    groups = [
        (Phrase(truth.name), [phrase.color is None for phrase in PHRASES]),
        (truth, [phrase.name == truth.name and phrase.color is not None for phrase in PHRASES]),
        (truth, [phrase.color is not None for phrase in PHRASES]),
    ]
    best = [PHRASES[int(values.masked_fill(~torch.tensor(among), -torch.inf).argmax())] == right for right, among in groups]
    return best[0], best[1], best[2]


def _area(values: NDArray[np.float32], scene: Scene) -> float | None:
    """The area under the ROC curve of the phrases with a color, those of the scene's objects against the others."""
    colored = [(phrase, value) for phrase, value in zip(PHRASES, values, strict=True) if phrase.color is not None]
    there = set(zip(scene.names, scene.colors, strict=True))
    true = np.asarray([(phrase.name, phrase.color) in there for phrase, _ in colored])
    # With one kind alone there is nothing to rank.
    if true.all() or not true.any():
        return None
    # The Mann-Whitney statistic of the ranks, which is the area.
    ranks = rankdata([value for _, value in colored])
    return float((ranks[true].sum() - true.sum() * (true.sum() + 1) / 2) / (true.sum() * (~true).sum()))
