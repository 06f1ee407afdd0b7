"""What detections are drawn as beside boxes: outlines of masks, keypoints with a person's limbs, and turned boxes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from whybox.frame import Frame, Size, resize_maps
from whybox.types import Detections

LONGEST_MASK = 360
"""The longer side of the grid on which a mask's outline is traced, in cells; a finer mask is reduced to it."""

PERSON = 17
LIMBS = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13), (13, 15),
    (12, 14), (14, 16),
)  # fmt: skip
"""Which of a person's keypoints, in COCO's order, are joined by a line."""

Ring = list[list[float]]
"""Points xy; the last one is joined with the first."""


def outlines(mask: Tensor) -> list[Ring]:
    """Trace the edges of a mask.

    Args:
        mask: (H,W) bool.

    Returns:
        Closed rings in pixels of the mask, around its parts and its holes; none where it is empty.
    """
    # matplotlib's own dependency: it comes with it.
    from contourpy import LineType, contour_generator

    height, width = mask.shape
    scale = min(1.0, LONGEST_MASK / max(height, width))
    grid: Size = (max(1, round(height * scale)), max(1, round(width * scale)))
    # An empty border, so that a mask at the image's edge is closed, too.
    cells = np.zeros((grid[0] + 2, grid[1] + 2), np.float32)
    cells[1:-1, 1:-1] = resize_maps(mask[None].float().cpu(), grid)[0].numpy()
    lines: Any = contour_generator(z=cells, line_type=LineType.Separate).lines(0.5)
    # Cell i of the grid, at i + 1 here, has its center half a cell farther.
    to_pixels = np.array([width / grid[1], height / grid[0]])
    limit = np.array([width, height])
    return [ring.tolist() for ring in (_plain(((line - 0.5) * to_pixels).clip(0, limit)) for line in lines) if len(ring) > 2]


def _plain(line: NDArray[Any]) -> NDArray[Any]:
    """A closed line without its last point, which is its first, and without points between two others on a line."""
    points = line[:-1]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turns = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]) > 1e-6
    corners: NDArray[Any] = points[turns].round(1)
    return corners


def limbs_of(detections: Detections) -> Sequence[tuple[int, int]]:
    """Which of the detections' keypoints are joined by a line."""
    points = detections.keypoints
    return LIMBS if points is not None and points.shape[1] == PERSON else ()


class Strokes(NamedTuple):
    """A detection's shape as lines and dots, in pixels of the image.

    Attributes:
        lines: Points xy each; closed ones end where they begin.
        dots: Keypoints.
        turned: Whether the box is turned: its lines stand for the upright one.
    """

    lines: list[Ring]
    dots: Ring
    turned: bool


def strokes_of(detections: Detections, index: int) -> Strokes:
    """The outlines of a detection's mask, its turned box, its keypoints and the limbs between them.

    Args:
        detections: Some detections.
        index: Which of them.
    """
    rings = [] if detections.masks is None else outlines(detections.masks[index])
    if detections.corners is not None:
        rings = [*rings, _numbers(detections.corners[index])]
    dots = [] if detections.keypoints is None else _numbers(detections.keypoints[index, :, :2])
    limbs = [[dots[a], dots[b]] for a, b in limbs_of(detections)]
    return Strokes([*([*ring, ring[0]] for ring in rings), *limbs], dots, detections.corners is not None)


def _numbers(points: Tensor) -> Ring:
    numbers: Ring = torch.nan_to_num(points.detach().cpu().float()).tolist()
    return numbers


def draw_shape(picture: Image.Image, detections: Detections, index: int, image: Size, ink: Any, shade: Any) -> bool:
    """Draw a detection's mask, keypoints and turned box on a picture.

    Args:
        picture: The picture, which is changed.
        detections: Some detections.
        index: Which of them.
        image: (height, width) of the image that they are in.
        ink: The lines' color.
        shade: The color of the seam around them.

    Returns:
        Whether a turned box was drawn, which stands for the upright one.
    """
    to_picture = Frame(image, (picture.height, picture.width), (picture.height, picture.width))

    def place(points: Ring) -> list[tuple[float, float]]:
        return [(x, y) for x, y in to_picture.points_to_network(torch.tensor(points).reshape(-1, 2)).tolist()]

    pen, line = ImageDraw.Draw(picture), max(2, round(max(picture.size) / 400))
    lines, dots, turned = strokes_of(detections, index)
    placed = [place(stroke) for stroke in lines]
    for color, width in ((shade, line + 2), (ink, line)):
        for stroke in placed:
            pen.line(stroke, fill=color, width=width, joint="curve")
        for x, y in place(dots):
            reach = 0.9 * width
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color)
    return turned


def path_of(lines: Sequence[Ring], origin: Sequence[float]) -> str:
    """Lines as an SVG path, "" for none; a line of one point is a dot where its ends are round.

    Args:
        lines: Points xy each, in pixels of the image.
        origin: (x, y) of the path's own origin.
    """
    moved = [[f"{x - origin[0]:.1f} {y - origin[1]:.1f}" for x, y in line] for line in lines]
    return "".join(f"M{line[0]}" + ("h0" if len(line) == 1 else f"L{'L'.join(line[1:])}") for line in moved)
