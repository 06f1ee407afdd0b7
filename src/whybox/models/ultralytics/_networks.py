"""The models of this family: a shared part, and what differs between YOLO and RT-DETR."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from whybox.errors import GradientError
from whybox.frame import Frame, Size
from whybox.models._keypoints import keypoint_names
from whybox.models._layers import Layer
from whybox.models._masks import masks_on_image
from whybox.models.plain._detector import Plain
from whybox.models.plain._recorded import PassRecorder, Recorded
from whybox.models.plain._suppression import Suppression
from whybox.models.ultralytics._detections import ranked, suppressed
from whybox.models.ultralytics._head import (
    KEYPOINTS,
    MASKS,
    attached,
    beside_boxes,
    find_head,
    input_paths,
    is_one,
    own_grid,
    raw_outputs,
    read_decoder,
    read_masks,
    read_output,
    reads_one_to_one,
)
from whybox.models.ultralytics._letterbox import Letterbox, input_size
from whybox.models.ultralytics._narrow import Decoding, narrow
from whybox.types import Candidates, Detections, MaskLogits, Trace

PREFIX = "ultralytics"
_SIZE = 640
"""`imgsz` where the network does not say."""
_STRIDE = 32
"""Sides of the input are multiples of this many pixels, or of the head's largest stride."""


class Ultralytics(Plain):
    """A network of ultralytics, which detects as `predict` does.

    Args:
        network: Its module.
        name: For reports; None: the name of its file.
        classes: Names of the score columns; None: the network's own, unless they are mere numbers.
        preparation: How its input is made.
        suppression: Its thresholds.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str | None,
        classes: Sequence[str] | None,
        preparation: Letterbox,
        suppression: Suppression,
    ) -> None:
        self.head = find_head(network)
        super().__init__(
            network,
            self._read,
            input_paths(self.head),
            name=name or _own_name(network),
            classes=_own_classes(network) if classes is None else classes,
        )
        self.preparation, self.suppression = preparation, suppression
        self.settings = f"{preparation} {suppression}"

    def predict(self, images: Tensor) -> list[Candidates]:
        """The raw candidates for images (B,3,H,W) in 0..1 of one size, without a graph."""
        with own_grid(self.network, self.head):
            return super().predict(images)

    def _run(self, *places: Any, **options: Any) -> tuple[Trace, list[Layer]]:
        with own_grid(self.network, self.head), attached(self.head):
            return super()._run(*places, **options)

    def _run_recorded(self, image: Tensor) -> Trace:
        with own_grid(self.network, self.head), attached(self.head):
            return super()._run_recorded(image)

    def _doubt_boxes(self, trace: Trace) -> None:
        """Nothing: the form of the boxes is known."""

    def _cut_off(self, names: Sequence[str], live: bool) -> GradientError:
        if not live:
            return super()._cut_off(names, live)
        return GradientError(
            f"the scores of {self.name} are not computed from what {', '.join(names)} returns: choose a layer before the head's "
            f"outputs, such as {', '.join(self.features)}"
        )

    @abstractmethod
    def _read(self, output: Any) -> dict[str, Any]:
        """The network's output for a batch of one image -> the fields of Candidates."""


class Yolo(Ultralytics):
    """A YOLO network: for detection, segmentation, pose or turned boxes.

    A detection is explained on the input of the head that it is computed from. `layer` may also be any module's path, or
    "input".

    Args:
        network: A DetectionModel, SegmentationModel, PoseModel, OBBModel or WorldModel, or a YOLOEModel whose classes are set.
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
        head = find_head(network)
        reads_one_to_one(head, end2end)
        self.end2end = end2end
        stride = max(int(head.stride.max()), _STRIDE)
        preparation = Letterbox(input_size(size or _own_size(network), stride), stride=stride, rect=rect)
        super().__init__(network, name, classes, preparation, Suppression(score_threshold, nms_iou, max_detections))
        self.settings += f" end2end={end2end}"

    @property
    def one_to_one(self) -> bool:
        """Whether the branch without duplicate removal is read, as the head is now."""
        return reads_one_to_one(self.head, self.end2end)

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        """What every network gives, and masks, keypoints or corners, as its head says."""
        return frozenset({"candidates", "features", "input", *beside_boxes(self.head)})

    @property
    def keypoints(self) -> Sequence[str]:  # type: ignore[override]
        """The network's own names, or of 17 keypoints a person's as COCO names them, else their numbers."""
        if not is_one(self.head, KEYPOINTS):
            return ()
        count, own = int(self.head.kpt_shape[0]), getattr(self.network, "kpt_names", None) or {}
        # By class, and the same for all.
        first = list(next(iter(own.values()), ())) if isinstance(own, dict) else []
        return tuple(map(str, first)) if len(first) == count else keypoint_names(count)

    def _read(self, output: Any) -> dict[str, Any]:
        return read_output(output, self.head, self.one_to_one)

    def _recorded(self, recorder: PassRecorder, output: Any, answer: Any, read: Callable[[Any], Candidates]) -> Recorded | None:
        recorded = super()._recorded(recorder, output, answer, read)
        if recorded is None or getattr(self.head, "anchors", None) is None:
            return recorded
        decoding = Decoding(self.network, self.head, lambda raw: self._read((None, raw)), self.head.anchors, self.head.strides)
        return narrow(recorded, recorder, raw_outputs(output, self.head, self.one_to_one), decoding)

    def _masks(self, output: Any, candidates: Candidates, frame: Frame) -> MaskLogits | None:
        if not is_one(self.head, MASKS):
            return None
        return read_masks(output, self.head, self.one_to_one, frame.boxes_to_network(candidates.boxes), frame.network)

    def _draw_masks(self, candidates: Candidates, frame: Frame) -> Tensor:
        assert candidates.masks is not None  # asked for candidates with masks alone
        return masks_on_image(candidates.masks, frame, candidates.boxes)

    def _detections(self, candidates: Candidates, frame: Frame) -> Detections:
        if self.one_to_one:
            most = min(max(self.suppression.max_detections, self.head.max_det), len(candidates))
            return ranked(candidates, frame, self.suppression, most, most)
        return suppressed(candidates, frame, self.suppression)


class RtDetr(Ultralytics):
    """RT-DETR: a candidate is a query, which may stand for several classes; no duplicates are removed.

    A detection is explained on the input of the decoder where its score's sum |gradient o features| is largest. `layer` may also
    be any module's path, or "input".

    Args:
        network: An RTDETRDetectionModel.
        name: For reports; None: the name of its file.
        classes: Names of the score columns; None: the network's own, unless they are mere numbers.
        size: `imgsz` of predict, to which images are stretched; None: the network's own.
        score_threshold: `conf` of predict.
        max_detections: `max_det` of predict.
    """

    fixed_rows = False

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str | None = None,
        classes: Sequence[str] | None = None,
        size: int | Size | None = None,
        score_threshold: float = 0.25,
        max_detections: int = 300,
    ) -> None:
        preparation = Letterbox(input_size(size or _own_size(network), _STRIDE), resize="stretch", rect=False)
        super().__init__(network, name, classes, preparation, Suppression(score_threshold, None, max_detections))

    def _run_recorded(self, image: Tensor) -> Trace:
        # A query reads all of the maps: nothing of the decoder is local, and looking for it takes two forward passes.
        return self._run(image, self.features, gradients=False)[0]

    def _read(self, output: Any) -> dict[str, Any]:
        size = self.preparation.size
        assert size is not None  # a Letterbox of this family always has one
        return read_decoder(output, size)

    def _detections(self, candidates: Candidates, frame: Frame) -> Detections:
        return ranked(candidates, frame, self.suppression, len(candidates), self.head.num_queries)


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
