"""What deletion and insertion cost beside the forward passes that they need: ratios of processor time within one run, medians.

    python -m benchmarks.perturbation [--models scenes ssdlite yolo fcos] [--objects 4] [--batch 8] [--repeats 5]

Each metric's time is divided by that of the same number of bare `predict` calls on the same images in the same
batches. scenes: the shipped detector on a scene of 320x240. ssdlite: torchvision's ssdlite320_mobilenet_v3_large on noise of
320x240. yolo: the detector of benchmarks.plain with a quarter of its channels, 320x320. fcos: fcos_resnet50_fpn, 640x480. Their
weights are random: the cost does not depend on them. The maps are noise, the hardest to sort; objects are the best candidates.
"""

import argparse
import statistics
from dataclasses import replace
from typing import Any

import torch
import torchvision
from torch import Tensor

import whybox
from benchmarks import plain
from benchmarks.timing import timed_in_turn
from whybox.data.images import read_image
from whybox.data.scenes import draw_scene
from whybox.metrics import deletion, insertion
from whybox.metrics.deletion import Deletion
from whybox.metrics.insertion import Insertion
from whybox.model import Model
from whybox.truth import MetricInput, Truth
from whybox.types import Candidates, Detections

METRICS = {
    "deletion": Deletion(),
    "deletion, the paper's": Deletion(**deletion.PAPER),
    "deletion, blurred, image": Deletion(fill="blurred", extent="image", score="iou_x_probability"),
    "insertion": Insertion(),
    "insertion, the paper's": Insertion(**insertion.PAPER),
    "insertion, random": Insertion(fill="random"),
}


STOCK = {"ssdlite": ("ssdlite320_mobilenet_v3_large", (240, 320)), "fcos": ("fcos_resnet50_fpn", (480, 640))}
KINDS = ("scenes", "ssdlite", "yolo", "fcos")


def build(kind: str) -> tuple[Model, Tensor]:
    """A model and an image (3,H,W) for it."""
    if kind == "scenes":
        return whybox.load("whybox/scenes"), read_image(draw_scene(3, seed=1).image)
    torch.manual_seed(0)
    if kind == "yolo":
        return plain.build((320, 320), widths=(32, 64, 128)), torch.rand(3, 320, 320)
    name, size = STOCK[kind]
    net = torchvision.models.get_model(name, weights=None, weights_backbone=None).eval()
    return whybox.load(net), torch.rand(3, *size)


def make_case(model: Model, image: Tensor, objects: int, batch: int) -> MetricInput:
    """The best candidates as detections without a match: what is tracked costs the same for all."""
    trace = model.trace(image)
    candidates = trace.candidates
    scores, flat = candidates.scores.flatten().topk(objects)
    rows, labels = flat // candidates.scores.shape[1], flat % candidates.scores.shape[1]
    found = Detections(candidates.boxes_of(rows, labels), scores, labels, rows)
    nobody = torch.zeros(0, dtype=torch.long)
    truth = Truth(torch.zeros((0, 4)), nobody, (), nobody.bool())
    return MetricInput(image, trace.frame, found, truth, torch.full((objects,), -1), torch.arange(objects), model.predict, batch)


def asked_for(metric: Any, maps: Tensor, case: MetricInput) -> list[Tensor]:
    """The batches that a metric gives to `predict`."""
    batches: list[Tensor] = []

    def keeping(images: Tensor) -> list[Candidates]:
        batches.append(images.clone())
        nothing = Candidates(torch.zeros((0, 4)), torch.zeros((0, 100)), torch.zeros(0, dtype=torch.long))
        return [nothing] * len(images)

    metric(maps, replace(case, predict=keeping))
    return batches


def run_bare(model: Model, batches: list[Tensor]) -> None:
    """The forward passes alone."""
    for images in batches:
        model.predict(images)


def measure(metric: Any, model: Model, case: MetricInput, repeats: int) -> tuple[float, float, int]:
    """Median ratio of metric to bare passes, the bare passes' median seconds, and their images."""
    maps = torch.rand((len(case), *case.image.shape[-2:]))
    batches = asked_for(metric, maps, case)
    seconds = timed_in_turn({"bare": lambda: run_bare(model, batches), "metric": lambda: metric(maps, case)}, repeats)
    ratios = [one / bare for bare, one in zip(*seconds.values(), strict=True)]
    return statistics.median(ratios), statistics.median(seconds["bare"]), sum(len(images) for images in batches)


def main() -> None:
    """Print one line a model and metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--objects", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{'model':8} {'metric':26} {'images':>6} {'bare s':>8} {'ratio':>6}")
    for kind in options.models:
        model, image = build(kind)
        case = make_case(model, image, options.objects, options.batch)
        for name, metric in METRICS.items():
            ratio, bare, images = measure(metric, model, case, options.repeats)
            print(f"{kind:8} {name:26} {images:6} {bare:8.3f} {ratio:6.3f}", flush=True)


if __name__ == "__main__":
    main()
