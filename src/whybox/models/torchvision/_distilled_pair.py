"""Which teacher and which student fit one another."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from whybox.errors import WhyboxError
from whybox.models.torchvision import twostage
from whybox.models.torchvision._common import module_type

DENSE: Mapping[str, str] = {"fcos.FCOS": "fcos", "retinanet.RetinaNet": "retinanet"}
"""One-stage detectors, and what their constants are called in `whybox.losses.fgd.CONSTANTS`."""


def detector_kind(network: Any) -> str:
    """What the constants of this detector are called in `whybox.losses.fgd.CONSTANTS`.

    Raises:
        WhyboxError: It is none of torchvision's FCOS, RetinaNet and R-CNNs.
    """
    kind = module_type(network)
    if kind not in (*DENSE, *twostage._KINDS):
        raise WhyboxError(f"distillation is there for torchvision's FCOS, RetinaNet and R-CNNs, not for {type(network).__name__}")
    return DENSE.get(kind, "faster_rcnn")


def level_count(network: Any) -> int:
    """How many levels of the pyramid are compared: those that predictions are computed from."""
    if detector_kind(network) == "faster_rcnn":
        return len(network.roi_heads.box_roi_pool.featmap_names)
    return len(network.anchor_generator.sizes)


def channels_of(network: Any) -> int:
    """Channels of a detector's levels; torchvision's detectors ask it of every backbone."""
    return int(network.backbone.out_channels)


def check_pair(teacher: Any, student: Any, *, predicting: bool) -> None:
    """Refuse a teacher and a student that do not fit one another, as far as can be said before they run.

    Args:
        teacher: See `distillation_pass.watched`.
        student: See `distillation_pass.watched`.
        predicting: See `distillation_pass.watched`.

    Raises:
        WhyboxError: What differs, in one line.
    """
    kinds = [detector_kind(network) for network in (teacher, student)]
    inputs = [tuple(map(tuple, (net.transform.image_mean, net.transform.image_std))) for net in (teacher, student)]
    if inputs[0] != inputs[1]:
        raise WhyboxError("teacher and student normalize images with different means or deviations: give both the same transform")
    counts = [level_count(network) for network in (teacher, student)]
    if counts[0] != counts[1]:
        raise WhyboxError(f"the teacher has {counts[0]} levels of features, the student {counts[1]}: both need the same strides")
    if not predicting:
        return
    if kinds[0] != kinds[1]:
        raise WhyboxError(
            f"the teacher is a {kinds[0]}, the student a {kinds[1]}: their predictions are not at the same places; "
            "use a loss on features alone (fgd, pkd, mgd, feature_imitation)"
        )
    classes = [_column_count(network) for network in (teacher, student)]
    if classes[0] != classes[1]:
        raise WhyboxError(
            f"the teacher has {classes[0]} columns of classes, the student {classes[1]}: both need the same classes"
        )
    if kinds[0] == "faster_rcnn":
        # Else a region's gradient would lie on another level than the student's.
        places = [network.roi_heads.box_roi_pool.featmap_names for network in (teacher, student)]
    else:
        places = [(network.anchor_generator.sizes, network.anchor_generator.aspect_ratios) for network in (teacher, student)]
    if places[0] != places[1]:
        raise WhyboxError(f"teacher and student have different places of predictions: {places[0]} and {places[1]}")


def _column_count(network: Any) -> int | None:
    """Columns of the classification; None where the network does not say."""
    if detector_kind(network) == "faster_rcnn":
        return getattr(getattr(network.roi_heads.box_predictor, "cls_score", None), "out_features", None)
    return getattr(network.head.classification_head, "num_classes", None)


def by_name(output: Any) -> Mapping[str, Tensor]:
    """A backbone's levels by name; a backbone may give a tensor alone."""
    return {"0": output} if isinstance(output, Tensor) else output


def levels_of(network: Any, features: Mapping[str, Tensor]) -> list[Tensor]:
    """The levels that are compared."""
    if detector_kind(network) == "faster_rcnn":
        return [features[name] for name in network.roi_heads.box_roi_pool.featmap_names]
    return list(features.values())
