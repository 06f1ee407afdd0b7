"""Ultralytics' detectors: YOLO networks, the boxes of those for other tasks, YOLO-World, YOLOE, and RT-DETR."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import nn

from whybox.errors import WeightsError, WhyboxError
from whybox.models.ultralytics._head import DECODER, find_head, is_one
from whybox.models.ultralytics._networks import PREFIX, RtDetr, Ultralytics, Yolo

_OF_PREDICT = {"imgsz": "size", "conf": "score_threshold", "iou": "nms_iou", "max_det": "max_detections", "names": "classes"}
"""What ultralytics calls options of this family."""


def matches(module: nn.Module) -> bool:
    """Whether the module is a network of ultralytics, decided without importing it."""
    return is_one(module, "BaseModel")


def wrap(module: nn.Module, **options: Any) -> Ultralytics:
    """A model from a network; the options are those of Yolo or RtDetr."""
    for given, meant in _OF_PREDICT.items():
        if given in options:
            raise WhyboxError(f"ultralytics' {given} is {meant}= here")
    kind = RtDetr if is_one(find_head(module), DECODER) else Yolo
    return kind(module, **options)


def build(name: str, weights: str | None = "default", **options: Any) -> Ultralytics:
    """A model from a file on this computer: FILE.pt with its weights, or FILE.yaml, a file of the user's or ultralytics' own,
    with random ones. A .pt file is a pickle, which runs code when it is opened."""
    # Ultralytics prints and logs to standard output, which is for results.
    with redirect_stdout(sys.stderr):
        from ultralytics import YOLO

        kind = Path(name).suffix
        if kind not in (".pt", ".yaml", ".yml"):
            raise WhyboxError(f"ultralytics/{name}: expected FILE.pt or FILE.yaml")
        if kind == ".pt" and not Path(name).is_file():
            raise WeightsError(f"ultralytics/{name}: there is no file {name}; whybox downloads none, YOLO({name!r}) does")
        if weights != "default" and (kind == ".pt" or weights is not None):
            raise WhyboxError(f"ultralytics/{name}: weights= is for FILE.yaml, as a file or None; a .pt file comes with its own")
        try:
            network = YOLO(name).model
        except Exception as error:  # whatever a damaged file makes of it
            raise WhyboxError(f"ultralytics/{name} could not be opened: {error}") from error
    if not matches(network):
        raise WhyboxError(f"ultralytics/{name} holds no network of ultralytics, but {type(network).__name__}")
    return wrap(network, **{"name": f"{PREFIX}/{name}", **options})
