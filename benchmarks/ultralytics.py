"""What explaining costs beside detecting, for ultralytics' networks: ratios of processor time within one run, medians.

    python -m benchmarks.ultralytics [--models yolo11n yolo11m] [--size 640] [--repeats 5]

The networks are built from the package's own plans, with random weights that spread as trained ones do. Timed: the network's
forward pass; a trace; all class-score maps of 100 detections at the head's three inputs; and the combined maps (five
targets). Detections are the best 34, 33 and 33 of the three levels. One thread.
"""

import argparse
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

import whybox
from benchmarks.detectors import COUNT, maps
from benchmarks.timing import medians, timed_in_turn
from whybox.model import Model
from whybox.targets import SIDES
from whybox.types import Detections, Trace


def build(name: str, size: int) -> Model:
    """The network `name`.yaml, its statistics and its scores spread."""
    with redirect_stdout(sys.stderr):
        from ultralytics import YOLO

        torch.manual_seed(0)
        network: Any = YOLO(f"{name}.yaml").model.eval()
    head = network.model[-1]
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.3, 0.8)
        for branch in head.cv3:
            branch[-1].weight.normal_(0, 0.15)
            branch[-1].bias.normal_(-3, 0.5)
    return whybox.load(network, size=size, rect=False)


def best_of_each_level(trace: Trace) -> Detections:
    """100 candidates with the best scores of their level, each with its best class."""
    candidates = trace.candidates
    scores, labels = candidates.scores.max(1)
    levels = len(trace.features)
    chosen = []
    for level in range(levels):
        rows = (candidates.level == level).nonzero()[:, 0]
        count = COUNT // levels + (level < COUNT % levels)
        chosen.append(rows[scores[rows].topk(count).indices])
    source = torch.cat(chosen)
    return Detections(candidates.boxes[source], scores[source], labels[source], source)


def measure(name: str, size: int, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    model = build(name, size)
    image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    trace = model.trace(image)
    found = best_of_each_level(trace)

    def forward() -> None:
        with torch.no_grad():
            model.network(image[None])

    runs = {
        "forward": forward,
        "trace": lambda: model.trace(image),
        "class maps": lambda: maps(model, trace, found, ("score",)),
        "combined": lambda: maps(model, trace, found, ("score", *SIDES)),
    }
    (drawn,) = runs["class maps"]()
    seconds = medians(timed_in_turn(runs, repeats))
    return {
        "model": name,
        "detections": len(found),
        "routes": "+".join(sorted(set(drawn.routes))),
        "forward_s": seconds["forward"],
        **{key: seconds[key] / seconds["forward"] for key in ("trace", "class maps", "combined")},
    }


def main() -> None:
    """Print one line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["yolo11n", "yolo11m"])
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if find_spec("ultralytics") is None:
        print("ultralytics is not installed: pip install 'whybox[ultralytics]'")
        return
    torch.set_num_threads(1)
    for name in options.models:
        row = measure(name, options.size, options.repeats)
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
