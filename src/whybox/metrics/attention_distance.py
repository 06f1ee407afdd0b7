"""Optimal-transport distance between an explanation and a map of human attention."""

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
    """The earth mover's distance of maps and attention maps, exact on a grid of cells (network simplex).

    Source: the earth mover's distance of Rubner, Tomasi, Guibas, IJCV 2000, eq. 4. Zhao et al. (ODAM) give no formula,
    ground distance or grid.

    Args:
        maps: (N,H,W), normalized to distributions.
        attention: (N,H,W), likewise, with floor "zero".
        grid: Cells along the longer side, into which the distributions are summed.
        floor: Of the maps, see `whybox.ops.regions.energy`.

    Returns:
        (N,), 0 to 1: mass times the distance of the cells' centers in units of the image's diagonal; NaN where a map is zero
        everywhere.

    Raises:
        MetricError: The package POT is not installed.
    """
    solver = _solver()
    first = mean_cells(to_distributions(maps.double(), floor), grid)
    second = mean_cells(to_distributions(attention.double(), "zero"), grid)
    cost = cell_distances((maps.shape[-2], maps.shape[-1]), (first.shape[-2], first.shape[-1]))
    values = [_work(solver, p, q, cost) for p, q in zip(first, second, strict=True)]
    return torch.tensor(values, dtype=maps.dtype, device=maps.device)


def cell_distances(image: Size, cells: Size) -> Tensor:
    """The distances between the centers of all cells of a grid.

    Args:
        image: Its size in pixels, (H, W).
        cells: The grid's size, (h, w).

    Returns:
        (P,P) for the P = h w cells row by row, in units of the image's diagonal.
    """
    rows, columns = (
        (torch.arange(count, dtype=torch.float64) + 0.5) * (extent / count) for extent, count in zip(image, cells, strict=True)
    )
    centers = torch.cartesian_prod(rows, columns)
    apart: Tensor = (centers[:, None] - centers).square().sum(-1).sqrt()
    return apart / math.hypot(*image)


def _work(solver: Any, p: Tensor, q: Tensor, cost: Tensor) -> float:
    if not (p.isfinite() & q.isfinite()).all():
        return float("nan")
    # The cells are means of pixels and do not sum to 1; POT refuses two distributions whose sums differ.
    first, second = ((cells / cells.sum()).flatten().cpu().numpy() for cells in (p, q))
    # Rounding may leave -1e-17; the default limit of 100,000 iterations may stop before the optimum.
    return max(0.0, float(solver.emd2(first, second, cost.numpy(), numItermax=10_000_000)))


def _solver() -> Any:
    """Import POT, an optional package."""
    try:
        import ot
    except ImportError as error:
        raise MetricError("attention_distance needs the package POT; pip install 'whybox[attention]'") from error
    return ot


@dataclass(frozen=True)
class AttentionDistance(Metric):
    """Optimal-transport distance from human attention. Needs POT: pip install 'whybox[attention]'.

    Attributes:
        grid: Cells along the image's longer side.
        sigma_pixels: Standard deviation of the Gaussian at a fixation: the pixels of one degree of visual angle.
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
        """The distance of each map from its object's attention map.

        Args:
            maps: (N,H,W) on the image's pixels.
            inputs: The detections' matched objects and the annotated fixations.

        Returns:
            (N,), NaN without an object or fixations.
        """
        return MetricResult(
            compare_with_attention(maps, inputs, self.sigma_pixels, lambda a, b: attention_distance(a, b, self.grid, self.floor))
        )
