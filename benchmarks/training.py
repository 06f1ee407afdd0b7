"""What a loss on maps costs in a training step: ratios of processor time in one run, medians.

    python -m benchmarks.training [--models compact fcos faster_rcnn] [--orders first second] [--repeats 5] [--json FILE]

A step is forward pass, backward pass and the optimizer's update. Steps with ODAM-Train and without it take turns, on the same
batch. The compact FCOS trains on drawn scenes at its own size; torchvision's ResNet-50 FCOS, RetinaNet and Faster R-CNN have
random weights and get noise with as many boxes as COCO's images have on average. What their assignment gives does not depend
on the weights, but for the Faster R-CNN's proposals: half of them are moved to the objects, so that it samples as many
positives as a trained one.
"""

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from benchmarks.timing import timed_in_turn
from whybox.losses.odam_train import OdamTrain
from whybox.training import detector
from whybox.training.augmentation import DetectorBatches
from whybox.training.detector import ZOOM
from whybox.training.examples import open_training_data
from whybox.training.odam_train import watching

BUILDERS = {
    "fcos": "fcos_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
}
SIZE = (320, 480)
OBJECTS = 7
GOAL = 1.4
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def compact(images: int) -> tuple[nn.Module, Batch]:
    """The compact FCOS and a batch of scenes."""
    data = open_training_data("scenes", 0, limit=images)
    network, _ = detector.start(data.classes, "320x240")
    shape: Any = network.transform
    batches = DetectorBatches(data.train, images, 0, (shape.min_size[0], shape.max_size), ZOOM)
    return network, batches(0)


def stock(kind: str, images: int) -> tuple[nn.Module, Batch]:
    """One of torchvision's detectors and a batch of noise with boxes of all sizes."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"min_size": min(SIZE), "max_size": max(SIZE)}
    network = torchvision.models.get_model(BUILDERS[kind], weights=None, weights_backbone=None, **sizes)
    targets = [
        {"boxes": boxes(generator), "labels": torch.randint(1, 91, (OBJECTS,), generator=generator)} for _ in range(images)
    ]
    if kind == "faster_rcnn":
        truth = [target["boxes"] for target in targets]
        network.rpn.register_forward_hook(lambda module, args, output: (near_objects(output[0], truth), output[1]))
    return network.train(), ([torch.rand(3, *SIZE, generator=generator) for _ in range(images)], targets)


def boxes(generator: torch.Generator) -> Tensor:
    """Boxes (n,4) whose sides are spread evenly in the logarithm, from 16 pixels to the image's shorter side."""
    sides = 16 * (min(SIZE) / 16) ** torch.rand(OBJECTS, 2, generator=generator)
    corner = torch.rand(OBJECTS, 2, generator=generator) * (torch.tensor([SIZE[1], SIZE[0]]) - sides)
    return torch.cat([corner, corner + sides], 1)


def near_objects(proposals: list[Tensor], truth: list[Tensor]) -> list[Tensor]:
    """Proposals of which every other one lies on an object, a little off."""
    moved = []
    for regions, objects in zip(proposals, truth, strict=True):
        chosen = objects[torch.arange(len(regions)) % len(objects)]
        sides = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
        near = (torch.arange(len(regions)) % 2 == 0)[:, None]
        moved.append(torch.where(near, chosen + 0.05 * sides * torch.randn(len(regions), 4), regions))
    return moved


def stepper(network: nn.Module, batch: Batch, loss: OdamTrain | None) -> Callable[[], None]:
    """A function that does one step."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)

    def step() -> None:
        images, targets = copy.deepcopy(batch)
        if loss is None:
            losses = network(images, targets)
        else:
            with watching(network, loss) as explained:
                losses = network(images, targets)
            losses = {**losses, loss.name: explained.loss()}
        optimizer.zero_grad()
        torch.autograd.backward(sum(losses.values()))
        optimizer.step()

    return step


def measure(kind: str, orders: list[str], repeats: int) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    network, batch = compact(16) if kind == "compact" else stock(kind, 2)
    losses: dict[str, Any] = {"without": None} | {order: OdamTrain(order=order) for order in orders}  # type: ignore[arg-type]
    seconds = timed_in_turn({name: stepper(network, batch, loss) for name, loss in losses.items()}, repeats)
    with watching(network) as explained:
        network(*copy.deepcopy(batch))
    ratios = {
        order: statistics.median(a / b for a, b in zip(seconds[order], seconds["without"], strict=True)) for order in orders
    }
    row = {"model": kind, "images": len(batch[0]), "explained": len(explained.positives().maps)}
    return row | {"step_s": statistics.median(seconds["without"])} | ratios


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["compact", "fcos", "faster_rcnn"], choices=["compact", *BUILDERS])
    parser.add_argument("--orders", nargs="+", default=["first", "second"], choices=["first", "second"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = []
    for kind in options.models:
        rows.append(measure(kind, options.orders, options.repeats))
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    print(f"goal: a step with first-order maps takes at most {GOAL} times one without")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
