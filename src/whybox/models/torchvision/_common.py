"""Shared by torchvision's detectors: frames, layers, and pullbacks to any module."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from whybox.frame import Frame
from whybox.model import Model
from whybox.models._layers import choose_layers, exact_pullbacks, find_layers, module_path
from whybox.ops.gradients import gradients_on, recording
from whybox.ops.hooks import INPUT, capture, frozen
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


def body_layers(net: nn.Module) -> tuple[str, ...]:
    """The stages of the backbone's body by their usual names (c2 .. c5), or else by their paths."""
    paths = dict(net.named_modules())
    stages = tuple(name for name, path in _STAGES.items() if path in paths)
    body: Any = getattr(getattr(net, "backbone", None), "body", None)
    kept = tuple(f"backbone.body.{key}" for key in getattr(body, "return_layers", {}))
    return stages or kept


def module_pullbacks(
    net: Any, layer: str, run: Callable[[], Candidates], trace: Trace, detections: Detections
) -> Iterator[Pullback]:
    """Pullbacks by autograd to the output of any module, or to the network's input; across pyramid levels.

    Args:
        net: The network.
        layer: "c2" to "c5", "input", or a module's path.
        run: The forward pass up to the candidates.
        trace: The image's trace.
        detections: The detections to explain.
    """
    path = _STAGES.get(layer, module_path(layer))
    root, wanted = (net.backbone, INPUT) if path == INPUT else (net, path)
    with frozen(net), gradients_on(), capture(root, [wanted]) as captured:
        live = replace(trace, candidates=run())
    layers = find_layers(wanted, captured[wanted], trace.frame.network)
    yield from exact_pullbacks(live, detections, choose_layers(layers, layer if module_path(layer) == wanted else wanted))


class TorchvisionDetector(Model):
    """What both families share: the module as a model, and candidates of a batch in one forward pass."""

    first_column = 1

    def __init__(self, net: Any, name: str, classes: Sequence[str] | None = None) -> None:
        self.network = net
        self.name = name
        self.classes = classes

    def predict(self, images: Tensor) -> list[Candidates]:
        """Candidates of a batch (B,3,H,W), in one forward pass."""
        with frozen(self.network), recording(False):
            return self._candidates(list(images))

    @abstractmethod
    def _candidates(self, images: list[Tensor]) -> list[Candidates]:
        """The forward pass up to the candidates; with a graph where the caller allows one."""
