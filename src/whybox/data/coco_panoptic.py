"""Images with things and stuff in COCO's panoptic format: "coco-panoptic:FOLDER", "coco-panoptic:FILE.json"."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from whybox.data._coco_classes import read_classes
from whybox.data._coco_files import image_folder, read_content
from whybox.data._coco_images import ImageEntry, read_images
from whybox.data._fields import id_in, read_flag
from whybox.data._pictures import PictureFolder
from whybox.data._problems import Broken, Problems, digest_files
from whybox.data.image_captions import read_stuff
from whybox.data.images import read_picture
from whybox.errors import MissingSplitError, WhyboxError
from whybox.truth import DataSet, Sample, Truth

PREFIX = "coco-panoptic"
# "sky-other-merged" is how a file tells classes apart, and no word for the sky.
ENDING = re.compile(r"(-(other|merged|stuff))+$")


@dataclass(frozen=True)
class PanopticImage:
    """One annotated image with N segments.

    Attributes:
        entry: Its file, name and size.
        segments: The file of its segments: a PNG whose colors are their numbers.
        numbers: N segment numbers, red + 256 green + 65536 blue.
        labels: N labels, 0 for the first class.
        crowds: N flags of regions of uncounted objects.
    """

    entry: ImageEntry
    segments: Path
    numbers: tuple[int, ...]
    labels: tuple[int, ...]
    crowds: tuple[bool, ...]

    def truth(self) -> Truth:
        """The segments with their masks, and boxes around these; a segment without a pixel is left out.

        Raises:
            WhyboxError: The file of the segments cannot be read, or has another size than the image.
        """
        width, height = self.entry.size
        drawn = _read_numbers(self.segments)
        if drawn.shape != (height, width):
            raise WhyboxError(f"{self.segments}: {drawn.shape[1]}x{drawn.shape[0]} pixels for an image of {width}x{height}")
        masks = drawn == np.asarray(self.numbers, dtype=np.int64)[:, None, None]
        kept = np.flatnonzero(masks.any((1, 2)))
        masks = masks[kept]
        boxes = np.zeros((len(kept), 4), dtype=np.float32)
        for box, mask in zip(boxes, masks, strict=True):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return Truth(
            torch.from_numpy(boxes),
            torch.tensor([self.labels[row] for row in kept], dtype=torch.long),
            tuple(str(self.numbers[row]) for row in kept),
            torch.tensor([self.crowds[row] for row in kept], dtype=torch.bool),
            torch.from_numpy(masks),
        )


@dataclass
class PanopticData:
    """The images of one panoptic file.

    Attributes:
        name: "coco-panoptic:" and the file.
        classes: The class names, without endings such as "-other-merged".
        stuff: Those of them that are stuff (sky, grass) and no things.
        images: The images that can be used.
        problems: One line on everything that was left out or repaired.
        digest: A digest of the file.
    """

    name: str
    classes: tuple[str, ...]
    stuff: tuple[str, ...]
    images: tuple[PanopticImage, ...]
    problems: tuple[str, ...]
    digest: str = ""

    @property
    def names(self) -> Sequence[str]:
        """The images' file names."""
        return [image.entry.name for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        """Read one image and its segments.

        Args:
            index: From 0.

        Returns:
            The image and its annotations.

        Raises:
            WhyboxError: A file cannot be read, or has another size than is annotated.
        """
        image = self.images[index]
        return Sample(image.entry.name, read_picture(image.entry.path, image.entry.size), image.truth())


def open_data(
    rest: str, *, on_problem: str = "skip", split: str = "val", images: Path | None = None, segments: Path | None = None
) -> DataSet:
    """Open the data set "coco-panoptic:REST".

    Source: Kirillov et al., "Panoptic Segmentation", CVPR 2019; the format of COCO's panoptic task.

    Args:
        rest: A file such as annotations/panoptic_val2017.json, or a folder that holds one, there or in annotations/.
        on_problem: "skip" leaves out what is broken, "refuse" stops at it.
        split: Which of a folder's files: the one with "panoptic" and this in its name.
        images: The folder of the images; by default they are looked for as those of "coco:".
        segments: The folder of the segments' PNG files; by default the one beside the file with its name.

    Returns:
        The data set.

    Raises:
        MissingSplitError: The folder has no single file for this split.
        WhyboxError: A file cannot be read or used as a whole, or there are problems and they are to be refused.
    """
    if not rest:
        raise WhyboxError(f"{PREFIX} needs a place: {PREFIX}:FOLDER or {PREFIX}:FILE.json")
    source = _find_file(Path(rest).expanduser(), split)
    problems = Problems(source, on_problem)
    content = read_content(source)
    if not any(isinstance(row, dict) and "segments_info" in row for row in content["annotations"]):
        raise WhyboxError(f"{source} lists no segments_info: it is no panoptic file; boxes and masks are read by coco:{source}")
    folder = images.expanduser() if images else image_folder(source, content["images"], split)
    drawn = segments.expanduser() if segments else source.with_suffix("")
    if not drawn.is_dir():
        raise WhyboxError(f"the segments of {source} are not in {drawn}: say where they are: segments=FOLDER")
    named = [{**row, "name": _short(row.get("name"))} for row in content["categories"] if isinstance(row, dict)]
    classes, labels = read_classes(named, problems)
    entries = read_images(content, PictureFolder(folder), problems)
    told = {_short(name) for name in read_stuff(source) or ()}
    gathered = tuple(_gather(content["annotations"], entries, labels, drawn, problems))
    if not gathered:
        raise WhyboxError(f"{source} has no image with segments" + (f": {problems.first()}" if problems.lines else ""))
    stuff = tuple(name for name in classes if name in told)
    return PanopticData(f"{PREFIX}:{source}", classes, stuff, gathered, problems.settle(), digest_files(source))


def _short(name: Any) -> Any:
    return ENDING.sub("", name) if isinstance(name, str) else name


def _find_file(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WhyboxError(f"no panoptic annotations at {path}: give a JSON file or a folder that holds one")
    for place in (path, path / "annotations"):
        files = [file for file in sorted(place.glob("*.json")) if "panoptic" in file.stem and split in file.stem]
        if len(files) == 1:
            return files[0]
    raise MissingSplitError(f"no single panoptic file for the split {split!r} in {path}; name another split, or the file itself")


def _gather(
    rows: Sequence[Any], entries: Mapping[str, ImageEntry], labels: Mapping[str, int], drawn: Path, problems: Problems
) -> Iterator[PanopticImage]:
    by_image = {id_in(row, "image_id"): row for row in rows}
    for number, entry in entries.items():
        where = f"image {entry.name!r} (id {number})"
        row = by_image.get(number)
        if row is None or not isinstance(row.get("segments_info"), list):
            problems.note(where, "no segments: left out")
            continue
        read = []
        for position, segment in enumerate(row["segments_info"], start=1):
            try:
                read.append(_read_segment(segment, labels))
            except Broken as reason:
                problems.note(f"{where}, segment {position}", f"{reason}: left out")
        numbers, kinds, crowds = zip(*read, strict=True) if read else ((), (), ())
        file = row.get("file_name")
        name = file if isinstance(file, str) and file else f"{Path(entry.name).stem}.png"
        yield PanopticImage(entry, drawn / name, numbers, kinds, crowds)


def _read_segment(segment: Any, labels: Mapping[str, int]) -> tuple[int, int, bool]:
    """Number, label and whether it is a crowd."""
    number, category = id_in(segment, "id"), id_in(segment, "category_id")
    if number is None or not number.isdecimal():
        raise Broken("its id is no whole number")
    if category is None or category not in labels:
        raise Broken(f"no category has the id {category}")
    return int(number), labels[category], read_flag(segment.get("iscrowd"), "iscrowd")


def _read_numbers(file: Path) -> NDArray[np.int64]:
    """(H,W) the segment number of every pixel, 0 for none."""
    try:
        with Image.open(file) as picture:
            colors = np.asarray(picture.convert("RGB"), dtype=np.int64)
    # ImportError: see `data.images`.
    except (OSError, ImportError, ValueError) as error:
        raise WhyboxError(f"the segments {file} cannot be read: {error}") from error
    numbers: NDArray[np.int64] = colors @ np.array([1, 256, 65536])
    return numbers
