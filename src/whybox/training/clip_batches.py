"""Training batches for CLIP: crops of scenes, texts, and which texts are true of which images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whybox.training import captioned_scenes as scenes
from whybox.training.captioned_scenes import PHRASES, Drawn
from whybox.training.clip_network import MEAN, SPREAD


@dataclass(frozen=True)
class CaptionedBatches:
    """Batches of crops by number, each a function of seed and number alone.

    Attributes:
        drawn: The scenes.
        tokenizer: Of the texts.
        size: Crops per batch.
        seed: Seed of the batches.
        side: Side of a crop, in pixels.
        grid: Patches per side for the labels of patches; 0: no such labels.
        zoom: The range of the crops' sides, as shares of a scene's.
    """

    drawn: Drawn
    tokenizer: Any
    size: int
    seed: int
    side: int
    grid: int
    zoom: tuple[float, float]

    def __call__(self, number: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Make a batch.

        Args:
            number: The batch's number, from 0.

        Returns:
            The network's input by name, and the labels: see `Matcher.forward`.
        """
        # 1 is the stream of augmentation: see DetectorBatches.
        rng = np.random.default_rng((self.seed, 1, number))
        rows = rng.integers(len(self.drawn), size=self.size).tolist()
        words = [self.drawn.words[row] for row in rows]
        windows = [scenes.random_window(rng, self.zoom) for _ in rows]
        kept = [
            window.kept(self.drawn.owners[row], len(known.names)) for window, row, known in zip(windows, rows, words, strict=True)
        ]
        phrases = scenes.match_phrases(words, kept, rng)
        few = len(rows) // 4
        # The phrases come first: the labels of patches are for the first texts.
        texts = scenes.join(
            phrases, scenes.match_captions(words, kept, few), scenes.match_relations(words, windows, phrases.truth, few, rng)
        )
        images = recolor(scenes.take_windows(self.drawn.images[rows], windows, self.side), rng)
        read = self.tokenizer(texts.texts, padding=True, return_tensors="pt")
        truth = {"texts": texts.truth, "sure": texts.sure}
        if self.grid:
            places = zip(windows, rows, words, strict=True)
            cells = [(window.cells(self.drawn.owners[row], self.grid), known) for window, row, known in places]
            truth["patches"] = torch.stack([patch_truth(owners, known) for owners, known in cells])
        return {"pixel_values": (images - MEAN) / SPREAD, **read}, truth


def recolor(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Change contrast, tint and brightness slightly: too little to turn one color into another.

    Args:
        images: (B,3,h,w) in 0..1.
        rng: The source of randomness.

    Returns:
        The same images, changed.
    """
    count = len(images)
    gain = torch.from_numpy(rng.uniform(0.88, 1.14, (count, 1, 1, 1)) * rng.uniform(0.96, 1.04, (count, 3, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.06, 0.06, (count, 1, 1, 1))).float()
    middle = images.mean((1, 2, 3), keepdim=True)
    return ((images - middle) * gain + middle + shift).clamp(0, 1)


def patch_truth(cells: NDArray[np.int8], known: scenes.Words) -> Tensor:
    """Label every phrase for the object in each cell of a grid.

    Args:
        cells: (h,w), the row of the object that is seen there, or -1.
        known: The scene in words.

    Returns:
        (h*w,P), 1 where a phrase is true and 0 elsewhere.
    """
    # The last row stays 0: index -1, no object, finds it.
    table = torch.zeros(len(known.names) + 1, len(PHRASES))
    for row, pair in enumerate(zip(known.names, known.colors, strict=True)):
        table[row, scenes.COLUMNS[pair]] = 1
    return table[torch.from_numpy(cells.astype(np.int64)).flatten()]
