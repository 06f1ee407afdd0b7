"""What a click in the viewer costs beyond the model's pass: milliseconds of processor time in one thread, medians.

    python -m benchmarks.viewer [--model whybox/scenes ...] [--image FILE] [--methods odam gradcam ...] [--repeats 7]

A click on a detection is the question "map" about one row of an image whose pass is kept, from its JSON to the answer's JSON.
The fingerprint of the network, which every question compares with that of the pass, is a part of it. The first click by a
method may take another pass, with a graph, which is kept for the clicks after it.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

import torch

import whybox
from benchmarks.timing import timed
from whybox import registry
from whybox.data.images import read_image
from whybox.data.scenes import draw_scene
from whybox.files import strict_json
from whybox.model import Model
from whybox.ops.maps import GradientMethod
from whybox.viewer.asked import read_ask
from whybox.viewer.desk import Desk
from whybox.viewer.images import Images
from whybox.viewer.jobs import Job


class Single:
    """One image, as a viewer takes it."""

    def __init__(self, picture: Any) -> None:
        self.names: Sequence[str] = ("image",)
        self.picture = picture

    def source(self, index: int) -> Any:
        """The picture."""
        return self.picture


def gradient_methods(model: Model) -> list[str]:
    """Those that take one gradient per map, and no further pass."""
    return [name for name, kind in registry.methods().items() if issubclass(kind, GradientMethod) and kind.serves(model)]


def clicks(model: Model, picture: Any, methods: list[str], repeats: int) -> tuple[float, dict[str, list[float]]]:
    """The pass's milliseconds, and those of clicks on different detections by method."""
    desk = Desk({"model": model}, Images(Single(picture)))
    job = Job(lambda job: None)
    detect = read_ask({"image": "0", "model": "model"})
    # Not the process's very first, which loads more than weights.
    model.trace(read_image(picture))
    spent = 1000 * timed(lambda: desk.detect(detect, job))
    count = len(desk.detect(detect, job)["detections"])

    def click(method: str, turn: int) -> float:
        question = {"image": "0", "model": "model", "method": method, "target": "score", "rows": [turn % count]}
        return 1000 * timed(lambda: strict_json(desk.draw(read_ask(question), job)))

    return spent, {method: [click(method, turn) for turn in range(repeats + 1)] for method in methods}


def main() -> None:
    """Print a line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["whybox/scenes"])
    parser.add_argument("--image", help="Default: a drawn scene.")
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in chosen.model:
        model = whybox.load(name)
        methods = chosen.methods or gradient_methods(model)
        seconds, spent = clicks(model, chosen.image or draw_scene(0, seed=1).image, methods, chosen.repeats)
        print(f"{name}: the image's pass {seconds:.0f} ms")
        for method, (first, *later) in spent.items():
            print(f"  {method:20s} first {first:6.1f} ms  later {statistics.median(later):6.1f} ms, at most {max(later):.1f} ms")


if __name__ == "__main__":
    main()
