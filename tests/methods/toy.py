"""A linear detector with a known answer: the score of a class at a cell is a 5x5 kernel times the features."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from whybox.frame import Frame
from whybox.model import Model
from whybox.placement import Windows
from whybox.pullback import DensePullback, FeatureGradient, Pullback, WindowPullback
from whybox.types import Candidates, Detections, FeatureMap, Trace

CHANNELS, CLASSES, STRIDE = 6, 2, 4


def score(trace: Trace) -> Tensor:
    """The score of each detection's own class."""
    return trace.candidates.scores[trace.detections.source, trace.detections.labels]


def doubled(trace: Trace) -> Tensor:
    """A second target."""
    return 2 * score(trace)


@dataclass(frozen=True)
class Pasted(Pullback):
    """Features of each row's own, which lie in windows: neither of the library's pooled kinds."""

    rows: Tensor
    trace: Trace
    route: str
    stride: float
    features: Tensor
    backward: Callable[[Tensor], Tensor]
    windows: Windows

    def pull(self, values: Tensor) -> Iterator[tuple[Tensor, FeatureGradient]]:
        yield torch.arange(len(values)), FeatureGradient(self.backward(values), self.features, Own(self.windows))


@dataclass(frozen=True)
class Own:
    """The place of features of each row's own."""

    windows: Windows

    @property
    def grid(self) -> tuple[int, int]:
        return self.windows.grid

    def place(self, maps: Tensor) -> Tensor:
        return self.windows.place(maps)

    def take(self, features: Tensor) -> Tensor:
        return features

    def inside(self, values: Tensor) -> Tensor:
        return values

    def __getitem__(self, rows: object) -> "Own":
        return Own(self.windows[rows])


@dataclass
class ToyModel(Model):
    """The image stands in the canvas's top-left corner; below and right of it is padding.

    Layers: "fine" of stride 4, whose "auto" route gives windows; "coarse" of stride 8, which feeds it; "pooled", the
    5x5 cells under each detection, a grid of its own; "input".
    """

    image: tuple[int, int] = (40, 56)
    canvas: tuple[int, int] = (48, 64)
    seed: int = 9

    name = "toy"
    gives = frozenset({"features", "input", "candidates"})
    classes = ("left", "right")
    layers = ("fine", "coarse", "pooled", "input")

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.color = torch.randn((2, CHANNELS, 3), generator=generator)
        self.kernel = torch.randn((CLASSES, CHANNELS, 5, 5), generator=generator)

    @property
    def grid(self) -> tuple[int, int]:
        return self.canvas[0] // STRIDE, self.canvas[1] // STRIDE

    def picture(self, seed: int = 1) -> Tensor:
        return torch.rand((3, *self.image), generator=torch.Generator().manual_seed(seed))

    def coarse(self, pixels: Tensor) -> Tensor:
        return torch.einsum("ck,khw->chw", self.color[0], avg_pool2d(pixels, 2 * STRIDE))

    def fine(self, pixels: Tensor, coarse: Tensor) -> Tensor:
        near = torch.einsum("ck,khw->chw", self.color[1], avg_pool2d(pixels, STRIDE))
        return near + interpolate(coarse[None], scale_factor=2, mode="nearest")[0]

    def scores(self, fine: Tensor) -> Tensor:
        """(cells, CLASSES)"""
        return conv2d(fine[None], self.kernel, padding=2)[0].flatten(1).T

    def boxes(self) -> Tensor:
        """(cells, 4): 20 pixels around each cell's center, as the kernel sees them, in network pixels."""
        height, width = self.grid
        cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).flip(-1)
        center = (cells + 0.5) * STRIDE
        return torch.cat([center - 10, center + 10], 1)

    def frame(self) -> Frame:
        return Frame(self.image, self.image, self.canvas)

    def candidates(self, scores: Tensor) -> Candidates:
        boxes = self.frame().boxes_to_image(self.boxes())
        return Candidates(boxes, scores, torch.zeros(len(boxes), dtype=torch.long))

    def at(self, cells: Sequence[tuple[int, int, int]], trace: Trace) -> Detections:
        """The detections of class k at (row, column, k)."""
        source = torch.tensor([row * self.grid[1] + column for row, column, _ in cells], dtype=torch.long)
        labels = torch.tensor([label for *_, label in cells], dtype=torch.long)
        return Detections(trace.candidates.boxes[source], trace.candidates.scores[source, labels], labels, source)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        pixels = self.frame().image_to_network(image)
        coarse = self.coarse(pixels)
        fine = self.fine(pixels, coarse)
        features = (FeatureMap(fine, STRIDE, "fine"), FeatureMap(coarse, 2 * STRIDE, "coarse"))
        candidates = self.candidates(self.scores(fine))
        return Trace(image, self.frame(), features, candidates, Detections.empty())

    def predict(self, images: Tensor) -> list[Candidates]:
        return [self.trace(image).candidates for image in images]

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        """The detections in two chunks, so that their order is put to the test."""
        everything = torch.arange(len(detections))
        for rows in (everything[::2], everything[1::2]):
            if len(rows):
                yield self._pullback(trace, detections[rows], rows, layer or "fine", route)

    def _pullback(self, trace: Trace, chosen: Detections, rows: Tensor, layer: str, route: str) -> Pullback:
        fine = trace.features[0].values
        corner = torch.stack([chosen.source // self.grid[1], chosen.source % self.grid[1]], 1) - 2
        if layer == "pooled" or (layer == "fine" and route == "auto"):
            leaf = self.scores(fine)[chosen.source].detach().requires_grad_()
            asked = trace.rows(trace.candidates[chosen.source], chosen)
            narrowed = trace.rows(_rescored(asked.candidates, leaf), chosen)

            def windows(values: Tensor) -> Tensor:
                (slope,) = torch.autograd.grad(values.sum(), leaf, retain_graph=True)
                return torch.einsum("nk,kcij->ncij", slope, self.kernel)

            if layer == "fine":
                return WindowPullback(rows, narrowed, "windows", STRIDE, fine, windows, corner)
            pooled = torch.stack([_cut(fine, *start) for start in corner.tolist()])
            return Pasted(rows, narrowed, "exact", STRIDE, pooled, windows, Windows(corner, (5, 5), self.grid))
        pixels = trace.frame.image_to_network(trace.image)
        start = {"fine": fine, "coarse": trace.features[1].values, "input": pixels}[layer]
        leaf = start.clone().requires_grad_()
        if layer == "input":
            onward = self.fine(leaf, self.coarse(leaf))
        else:
            onward = self.fine(pixels, leaf) if layer == "coarse" else leaf
        candidates = self.candidates(self.scores(onward))[chosen.source]
        stride = {"fine": STRIDE, "coarse": 2 * STRIDE, "input": 1}[layer]

        def whole(values: Tensor) -> Tensor:
            return torch.stack([torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in values])

        return DensePullback(rows, trace.rows(candidates, chosen), "exact", stride, start, whole)


def _rescored(candidates: Candidates, scores: Tensor) -> Candidates:
    return Candidates(candidates.boxes, scores, candidates.level)


def _cut(fine: Tensor, row: int, column: int) -> Tensor:
    """(C,5,5) at a corner that may lie outside; zero there."""
    padded = torch.nn.functional.pad(fine, (2, 2, 2, 2))
    return padded[:, row + 2 : row + 7, column + 2 : column + 7]
