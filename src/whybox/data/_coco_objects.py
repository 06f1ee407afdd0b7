"""The annotations of a COCO file: which can be used, and what of them had to be repaired."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox.data._coco_images import ImageEntry
from whybox.data._fields import has_area, id_in, read_box, read_flag
from whybox.data._problems import Broken, Problems, shown
from whybox.data._segmentations import read_segmentation
from whybox.errors import WhyboxError

OVER_THE_EDGE = 1.0
"""Pixels that a box may reach over the image's edge: rounding. What reaches further is cut too, but is a problem."""
EMPTY: tuple[Any, ...] = (None, [], {}, "")
"""What stands for a segmentation in files without masks; it is a problem only where other annotations have one."""
LONGEST_ID = 19
"""Ids of more digits than 64 bits hold are not counted on from."""


class ObjectEntry(NamedTuple):
    """A usable annotation; box (4,) xyxy in image pixels, inside the image; bare where the file gives no segmentation at all."""

    id: str
    image: ImageEntry
    label: int
    box: NDArray[np.float64]
    iscrowd: bool
    segmentation: Any
    bare: bool


def read_objects(
    content: Mapping[str, Any], entries: Mapping[str, ImageEntry], labels: Mapping[str, int], problems: Problems
) -> list[ObjectEntry]:
    """Read the annotations that can be used. Those of an image that was left out go with it; its line counts them.

    Args:
        content: The file's content.
        entries: The usable images by id.
        labels: The label of each category id.
        problems: Where what is left out or repaired is noted.

    Returns:
        The usable annotations, in the order of the file.

    Raises:
        WhyboxError: All boxes are fractions of their images.
    """
    listed = {id_in(entry, "id") for entry in content["images"]} - {None}
    spare = _spare_ids(content["annotations"])
    objects: dict[str, ObjectEntry] = {}
    for position, row in enumerate(content["annotations"], start=1):
        image_id = id_in(row, "image_id")
        image = entries.get(image_id) if image_id is not None else None
        # The image's own line counts its annotations.
        if image is None and image_id in listed:
            continue
        where = _object_words(row, image, position)
        try:
            annotation, repairs = _read_object(row, image, labels)
        except Broken as reason:
            problems.note(where, reason)
            continue
        number = id_in(row, "id")
        if number is None or number in objects:
            repairs.append(_id_problem(row, objects.get(number) if number else None))
            number = next(spare)
            repairs[-1] += f": it is annotation {number} here"
        objects[number] = annotation._replace(id=number)
        for repair in repairs:
            problems.note(where, repair)
    _refuse_fractions([row.box for row in objects.values()], problems)
    return list(objects.values())


def _refuse_fractions(boxes: Sequence[NDArray[np.float64]], problems: Problems) -> None:
    """Refuse a file in which every box lies in the first pixel: its numbers are fractions of the image.

    They are not scaled: the file says nowhere what they are fractions of, and polygons may be in pixels beside them.
    """
    if boxes and np.max(boxes) <= 1:
        raise WhyboxError(
            f"{problems.source}: all {len(boxes)} boxes lie in 0..1; COCO's bbox is [x, y, width, height] in pixels, so multiply "
            "fractions by the image's width and height first"
        )


def _spare_ids(rows: Sequence[Any]) -> Iterator[str]:
    """Ids that no annotation has, above all of them."""
    numbers = [id_in(row, "id") for row in rows]
    highest = max((int(number) for number in numbers if number and number.isdecimal() and len(number) < LONGEST_ID), default=0)
    return map(str, itertools.count(highest + 1))


def _id_problem(row: Mapping[str, Any], other: ObjectEntry | None) -> str:
    if other is None:
        return f"the id must be a number or a word, got {shown(row.get('id'))}"
    return f"the id is that of another annotation, of {other.image.name!r}"


def _object_words(row: Any, image: ImageEntry | None, position: int) -> str:
    where = f"image {image.name!r} (id {image.id}), " if image else ""
    number = row.get("id") if isinstance(row, dict) else None
    return where + (f"annotation number {position}" if number is None else f"annotation {shown(number)}")


def _read_object(row: Any, image: ImageEntry | None, labels: Mapping[str, int]) -> tuple[ObjectEntry, list[str]]:
    """An annotation, without its id, and a line on each thing that had to be repaired."""
    if not isinstance(row, dict):
        raise Broken(f"no annotation: {shown(row)}")
    if image is None:
        raise Broken(f"there is no image with its image_id {shown(row.get('image_id'))}")
    category = id_in(row, "category_id")
    if category is None or category not in labels:
        raise Broken(f"the categories lack id {shown(row.get('category_id'))}")
    whole = read_box(row, "bbox")
    # Cut before it is asked for an area: what lies outside has none left.
    box = whole.clip(0, [*image.size, *image.size])
    if not has_area(box):
        raise Broken(f"bbox {shown(row['bbox'])} lies outside the image of {image.size[0]}x{image.size[1]}")
    repairs = []
    if over := _reach_over(whole, image.size):
        repairs.append(f"bbox reaches {over:g} pixels over the image's edge: cut")
    try:
        iscrowd = read_flag(row.get("iscrowd"), "iscrowd")
    except Broken as reason:
        iscrowd = False
        repairs.append(f"{reason}: read as 0")
    segmentation, given = None, row.get("segmentation")
    bare = given in EMPTY
    if not bare:
        try:
            read, lost = read_segmentation(given, image.size)
            _check_scale(read, box)
            segmentation = read
            repairs += lost
        except Broken as reason:
            repairs.append(f"{reason}: the box stays, without a mask, so that its image has no masks")
    return ObjectEntry("", image, labels[category], box, iscrowd, segmentation, bare), repairs


def _check_scale(segmentation: Any, box: NDArray[np.float64]) -> None:
    """Refuse polygons in fractions of the image, whose mask would be empty, beside a box in pixels."""
    if isinstance(segmentation, list) and box.max() > 2 and 0 <= min(map(min, segmentation)) <= max(map(max, segmentation)) <= 1:
        raise Broken(f"the segmentation lies in 0..1, its bbox in pixels: {shown(segmentation)}")


def _reach_over(box: NDArray[np.float64], size: tuple[int, int]) -> float:
    """How many pixels a box (4,) xyxy reaches over an image's edge; 0 for what rounding explains."""
    x1, y1, x2, y2 = box.tolist()
    over = round(max(-x1, -y1, x2 - size[0], y2 - size[1]), 2)
    return over if over > OVER_THE_EDGE else 0.0
