"""How close maps with frozen normalization statistics are to exact ones, by level, on the trained detector of the package.

python -m benchmarks.frozen [--images 24] [--target score] [--size 240 480]
"""

import argparse
from collections import defaultdict
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

import whybox
from whybox.data.scenes import draw_scene


def cosines(size: int, images: int, target: str) -> dict[tuple[int, int], list[float]]:
    """Cosine of frozen to exact maps, by the grid of the detection's level; scenes are scaled to a shorter side of `size`."""
    model = whybox.load("whybox/scenes")
    transform: Any = model.network.transform  # type: ignore[attr-defined]
    transform.min_size, transform.max_size = (size,), 10 * size
    found: dict[tuple[int, int], list[float]] = defaultdict(list)
    for index in range(images):
        scene = draw_scene(index, seed=77, variant="mixed" if index % 3 else "crowd")
        trace = whybox.trace(model, scene.image)
        options = {"detections": whybox.detect(model, trace), "target": target}
        exact, frozen = (whybox.explain(model, trace, route=route, **options).maps for route in ("exact", "fast"))
        for one, other in zip(exact.native, frozen.native, strict=True):
            found[one.shape[0], one.shape[1]].append(float(cosine_similarity(one.flatten(), other.flatten(), 0)))
    return found


def main() -> None:
    """Print one line a level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--target", default="score")
    parser.add_argument("--size", type=int, nargs="+", default=[240, 480])
    options = parser.parse_args()
    for size in options.size:
        for grid, values in sorted(cosines(size, options.images, options.target).items(), reverse=True):
            sample = torch.tensor(values)
            low, middle = sample.quantile(0.05), sample.median()
            print(f"{grid[0]}x{grid[1]}  n {len(sample)}  median {middle:.4f}  5% {low:.4f}  lowest {sample.min():.4f}")


if __name__ == "__main__":
    main()
