"""What explaining costs beside detecting, for detection transformers: ratios within one run, processor time, one thread.

    python -m benchmarks.detection_transformers [--models detr rt_detr ...] [--side 640] [--sample 8] [--folder DIR]

Networks with their configurations' own sizes on a ResNet-18, and a compact DETR; random weights: the cost does not depend on
them. `--folder` adds a trained one that save_pretrained wrote. For the default layer and for "encoder": the class maps of 100
detections over the forward pass, batched and by one backward pass each, timed on a few and scaled up; and `counted`, the same
ratio of multiplications, which no order of the work changes.
"""

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import whybox
from benchmarks.detectors import COUNT
from benchmarks.timing import medians, timed_in_turn
from whybox.method_choice import make_method
from whybox.model import Model
from whybox.ops import gradients
from whybox.targets import find_target
from whybox.types import Detections, Trace

RESNET18 = {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"}
COMPACT = {"hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1], "layer_type": "basic", "embedding_size": 16}


def detr() -> Any:
    """DETR's own sizes: 6 + 6 layers of 256 channels, 100 queries, a grid of 20x20."""
    backbone = transformers.ResNetConfig(**RESNET18, out_features=["stage4"])
    return transformers.DetrForObjectDetection(transformers.DetrConfig(backbone_config=backbone))


def compact_detr() -> Any:
    """One layer each of 64 channels."""
    sizes = {"d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    backbone = transformers.ResNetConfig(**COMPACT, out_features=["stage4"])
    return transformers.DetrForObjectDetection(transformers.DetrConfig(backbone_config=backbone, **sizes))


def rt_detr() -> Any:
    """RT-DETR's r18 sizes: a neck over strides 8, 16 and 32, 3 decoder layers, 300 queries."""
    stages = ["stage2", "stage3", "stage4"]
    backbone = transformers.RTDetrResNetConfig(**RESNET18, out_features=stages)
    sizes = {"encoder_in_channels": [128, 256, 512], "hidden_expansion": 0.5, "decoder_layers": 3, "num_denoising": 0}
    return transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(backbone_config=backbone, **sizes))


NETWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "compact_detr": (compact_detr, "DetrImageProcessor"),
    "detr": (detr, "DetrImageProcessor"),
    "rt_detr": (rt_detr, "RTDetrImageProcessor"),
}


def build(kind: str, side: int) -> Model:
    """A model of random weights that takes every image as side x side pixels."""
    make, processor = NETWORKS[kind]
    torch.manual_seed(0)
    size = {"height": side, "width": side}
    return whybox.load(make(), processor=getattr(transformers, processor)(size=size), score_threshold=0.0)


def maps(model: Model, trace: Trace, found: Detections, layer: str) -> Any:
    """Class maps at a layer."""
    return make_method("odam", model, layer=layer)(model, trace, found, [find_target("score", model.classes)])


def singly(run: Callable[[], Any]) -> Any:
    """The same with a backward pass for each detection."""
    with mock.patch.dict(gradients._AT_ONCE, cpu=1):
        return run()


def operations(run: Callable[[], Any]) -> int:
    """Multiplications and additions of all products of matrices and convolutions."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def scaled(one_pass: float, some: float, count: int) -> float:
    """The cost of COUNT detections, from that of `count` with the pass that they share, and of this pass alone."""
    return one_pass + (some - one_pass) * COUNT / count


def measure(model: Model, layer: str, side: int, sample: int, repeats: int) -> dict[str, Any]:
    """One row of the table: ratios to the forward pass."""
    image = torch.rand(3, side, side)
    trace = model.trace(image)
    found = trace.detections[:sample]
    # With several levels, the pullbacks of all of them have taken a gradient already.
    level = next(iter(model.pullbacks(trace, found[:1], layer, "auto"))).layer
    runs = {
        "forward": lambda: model.predict(image[None]),
        "pass": lambda: list(model.pullbacks(trace, found[:1], level, "auto")),
        "batched": lambda: maps(model, trace, found, layer),
        "singly": lambda: singly(lambda: maps(model, trace, found, layer)),
    }
    seconds = medians(timed_in_turn(runs, repeats))
    counts = {name: operations(runs[name]) for name in ("forward", "pass", "singly")}
    return {
        "layer": layer,
        "forward_s": seconds["forward"],
        "batched": scaled(seconds["pass"], seconds["batched"], len(found)) / seconds["forward"],
        "singly": scaled(seconds["pass"], seconds["singly"], len(found)) / seconds["forward"],
        "counted": scaled(counts["pass"], counts["singly"], len(found)) / counts["forward"],
    }


def main() -> None:
    """Print one line for each network and layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--side", type=int, default=640)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--folder")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {kind: build(kind, options.side) for kind in options.models}
    if options.folder:
        models[options.folder] = whybox.load(f"hf/{options.folder}", score_threshold=0.0)
    for name, model in models.items():
        for layer in ("backbone", "encoder"):
            row = measure(model, layer, options.side, options.sample, options.repeats)
            print(name, "  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
