"""What the head of an ultralytics network is, and how its output is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.ops import box_convert

from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.models.ultralytics._turned import around_turned, corners_of
from whybox.network_state import exclusive
from whybox.types import MaskLogits

DECODER = "RTDETRDecoder"
"""The class of RT-DETR's head."""
TURNED, MASKS, KEYPOINTS = "OBB", ("Segment", "YOLOESegment"), "Pose"
"""The classes of the heads that draw turned boxes, masks and keypoints."""
_GIVES: dict[str | tuple[str, ...], str] = {TURNED: "corners", MASKS: "masks", KEYPOINTS: "keypoints"}
_PROMPTED = "YOLOEDetect"
"""The class of YOLOE's heads, which read embeddings of texts or pictures."""
_GRID = ("shape", "shapes", "anchors", "strides", "valid_mask")
"""What a head keeps of its last pass: the cells' centers and strides, for an input of the same shape."""
_READ = ("boxes", "scores", "feats")
"""Raw outputs of a head: (1,4*bins,M), (1,K,M), and its input, a map a level."""


def is_one(value: object, name: str | tuple[str, ...]) -> bool:
    """Whether an object's class is ultralytics' class of that name, or of one of them, or derived from it."""
    names = (name,) if isinstance(name, str) else name
    return any(kind.__name__ in names and kind.__module__.split(".")[0] == "ultralytics" for kind in type(value).__mro__)


def beside_boxes(head: Any) -> frozenset[str]:
    """What a head gives beside boxes: "masks", "keypoints" or "corners"."""
    return frozenset(part for kind, part in _GIVES.items() if is_one(head, kind))


def find_head(network: Any) -> Any:
    """The last module of the network.

    Raises:
        WhyboxError: It is no head that draws boxes, or one of another kind.
    """
    head = network.model[-1]
    kind = f"ultralytics' {type(network).__name__}"
    if is_one(head, DECODER):
        return head
    if is_one(head, _PROMPTED):
        _check_prompt(network, head, kind)
    if not is_one(head, "Detect"):
        raise WhyboxError(f"{kind} is no detector: its head is {type(head).__name__}")
    if not hasattr(head, "forward_head"):
        raise WhyboxError("this release of ultralytics is too old: its heads are read from 8.4 on")
    return head


def _check_prompt(network: Any, head: Any, kind: str) -> None:
    """Refuse a YOLOE that has no classes yet, or has them without a prompt: that head drops places, which maps need."""
    if hasattr(head, "lrpc"):
        raise WhyboxError(f"{kind} without prompts is not supported: load the one that reads texts, and call set_classes")
    if getattr(network, "pe", None) is None:
        raise WhyboxError(f"{kind} has no classes yet: call set_classes(['a bottle', 'a can']) of its YOLOE, then whybox.load")


def input_paths(head: Any) -> list[str]:
    """The paths of the modules whose outputs are the head's inputs, finest level first."""
    # Counted from the head backwards where negative.
    return [f"model.{index if index >= 0 else head.i + index}" for index in head.f]


def reads_one_to_one(head: Any, wanted: bool | None) -> bool:
    """Whether the branch that is trained to give every object one box is read; None: the branch that the head itself takes."""
    if wanted is None or bool(head.end2end) == wanted:
        return bool(head.end2end)
    name = "one2one_cv2" if wanted else "cv2"
    if getattr(head, name, None) is None:
        branch = "one-to-one" if wanted else "one-to-many"
        raise WhyboxError(f"end2end={wanted}: this network has no {branch} branch, or it was removed when the network was fused")
    return wanted


@contextmanager
def own_grid(network: nn.Module, head: Any) -> Iterator[None]:
    """Inside, the head makes its grid anew; afterwards it has the one that it had.

    A grid that was made under inference_mode, as in every prediction, stands in the way of gradients.
    """
    with exclusive(network):
        kept = {name: vars(head)[name] for name in _GRID if name in vars(head)}
        head.shape = head.shapes = None
        try:
            yield
        finally:
            for name in _GRID:
                vars(head).pop(name, None)
            vars(head).update(kept)


@contextmanager
def attached(head: Any) -> Iterator[None]:
    """Inside, the one-to-one branch is connected with the features.

    Early releases (8.4.0) cut it off in evaluation mode, too, where only training needs that.
    """
    if getattr(head, "one2one_cv2", None) is None:
        yield
        return
    mode: Any = _WithoutDetach()

    def enter(*given: Any) -> None:
        mode.__enter__()

    def leave(*given: Any) -> None:
        mode.__exit__(None, None, None)

    handles = [head.register_forward_pre_hook(enter), head.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _WithoutDetach(TorchFunctionMode):
    """Inside, `detach` gives the tensor itself."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function is Tensor.detach else function(*args, **(kwargs or {}))


def read_output(output: Any, head: Any, one_to_one: bool) -> dict[str, Any]:
    """The network's output for a batch of one image -> the fields of Candidates, boxes in network pixels.

    Args:
        output: What the network returns in evaluation mode: what its post-processing needs, and the raw outputs.
        head: Its head, after the pass.
        one_to_one: The branch that is read, where there are two.
    """
    raw = raw_outputs(output, head, one_to_one)
    columns, more = head._inference(raw)[0].T.tensor_split([4 + head.nc], 1)
    distances = (head.dfl(raw["boxes"]) * head.strides)[0]
    outputs = dict(zip("ltrb", distances, strict=True))
    beside = {}
    if is_one(head, TURNED):
        outputs["angle"] = raw["angle"][0, 0]
        boxes = around_turned(columns[:, :4], outputs["angle"])
        beside["corners"] = corners_of(columns[:, :4], outputs["angle"])
    else:
        boxes = columns[:, :4] if head.end2end or head.xyxy else box_convert(columns[:, :4], "cxcywh", "xyxy")
    if is_one(head, KEYPOINTS):
        points = more.unflatten(1, tuple(head.kpt_shape))
        # Two numbers a keypoint: without a score.
        beside["keypoints"] = points if points.shape[2] == 3 else torch.cat([points, torch.ones_like(points[..., :1])], 2)
    return {
        "boxes": boxes,
        "scores": columns[:, 4:],
        "level": _levels(raw["feats"]),
        "logits": raw["scores"][0].T,
        "raw": outputs,
        **beside,
    }


def read_masks(output: Any, head: Any, one_to_one: bool, boxes: Tensor, canvas: Size) -> MaskLogits:
    """The masks of a head that gives such: weighted sums of prototypes, cut at the box.

    Args:
        output: As for `read_output`.
        head: The network's head.
        one_to_one: The branch that is read, where there are two.
        boxes: (M,4) in network pixels.
        canvas: (h, w) of the network's input.
    """
    weights = raw_outputs(output, head, one_to_one)["mask_coefficient"][0].T
    prototypes = output[0][1]
    # YOLO26's may come with what is for its training alone.
    prototypes = (prototypes[0] if isinstance(prototypes, tuple) else prototypes)[0]
    height, width = prototypes.shape[-2:]
    cells = boxes.detach() * boxes.new_tensor([width / canvas[1], height / canvas[0]] * 2)
    return MaskLogits(weights.float(), prototypes.float(), cells)


def raw_outputs(output: Any, head: Any, one_to_one: bool) -> dict[str, Any]:
    """The raw outputs of the branch that is read."""
    raw = output[1] if isinstance(output, tuple | list) and len(output) == 2 else None
    if isinstance(raw, dict) and "one2many" in raw:
        raw = raw["one2one" if one_to_one else "one2many"]
    if not isinstance(raw, dict) or any(name not in raw for name in _READ):
        raise WhyboxError(f"{type(head).__name__} returned something else than ultralytics' heads do from release 8.4 on")
    return raw


def read_decoder(output: Any, canvas: Size) -> dict[str, Any]:
    """RT-DETR's output for a batch of one image -> the fields of Candidates, boxes in network pixels. canvas: (h, w)."""
    # Of every layer of the decoder that was run: in evaluation mode the last one alone.
    boxes, logits = (values[-1, 0] for values in output[1][:2])
    sides = boxes.new_tensor([canvas[1], canvas[0], canvas[1], canvas[0]])
    return {
        "boxes": box_convert(boxes, "cxcywh", "xyxy") * sides,
        "scores": logits.sigmoid(),
        "logits": logits,
        "raw": dict(zip(("cx", "cy", "w", "h"), boxes.T, strict=True)),
    }


def _levels(features: list[Tensor]) -> Tensor:
    """(M,) which of the head's inputs each row is computed from: the rows of a level are its cells."""
    cells = torch.tensor([values.shape[-2] * values.shape[-1] for values in features])
    return torch.arange(len(features)).repeat_interleave(cells).to(features[0].device)
