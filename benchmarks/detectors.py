"""What explaining costs beside detecting: ratios within one run, medians.

    python -m benchmarks.detectors [--sizes 480x640 800x1333] [--models fcos ...] [--repeats 5] [--json FILE]

For each of torchvision's ResNet-50 FPN detectors (random weights: the cost does not depend on them) and each image size:
the detector's own forward pass; all class-score maps of 100 detections; the combined maps (five targets); one backward
pass per detection, from the score to the pyramid's features as autograd does it (timed on a few, scaled up), and the exact
route of whybox, which differentiates the detection's level alone (likewise); and the peak memory of forward pass and maps
over the forward pass alone, each in a process of its own. Detections are the 100 best; how many stand on each level is
printed: the weights are random, and so are the levels.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
import torchvision
from torch import nn

import whybox
from benchmarks.timing import medians, timed_in_turn
from whybox.method_choice import make_method
from whybox.model import Model
from whybox.targets import SIDES, find_target
from whybox.types import Detections, Trace

BUILDERS = {
    "fcos": "fcos_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "retinanet_v2": "retinanet_resnet50_fpn_v2",
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
    "ssd": "ssd300_vgg16",
}
COUNT = 100
SLOW_SAMPLE = 4


def build(kind: str, size: tuple[int, int]) -> nn.Module:
    """The detector at its own input size, with logits spread as trained heads spread them and no score filter."""
    torch.manual_seed(0)
    sizes = {} if kind == "ssd" else {"min_size": min(size), "max_size": max(size)}
    net: Any = torchvision.models.get_model(BUILDERS[kind], weights=None, weights_backbone=None, **sizes).eval()
    for name, part in net.named_modules():
        if name.startswith("head") and isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    ranked = net.roi_heads if kind == "faster_rcnn" else net
    ranked.score_thresh = 0.0
    ranked.detections_per_img = COUNT
    return net


def maps(model: Model, trace: Trace, found: Detections, names: tuple[str, ...], route: str = "auto") -> Any:
    """The maps of some targets over one trace."""
    targets = [find_target(name, model.classes) for name in names]
    return make_method("odam", model, route=route)(model, trace, found, targets)


def measure(kind: str, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """One row of the table."""
    net = build(kind, size)
    model = whybox.load(net)
    image = torch.rand(3, *size)
    trace = model.trace(image)
    found = trace.detections[:COUNT]
    sample = found[:: COUNT // SLOW_SAMPLE]
    runs = {
        "forward": lambda: detect(net, image),
        "trace": lambda: model.trace(image),
        "class maps": lambda: maps(model, trace, found, ("score",)),
        "combined": lambda: maps(model, trace, found, ("score", *SIDES)),
        "exact": lambda: maps(model, trace, sample, ("score",), "exact"),
    }
    seconds = medians(timed_in_turn(runs, repeats, time.perf_counter))
    each = one_backward_each(net, model, trace, sample) / len(sample)
    return {
        "model": kind,
        "size": f"{size[0]}x{size[1]}",
        "detections": len(found),
        "levels": trace.candidates.level[found.source].bincount().tolist(),
        "forward_s": seconds["forward"],
        "trace": seconds["trace"] / seconds["forward"],
        "class_maps": seconds["class maps"] / seconds["forward"],
        "combined_to_class": seconds["combined"] / seconds["class maps"],
        "speedup_over_one_backward_each": each * len(found) / seconds["class maps"],
        "speedup_over_exact_route": seconds["exact"] / len(sample) * len(found) / seconds["class maps"],
        "peak_memory": peak(kind, size, True) / peak(kind, size, False),
    }


def detect(net: nn.Module, image: torch.Tensor) -> Any:
    """The detector's own forward pass, as its users run it."""
    with torch.no_grad():
        return net([image])


def one_backward_each(net: Any, model: Model, trace: Trace, found: Detections) -> float:
    """Seconds of the plain way: the heads over all levels with a graph, then one call of autograd.grad a detection."""
    leaves: list[torch.Tensor] = []

    def cut(module: nn.Module, args: Any, output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        leaves[:] = [value.detach().requires_grad_() for value in output.values()]
        return dict(zip(output, leaves, strict=True))

    handle = net.backbone.register_forward_hook(cut)
    for weight in net.parameters():
        weight.requires_grad_(False)
    candidates = model._candidates([trace.image])[0]  # type: ignore[attr-defined]
    handle.remove()
    scores = candidates.scores[found.source, found.labels]
    start = time.perf_counter()
    for score in scores:
        gradients = torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)
        _ = [(leaf * part).sum(1).relu() for leaf, part in zip(leaves, gradients, strict=True) if part is not None]
    return time.perf_counter() - start


def peak(kind: str, size: tuple[int, int], explain: bool) -> float:
    """Peak resident memory of a process that detects, or detects and explains."""
    command = [sys.executable, "-m", "benchmarks.detectors", "--peak", kind, f"{size[0]}x{size[1]}", str(int(explain))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_peak(kind: str, size: tuple[int, int], explain: bool) -> None:
    """What the child process of `peak` does."""
    net, image = build(kind, size), torch.rand(3, *size)
    if explain:
        model = whybox.load(net)
        trace = model.trace(image)
        maps(model, trace, trace.detections[:COUNT], ("score",))
    else:
        detect(net, image)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def parse_size(text: str) -> tuple[int, int]:
    """ "480x640" -> (480, 640)"""
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    """Print one line a model and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["480x640", "800x1333"])
    parser.add_argument("--models", nargs="+", default=["fcos", "retinanet", "faster_rcnn"], choices=list(BUILDERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        report_peak(options.peak[0], parse_size(options.peak[1]), options.peak[2] == "1")
        return
    rows = []
    for size in options.sizes:
        for kind in options.models:
            rows.append(measure(kind, parse_size(size), options.repeats))
            print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
