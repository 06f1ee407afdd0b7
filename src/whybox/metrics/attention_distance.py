"""Optimal-transport distance between an explanation and a map of where people looked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from whybox.errors import MetricError, WhyboxError
from whybox.frame import Size
from whybox.metrics._fixations import DEGREE_PIXELS, check_attention, compare_with_attention, to_distributions
from whybox.ops.regions import Floor
from whybox.ops.similarity import mean_cells
from whybox.truth import Metric, MetricInput, MetricResult


def attention_distance(maps: Tensor, attention: Tensor, grid: int = 16, floor: Floor = "minimum") -> Tensor:
    """The least work that moves each map's mass onto the attention map, both (N,H,W) -> (N,), 0..1; NaN where one is blank.

    Both as distributions (sum 1), summed into cells, `grid` of them along the longer side; work is mass times the
    distance of the cells' centers in shares of the image's diagonal. Exact for the grid (network simplex).
    floor: of the maps, see `whybox.ops.regions.energy`; the attention's is "zero".
    Source: the earth mover's distance of Rubner, Tomasi, Guibas, IJCV 2000, eq. 4. Zhao et al. (ODAM) give no formula,
    ground distance or grid.
    """
    solver = _solver()
    first = mean_cells(to_distributions(maps.double(), floor), grid)
    second = mean_cells(to_distributions(attention.double(), "zero"), grid)
    cost = cell_distances((maps.shape[-2], maps.shape[-1]), (first.shape[-2], first.shape[-1]))
    values = [_work(solver, one, other, cost) for one, other in zip(first, second, strict=True)]
    return torch.tensor(values, dtype=maps.dtype, device=maps.device)


def cell_distances(image: Size, cells: Size) -> Tensor:
    """(P,P) distances between the centers of all cells, row by row, in shares of the image's diagonal."""
    rows, columns = (
        (torch.arange(count, dtype=torch.float64) + 0.5) * (extent / count) for extent, count in zip(image, cells, strict=True)
    )
    centers = torch.cartesian_prod(rows, columns)
    apart: Tensor = (centers[:, None] - centers).square().sum(-1).sqrt()
    return apart / math.hypot(*image)


def _work(solver: Any, p: Tensor, q: Tensor, cost: Tensor) -> float:
    if not (p.isfinite() & q.isfinite()).all():
        return float("nan")
    first, second = ((cells / cells.sum()).flatten().cpu().numpy() for cells in (p, q))
    return max(0.0, float(solver.emd2(first, second, cost.numpy(), numItermax=10_000_000)))


def _solver() -> Any:
    """POT, imported when it is needed: it is an optional package."""
    try:
        import ot
    except ImportError as error:
        raise MetricError("attention_distance needs the package POT; pip install 'whybox[attention]'") from error
    return ot


@dataclass(frozen=True)
class AttentionDistance(Metric):
    """Optimal-transport distance from human attention. Needs POT: pip install 'whybox[attention]'.

    grid: cells along the image's longer side.
    sigma_pixels: width of the Gaussian at a fixation, pixels of one degree of visual angle as the image was shown.
    floor: "minimum" subtracts the map's lowest value first, as scaling to 0..1 does; "zero" does not.
    """

    grid: int = 16
    sigma_pixels: float = DEGREE_PIXELS
    floor: Floor = "minimum"

    name: ClassVar[str] = "attention_distance"
    group: ClassVar[str] = "attention"
    sets: ClassVar[Mapping[str, tuple[str, ...]]] = {"standard": ("",)}
    title: ClassVar[str] = "Attention, transport distance"
    higher_is_better: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset({"fixations"})
    source: ClassVar[str] = "Rubner, Tomasi, Guibas, IJCV 2000, eq. 4; Zhao, Hsiao, Chan: ODAM, journal version"

    def __post_init__(self) -> None:
        check_attention(self.sigma_pixels, self.floor)
        if self.grid < 2:
            raise WhyboxError(f"grid must be at least 2, the cells along the image's longer side, got {self.grid}")

    def __call__(self, maps: Tensor, inputs: MetricInput) -> MetricResult:
        """The distance of each map from the attention that its object got."""
        return MetricResult(
            compare_with_attention(maps, inputs, self.sigma_pixels, lambda a, b: attention_distance(a, b, self.grid, self.floor))
        )
