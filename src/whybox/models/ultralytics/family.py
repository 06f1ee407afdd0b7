"""Ultralytics' YOLO networks: detections, and the boxes of segmentation and pose networks."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from whybox.errors import WeightsError, WhyboxError
from whybox.frame import Frame, Size
from whybox.models._layers import Layer
from whybox.models.plain.family import Plain
from whybox.models.ultralytics._detections import ranked, suppressed
from whybox.models.ultralytics._head import find_head, input_paths, is_one, own_grid, read_output, reads_one_to_one
from whybox.models.ultralytics._letterbox import Letterbox, input_size
from whybox.types import Candidates, Detections, Trace

PREFIX = "ultralytics"
_SIZE = 640
"""`imgsz` where the network does not say."""


def matches(module: nn.Module) -> bool:
    """Whether the module is a network of ultralytics, decided without importing it."""
    return is_one(module, "BaseModel")


def wrap(module: nn.Module, **options: Any) -> "Ultralytics":
    """A model from a network; the options are those of Ultralytics."""
    return Ultralytics(module, **options)


def build(name: str, weights: str | None = "default", **options: Any) -> "Ultralytics":
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
    return Ultralytics(network, **{"name": f"{PREFIX}/{name}", **options})


class Ultralytics(Plain):
    """A YOLO network of ultralytics, which detects as `YOLO(...).predict` does.

    A detection is explained on the input of the head that it is computed from. `layer` may also be any module's path, or
    "input".

    Args:
        network: A DetectionModel, SegmentationModel or PoseModel.
        name: For reports; None: the name of its file.
        classes: Names of the score columns; None: the network's own, unless they are mere numbers.
        size: `imgsz` of predict; None: the network's own.
        rect: As for predict: False pads every image to a square.
        score_threshold: `conf` of predict.
        nms_iou: `iou` of predict.
        max_detections: `max_det` of predict.
        end2end: Of networks with two branches (YOLOv10, YOLO26), whether the one without duplicate removal is read; None: the one
            that the network's head takes.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | Size | None = None,
        rect: bool = True,
        score_threshold: float = 0.25,
        nms_iou: float | None = 0.7,
        max_detections: int = 300,
        end2end: bool | None = None,
    ) -> None:
        self.head = find_head(network)
        self.end2end = end2end
        super().__init__(
            network,
            self._read,
            input_paths(self.head),
            name=name or _own_name(network),
            classes=_own_classes(network) if classes is None else classes,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            max_detections=max_detections,
        )
        reads_one_to_one(self.head, end2end)
        stride = max(int(self.head.stride.max()), 32)
        self.preparation = Letterbox(input_size(size or _own_size(network), stride), stride=stride, rect=rect)
        self.settings = f"{self.preparation} {self.suppression} end2end={end2end}"

    @property
    def one_to_one(self) -> bool:
        """Whether the branch without duplicate removal is read, as the head is now."""
        return reads_one_to_one(self.head, self.end2end)

    def predict(self, images: Tensor) -> list[Candidates]:
        """The raw candidates for images (B,3,H,W) in 0..1 of one size, without a graph."""
        with own_grid(self.network, self.head):
            return super().predict(images)

    def _run(self, *places: Any, **options: Any) -> tuple[Trace, list[Layer]]:
        with own_grid(self.network, self.head):
            return super()._run(*places, **options)

    def _run_recorded(self, image: Tensor) -> Trace:
        with own_grid(self.network, self.head):
            return super()._run_recorded(image)

    def _doubt_boxes(self, trace: Trace) -> None:
        """Nothing: the form of the boxes is known."""

    def _read(self, output: Any) -> dict[str, Any]:
        return read_output(output, self.head, self.one_to_one)

    def _detections(self, candidates: Candidates, frame: Frame) -> Detections:
        if self.one_to_one:
            return ranked(candidates, frame, self.suppression, max(self.suppression.max_detections, self.head.max_det))
        return suppressed(candidates, frame, self.suppression)


def _own_name(network: Any) -> str:
    """That of the file of weights, or of the plan that the network was built from."""
    file = getattr(network, "pt_path", None) or network.yaml.get("yaml_file")
    return f"{PREFIX}/{Path(file).name}" if file else PREFIX


def _own_classes(network: Any) -> list[str] | None:
    names = network.names
    listed = [str(names[column]) for column in range(len(names))]
    # Numbers are what a network is given that was built without names.
    return None if listed == [str(column) for column in range(len(listed))] else listed


def _own_size(network: Any) -> int | Size:
    """`imgsz` of its training."""
    settings = getattr(network, "args", None) or {}
    size = settings.get("imgsz") if isinstance(settings, dict) else getattr(settings, "imgsz", None)
    return size or _SIZE
