"""Images with boxes and masks in COCO's JSON format, from any folder that holds them: "coco:FOLDER", "coco:FILE.json"."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from whybox.data._fixations import read_fixations
from whybox.data._problems import Broken, Problems, digest_files, has_area, read_box, read_json, shown
from whybox.data._segmentations import check_segmentation, decode_mask
from whybox.data.images import read_picture
from whybox.errors import MissingSplitError, WhyboxError
from whybox.truth import DataSet, Sample, Truth

PREFIX = "coco"
SPLITS = ("train", "val", "test")
OVER_THE_EDGE = 1.0
"""Pixels that a box may reach over the image's edge: rounding. What reaches further is cut too, but is a problem."""


@dataclass(frozen=True)
class CocoImage:
    """One annotated image of `size` (W,H) with N objects.

    boxes (N,4) float32 xyxy in image pixels, cut at the image's edge; labels (N,) int64, 0 for the first class; iscrowd
    (N,) bool, true for a region of uncounted objects; ids, those of the annotations; segmentations, COCO's own form of
    each mask, or None where not all are known; fixations, (F,3) x, y, seconds or None for each object, or ().
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
        """The picture in RGB, of the annotated size."""
        return read_picture(self.path, self.size)

    def masks(self) -> NDArray[np.bool_] | None:
        """(N,H,W) bool, where all are known; an object of less than a pixel can have an empty one, as it has in COCO."""
        if self.segmentations is None:
            return None
        masks = np.zeros((len(self.ids), self.size[1], self.size[0]), dtype=bool)
        for mask, segmentation in zip(masks, self.segmentations, strict=True):
            mask[:] = decode_mask(segmentation, self.size)
        return masks

    def truth(self) -> Truth:
        """The annotations; crowd regions are ignored."""
        masks = self.masks()
        return Truth(
            torch.from_numpy(self.boxes.copy()),
            torch.from_numpy(self.labels.copy()),
            self.ids,
            torch.from_numpy(self.iscrowd.copy()),
            None if masks is None else torch.from_numpy(masks),
            fixations=tuple(None if one is None else torch.from_numpy(one.copy()) for one in self.fixations),
        )


@dataclass
class CocoData:
    """The images of one annotation file, its class names in the order of their labels, what was left out of it, and a digest of
    the file."""

    name: str
    classes: tuple[str, ...]
    images: tuple[CocoImage, ...]
    problems: tuple[str, ...]
    digest: str = ""

    @property
    def names(self) -> Sequence[str]:
        """The images' file names, as the annotation file has them."""
        return [image.name for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and decode its masks."""
        image = self.images[index]
        return Sample(image.name, image.image(), image.truth())


class _Image(NamedTuple):
    """A usable entry of the file's images; size (W,H)."""

    id: int | str
    name: str
    size: tuple[int, int]


class _Object(NamedTuple):
    """A usable annotation; box (4,) xyxy inside the image."""

    id: str
    image: _Image
    label: int
    box: NDArray[np.float64]
    iscrowd: bool
    segmentation: Any


def open_data(
    rest: str, *, on_problem: str = "skip", split: str = "val", images: Path | None = None, fixations: Path | None = None
) -> DataSet:
    """The data set of "coco:REST", a folder or an annotation file; the options are those of `read_coco`."""
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
    """The images and annotations of a file, or of a folder that holds one.

    In a folder the file is the only JSON file, or the only one whose name holds the split's ("val.json",
    "instances_val2017.json"), there or below `annotations/`; caption files are passed over. Images
    are looked for in `images`, or beside the file, in `images/`, and in the folders of COCO's own layout.
    fixations: a file of them, see docs/data.md. on_problem: "skip" leaves out what is broken, "refuse" stops at it.
    """
    source = find_annotations(Path(path).expanduser(), split)
    problems = Problems(source, on_problem)
    content = _parse(source)
    folder = images.expanduser() if images else _image_folder(source, content["images"], split)
    classes = _read_classes(content["categories"], problems)
    entries = _read_images(content["images"], folder, problems)
    objects = _read_objects(content, entries, {number: label for label, number in enumerate(classes)}, problems)
    looked = None
    if fixations:
        looked = read_fixations(fixations.expanduser(), {one.id: one.image.size for one in objects}, problems)
    gathered = tuple(_gather(entries, objects, folder, looked, problems))
    digest = digest_files(source, fixations.expanduser() if fixations else None)
    return CocoData(f"{PREFIX}:{source}", tuple(classes.values()), gathered, problems.settle(), digest)


def find_annotations(path: Path, split: str) -> Path:
    """The annotation file that `path` is, or the one of this split in the folder that `path` is."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise WhyboxError(f"no COCO annotations at {path}: give a JSON file or a folder that holds one")
    for place in (path, path / "annotations"):
        found = [file for file in sorted(place.glob("*.json")) if "captions" not in file.stem]
        named = [file for file in found if split in file.stem]
        if len(named) == 1:
            return named[0]
        # A lone file needs no split in its name, but a lone train.json is no answer to "val".
        if len(found) == 1 and not any(other in found[0].stem for other in SPLITS):
            return found[0]
    raise MissingSplitError(f"no single JSON file for the split {split!r} in {path}; name another split, or the file itself")


def _parse(source: Path) -> dict[str, Any]:
    content = read_json(source)
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        raise WhyboxError(f"{source} is not in COCO's format: it lacks lists of {', '.join(missing)}")
    if not content["images"]:
        raise WhyboxError(f"{source} lists no images")
    return dict(content)


def _image_folder(source: Path, listed: Sequence[Any], split: str) -> Path:
    """The first likely folder that holds an image of the file."""
    above = source.parent
    later = source.stem.removeprefix("instances_")
    folders = [above / "images", above, *(above.parent / name for name in ("images", split, source.stem, later))]
    names = [entry["file_name"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)]
    for name in filter(None, names):
        for folder in folders:
            if os.path.isfile(folder / name):
                return folder
    raise WhyboxError(
        f"the image {shown(names[0] if names else None)} of {source} is neither beside it nor in an images/ folder; "
        "say where the images are: images=FOLDER"
    )


def _read_classes(categories: Sequence[Any], problems: Problems) -> dict[int, str]:
    """Class names by category id, in the order of the ids."""
    classes: dict[int, str] = {}
    for position, category in enumerate(categories, start=1):
        number, name = (category.get("id"), category.get("name")) if isinstance(category, dict) else (None, None)
        if not isinstance(number, int) or not isinstance(name, str) or not name:
            problems.note(f"category number {position}", f"must have a whole number as id and a name, got {shown(category)}")
        elif number in classes:
            problems.note(f"category number {position}", f"{name!r} has the id {number} of {classes[number]!r}")
        else:
            classes[number] = name
    return dict(sorted(classes.items()))


def _read_images(listed: Sequence[Any], folder: Path, problems: Problems) -> dict[int | str, _Image]:
    """The usable images by id."""
    read: dict[int | str, list[_Image]] = defaultdict(list)
    for position, entry in enumerate(listed, start=1):
        try:
            image = _read_entry(entry, folder)
            read[image.id].append(image)
        except Broken as reason:
            problems.note(_image_words(entry, position), reason)
    entries, named = {}, dict[str, _Image]()
    for number, same in read.items():
        image, others = same[0], sorted({one.name for one in same})
        if len(others) > 1:
            problems.note(f"image id {number!r}", f"stands for {shown(others)}: whose annotations are whose? all are left out")
        elif image.name in named:
            problems.note(f"image {image.name!r} (id {number})", f"is there already with id {named[image.name].id}: left out")
        else:
            entries[number] = named[image.name] = image
            if len(same) > 1:
                problems.note(f"image {image.name!r} (id {number})", f"is listed {len(same)} times, used once")
    if not entries:
        raise WhyboxError(f"none of the {len(listed)} images can be used: {problems.first()}")
    return entries


def _read_entry(entry: Any, folder: Path) -> _Image:
    if not isinstance(entry, dict):
        raise Broken(f"no image entry: {shown(entry)}")
    number, name = _id_in(entry, "id"), entry.get("file_name")
    if number is None:
        raise Broken(f"the id must be a number or a word, got {shown(entry.get('id'))}")
    if not isinstance(name, str) or not name:
        raise Broken(f"no file_name but {shown(name)}")
    size = entry.get("width"), entry.get("height")
    if not all(isinstance(side, int | float) and side == side // 1 and side > 0 for side in size):
        raise Broken(f"width and height must be whole numbers above 0, got {shown(size)}")
    if not os.path.isfile(folder / name):
        raise Broken(f"no such file in {folder}")
    return _Image(number, name, (int(entry["width"]), int(entry["height"])))


def _image_words(entry: Any, position: int) -> str:
    known = entry if isinstance(entry, dict) else {}
    name, number = known.get("file_name"), known.get("id")
    return f"image {shown(name)} (id {shown(number)})" if name else f"image number {position}"


def _read_objects(
    content: Mapping[str, Any], entries: Mapping[int | str, _Image], labels: Mapping[int, int], problems: Problems
) -> list[_Object]:
    """The usable annotations. Those of an image that was left out go with it, without a line of their own."""
    listed = {_id_in(entry, "id") for entry in content["images"]} - {None}
    objects: dict[str, _Object] = {}
    for position, row in enumerate(content["annotations"], start=1):
        number = _id_in(row, "image_id")
        image = entries.get(number) if number is not None else None
        if image is None and number in listed:
            continue
        try:
            found = _read_object(row, image, labels)
            if found.id in objects:
                raise Broken(f"the id is that of another annotation, of {objects[found.id].image.name!r}")
            objects[found.id] = found
            if over := _reach_over(row["bbox"], found.image.size):
                problems.note(_object_words(row, image, position), f"bbox reaches {over:g} pixels over the image's edge: cut")
        except Broken as reason:
            problems.note(_object_words(row, image, position), reason)
    return list(objects.values())


def _id_in(row: Any, key: str) -> int | str | None:
    number = row.get(key) if isinstance(row, dict) else None
    return number if isinstance(number, int | str) else None


def _object_words(row: Any, image: _Image | None, position: int) -> str:
    where = f"image {image.name!r} (id {image.id}), " if image else ""
    number = row.get("id") if isinstance(row, dict) else None
    return where + (f"annotation number {position}" if number is None else f"annotation {shown(number)}")


def _read_object(row: Any, image: _Image | None, labels: Mapping[int, int]) -> _Object:
    if not isinstance(row, dict):
        raise Broken(f"no annotation: {shown(row)}")
    if image is None:
        raise Broken(f"there is no image with its image_id {shown(row.get('image_id'))}")
    if _id_in(row, "id") is None:
        raise Broken(f"the id must be a number or a word, got {shown(row.get('id'))}")
    category = row.get("category_id")
    if not isinstance(category, int) or category not in labels:
        raise Broken(f"the categories lack id {shown(category)}")
    box = read_box(row, "bbox").clip(0, [*image.size, *image.size])
    if not has_area(box):
        raise Broken(f"bbox {shown(row['bbox'])} lies outside the image of {image.size[0]}x{image.size[1]}")
    segmentation = row.get("segmentation") or None
    if segmentation is not None:
        check_segmentation(segmentation, image.size)
    return _Object(str(row["id"]), image, labels[category], box, bool(row.get("iscrowd", 0)), segmentation)


def _reach_over(bbox: Sequence[float], size: tuple[int, int]) -> float:
    """How many pixels a box [x, y, width, height] reaches over an image's edge; 0 for what rounding explains."""
    x, y, width, height = bbox
    over = round(max(-x, -y, x + width - size[0], y + height - size[1]), 2)
    return over if over > OVER_THE_EDGE else 0.0


def _gather(
    entries: Mapping[int | str, _Image],
    objects: Sequence[_Object],
    folder: Path,
    looked: Mapping[str, NDArray[np.float32]] | None,
    problems: Problems,
) -> Iterator[CocoImage]:
    """Each image with its objects. Masks are for all objects of an image or for none; no mask is made from a box."""
    rows = defaultdict(list)
    for one in objects:
        rows[one.image.id].append(one)
    with_masks = any(one.segmentation is not None for one in objects)
    for number, entry in entries.items():
        own = rows[number]
        bare = [one.id for one in own if one.segmentation is None]
        if with_masks and bare:
            where = f"image {entry.name!r} (id {number}), annotation {bare[0]}"
            problems.note(where, "no segmentation, though others of the file have one: no masks for this image")
        yield CocoImage(
            path=folder / entry.name,
            name=entry.name,
            size=entry.size,
            boxes=np.asarray([one.box for one in own], dtype=np.float32).reshape(-1, 4),
            labels=np.asarray([one.label for one in own], dtype=np.int64),
            iscrowd=np.asarray([one.iscrowd for one in own], dtype=bool),
            ids=tuple(one.id for one in own),
            segmentations=tuple(one.segmentation for one in own) if with_masks and not bare else None,
            fixations=() if looked is None else tuple(looked.get(one.id) for one in own),
        )
