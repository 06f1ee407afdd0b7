"""Shared by torchvision's detectors: frames, layers, and pullbacks to any module."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.model import Model
from whybox.models._layers import (
    Layer,
    choose_layers,
    exact_pullbacks,
    find_layers,
    first_channels,
    leading_target,
    module_path,
    same_rows,
)
from whybox.ops.embedding_heads import embedding_head
from whybox.ops.gradients import gradients_on, recording
from whybox.ops.hooks import INPUT, capture, frozen
from whybox.ops.kept_pass import kept_or_made
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, FeatureMap, Trace

_STAGES = {f"c{i + 1}": f"backbone.body.layer{i}" for i in range(1, 5)}


def module_type(module: nn.Module) -> str:
    """ "fcos.FCOS" for torchvision's class or one derived from it; "" for a module that is not a torchvision detector."""
    for kind in type(module).__mro__:
        package, _, file = kind.__module__.rpartition(".")
        if package == "torchvision.models.detection":
            return f"{file}.{kind.__name__}"
    return ""


def coco_classes(module: Any) -> Sequence[str] | None:
    """The names of COCO's 91 categories where the module has 91 score columns; else None."""
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

    # FCOS's and RetinaNet's heads know their num_classes, SSD's its num_columns, an R-CNN's is the width of cls_score.
    columns = {getattr(part, "num_classes", 0) or getattr(part, "num_columns", 0) for part in module.modules()}
    columns |= {part.out_features for name, part in module.named_modules() if name.endswith("cls_score")}
    names: Sequence[str] = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return names if len(names) in columns else None


def as_features(output: Tensor | OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """A backbone's output by level; a single tensor is level "0"."""
    return OrderedDict([("0", output)]) if isinstance(output, Tensor) else output


def frame_of(image: Tensor, batch: Any, index: int = 0) -> Frame:
    """The frame of image (3,H,W) in torchvision's ImageList: resized, then padded on the bottom and the right."""
    height, width = image.shape[-2:]
    resized_height, resized_width = batch.image_sizes[index]
    canvas_height, canvas_width = batch.tensors.shape[-2:]
    return Frame((height, width), (resized_height, resized_width), (canvas_height, canvas_width))


def feature_maps(features: OrderedDict[str, Tensor], frame: Frame) -> tuple[FeatureMap, ...]:
    """The levels of one image, with their strides in network pixels."""
    return tuple(FeatureMap(value[0], frame.network[1] / value.shape[-1], name) for name, value in features.items())


def level_name(feature: FeatureMap) -> str:
    """A pyramid level in reports: "fpn[p6]"."""
    return f"fpn[{feature.name}]"


def body_layers(net: nn.Module) -> tuple[str, ...]:
    """The stages of the backbone's body by their usual names (c2 .. c5), or else by their paths."""
    paths = dict(net.named_modules())
    stages = tuple(name for name, path in _STAGES.items() if path in paths)
    body: Any = getattr(getattr(net, "backbone", None), "body", None)
    kept = tuple(f"backbone.body.{key}" for key in getattr(body, "return_layers", {}))
    return stages or kept


_ROOM = "torchvision.models.detection."
_MEANING = ("forward", "postprocess_detections", "postprocess", "resize", "batch_images", "decode", "decode_single")
"""The methods of torchvision's classes whose steps are made again here."""


def is_stock(*parts: Any) -> bool:
    """Whether each part runs torchvision's own code, without hooks: then its steps, made one by one, are its forward pass."""
    return all(_runs_as_written(part) for part in parts if part is not None)


def _runs_as_written(part: Any) -> bool:
    methods = [getattr(type(part), name) for name in _MEANING if hasattr(type(part), name)]
    own = all(getattr(method, "__module__", "").startswith((_ROOM, "torchvision.ops.")) for method in methods)
    return own and not vars(part).keys() & set(_MEANING) and untouched(part)


def untouched(part: Any) -> bool:
    """Whether calling the module runs its class's forward alone: no hook on it, none on all modules, no patched forward."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    patched = any(getattr(part, name, None) for name in hooks) or "forward" in vars(part)
    # By getattr, because torch's names for its hooks are private and may change.
    return not patched and not any(getattr(nn.modules.module, f"_global{name}", None) for name in hooks)


@dataclass(frozen=True)
class OwnCall:
    """The network's own call.

    Attributes:
        outputs: What it returned: per image boxes, scores and labels, image pixels.
        parts: The outputs of the parts that were asked for, by path.
    """

    outputs: list[dict[str, Tensor]]
    parts: Mapping[str, Any]


def call_itself(net: Any, images: Sequence[Tensor], paths: Sequence[str], name: str) -> OwnCall:
    """Call the network as its user does, with its hooks and its own forward, and keep the outputs of some of its parts.

    Raises:
        WhyboxError: The call fails, or a part does not run exactly once.
    """
    seen: dict[str, list[Any]] = {path: [] for path in paths}
    handles = []
    try:
        for path, outputs in seen.items():
            keep = lambda part, args, output, outputs=outputs: outputs.append(output)
            handles.append(net.get_submodule(path).register_forward_hook(keep))
        try:
            result = net(list(images))
        except Exception as error:
            raise differs(
                net, name, f"it fails on a list of images ({str(error).splitlines()[0] if str(error) else error!r})"
            ) from error
    finally:
        for handle in handles:
            handle.remove()
    for path, outputs in seen.items():
        if len(outputs) != 1:
            raise differs(net, name, f"its {path} runs {len(outputs)} times in a pass")
    return OwnCall(result, {path: outputs[0] for path, outputs in seen.items()})


def check_detections(net: Any, name: str, outputs: Sequence[Mapping[str, Tensor]], detections: Detections) -> None:
    """Refuse a network whose own detections are not those that were read from its candidates."""
    own = outputs[0] if isinstance(outputs, (list, tuple)) and outputs else {}
    ours = detections.to_dict()
    same = isinstance(own, Mapping) and all(
        # A thousandth of a pixel, and of a score: the same steps differ by rounding alone.
        key in own and own[key].shape == value.shape and torch.allclose(own[key].float(), value.float(), rtol=1e-3, atol=1e-3)
        for key, value in ours.items()
    )
    if not same:
        raise differs(net, name, "its detections are others than those that its head's outputs give")


def differs(net: Any, name: str, how: str) -> WhyboxError:
    """The error for a network that changes what torchvision's class does."""
    return WhyboxError(
        f"{name}: this {type(net).__name__} does not work as torchvision's own does (its class or a hook changes it): {how}; "
        "load it as a module of your own, whybox.load(module, candidates=fn, features=[...])"
    )


def module_pullbacks(
    net: Any, layer: str, run: Callable[[], Candidates], trace: Trace, detections: Detections, branch: str = ""
) -> Iterator[Pullback]:
    """Pullbacks by autograd to the output of any module, or to the network's input; across pyramid levels.

    Args:
        net: The network.
        layer: "c2" to "c5", "input", or a module's path.
        run: The forward pass up to the candidates.
        trace: The image's trace.
        detections: The detections to explain.
        branch: "mask" or "keypoint": the candidates of `run` are those of the detections, one each.
    """
    path = _STAGES.get(layer, module_path(layer))
    # The backbone's input: that of the network is a list of images, before they are resized and padded.
    root, wanted = (net.backbone, INPUT) if path == INPUT else (net, path)

    def with_graph() -> tuple[Candidates, list[Layer]]:
        with frozen(net), gradients_on(), capture(root, [wanted]) as captured:
            candidates = run()
        return candidates, find_layers(wanted, captured[wanted], trace.frame.network)

    # Somebody's backward pass from maps frees the graph.
    once = bool(branch) or trace.differentiable
    candidates, layers = with_graph() if once else kept_or_made(trace.candidates, path, net, with_graph)
    live = replace(trace, candidates=candidates)
    rows = same_rows(live.candidates, trace.candidates, detections.source) if not branch else torch.arange(len(detections))
    # "c2" and "input" stand for paths, and what is recorded has the path's name.
    yield from exact_pullbacks(
        live,
        replace(detections, source=rows.to(detections.source.device)),
        choose_layers(layers, layer if module_path(layer) == wanted else wanted),
        leading=leading_target(branch),
    )


class TorchvisionDetector(Model):
    """What both families share: the module as a model, and candidates of a batch in one forward pass."""

    first_column = 1

    def __init__(self, net: Any, name: str, classes: Sequence[str] | None = None) -> None:
        self.network = net
        self.name = name
        self.classes = classes

    @property
    def channels(self) -> int:  # type: ignore[override]
        """The channels that the backbone's first convolution takes."""
        return first_channels(self.network.backbone)

    @property
    def embeds(self) -> bool:
        """Whether the network has an embedding head."""
        return embedding_head(self.network) is not None

    def predict(self, images: Tensor) -> list[Candidates]:
        """Candidates of a batch (B,3,H,W), in one forward pass."""
        with frozen(self.network), recording(False):
            return self._candidates(list(self._fitting(images)))

    def _fitting(self, images: Tensor) -> Tensor:
        """Images in the precision of the weights: a network built under another default dtype takes no other."""
        weight = next((weight for weight in self.network.parameters() if weight.is_floating_point()), images)
        return images.to(weight.dtype)

    @abstractmethod
    def _candidates(self, images: list[Tensor]) -> list[Candidates]:
        """The forward pass up to the candidates; with a graph where the caller allows one."""
