"""Coordinates: image <-> network <-> feature grid. Only this file may resize, pad or shift a box, a point or a map."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding, interpolate, max_pool2d, pad

Size = tuple[int, int]
"""(height, width)"""


@dataclass(frozen=True)
class Frame:
    """Where an image lies on the canvas that is the network's input. Sizes are (height, width) in pixels.

    Attributes:
        image: Size of the user's image.
        resized: Size of the same image after scaling.
        network: Size of the canvas, with its padding.
        offset: (top, left) of the resized image on the canvas; (0, 0) where padding is on the bottom and right only. Negative
            where the network's input is a crop: what lies above and left of the canvas was cut off.
    """

    image: Size
    resized: Size
    network: Size
    offset: Size = (0, 0)

    def __post_init__(self) -> None:
        for name in ("image", "resized", "network"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"Frame.{name} must be at least 1x1 pixels, got {getattr(self, name)}")
        for extent, resized, offset in zip(self.network, self.resized, self.offset, strict=True):
            if offset >= extent or offset + resized <= 0:
                raise ValueError(f"the resized image {self.resized} at {self.offset} lies off the canvas {self.network}")

    @classmethod
    def same(cls, size: Size) -> "Frame":
        """The frame of a network that takes the image without resizing."""
        return cls(size, size, size)

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy in network pixels -> image pixels. Differentiable.

        The ratio is a float32 quotient, as torchvision's own post-processing has it, so that results are equal bit by bit.
        """
        return (boxes - self._shift(boxes)) * self._ratio(boxes, self.image, self.resized)

    def boxes_to_network(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) xyxy in image pixels -> network pixels."""
        return boxes * self._ratio(boxes, self.resized, self.image) + self._shift(boxes)

    def points_to_image(self, points: Tensor) -> Tensor:
        """Points (..., 2) xy in network pixels -> image pixels."""
        # A point as a box without extent: x, x, y, y becomes x, y, x, y.
        return self.boxes_to_image(points.repeat_interleave(2, -1)[..., [0, 2, 1, 3]])[..., :2]

    def points_to_network(self, points: Tensor) -> Tensor:
        """Points (..., 2) xy in image pixels -> network pixels."""
        return self.boxes_to_network(points.repeat_interleave(2, -1)[..., [0, 2, 1, 3]])[..., :2]

    def maps_to_image(self, maps: Tensor, *, crop_padding: bool = True) -> Tensor:
        """Maps (N,h,w) that cover the canvas -> (N,H,W) on the image's pixels. Bilinear, corners not aligned.

        The map is resized to the canvas, the padding is cropped, and the rest is resized to the image. Parts of the image that
        a center crop removed are 0.

        Args:
            maps: (N,h,w), covering the canvas.
            crop_padding: False resizes the padded map to the image, as the reference implementation of ODAM does: the map is
                then shifted by up to the padding. It exists to reproduce that code's numbers.

        Returns:
            (N,H,W)
        """
        if not crop_padding:
            return resize_maps(maps, self.image)
        canvas = resize_maps(maps, self.network)
        on_canvas, on_resized = self._shared()
        seen = canvas[:, *on_canvas]
        if tuple(seen.shape[-2:]) != self.resized:
            whole = canvas.new_zeros((len(canvas), *self.resized))
            whole[:, *on_resized] = seen
            seen = whole
        return resize_maps(seen, self.image)

    def image_to_network(self, maps: Tensor, mode: Literal["bilinear", "nearest"] = "bilinear") -> Tensor:
        """Maps or channels (N,H,W) on the image's pixels -> (N,Hn,Wn) on the canvas; the padding is 0."""
        canvas = maps.new_zeros((len(maps), *self.network))
        on_canvas, on_resized = self._shared()
        canvas[:, *on_canvas] = resize_maps(maps, self.resized, mode=mode)[:, *on_resized]
        return canvas

    def _shared(self) -> tuple[list[slice], list[slice]]:
        """Rows and columns where canvas and resized image overlap: as slices of the canvas, and of the resized image."""
        on_canvas, on_resized = [], []
        for extent, resized, offset in zip(self.network, self.resized, self.offset, strict=True):
            start, end = max(0, offset), min(extent, offset + resized)
            on_canvas.append(slice(start, end))
            on_resized.append(slice(start - offset, end - offset))
        return on_canvas, on_resized

    def _shift(self, like: Tensor) -> Tensor:
        top, left = self.offset
        return torch.tensor([left, top, left, top], dtype=like.dtype, device=like.device)

    @staticmethod
    def _ratio(like: Tensor, new: Size, old: Size) -> Tensor:
        size = torch.tensor([new, old], dtype=torch.float32, device=like.device)
        height, width = size[0] / size[1]
        ratio = torch.stack([width, height, width, height])
        # A ratio of whole numbers would be cut off.
        return ratio.to(like.dtype) if like.is_floating_point() else ratio


@dataclass(frozen=True)
class OnScreen:
    """Where a picture was shown on a screen or a page, in that one's pixels, which need not be whole.

    Attributes:
        left: The picture's left edge.
        top: Its upper edge.
        width: Its width as shown.
        height: Its height as shown.
    """

    left: float
    top: float
    width: float
    height: float

    def __post_init__(self) -> None:
        numbers = (self.left, self.top, self.width, self.height)
        if not all(abs(number) < float("inf") for number in numbers) or not min(self.width, self.height) > 0:
            raise ValueError(f"a picture on a screen needs a place, and a width and a height above 0, got {numbers}")

    @classmethod
    def fitted(cls, image: Size, screen: Size, *, grow: bool = True, centered: bool = True) -> "OnScreen":
        """The place of a picture that is shown as large as the screen allows, its aspect ratio kept.

        Args:
            image: The picture's size, (height, width).
            screen: The screen's size, (height, width).
            grow: False: it is shown at its own size, in screen pixels.
            centered: False: in the upper left corner.
        """
        scale = min(screen[0] / image[0], screen[1] / image[1]) if grow else 1.0
        height, width = image[0] * scale, image[1] * scale
        shift = 0.5 if centered else 0.0
        return cls((screen[1] - width) * shift, (screen[0] - height) * shift, width, height)

    def points_to_image(self, points: Tensor, image: Size) -> Tensor:
        """Points (..., 2) xy in screen pixels -> pixels of the picture, whose size is (height, width)."""
        corner, scale = points.new_tensor([self.left, self.top]), self._scale(points, image)
        return (points - corner) / scale

    def points_to_screen(self, points: Tensor, image: Size) -> Tensor:
        """Points (..., 2) xy in pixels of the picture, whose size is (height, width) -> screen pixels."""
        return points * self._scale(points, image) + points.new_tensor([self.left, self.top])

    def _scale(self, like: Tensor, image: Size) -> Tensor:
        return like.new_tensor([self.width / image[1], self.height / image[0]])


def resize_maps(
    maps: Tensor,
    size: Size,
    *,
    mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
    bounded: bool = False,
    rounded: bool = False,
) -> Tensor:
    """Resize maps (N,h,w) -> (N,*size). Differentiable, with the gradient of the interpolation.

    Args:
        maps: (N,h,w).
        size: (height, width) of the result.
        mode: "bilinear" or "bicubic", with half-pixel centers and no antialiasing, or "nearest".
        bounded: For "bicubic": no value lies outside those of the 4x4 cells that it is computed from, and between four equal
            cells it is exactly theirs, so that flat parts of a map stay flat. "bilinear" always is.
        rounded: For "bilinear": flat parts may come out with rounding errors, which do not matter where maps are neither ranked
            nor shown; many small maps then take a fraction of the time.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if not len(maps):
        return maps.new_zeros((0, *size))
    if mode == "nearest":
        return interpolate(maps[:, None], size=size, mode=mode)[:, 0]
    resized = interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0]
    if (mode == "bicubic" and not bounded) or (mode == "bilinear" and rounded):
        return resized
    # Interpolation rounds: equal cells would come out with tiny differences, which rank pixels and which min-max scaling
    # amplifies. Bicubic interpolation also overshoots beside a step.
    within = resized.detach().clone() if resized.requires_grad else resized
    with torch.no_grad():
        # One map at a time stays in the processor's cache: all at once take three times as long.
        for i, values in enumerate(maps.detach()):
            within[i].clamp_(*_bounds(values, size, wide=mode == "bicubic"))
    # Clamped values with the interpolation's gradient: that of a clamp would be zero wherever it acts.
    return resized + (within - resized).detach() if resized.requires_grad else within


def resample_maps(maps: Tensor, size: Size) -> Tensor:
    """Resize maps (N,h,w) -> (N,*size), bilinear with half-pixel centers, as it comes: flat parts may differ by a rounding error,
    which matters to whoever ranks or scales cells, and not to whoever compares maps. Several times faster than `resize_maps`.
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return (
        interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        if len(maps)
        else maps.new_zeros((0, *size))
    )


def _bounds(values: Tensor, size: Size, *, wide: bool) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value (*size) that a map (h,w) may have in each pixel when it is resized.

    Args:
        values: (h,w).
        size: (height, width) of the result.
        wide: False: those of the 2x2 cells around a pixel's center. True: of 4x4 cells, or of the 2x2 where these are equal.
    """
    low, high = _extremes(values, 1)
    if wide:
        flat = low == high
        wide_low, wide_high = _extremes(values, 2)
        low, high = torch.where(flat, low, wide_low), torch.where(flat, high, wide_high)
    rows, columns = (
        # Half-pixel centers, as align_corners=False has them; + 1 for the repeated edge, which comes first in `_extremes`.
        ((torch.arange(new, device=values.device) + 0.5) * (old / new) - 0.5).floor().long() + 1
        for old, new in zip(values.shape[-2:], size, strict=True)
    )
    # Columns first: whole rows are copied fast.
    return low.index_select(-1, columns).index_select(-2, rows), high.index_select(-1, columns).index_select(-2, rows)


def _extremes(values: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """(h+1,w+1): the lowest and the highest of the 2*reach x 2*reach cells around each corner of a cell, the edges repeated."""
    padded = pad(values[None], [reach] * 4, mode="replicate")
    # torch has no minimum pooling.
    return -max_pool2d(-padded, 2 * reach, 1)[0], max_pool2d(padded, 2 * reach, 1)[0]


def paste_windows(windows: Tensor, origin: Tensor, grid: Size) -> Tensor:
    """Paste windows into a grid, zero elsewhere. Differentiable.

    Args:
        windows: (N,...,k,l). What lies outside the grid is dropped.
        origin: (N,2) the windows' top-left cells as (row, column).
        grid: (h, w).

    Returns:
        (N,...,h,w)
    """
    height, width = grid
    k, m = windows.shape[-2:]
    rows = origin[:, :1] + torch.arange(k, device=windows.device)
    columns = origin[:, 1:] + torch.arange(m, device=windows.device)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    # scatter_add takes no index beyond the grid: those cells are added to the edge as zeros.
    cell = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    middle = windows.shape[1:-2]
    shape = (len(windows), *([1] * len(middle)), k * m)
    index = cell.reshape(shape).expand(len(windows), *middle, k * m)
    # Chosen and not multiplied: NaN times zero is NaN.
    kept = torch.where(inside.reshape(len(windows), *([1] * len(middle)), k, m), windows, 0).flatten(-2)
    full = windows.new_zeros((len(windows), *middle, height * width))
    return full.scatter_add(-1, index, kept).reshape(len(windows), *middle, height, width)


def take_windows(features: Tensor, origin: Tensor, size: Size) -> Tensor:
    """Cut windows out of features, zero (False) beyond the edge.

    Args:
        features: (C,h,w).
        origin: (N,2) the windows' top-left cells as (row, column).
        size: (k, l) of a window.

    Returns:
        (N,C,k,l)
    """
    if not len(origin):
        return features.new_zeros((0, len(features), *size))
    height, width = features.shape[-2:]
    low, high = origin.amin(0).tolist(), (origin.amax(0) + torch.tensor(size, device=origin.device)).tolist()
    # Padded as far as some window reaches, and not all around.
    before = [max(0, -edge) for edge in low]
    after = [max(0, edge - extent) for edge, extent in zip(high, (height, width), strict=True)]
    if any(before + after):
        features = pad(features, [before[1], after[1], before[0], after[0]])
    # Slices are copied one by one: gathering all cells of all windows with one index is several times slower.
    corners = (origin + torch.tensor(before, device=origin.device)).tolist()
    return torch.stack([features[:, row : row + size[0], column : column + size[1]] for row, column in corners])


def take_windows_of_batch(features: Tensor, image: Tensor, origin: Tensor, size: Size) -> Tensor:
    """Cut windows out of the features of several images, zero (False) beyond the edge. As `take_windows`, but differentiable at
    the cost of the windows alone.

    Args:
        features: (B,C,h,w).
        image: (N,) which of the B each window is cut from.
        origin: (N,2) the windows' top-left cells as (row, column).
        size: (k, l) of a window.

    Returns:
        (N,C,k,l)
    """
    batch, channels, height, width = features.shape
    rows = (origin[:, :1] + torch.arange(size[0], device=origin.device))[:, :, None]
    columns = (origin[:, 1:] + torch.arange(size[1], device=origin.device))[:, None, :]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    beyond = batch * height * width
    cell = torch.where(inside, (image[:, None, None] * height + rows) * width + columns, beyond)
    # A row a cell, and one for what lies beyond the edge. The gradient of a slice would fill all features for each window, that
    # of an index is slow; an embedding's adds row to row.
    table = pad(features.permute(0, 2, 3, 1).reshape(beyond, channels), [0, 0, 0, 1])
    return embedding(cell, table).permute(0, 3, 1, 2)


def paste_boxes(maps: Tensor, boxes: Tensor, grid: Size) -> Tensor:
    """Resize maps to boxes of a grid: bilinear between the centers of the map's bins, constant beyond the outermost, zero
    outside the box's cells (floor of its start to ceiling of its end).

    Args:
        maps: (N,k,l).
        boxes: (N,4) xyxy in cells, cell i at coordinate i.
        grid: (h, w).

    Returns:
        (N,h,w)
    """
    down = _bin_weights(boxes[:, 1], boxes[:, 3], maps.shape[-2], grid[0])
    across = _bin_weights(boxes[:, 0], boxes[:, 2], maps.shape[-1], grid[1])
    return down @ maps @ across.transpose(1, 2)


def _bin_weights(start: Tensor, end: Tensor, bins: int, cells: int) -> Tensor:
    """(N,cells,bins): the interpolation weight of each bin in each cell."""
    cell = torch.arange(cells, device=start.device, dtype=start.dtype)
    inside = (cell >= start[:, None].floor()) & (cell <= end[:, None].ceil())
    # Clamped from below, so that a box without extent does not divide by zero.
    at = ((cell - start[:, None]) / (end - start).clamp(min=1e-6)[:, None] * bins - 0.5).clamp(0, bins - 1)
    near = 1 - (at[:, :, None] - torch.arange(bins, device=start.device, dtype=start.dtype)).abs()
    return near.clamp(min=0) * inside[:, :, None]
