"""CrowdHuman's average precision of a person detector."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy._matching import rank_crowd


@dataclass(frozen=True, eq=False)
class CrowdAP:
    """AP and its curve; its k-th point is that of the k highest of the K detections that count.

    Attributes:
        ap: 0 to 1; NaN without annotated people.
        recall: The recall of all detections, 0 to 1; NaN without annotated people.
        scores: (K,).
        precisions: (K,).
        recalls: (K,).
        people: Number of annotated people.
        images: Number of images.
    """

    ap: float
    recall: float
    scores: NDArray[np.float64]
    precisions: NDArray[np.float64]
    recalls: NDArray[np.float64]
    people: int
    images: int


def crowd_ap(detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], *, overlap: float = 0.5) -> CrowdAP:
    """CrowdHuman's AP = sum_k (r_k - r_{k-1}) (p_k + p_{k-1}) / 2 from the second point on.

    These are trapezoids, without an envelope and without the area from recall 0 to the first point.

    Source: the evaluation published with CrowdDet (Chu et al., CVPR 2020); matching of Dollar et al., "Pedestrian
    Detection: An Evaluation of the State of the Art", PAMI 2012. Unlike it, boxes and scores are not rounded first.

    Args:
        detections: One mapping per image: boxes (N,4) xyxy in image pixels and scores (N,).
        truths: One mapping per image in the same order: boxes (M,4), size, the image's (H, W), and, optionally, ignore (M,).
        overlap: A detection is right if its IoU is above this.

    Returns:
        AP and its curve.
    """
    ranking = rank_crowd(detections, truths, overlap)
    precisions = np.cumsum(ranking.hits) / np.arange(1, len(ranking.hits) + 1)
    recalls = ranking.recalls
    last = float(recalls[-1]) if len(recalls) else 0.0
    area = float((np.diff(recalls) * (precisions[1:] + precisions[:-1]) / 2).sum())
    return CrowdAP(
        ap=area if ranking.people else float("nan"),
        recall=last if ranking.people else float("nan"),
        scores=ranking.scores,
        precisions=precisions,
        recalls=recalls,
        people=ranking.people,
        images=ranking.images,
    )
