"""Average precision of a detector of people in crowds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy._matching import rank_crowd


@dataclass(frozen=True, eq=False)
class CrowdAP:
    """ap and recall from 0 to 1, higher is better; NaN where there is nobody to find, 0 where nothing is found.

    recall is what all detections together reach. scores, precisions and recalls (K,) are the curve: its k-th point counts
    the k highest of the K detections that count. people: how many there were to find. images: in how many images.
    """

    ap: float
    recall: float
    scores: NDArray[np.float64]
    precisions: NDArray[np.float64]
    recalls: NDArray[np.float64]
    people: int
    images: int


def crowd_ap(detections: Sequence[Mapping[str, Any]], truths: Sequence[Mapping[str, Any]], *, overlap: float = 0.5) -> CrowdAP:
    """CrowdHuman's AP of `detections` against `truths`, one mapping an image in the same order.

    A detection mapping holds boxes (N,4) xyxy in image pixels and scores (N,); a truth mapping holds boxes (M,4), size
    (H,W) of the image and, optionally, ignore (M,). A detection counts as right above the IoU `overlap`.

    AP = sum_k (r_k - r_{k-1}) (p_k + p_{k-1}) / 2 from the second point on: trapezoids, without an envelope and
    without the piece from recall 0 to the first point.
    Source: the evaluation published with CrowdDet (Chu et al., CVPR 2020); matching of Dollar et al., "Pedestrian
    Detection: An Evaluation of the State of the Art", PAMI 2012. Unlike it, boxes and scores are not rounded first.
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
