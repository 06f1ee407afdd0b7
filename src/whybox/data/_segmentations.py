"""COCO's forms of a mask: polygons, and run lengths down the columns, plain or packed into text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.data._fields import read_numbers
from whybox.data._problems import Broken, shown

LONGEST_PACKED = 7
"""Characters of a packed run length: 35 bits, more than the 32 that COCO's own code keeps."""


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Encode a mask as COCO's uncompressed run lengths.

    Args:
        mask: (H,W).

    Returns:
        "size", [H, W], and "counts", the run lengths down the columns, beginning with the number of zeros.
    """
    # Zeros around it, so that a mask that begins with ones has a first run of 0 zeros.
    flat = np.concatenate([[False], mask.flatten(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges)
    return {"size": list(mask.shape), "counts": (counts[:-1] if counts[-1] == 0 else counts).tolist()}


def decode_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Decode a segmentation into the pixels that pycocotools gives it.

    pycocotools draws the polygons. It does not decode: run lengths that end too early leave it with memory that nobody
    has written to, and with numpy 2 it warns.

    Args:
        segmentation: As `read_segmentation` returns it.
        size: (W,H) of the image in pixels.

    Returns:
        (H,W) the mask.
    """
    width, height = size
    counts = segmentation["counts"] if isinstance(segmentation, Mapping) else _draw_polygons(segmentation, size)
    runs = _unpack(counts) if isinstance(counts, str) else np.asarray(counts, dtype=np.int64)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _draw_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """The union of polygons as packed run lengths."""
    from pycocotools import mask

    drawn = mask.merge(mask.frPyObjects(polygons, size[1], size[0]))
    return str(drawn["counts"], "ascii")


def read_segmentation(segmentation: Any, size: tuple[int, int]) -> tuple[Any, list[str]]:
    """Read a segmentation: polygons, or run lengths.

    Args:
        segmentation: As the annotation file has it.
        size: (W,H) of the image in pixels.

    Returns:
        The segmentation, without the polygons that cannot be used, and a line on each of these.

    Raises:
        Broken: It is no segmentation of an image of this size, or none of its polygons can be used.
    """
    if isinstance(segmentation, Mapping):
        return _read_runs(segmentation, size), []
    if not isinstance(segmentation, list):
        raise Broken(f"segmentation is neither polygons nor run lengths: {shown(segmentation)}")
    if not segmentation:
        raise Broken("segmentation is empty")
    polygons, lost = [], []
    for number, polygon in enumerate(segmentation, start=1):
        try:
            polygons.append(_read_polygon(polygon, size))
        except Broken as reason:
            if len(segmentation) == 1:
                raise
            lost.append(f"polygon {number} of {len(segmentation)} is left out of the mask: {reason}")
    if not polygons:
        raise Broken(f"segmentation has no polygon that can be used: {lost[0].partition(': ')[2]}")
    return polygons, lost


def _read_polygon(polygon: Any, size: tuple[int, int]) -> list[float]:
    if isinstance(polygon, Mapping):
        raise Broken("segmentation is a list of run lengths: expected one object with size and counts, or polygons")
    numbers = read_numbers(polygon, "a polygon of the segmentation")
    if len(numbers) < 6 or len(numbers) % 2:
        raise Broken(f"a polygon must be [x, y, ...] of at least 3 points, got {shown(polygon)}")
    points = numbers.reshape(-1, 2)
    # It is drawn by walking along its edges pixel by pixel: what lies far outside would take all memory.
    if (points < -np.asarray(size)).any() or (points > 2 * np.asarray(size)).any():
        raise Broken(f"a polygon reaches far beyond the image of {size[0]}x{size[1]}: {shown(polygon)}")
    # Points on one line span fewer than two dimensions.
    if np.linalg.matrix_rank(points - points[0]) < 2:
        raise Broken(f"a polygon must have an area, got points on one line: {shown(polygon)}")
    return [float(number) for number in numbers]


def _read_runs(segmentation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    try:
        fits = read_numbers(segmentation.get("size"), "size").tolist() == [height, width]
    except Broken:
        fits = False
    if not fits:
        raise Broken(f"a mask of the size {shown(segmentation.get('size'))} for an image of [{height}, {width}]")
    counts = segmentation.get("counts")
    numbers = _unpack(counts).tolist() if isinstance(counts, str) else counts
    runs = read_numbers(numbers, "counts of the segmentation")
    if (runs < 0).any() or (runs % 1).any():
        raise Broken("run lengths must be whole numbers from 0")
    if runs.sum() != width * height:
        raise Broken(f"run lengths of {int(runs.sum())} pixels do not fill a mask of {width}x{height} ({width * height})")
    return {"size": [height, width], "counts": counts if isinstance(counts, str) else runs.astype(np.int64).tolist()}


def _unpack(counts: str) -> NDArray[np.int64]:
    """The run lengths in COCO's packed text: five bits a character, low ones first, each from the fourth on as the
    difference to the run two before.

    Source: `rleFrString` of cocoapi's common/maskApi.c.
    """
    # Passed on as bytes that are no code: replaced by "?", a surrogate would be one.
    codes = np.frombuffer(counts.encode(errors="surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise Broken(f"counts are no packed run lengths: {shown(counts)}")
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > LONGEST_PACKED:
        raise Broken(f"counts are no packed run lengths: {shown(counts)}")
    place = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << place, starts)
    # The bit of value 16 in a run's last character is its sign, in two's complement.
    values -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values
