"""A figure of points in groups, with a line through all of them and its interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox.report.figures import FONTS, INKS, save_with_legend

Floats = NDArray[np.float64]


class Group(NamedTuple):
    """Points of one color: their title, and x and y (n,) each."""

    title: str
    x: Floats
    y: Floats


class Band(NamedTuple):
    """A line at the places x (n,), with the ends of its interval (n,) each; NaN where there is none."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats


def draw_scatter(groups: Sequence[Group], line: Band, title: str, labels: tuple[str, str], paths: Sequence[Path]) -> None:
    """Draw the points and the line.

    Args:
        groups: The points.
        line: The line with its interval.
        title: The figure's title.
        labels: Of the x and the y axis.
        paths: The files to write, in any format of matplotlib.
    """
    # Imported on use, because matplotlib takes long to load; without pyplot, which keeps its figures in global state.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(FONTS):
        figure = Figure(figsize=(5.6, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for i, group in enumerate(groups):
            color = INKS[i % len(INKS)]
            axes.scatter(group.x, group.y, s=14, color=color, alpha=0.75, linewidths=0, label=group.title)
            middle = float(np.mean(group.x)), float(np.mean(group.y))
            axes.scatter(*middle, s=70, color=color, marker="D", edgecolors="#1c1d22", linewidths=0.8, zorder=3)
        axes.fill_between(line.x, line.low, line.high, color="#1c1d22", alpha=0.12, linewidth=0)
        axes.plot(line.x, line.y, color="#1c1d22", linewidth=1.4)
        axes.set_title(title, loc="left", parse_math=False)
        axes.set_xlabel(labels[0], parse_math=False)
        axes.set_ylabel(labels[1], parse_math=False)
        axes.grid(color="#e2dfd7", linewidth=0.6)
        axes.set_axisbelow(True)
        save_with_legend(figure, axes, paths)
