"""How close each gradient method's maps are to autograd's on every route, on the trained detector of the package.

python -m benchmarks.routes [--images 24] [--targets score x1 y1 x2 y2] [--size 240 480]

A row is a method, a route and a level's grid; the numbers are cosines of its maps with those of route "exact".
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import whybox
from whybox import registry
from whybox.data.scenes import draw_scene
from whybox.ops.maps import GradientMethod
from whybox.specs import parse_spec

VARIANTS = ("odam:smoothing=gaussian", "odam:smoothing=global", "ssgradcam_pp:region=whole")
LEAST = 0.98
"""The median from which on a route may be a default."""
Key = tuple[str, str, tuple[int, int]]
"""Method, route, grid."""


def methods() -> list[str]:
    """Every registered method that draws from gradients at the detection's own level, and variants of some."""
    kinds = registry.methods().items()
    own_level = [name for name, kind in kinds if issubclass(kind, GradientMethod) and kind().layer is None]
    return [*own_level, *VARIANTS]


def measure(size: int, images: int, targets: Sequence[str]) -> dict[Key, list[tuple[str, float]]]:
    """For each method, route and grid the route that was taken and the cosine with the exact map; scenes are scaled to a
    shorter side of `size`."""
    model = whybox.load("whybox/scenes")
    model.network.transform.min_size, model.network.transform.max_size = (size,), 10 * size
    found: dict[Key, list[tuple[str, float]]] = defaultdict(list)
    for index in range(images):
        scene = draw_scene(index, seed=77, variant="mixed" if index % 3 else "crowd")
        trace = whybox.trace(model, scene.image)
        detections = whybox.detect(model, trace)
        for spec in methods():
            name, options = parse_spec(spec)
            for target in targets:
                asked: dict[str, Any] = {"detections": detections, "method": name, "target": target, **options}
                exact = whybox.explain(model, trace, route="exact", **asked).maps
                for route in ("auto", "fast"):
                    maps = whybox.explain(model, trace, route=route, **asked).maps
                    for taken, ours, theirs in zip(maps.routes, maps.native, exact.native, strict=True):
                        if theirs.any():
                            found[spec, route, (theirs.shape[0], theirs.shape[1])].append((taken, cosine(ours, theirs)))
    return found


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two maps."""
    return float(cosine_similarity(one.flatten(), other.flatten(), 0))


def main() -> None:
    """Print the table, and what a default should not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--targets", nargs="+", default=["score"])
    parser.add_argument("--size", type=int, nargs="+", default=[240, 480])
    options = parser.parse_args()
    print("| method | route asked | taken | grid | maps | median | 5th percentile | lowest |\n|---|---|---|---|---|---|---|---|")
    low = []
    for size in options.size:
        for (spec, route, grid), rows in sorted(measure(size, options.images, options.targets).items()):
            values = torch.tensor([value for _, value in rows])
            taken = "/".join(sorted({name for name, _ in rows}))
            median = float(values.median())
            numbers = f"{median:.4f} | {float(values.quantile(0.05)):.4f} | {float(values.min()):.4f}"
            print(f"| `{spec}` | {route} | {taken} | {grid[0]}x{grid[1]} | {len(rows)} | {numbers} |")
            if route == "auto" and median < LEAST:
                low.append(f"{spec} at {grid[0]}x{grid[1]}")
    print(f"\nBelow {LEAST} by default: {', '.join(low) or 'none'}")


if __name__ == "__main__":
    main()
