"""What a model's rule of duplicate removal says about two boxes: why both stayed, or which one removed the other."""

import math

import torch
from torch import Tensor

from whybox.decisions import greedy_iou_of
from whybox.duplicates import WithNms, drawn_vectors
from whybox.model import Model
from whybox.ops.matching import pairwise_iou
from whybox.rule import Decision, Rule
from whybox.suppression.greedy import Greedy
from whybox.types import Detections, Trace


def own_rule(model: Model) -> Rule | None:
    """The rule by which a model removes duplicates.

    Args:
        model: A detector.

    Returns:
        The rule of a model of `with_nms`; greedy NMS with the model's own threshold where it is known; else None.
    """
    if isinstance(model, WithNms):
        return model.rule
    network = model.network
    # torchvision's detectors hold it in the network or its heads, the family for plain modules in its options.
    heads, suppression = getattr(network, "roi_heads", None), getattr(model, "suppression", None)
    for holder, name in ((network, "nms_thresh"), (heads, "nms_thresh"), (suppression, "nms_iou")):
        value = getattr(holder, name, None)
        if isinstance(value, int | float) and 0 <= value <= 1:
            return Greedy(float(value))
    return None


def judge(model: Model, trace: Trace, kept: Detections, other: Detections) -> Decision | None:
    """What a model's rule of duplicate removal says about two boxes of a class that it both kept.

    Args:
        model: A detector.
        trace: A trace of it.
        kept: One detection.
        other: Another, with a lower score.

    Returns:
        The decision, with the rows 0 and 1; None where the model's rule is not known.
    """
    rule = own_rule(model)
    if rule is None:
        return None
    both = _joined(_joined(kept, other), trace.detections[:0])
    iou = float(pairwise_iou(both.boxes[:1].float(), both.boxes[1:].float()))
    vectors = drawn_vectors(_inner(model), trace, both, rule)
    alike = math.nan if vectors is None else _similarity(rule, vectors.of(torch.arange(2, device=both.boxes.device)))
    return Decision(0, 1, "kept", iou, alike, iou > greedy_iou_of(rule), rule.why(False, iou, alike))


def suppressor(model: Model, trace: Trace, candidate: Detections) -> tuple[int, Decision] | None:
    """The detection that removed a candidate as its duplicate.

    Args:
        model: A detector.
        trace: A trace of it.
        candidate: A candidate that is not among the trace's detections.

    Returns:
        The row of the trace's detections, and the decision, with the rows 0 and 1; None where no detection removed it, where its
        score was too low to be compared, or where the model's rule is not known, or lowers scores instead.
    """
    rule, found = own_rule(model), trace.detections
    candidate = _joined(candidate, found[:0])
    # Better ones of the class, the best first: all of them are kept, so that they do not remove one another.
    better = ((found.labels == candidate.labels) & (found.scores >= candidate.scores)).nonzero()[:, 0]
    if rule is None or rule.rescores or not len(better):
        return None
    # One under the model's own threshold came to no comparison.
    came = _inner(model).unsuppressed(trace)
    if not ((came.source == candidate.source) & (came.labels == candidate.labels)).any():
        return None
    better = better[found.scores[better].argsort(descending=True, stable=True)]
    every = _joined(found[better], candidate)
    result = rule(every.boxes, every.scores, every.labels, drawn_vectors(_inner(model), trace, every, rule))
    by, iou, alike = int(result.by[-1]), float(result.iou[-1]), float(result.similarity[-1])
    if by < 0:
        return None
    return int(better[by]), Decision(0, 1, "removed", iou, alike, iou > greedy_iou_of(rule), rule.why(True, iou, alike))


def _inner(model: Model) -> Model:
    return model.inner if isinstance(model, WithNms) else model


def _similarity(rule: Rule, vectors: Tensor) -> float:
    return float(rule.similarity(vectors[:1], vectors[1:]))


def _joined(first: Detections, second: Detections) -> Detections:
    """Two sets of detections, on the device of the second."""
    names = ("boxes", "scores", "labels", "source")
    pairs = ((getattr(first, name), getattr(second, name)) for name in names)
    return Detections(*(torch.cat([a.to(b), b]) for a, b in pairs))
