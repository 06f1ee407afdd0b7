"""What explaining costs beside detecting, for a detector of the user's own: ratios of processor time within one run, medians.

    python -m benchmarks.plain [--size 640x640] [--repeats 5]

The detector is a YOLO as people write one: a CSP backbone, a PAN neck, a decoupled head at strides 8, 16 and 32 with
BatchNorm and SiLU, 80 classes, about 10 million parameters, random weights. Timed: its own forward pass; a trace; all
class-score maps of 100 detections at the neck; the combined maps (five targets); and the exact route (on a few, scaled up).
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn

import whybox
from benchmarks.detectors import COUNT, SLOW_SAMPLE, maps, parse_size
from benchmarks.timing import medians, timed_in_turn
from whybox.model import Model
from whybox.targets import SIDES

STRIDES = (8, 16, 32)
CLASSES = 80
WIDTHS = (128, 256, 512)


class Block(nn.Sequential):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, channels: int, width: int, kernel: int = 3, stride: int = 1) -> None:
        convolution = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        super().__init__(convolution, nn.BatchNorm2d(width), nn.SiLU(inplace=True))


class Csp(nn.Module):
    """A cross-stage partial block: half of the channels pass through bottlenecks, every step is kept."""

    def __init__(self, channels: int, width: int, depth: int, shortcut: bool) -> None:
        super().__init__()
        self.enter = Block(channels, width, 1)
        half = width // 2
        self.steps = nn.ModuleList(nn.Sequential(Block(half, half), Block(half, half)) for _ in range(depth))
        self.leave = Block(half * (2 + depth), width, 1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        kept = list(self.enter(x).chunk(2, 1))
        for step in self.steps:
            kept.append(kept[-1] + step(kept[-1]) if self.shortcut else step(kept[-1]))
        return self.leave(torch.cat(kept, 1))


class Pan(nn.Module):
    """Top-down, then bottom-up: maps at strides 8, 16 and 32."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        small, middle, large = widths
        self.up = nn.Upsample(scale_factor=2)
        self.top4 = Csp(large + middle, middle, 1, False)
        self.out3 = Csp(middle + small, small, 1, False)
        self.down3 = Block(small, small, 3, 2)
        self.out4 = Csp(small + middle, middle, 1, False)
        self.down4 = Block(middle, middle, 3, 2)
        self.out5 = Csp(middle + large, large, 1, False)

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        top4 = self.top4(torch.cat([self.up(p5), p4], 1))
        out3 = self.out3(torch.cat([self.up(top4), p3], 1))
        out4 = self.out4(torch.cat([self.down3(out3), top4], 1))
        return out3, out4, self.out5(torch.cat([self.down4(out4), p5], 1))


class Yolo(nn.Module):
    """Gives (1, 4 + classes, h, w) for each level."""

    def __init__(self, widths: tuple[int, int, int] = WIDTHS) -> None:
        super().__init__()
        small, middle, large = widths
        self.stem = nn.Sequential(Block(3, 32, 3, 2), Block(32, 64, 3, 2), Csp(64, 64, 1, True))
        self.stage3 = nn.Sequential(Block(64, small, 3, 2), Csp(small, small, 2, True))
        self.stage4 = nn.Sequential(Block(small, middle, 3, 2), Csp(middle, middle, 2, True))
        self.stage5 = nn.Sequential(Block(middle, large, 3, 2), Csp(large, large, 1, True))
        self.neck = Pan(widths)
        self.boxes = nn.ModuleList(self._branch(width, 64, 4) for width in widths)
        self.scores = nn.ModuleList(self._branch(width, small, CLASSES) for width in widths)

    def _branch(self, channels: int, width: int, out: int) -> nn.Sequential:
        return nn.Sequential(Block(channels, width), Block(width, width), nn.Conv2d(width, out, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        p3 = self.stage3(self.stem(x))
        p4 = self.stage4(p3)
        maps = self.neck(p3, p4, self.stage5(p4))
        return [
            torch.cat([boxes(level), scores(level)], 1)
            for level, boxes, scores in zip(maps, self.boxes, self.scores, strict=True)
        ]


def read(output: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes by distances to the four sides from each cell's center, scores by sigmoid."""
    boxes, scores = [], []
    for level, stride in zip(output, STRIDES, strict=True):
        rows, columns = torch.meshgrid(torch.arange(level.shape[2]), torch.arange(level.shape[3]), indexing="ij")
        center = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * stride
        values = level[0].flatten(1).T
        sides = values[:, :4].exp() * stride
        boxes.append(torch.cat([center - sides[:, :2], center + sides[:, 2:]], 1))
        scores.append(values[:, 4:].sigmoid())
    return torch.cat(boxes), torch.cat(scores)


def build(size: tuple[int, int], widths: tuple[int, int, int] = WIDTHS) -> Model:
    """The detector, its statistics those of its input and its logits spread as trained heads spread them: few candidates
    stand over the threshold."""
    torch.manual_seed(0)
    net = Yolo(widths)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # the statistics of the one batch that it sees
    with torch.no_grad():
        net.train()(torch.rand(2, 3, 320, 320))
        for boxes, scores in zip(net.boxes, net.scores, strict=True):
            boxes[-1].bias.fill_(0.5)
            scores[-1].weight.mul_(5)
            scores[-1].bias.fill_(-10)
    net.eval()
    layers = ["neck.out3", "neck.out4", "neck.out5"]
    return whybox.load(net, candidates=read, features=layers, size=size, max_detections=COUNT)


def measure(size: tuple[int, int], repeats: int) -> dict[str, Any]:
    """One row of the table."""
    model = build(size)
    image = torch.rand(3, *size)
    trace = model.trace(image)
    found = trace.detections
    sample = found[:: max(1, len(found) // SLOW_SAMPLE)]

    def forward() -> None:
        with torch.no_grad():
            read(model.network(image[None]))

    runs = {
        "forward": forward,
        "trace": lambda: model.trace(image),
        "class maps": lambda: maps(model, trace, found, ("score",)),
        "combined": lambda: maps(model, trace, found, ("score", *SIDES)),
        "exact": lambda: maps(model, trace, sample, ("score",), "exact"),
    }
    seconds = medians(timed_in_turn(runs, repeats))
    forward_s = seconds["forward"]
    exact = max(0.0, seconds["exact"] - forward_s) / len(sample) * len(found) + forward_s
    return {
        "parameters_M": sum(weight.numel() for weight in model.network.parameters()) / 1e6,
        "candidates over the threshold": int((trace.candidates.scores.amax(1) > 0.05).sum()),
        "detections": len(found),
        "forward_s": forward_s,
        "trace": seconds["trace"] / forward_s,
        "class_maps": seconds["class maps"] / forward_s,
        "combined": seconds["combined"] / forward_s,
        "exact_route": exact / forward_s,
    }


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x640", type=parse_size)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    row = measure(options.size, options.repeats)
    print("  ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


if __name__ == "__main__":
    main()
