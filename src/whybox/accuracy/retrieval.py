"""Image-text retrieval: how often the right one is among the first 1, 5, 10, from images to texts and from texts to images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from whybox.accuracy._places import Places, find_places

__all__ = ["DEPTHS", "Places", "Retrieval", "retrieve"]

DEPTHS = (1, 5, 10)
"""The published ones."""


@dataclass(frozen=True)
class Retrieval:
    """The places of I images' texts and of T texts' images.

    Attributes:
        to_texts: (I,) the best of an image's own texts among all texts.
        to_images: (T,) the best of a text's own images among all images.
    """

    to_texts: Places
    to_images: Places

    def recalls(self, depths: Sequence[int] = DEPTHS) -> dict[str, float]:
        """R@k both ways, 0 to 1.

        Args:
            depths: The values of k.

        Returns:
            "i2t_r1", "t2i_r1" ...: the share of images (of texts) of which a right text (image) is among the first k; NaN
            without images.
        """
        ways = {"i2t": self.to_texts, "t2i": self.to_images}
        return {
            f"{way}_r{depth}": float(places.hits(depth).mean()) if len(places) else float("nan")
            for way, places in ways.items()
            for depth in depths
        }


def retrieve(similarity: ArrayLike, belongs: ArrayLike) -> Retrieval:
    """Rank texts for images and images for texts.

    An image may have several texts: one of them among the first k is enough. Equal similarities count as the chance of being
    among the first k in a random order, so that a model that gives the same number to all is as good as guessing.

    Source: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015, section 4.1;
    ties are counted here as chances.

    Args:
        similarity: (I,T) of images and texts.
        belongs: (I,T) bool, which texts are an image's; or (T,) the image of each text.

    Returns:
        The places both ways.

    Raises:
        ValueError: The shapes do not fit, a similarity is not finite, or an image has no text or a text no image.
    """
    values, owners = np.asarray(similarity), np.asarray(belongs)
    if owners.ndim == 1 and values.ndim == 2:
        owners = owners == np.arange(len(values))[:, None]
    return Retrieval(find_places(values, owners), find_places(values.T, owners.T))
