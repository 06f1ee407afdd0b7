"""The pointing game, by method: does a map's peak lie on the object? Beside the methods, a control that sees no features.

    python -m benchmarks.pointing --model whybox/scenes [--data scenes | coco:FILE.json] [--images 40] [--masks 500]

Detections that match an annotation of their class one to one with an IoU of at least 0.5 are explained (target "score").
A hit: the map's highest pixel lies inside the annotated box. Energy: the share of the map's sum inside the box. The control is a
Gaussian blob at the middle of the predicted box.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

import whybox
from whybox.data.coco import read_coco
from whybox.data.scenes import draw_scene
from whybox.types import Detections

METHODS = ("odam", "gradcam", "gradcam_pp", "ssgradcam_pp", "input_gradient", "drise")


def annotated(data: str, count: int, seed: int) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """(image, boxes (G,4), labels (G,)) of the first `count` held-out images."""
    if data == "scenes":
        for index in range(count):
            scene = draw_scene(index, seed=seed, variant=("mixed", "crowd")[index % 2])
            yield scene.image, torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels)
        return
    for one in read_coco(Path(data.removeprefix("coco:"))).images[:count]:
        yield one.image(), torch.from_numpy(one.boxes), torch.from_numpy(one.labels)


def matched(found: Detections, boxes: Tensor, labels: Tensor) -> tuple[Detections, Tensor]:
    """Detections and the annotated boxes that they match, best overlap first, one to one."""
    iou = box_iou(found.boxes, boxes) * (found.labels[:, None] == labels)
    rows, objects = [], []
    while iou.numel() and iou.max() >= 0.5:
        row, item = divmod(int(iou.argmax()), iou.shape[1])
        rows.append(row)
        objects.append(item)
        iou[row], iou[:, item] = 0, 0
    return found[rows], boxes[objects]


def blob(found: Detections, size: tuple[int, int]) -> Tensor:
    """The control: Gaussians of half the box's sides, (N,H,W)."""
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    middle, side = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2, (found.boxes[:, 2:] - found.boxes[:, :2]) / 2
    across = (-0.5 * ((x - middle[:, :1]) / side[:, :1]) ** 2).exp()
    down = (-0.5 * ((y - middle[:, 1:]) / side[:, 1:]) ** 2).exp()
    return down[:, :, None] * across[:, None, :]


def judge(maps: Tensor, boxes: Tensor) -> list[tuple[float, float]]:
    """(hit, energy) of every map (N,H,W) for its box (N,4); an empty map misses."""
    results = []
    for values, box in zip(maps, boxes, strict=True):
        row, column = divmod(int(values.argmax()), values.shape[1])
        x1, y1, x2, y2 = box.tolist()
        inside = x1 <= column + 0.5 <= x2 and y1 <= row + 0.5 <= y2 and bool(values.max() > 0)
        within = values[max(0, round(y1)) : round(y2), max(0, round(x1)) : round(x2)].sum() / values.sum().clamp(min=1e-30)
        results.append((float(inside), float(within)))
    return results


def main() -> None:
    """Print one line a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="whybox/scenes")
    parser.add_argument("--data", default="scenes")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--masks", type=int, default=500, help="for D-RISE; its paper takes 5000")
    options = parser.parse_args()
    model = whybox.load(options.model)
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in ("blob (control)", *METHODS)}
    for image, boxes, labels in annotated(options.data, options.images, options.seed):
        trace = whybox.trace(model, image)
        found, objects = matched(whybox.detect(model, trace), boxes, labels)
        if not len(found):
            continue
        scores["blob (control)"] += judge(blob(found, trace.frame.image), objects)
        for method in METHODS:
            settings = {"masks": options.masks} if method == "drise" else {}
            result = whybox.explain(model, trace, method=method, detections=found, **settings)
            scores[method] += judge(result.maps.at_image(), objects)
    for name, pairs in scores.items():
        hit, energy = (statistics.mean(values) for values in zip(*pairs, strict=True))
        print(f"{name:16} pointing game {hit:.3f}  energy {energy:.3f}  ({len(pairs)} objects)")


if __name__ == "__main__":
    main()
