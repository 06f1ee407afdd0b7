"""Fit a detector of torchvision's kind on scenes or on a COCO-format folder, and score it on images it has not seen."""

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from whybox import zoo
from whybox.accuracy.coco import CocoAP, coco_ap
from whybox.data.coco import CocoData, read_coco
from whybox.data.scenes import CLASSES, HELD_OUT_SEED, draw_scene
from whybox.errors import WhyboxError
from whybox.files import write_whole

# Every fourth training scene is a crowd.
CROWD_EVERY = 4


class Example(NamedTuple):
    """An image (H,W,3) uint8 with boxes (N,4) float32 xyxy, labels (N,) int64 from 0, iscrowd (N,) bool."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]


@dataclass
class Examples(Sequence[Example]):
    """`size` examples made by `make(index)` when first asked for, and kept while they fit `memory` bytes."""

    size: int
    make: Callable[[int], Example]
    memory: int = 2_000_000_000
    kept: dict[int, Example] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if index in self.kept:
            return self.kept[index]
        example = self.make(index)
        if example.image.nbytes <= self.memory:
            self.memory -= example.image.nbytes
            self.kept[index] = example
        return example


class Task(NamedTuple):
    """What to learn: class names, training examples, and sets of held-out examples by name, the main one first.

    problems: what was left out of the data, a line each.
    """

    classes: tuple[str, ...]
    train: Examples
    held_out: dict[str, Examples]
    problems: tuple[str, ...] = ()


def scene_examples(count: int, seed: int, variant: str | None = None) -> Examples:
    """Scenes 0 to `count` of a series; without a variant every fourth is a crowd."""

    def make(index: int) -> Example:
        kind = variant or ("crowd" if index % CROWD_EVERY == CROWD_EVERY - 1 else "mixed")
        scene = draw_scene(index, seed=seed, variant=kind)
        return Example(np.asarray(scene.image), scene.boxes, scene.labels, np.zeros(len(scene.labels), dtype=bool))

    return Examples(count, make)


def coco_examples(data: CocoData, rows: Sequence[int]) -> Examples:
    """These rows of a COCO-format data set."""

    def make(index: int) -> Example:
        entry = data.images[rows[index]]
        return Example(np.asarray(entry.image()), entry.boxes, entry.labels, entry.iscrowd)

    return Examples(len(rows), make)


def scenes_task(seed: int, limit: int | None = None, held_out: int = 200) -> Task:
    """Generated scenes: `limit` (6000) for training, `held_out` mixed scenes and half as many crowds for scoring."""
    if seed == HELD_OUT_SEED:
        raise WhyboxError(f"seed {seed} is kept for the held-out scenes; choose another")
    crowd = scene_examples(max(1, held_out // 2), HELD_OUT_SEED, "crowd")
    mixed = scene_examples(held_out, HELD_OUT_SEED, "mixed")
    return Task(CLASSES, scene_examples(limit or 6000, seed), {"mixed": mixed, "crowd": crowd})


def coco_task(path: Path, seed: int, limit: int | None = None) -> Task:
    """A COCO-format folder: its train and val files, or, of a single file, nine images in ten and the tenth."""
    data = read_coco(path, "train")
    if path.is_dir() and (path / "val.json").is_file():
        held = read_coco(path, "val")
        if held.classes != data.classes:
            raise WhyboxError(f"{path}: train and val differ in their classes: {data.classes} and {held.classes}")
        rows, other = list(range(len(data))), list(range(len(held)))
    else:
        order = np.random.default_rng((seed, len(data))).permutation(len(data)).tolist()
        cut = max(1, len(order) // 10)
        held, rows, other = data, order[cut:], order[:cut]
    if not rows:
        raise WhyboxError(f"{path} has too few images to train on and to hold some out: {len(data)}")
    problems = data.problems if held is data else data.problems + held.problems
    return Task(data.classes, coco_examples(data, rows[:limit]), {"val": coco_examples(held, other)}, problems)


def task(data: str, seed: int = 0, limit: int | None = None, held_out: int = 200) -> Task:
    """What `data` names: "scenes", "coco:FOLDER" or "coco:FILE.json"; `held_out` is for scenes alone."""
    kind, _, path = data.partition(":")
    if kind == "scenes" and not path:
        return scenes_task(seed, limit, held_out)
    if kind == "coco" and path:
        return coco_task(Path(path), seed, limit)
    raise WhyboxError(f"data is scenes, coco:FOLDER or coco:FILE.json, not {data!r}")


def start(
    classes: Sequence[str], size: str = "320x240", seed: int = 0, init: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A compact FCOS for these classes and this image size ("320x240"), and the arguments that rebuild it.

    With `init` the weights of another network are taken over wherever they fit; a head for other classes starts anew.
    """
    numbers = [int(part) for part in size.lower().split("x") if part.isdigit()]
    if len(numbers) != 2 or min(numbers) < 64:
        raise WhyboxError(f"size is WIDTHxHEIGHT of at least 64 pixels each, such as 320x240, not {size!r}")
    earlier = zoo.load(init) if init else None
    plan = {"widths": [32, 64, 96, 128], "blocks": [1, 1, 1, 1], "channels": 64}
    arguments: dict[str, Any] = dict(earlier.card["arguments"]) if earlier else plan
    arguments |= {"num_classes": len(classes) + 1, "min_size": min(numbers), "max_size": max(numbers)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = zoo.build("compact_fcos", arguments)
    if earlier:
        own, given = network.state_dict(), earlier.network.state_dict()
        fitting = {key: value for key, value in given.items() if key in own and value.shape == own[key].shape}
        network.load_state_dict(own | fitting)
    return network, arguments


def device(name: str) -> torch.device:
    """The device of that name, if it is here."""
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise WhyboxError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return chosen


@dataclass(frozen=True)
class Recipe:
    """How to train. `lr` is the peak of a warm-up and a cosine; `precision` is float32 or bfloat16 (autocast)."""

    steps: int
    batch: int = 16
    seed: int = 0
    lr: float = 2e-3
    weight_decay: float = 0.02
    warmup: int = 200
    average: float = 0.998
    clip: float = 5.0
    zoom: tuple[float, float] = (0.7, 1.4)
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise WhyboxError(f"steps and batch are at least 1, not {self.steps} and {self.batch}")
        if self.precision not in ("float32", "bfloat16"):
            raise WhyboxError(f"precision is float32 or bfloat16, not {self.precision!r}")

    def rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: linear warm-up, then a cosine down to a hundredth."""
        warm = min(self.warmup, self.steps // 4)
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass
class Progress:
    """Where a training stands: steps done, seconds spent, and the interim scores (step, set name, AP50)."""

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Fit:
    """A training in progress: network, its moving average (which is what is kept in the end), optimizer, progress."""

    def __init__(self, network: nn.Module, task: Task, recipe: Recipe) -> None:
        self.network, self.task, self.recipe = network, task, recipe
        self.device = next(network.parameters()).device
        self.averaged = {key: value.clone() for key, value in network.state_dict().items()}
        weights = [weight for weight in network.parameters() if weight.ndim > 1]
        others = [weight for weight in network.parameters() if weight.ndim <= 1]
        groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
        self.progress = Progress()

    def advance(self) -> dict[str, float]:
        """One step; returns its losses. A loss that is not finite stops the training before it spoils the weights."""
        begun, step = time.perf_counter(), self.progress.step
        images, targets = self._batch(step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(step)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            losses = self.network(images, targets)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        if not total.isfinite():
            raise WhyboxError(f"the loss of step {step} is {total.item()}; lower the learning rate, or check the boxes")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()
        self._follow(step)
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - begun
        return {name: loss.item() for name, loss in losses.items()}

    def score(self, limit: int | None = None) -> dict[str, CocoAP]:
        """The averaged weights' AP on each held-out set, or on the first `limit` images of each."""
        current = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.averaged)
        sets = self.task.held_out.items()
        scores = {name: evaluate(self.network, examples, self.task.classes, limit) for name, examples in sets}
        self.network.load_state_dict(current)
        return scores

    def begin(self, file: Path, *, resume: bool) -> None:
        """Go on from the checkpoint in the file, or write the first one there: a folder that cannot be written to is found
        out now."""
        if resume and file.exists():
            self.read(file)
        elif file.exists():
            raise WhyboxError(f"{file} is from an earlier run; resume it, or name another folder")
        else:
            self.write(file)

    def write(self, file: Path) -> None:
        """Write everything that going on needs, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(
            {
                "recipe": self._terms(),
                "network": self.network.state_dict(),
                "averaged": self.averaged,
                "optimizer": self.optimizer.state_dict(),
                "progress": asdict(self.progress),
            },
            buffer,
        )
        write_whole(file, buffer.getvalue())

    def read(self, file: Path) -> None:
        """Go back to where `write` was called; the recipe must be the same."""
        try:
            state = torch.load(file, weights_only=True, map_location="cpu")
            self.network.load_state_dict(state["network"])
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
            raise WhyboxError(f"cannot resume from {file}: {str(error).splitlines()[0]}") from error
        if changed := [key for key, value in self._terms().items() if state["recipe"].get(key) != value]:
            raise WhyboxError(f"cannot resume from {file}: it was begun with another {', '.join(changed)}")
        self.averaged = {key: value.to(self.device) for key, value in state["averaged"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _terms(self) -> dict[str, Any]:
        """What must be the same for a resumed run to be the same run."""
        return {**asdict(self.recipe), "classes": self.task.classes, "images": len(self.task.train)}

    def _batch(self, step: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """The images and targets of a step, a function of seed and step alone, so that a resumed run goes on the same."""
        rng = np.random.default_rng((self.recipe.seed, 1, step))
        shape: Any = self.network.transform
        pairs = [
            augment(self.task.train[row], (shape.min_size[0], shape.max_size), self.recipe.zoom, rng)
            for row in _rows(self.recipe, step, len(self.task.train))
        ]
        targets = [{key: value.to(self.device) for key, value in target.items()} for _, target in pairs]
        return [image.to(self.device) for image, _ in pairs], targets

    def _follow(self, step: int) -> None:
        """Move the average towards the weights; early on the window is short."""
        keep = min(self.recipe.average, (1 + step) / (10 + step))
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value, 1 - keep)
            else:
                self.averaged[key].copy_(value)


def _rows(recipe: Recipe, step: int, count: int) -> Iterator[int]:
    """The batch's rows: every epoch goes through all examples in an order of its own."""
    orders: dict[int, NDArray[np.int64]] = {}
    for position in range(step * recipe.batch, (step + 1) * recipe.batch):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = np.random.default_rng((recipe.seed, 0, epoch)).permutation(count)
        yield int(orders[epoch][place])


def augment(
    example: Example, limits: tuple[int, int], zoom: tuple[float, float], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """A random window of the example, mirrored half of the time and recolored, at the network's size.

    `limits` are the shortest and longest side in pixels as torchvision's transform fits them; returns the image (3,h,w)
    in 0..1 and torchvision's target. Objects that keep less than 0.4 of their box, or 3 pixels of a side, are dropped.
    """
    height, width = example.image.shape[:2]
    fit = min(limits[0] / min(height, width), limits[1] / max(height, width))
    size = int(height * fit), int(width * fit)
    scale = float(np.exp(rng.uniform(*np.log(zoom))))
    spare = np.asarray([width, height]) * (1 - 1 / scale)
    offset = rng.uniform(np.minimum(spare, 0), np.maximum(spare, 0))
    image = _window(example.image, offset, scale, size)
    grow = np.asarray([size[1] / width, size[0] / height] * 2) * scale
    boxes = (example.boxes - np.tile(offset, 2)) * grow
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    boxes = boxes.clip(0, np.asarray([size[1], size[0]] * 2))
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = (sides.min(1, initial=np.inf) > 3) & (np.prod(sides, axis=1) > 0.4 * areas) & ~example.iscrowd
    boxes = boxes[keep]
    if rng.random() < 0.5:
        image = image.flip(-1)
        boxes = np.stack([size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], axis=1)
    # torchvision's label 0 is the background.
    target = {"boxes": torch.from_numpy(boxes.astype(np.float32)), "labels": torch.from_numpy(example.labels[keep] + 1)}
    return _recolor(image, rng), target


def _window(pixels: NDArray[np.uint8], offset: NDArray[np.float64], scale: float, size: tuple[int, int]) -> Tensor:
    """The window (3,h,w) whose upper left is at `offset`; to the nearest pixel; what lies outside is grey."""
    height, width = pixels.shape[:2]
    across, down = round(width / scale), round(height / scale)
    left, top = (int(value) for value in np.rint(offset))
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + across, width), min(top + down, height)
    sheet = np.full((down, across, 3), 128, dtype=np.uint8)
    sheet[y1 - top : y2 - top, x1 - left : x2 - left] = pixels[y1:y2, x1:x2]
    image = torch.from_numpy(sheet).permute(2, 0, 1)[None].float() / 255
    return functional.interpolate(image, size, mode="bilinear", align_corners=False)[0]


def _recolor(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast, brightness and tint changed by up to a fifth."""
    gain = torch.from_numpy(rng.uniform(0.85, 1.18) * rng.uniform(0.93, 1.07, (3, 1, 1))).float()
    shift = float(rng.uniform(-0.08, 0.08))
    middle = image.mean()
    return ((image - middle) * gain + middle + shift).clamp(0, 1)


@torch.no_grad()
def evaluate(
    network: nn.Module, examples: Sequence[Example], classes: Sequence[str], limit: int | None = None, batch: int = 8
) -> CocoAP:
    """COCO AP of a torchvision detector on the examples, or on the first `limit` of them, `batch` at a time."""
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    detections: list[Mapping[str, Tensor]] = []
    truths: list[Mapping[str, Any]] = []
    count = min(len(examples), limit or len(examples))
    for start in range(0, count, batch):
        chosen = [examples[index] for index in range(start, min(start + batch, count))]
        images = [torch.tensor(example.image, device=device).permute(2, 0, 1) / 255 for example in chosen]
        found = [{key: value.cpu() for key, value in one.items()} for one in network(images)]
        detections += [{**one, "labels": one["labels"] - 1} for one in found]
        truths += [{"boxes": item.boxes, "labels": item.labels, "iscrowd": item.iscrowd} for item in chosen]
    network.train(was_training)
    return coco_ap(detections, truths, classes)


def fit(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    every: int = 250,
    interim: int = 60,
    say: Callable[[str], None] = lambda text: None,
    tick: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
) -> Fit:
    """Train to the recipe's end; every `every` steps write `checkpoint.pt` and score `interim` held-out images.

    `say` gets a line at each checkpoint, and one on what is wrong with the data; `tick` each step's losses. With
    `resume`, an earlier run of the same recipe goes on from its checkpoint and ends as the unbroken run would have.
    """
    run, file = Fit(network, task, recipe), folder / "checkpoint.pt"
    run.begin(file, resume=resume)
    if task.problems:
        say(f"problems in the data, left out or mended: {len(task.problems)}; the first: {task.problems[0]}")
    while run.progress.step < recipe.steps:
        losses = run.advance()
        tick(run.progress.step, losses)
        if run.progress.step % every == 0 or run.progress.step == recipe.steps:
            _pause(run, file, interim, losses, say)
    return run


def _pause(run: Fit, file: Path, interim: int, losses: Mapping[str, float], say: Callable[[str], None]) -> None:
    scores = {name: round(value.ap50, 4) for name, value in run.score(interim).items()} if interim else {}
    run.progress.history.append({"step": run.progress.step, **scores})
    run.write(file)
    shown = " ".join(f"{name} {value:.3f}" for name, value in [*losses.items(), *scores.items()])
    say(f"step {run.progress.step} of {run.recipe.steps}, {run.progress.seconds:.0f} s: {shown}")


def keep(run: Fit, folder: Path, network_name: str, arguments: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Write the averaged network with its card, score what was written on all held-out images; returns the card.

    The card's `threshold` is the score from which on detections are worth showing: that of the best F1 on the main set.
    """
    card: dict[str, Any] = {"network": network_name, "arguments": dict(arguments), "classes": list(run.task.classes)}
    run.network.load_state_dict(run.averaged)
    zoo.save(run.network, card, folder)
    written = zoo.load(folder).network
    sets = run.task.held_out.items()
    scores = {name: evaluate(written, examples, run.task.classes).as_dict() for name, examples in sets}
    thresholds = [score["threshold"] for score in scores.values()]
    card["threshold"] = thresholds[0] if thresholds else None
    card["trained"] = {
        "command": command,
        **asdict(run.recipe),
        "images": len(run.task.train),
        "seconds": round(run.progress.seconds),
        "parameters": sum(weight.numel() for weight in run.network.parameters()),
        "torch": torch.__version__.split("+")[0],
        "history": run.progress.history,
        "scores": scores,
    }
    zoo.save(run.network, card, folder)
    return card
