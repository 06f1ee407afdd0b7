"""What a loss with a teacher costs in a training step: ratios of processor time and of memory, in one run.

    python -m benchmarks.distillation_steps [--models compact fcos faster_rcnn] [--losses odam_kd ...] [--repeats 5] [--json FILE]

A step is the student's and the teacher's forward pass, the loss, the backward pass and the optimizer's update. Steps of the
losses take turns on the same batch; a ratio is the median over the turns of a loss's seconds over FGD's. Memory is the most that
a step's tensors hold at once beyond networks and batch, counted from torch's allocations, over FGD's. Unlike the memory of the
process it is the same in every run.

The compact FCOS is a student of half the width with the shipped detector as its teacher, on drawn scenes. torchvision's ResNet-50
FCOS and Faster R-CNN teach their like; they have random weights and get noise, as in benchmarks.training. A larger teacher
takes the same time from every loss, so that the ratios are nearer to 1.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import timed_in_turn
from benchmarks.training import BUILDERS, Batch, stock
from whybox import zoo
from whybox.training import detector
from whybox.training.augmentation import DetectorBatches
from whybox.training.distillation import Distiller, inherit, make_loss
from whybox.training.examples import open_training_data

BASE = "fgd"
LOSSES = ("odam_kd", "odam_kd:refresh=false")
TIME_GOAL, MEMORY_GOAL = 1.5, 1.3
IMAGES = {"compact": 16}


def build(kind: str) -> tuple[nn.Module, nn.Module, Batch]:
    """A teacher, a student, and a batch."""
    torch.manual_seed(0)
    images = IMAGES.get(kind, 2)
    if kind != "compact":
        student, batch = stock(kind, images)
        return stock(kind, 1)[0].eval(), student, batch
    teacher, data = zoo.load("whybox/scenes").network, open_training_data("scenes", 0, limit=images)
    made, _ = detector.start(data.classes, "320x240", width=0.5)
    inherit(made, teacher)
    shape: Any = made.transform
    batches = DetectorBatches(data.train, images, 0, (shape.min_size[0], shape.max_size), detector.ZOOM)
    return teacher, made.train(), batches(0)


def stepper(teacher: nn.Module, student: nn.Module, batch: Batch, loss: str | None) -> Callable[[], None]:
    """A function that does one step; loss None: without the teacher."""
    distiller = None if loss is None else Distiller(teacher, student, make_loss(loss))
    added = [] if distiller is None else list(distiller.parameters())
    optimizer = torch.optim.SGD([*student.parameters(), *added], lr=1e-6)

    def step() -> None:
        images, targets = copy.deepcopy(batch)
        if distiller is None:
            losses = student(images, targets)
        else:
            with distiller.watching() as seen:
                losses = student(images, targets)
            losses = {**losses, **seen.losses()}
        optimizer.zero_grad()
        torch.autograd.backward(sum(losses.values()))
        optimizer.step()

    return step


def peak(kind: str, loss: str) -> float:
    """MiB that the tensors of one step hold at most, beyond networks and batch; in a process of its own, whose output is kept."""
    command = [sys.executable, "-m", "benchmarks.distillation_steps", "--peak", kind, loss]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def report_peak(kind: str, loss: str) -> None:
    """What the child process of `peak` does."""
    step = stepper(*build(kind), loss)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    # Not in the profiler's public tables, which sum over the whole run: bytes taken, or given back, in the order of time.
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    print(max(held) / 2**20)


def measure(kind: str, losses: list[str], repeats: int) -> dict[str, Any]:
    """One row of the table."""
    teacher, student, batch = build(kind)
    steps = {str(loss): stepper(teacher, student, batch, loss) for loss in (None, BASE, *losses)}
    seconds = timed_in_turn(steps, repeats)
    row: dict[str, Any] = {"model": kind, "images": len(batch[0]), f"{BASE}_s": statistics.median(seconds[BASE])}
    row["without_teacher"] = _ratio(seconds["None"], seconds[BASE])
    least = peak(kind, BASE)
    row[f"{BASE}_mib"] = least
    for loss in losses:
        row[f"{loss} time"], row[f"{loss} memory"] = _ratio(seconds[loss], seconds[BASE]), peak(kind, loss) / least
    return row


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def main() -> None:
    """Print one line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["compact", "fcos", "faster_rcnn"], choices=["compact", *BUILDERS])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        report_peak(*options.peak)
        return
    rows = []
    for kind in options.models:
        rows.append(measure(kind, options.losses, options.repeats))
        print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    print(f"goal: a step with odam_kd takes at most {TIME_GOAL}x the time and {MEMORY_GOAL}x the memory of one with {BASE}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
