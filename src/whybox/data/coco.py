"""Images with boxes and masks in COCO's JSON format, from any folder that holds them: "coco:FOLDER", "coco:FILE.json"."""

import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from whybox.data._fields import has_area, read_box, read_flag, read_id, read_json, read_number
from whybox.data._fixations import read_fixations
from whybox.data._pictures import PictureFolder
from whybox.data._problems import Broken, Problems, digest_files, shown
from whybox.data._segmentations import decode_mask, read_segmentation
from whybox.data.images import read_picture, stored_sizes
from whybox.errors import ImageError, MissingSplitError, WhyboxError
from whybox.truth import DataSet, Sample, Truth

PREFIX = "coco"
SPLITS = ("train", "val", "test")
OVER_THE_EDGE = 1.0
"""Pixels that a box may reach over the image's edge: rounding. What reaches further is cut too, but is a problem."""
EMPTY: tuple[Any, ...] = (None, [], {}, "")
"""What stands for a segmentation in files without masks; it is a problem only where other annotations have one."""
LONGEST_ID = 19
"""Ids of more digits than 64 bits hold are not counted on from."""


@dataclass(frozen=True)
class CocoImage:
    """One annotated image with N objects.

    Attributes:
        path: The picture's file.
        name: Its name in the data set: that of the file, relative to the folder of the images.
        size: (W,H) in pixels.
        boxes: (N,4) xyxy in image pixels, clipped to the image.
        labels: (N,) 0 for the first class.
        iscrowd: (N,) true for a region of uncounted objects.
        ids: N annotation ids.
        segmentations: N masks in COCO's own form, or None where not all are known.
        fixations: N entries (F,3) x, y in image pixels and seconds, or None for an object without; or ().
    """

    path: Path
    name: str
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    ids: tuple[str, ...]
    segmentations: tuple[Any, ...] | None = None
    fixations: tuple[NDArray[np.float32] | None, ...] = ()

    def image(self) -> Image.Image:
        """Read the picture.

        Returns:
            The picture in RGB, of the annotated size.

        Raises:
            ImageError: It cannot be read, or has another size.
        """
        return read_picture(self.path, self.size)

    def masks(self) -> NDArray[np.bool_] | None:
        """Decode the masks.

        Returns:
            (N,H,W), or None where not all are known. An object of less than a pixel can have an empty one, as in COCO.
        """
        if self.segmentations is None:
            return None
        masks = np.zeros((len(self.ids), self.size[1], self.size[0]), dtype=bool)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            mask[:] = decode_mask(segmentation, self.size)
        return masks

    def truth(self) -> Truth:
        """The annotations, with decoded masks; crowd regions are ignored."""
        masks = self.masks()
        return Truth(
            # Copies, because from_numpy shares memory, and whoever changes the truth must not change the data set.
            torch.from_numpy(self.boxes.copy()),
            torch.from_numpy(self.labels.copy()),
            self.ids,
            torch.from_numpy(self.iscrowd.copy()),
            None if masks is None else torch.from_numpy(masks),
            fixations=tuple(None if points is None else torch.from_numpy(points.copy()) for points in self.fixations),
        )


@dataclass
class CocoData:
    """The images of one annotation file.

    Attributes:
        name: "coco:" and the file.
        classes: The class names, in the order of their labels.
        images: The images that can be used.
        problems: One line on everything that was left out or repaired.
        digest: A digest of the file.
    """

    name: str
    classes: tuple[str, ...]
    images: tuple[CocoImage, ...]
    problems: tuple[str, ...]
    digest: str = ""

    @property
    def names(self) -> Sequence[str]:
        """The images' file names."""
        return [image.name for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and decode its masks.

        Args:
            index: From 0.

        Returns:
            The image and its annotations.

        Raises:
            ImageError: The picture cannot be read, or no longer has the size that it had when the data set was opened.
        """
        image = self.images[index]
        return Sample(image.name, image.image(), image.truth())


class _Image(NamedTuple):
    """A usable entry of the file's images; size (W,H)."""

    id: str
    name: str
    size: tuple[int, int]
    path: Path


class _Object(NamedTuple):
    """A usable annotation; box (4,) xyxy inside the image; bare where the file gives no segmentation at all."""

    id: str
    image: _Image
    label: int
    box: NDArray[np.float64]
    iscrowd: bool
    segmentation: Any
    bare: bool


def open_data(
    rest: str, *, on_problem: str = "skip", split: str = "val", images: Path | None = None, fixations: Path | None = None
) -> DataSet:
    """Open the data set "coco:REST".

    Args:
        rest: A folder or an annotation file.
        on_problem: As for `read_coco`.
        split: As for `read_coco`.
        images: As for `read_coco`.
        fixations: As for `read_coco`.

    Returns:
        The data set.

    Raises:
        WhyboxError: As for `read_coco`, or `rest` is empty.
    """
    if not rest:
        raise WhyboxError("coco needs a place: coco:FOLDER or coco:FILE.json")
    return read_coco(rest, split, images=images, fixations=fixations, on_problem=on_problem)


def read_coco(
    path: str | Path,
    split: str = "train",
    *,
    images: Path | None = None,
    fixations: Path | None = None,
    on_problem: str = "skip",
) -> CocoData:
    """Read the images and annotations of a file, or of a folder that holds one.

    In a folder the file is the only JSON file, or the only one whose name holds the split's ("val.json",
    "instances_val2017.json"), there or below `annotations/`; caption files are passed over.

    Args:
        path: An annotation file, or its folder.
        split: Which of a folder's files to read.
        images: The folder of the images; by default they are looked for beside the file, in `images/`, and in the folders of
            COCO's own layout.
        fixations: A file of fixations, see docs/data.md.
        on_problem: "skip" leaves out what is broken, "refuse" stops at it.

    Returns:
        The data set.

    Raises:
        MissingSplitError: The folder has no single file for this split.
        WhyboxError: A file cannot be read or used as a whole, or there are problems and they are to be refused.
    """
    source = find_annotations(Path(path).expanduser(), split)
    problems = Problems(source, on_problem)
    content = _parse(source)
    folder = images.expanduser() if images else _image_folder(source, content["images"], split)
    classes, labels = _read_classes(content["categories"], problems)
    entries = _read_images(content, PictureFolder(folder), problems)
    objects = _read_objects(content, entries, labels, problems)
    points = None
    if fixations:
        points = read_fixations(fixations.expanduser(), {row.id: row.image.size for row in objects}, problems)
    gathered = tuple(_gather(entries, objects, points, problems))
    digest = digest_files(source, fixations.expanduser() if fixations else None)
    return CocoData(f"{PREFIX}:{source}", classes, gathered, problems.settle(), digest)


def find_annotations(path: Path, split: str) -> Path:
    """Find the annotation file of a split.

    Args:
        path: The file itself, or a folder.
        split: Which of the folder's files.

    Returns:
        The file.

    Raises:
        MissingSplitError: The folder has no single file for this split.
        WhyboxError: There is nothing at `path`.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise WhyboxError(f"no COCO annotations at {path}: give a JSON file or a folder that holds one")
    for place in (path, path / "annotations"):
        files = [file for file in sorted(place.glob("*.json")) if "captions" not in file.stem]
        of_split = [file for file in files if split in file.stem]
        if len(of_split) == 1:
            return of_split[0]
        # A lone file needs no split in its name, but a lone train.json is no answer to "val".
        if len(files) == 1 and not any(other in files[0].stem for other in SPLITS):
            return files[0]
    raise MissingSplitError(f"no single JSON file for the split {split!r} in {path}; name another split, or the file itself")


def _parse(source: Path) -> dict[str, Any]:
    content = read_json(source)
    if isinstance(content, list) and content and isinstance(content[0], dict) and "image_id" in content[0]:
        raise WhyboxError(f"{source} is a list of annotations or results: expected an object with images and categories, too")
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise WhyboxError(f"{source} is not in COCO's format: it lacks lists of {', '.join(missing)}")
    if not content["images"]:
        raise WhyboxError(f"{source} lists no images")
    return dict(content)


def _image_folder(source: Path, listed: Sequence[Any], split: str) -> Path:
    """The first likely folder that holds an image of the file, by its name as written or else by the end of it."""
    above = source.parent
    later = source.stem.removeprefix("instances_")
    folders = [above / "images", above, *(above.parent / name for name in ("images", split, source.stem, later))]
    names = [name for entry in listed if isinstance(entry, dict) and (name := _file_name(entry))]
    for name in names:
        for folder in folders:
            # Not Path.is_file, which raises an OSError where a name is too long for the system.
            if os.path.isfile(folder / name):
                return folder
    for folder in folders:
        if any(map(PictureFolder(folder).lists, names[:1])):
            return folder
    # A bare name that is not where it should be is no reason to search: the user says where the images are.
    moved = [name for name in names if "/" in name or "\\" in name]
    for pictures in map(PictureFolder, folders if moved else ()):
        if any(pictures.holds(name) for name in moved):
            return pictures.folder
    raise WhyboxError(
        f"the image {shown(names[0] if names else None)} of {source} is neither beside it nor in an images/ folder; "
        "say where the images are: images=FOLDER"
    )


def _read_classes(categories: Sequence[Any], problems: Problems) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names in the order of their ids, whole numbers first; and the label of each category id.

    Categories of one name are one class: models and results know a class by its name.
    """
    names: dict[str, str] = {}
    for position, category in enumerate(categories, start=1):
        entry = category if isinstance(category, dict) else {}
        number, name = read_id(entry.get("id")), _read_name(entry.get("name"))
        where = f"category number {position}"
        if number is None or name is None:
            problems.note(where, f"must have a number or a word as id, and a name, got {shown(category)}: left out")
        elif number in names:
            problems.note(where, f"{name!r} has the id {number} of {names[number]!r}: left out")
        else:
            names[number] = name
    classes: dict[str, int] = {}
    labels: dict[str, int] = {}
    first_ids: dict[str, str] = {}
    # By id and not in the file's order, so that labels do not depend on how the file was written.
    for number in sorted(names, key=_id_order):
        name = names[number]
        if name in classes:
            problems.note(f"category {name!r}", f"has the ids {first_ids[name]} and {number}: read as one class")
        labels[number] = classes.setdefault(name, len(classes))
        first_ids.setdefault(name, number)
    return tuple(classes), labels


def _read_name(value: Any) -> str | None:
    """A class name; digits may be written as a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def _id_order(number: str) -> tuple[float, str]:
    try:
        return float(number), number
    except ValueError:
        return math.inf, number


def _read_images(content: Mapping[str, Any], pictures: PictureFolder, problems: Problems) -> dict[str, _Image]:
    """The usable images by id."""
    # Counted beforehand, so that the line about an image that is left out can tell what goes with it.
    counts = Counter(_id_in(row, "image_id") for row in content["annotations"])

    def leave_out(where: str, reason: object, number: str | None) -> None:
        count = 0 if number is None else counts[number]
        problems.note(where, f"{reason}; left out{f' with its {count} annotations' if count else ''}")

    read: dict[str, list[_Image]] = defaultdict(list)
    for position, entry in enumerate(content["images"], start=1):
        where = _image_words(entry, position)
        try:
            image, repairs = _read_entry(entry, pictures)
        except Broken as reason:
            leave_out(where, reason, _id_in(entry, "id"))
            continue
        read[image.id].append(image)
        for repair in repairs:
            problems.note(where, repair)
    entries, by_name = {}, dict[str, _Image]()
    for number, same in read.items():
        image, others = same[0], sorted({other.name for other in same})
        if len(others) > 1:
            leave_out(f"image id {number}", f"stands for {shown(others)}: whose annotations are whose?", number)
        elif image.name in by_name:
            leave_out(f"image {image.name!r} (id {number})", f"is there already with id {by_name[image.name].id}", number)
        else:
            entries[number] = by_name[image.name] = image
            if len(same) > 1:
                problems.note(f"image {image.name!r} (id {number})", f"is listed {len(same)} times, used once")
    if not entries:
        raise WhyboxError(f"none of the {len(content['images'])} images can be used: {problems.first()}")
    return entries


def _read_entry(entry: Any, pictures: PictureFolder) -> tuple[_Image, list[str]]:
    """An image, and a line on each thing that had to be repaired."""
    if not isinstance(entry, dict):
        raise Broken(f"no image entry: {shown(entry)}")
    number, name = _id_in(entry, "id"), _file_name(entry)
    if number is None:
        raise Broken(f"the id must be a number or a word, got {shown(entry.get('id'))}")
    if not name:
        raise Broken(f"no file_name but {shown(entry.get('file_name'))}")
    found = pictures.find(name)
    size, repair = _read_size(entry, pictures.folder / found)
    repairs = [] if found == name else [f"no such file in {pictures.folder}: read as {found!r}, the one file that fits"]
    return _Image(number, found, size, pictures.folder / found), repairs + ([repair] if repair else [])


def _file_name(entry: Mapping[str, Any]) -> str:
    """The name of an image's file; without one the last part of its address; "" for neither."""
    name, address = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(address, str):
        return address.rpartition("/")[2]
    return name if isinstance(name, str) else ""


def _read_size(entry: Mapping[str, Any], path: Path) -> tuple[tuple[int, int], str]:
    """The size (W,H) that annotations are made for, and what was wrong with the one in the file, or "".

    It is that of the entry if the picture has it, as stored or turned by its EXIF orientation; else that of the picture.
    """
    given = entry.get("width"), entry.get("height")
    annotated = _whole_size(given)
    try:
        stored, turned = stored_sizes(path)
    except ImageError as error:
        if annotated is None:
            raise Broken(f"no usable width and height, and {error}") from None
        return annotated, ""  # the picture's own error comes when it is read
    if annotated in (stored, turned):
        return annotated, ""
    picture = f"{stored[0]}x{stored[1]}"
    if annotated is None:
        problem = f"width and height must be whole numbers above 0, got {shown(given)}"
        return stored, f"{problem}: those of the picture are used, {picture}"
    problem = f"is {picture}, but annotated as {annotated[0]}x{annotated[1]}"
    return stored, f"{problem}: the picture's size is used; was it resized after it was annotated?"


def _whole_size(given: Sequence[Any]) -> tuple[int, int] | None:
    """Width and height, if both are whole numbers above 0."""
    try:
        width, height = (read_number(side, "width and height") for side in given)
    except Broken:
        return None
    return (int(width), int(height)) if min(width, height) > 0 and width % 1 == height % 1 == 0 else None


def _image_words(entry: Any, position: int) -> str:
    known = entry if isinstance(entry, dict) else {}
    name, number = known.get("file_name"), known.get("id")
    return f"image {shown(name)} (id {shown(number)})" if name else f"image number {position}"


def _read_objects(
    content: Mapping[str, Any], entries: Mapping[str, _Image], labels: Mapping[str, int], problems: Problems
) -> list[_Object]:
    """The usable annotations. Those of an image that was left out go with it; its line counts them."""
    listed = {_id_in(entry, "id") for entry in content["images"]} - {None}
    spare = _spare_ids(content["annotations"])
    objects: dict[str, _Object] = {}
    for position, row in enumerate(content["annotations"], start=1):
        image_id = _id_in(row, "image_id")
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
        number = _id_in(row, "id")
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
    numbers = [_id_in(row, "id") for row in rows]
    highest = max((int(number) for number in numbers if number and number.isdecimal() and len(number) < LONGEST_ID), default=0)
    return map(str, itertools.count(highest + 1))


def _id_problem(row: Mapping[str, Any], other: _Object | None) -> str:
    if other is None:
        return f"the id must be a number or a word, got {shown(row.get('id'))}"
    return f"the id is that of another annotation, of {other.image.name!r}"


def _id_in(row: Any, key: str) -> str | None:
    return read_id(row.get(key)) if isinstance(row, dict) else None


def _object_words(row: Any, image: _Image | None, position: int) -> str:
    where = f"image {image.name!r} (id {image.id}), " if image else ""
    number = row.get("id") if isinstance(row, dict) else None
    return where + (f"annotation number {position}" if number is None else f"annotation {shown(number)}")


def _read_object(row: Any, image: _Image | None, labels: Mapping[str, int]) -> tuple[_Object, list[str]]:
    """An annotation, without its id, and a line on each thing that had to be repaired."""
    if not isinstance(row, dict):
        raise Broken(f"no annotation: {shown(row)}")
    if image is None:
        raise Broken(f"there is no image with its image_id {shown(row.get('image_id'))}")
    category = _id_in(row, "category_id")
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
    return _Object("", image, labels[category], box, iscrowd, segmentation, bare), repairs


def _check_scale(segmentation: Any, box: NDArray[np.float64]) -> None:
    """Refuse polygons in fractions of the image, whose mask would be empty, beside a box in pixels."""
    if isinstance(segmentation, list) and box.max() > 2 and 0 <= min(map(min, segmentation)) <= max(map(max, segmentation)) <= 1:
        raise Broken(f"the segmentation lies in 0..1, its bbox in pixels: {shown(segmentation)}")


def _reach_over(box: NDArray[np.float64], size: tuple[int, int]) -> float:
    """How many pixels a box (4,) xyxy reaches over an image's edge; 0 for what rounding explains."""
    x1, y1, x2, y2 = box.tolist()
    over = round(max(-x1, -y1, x2 - size[0], y2 - size[1]), 2)
    return over if over > OVER_THE_EDGE else 0.0


def _gather(
    entries: Mapping[str, _Image],
    objects: Sequence[_Object],
    points: Mapping[str, NDArray[np.float32]] | None,
    problems: Problems,
) -> Iterator[CocoImage]:
    """Each image with its objects. Masks are for all objects of an image or for none; no mask is made from a box."""
    by_image = defaultdict(list)
    for row in objects:
        by_image[row.image.id].append(row)
    with_masks = any(row.segmentation is not None for row in objects)
    for number, entry in entries.items():
        rows = by_image[number]
        if with_masks and (bare := [row.id for row in rows if row.bare]):
            where = f"image {entry.name!r} (id {number}), annotation {', '.join(bare)}"
            problems.note(where, "no segmentation, though others of the file have one: no masks for this image")
        complete = with_masks and all(row.segmentation is not None for row in rows)
        yield CocoImage(
            path=entry.path,
            name=entry.name,
            size=entry.size,
            # The reshape is for images without objects, whose boxes would come out as (0,).
            boxes=np.asarray([row.box for row in rows], dtype=np.float32).reshape(-1, 4),
            labels=np.asarray([row.label for row in rows], dtype=np.int64),
            iscrowd=np.asarray([row.iscrowd for row in rows], dtype=bool),
            ids=tuple(row.id for row in rows),
            segmentations=tuple(row.segmentation for row in rows) if complete else None,
            fixations=() if points is None else tuple(points.get(row.id) for row in rows),
        )
