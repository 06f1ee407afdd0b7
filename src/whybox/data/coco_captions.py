"""Images with captions in COCO's JSON format: "coco-captions:FOLDER", "coco-captions:FOLDER:split=val"."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from whybox.data._coco_files import SPLITS, caption_in, file_name, image_folder
from whybox.data._fields import id_in, read_json
from whybox.data._pictures import PictureFolder
from whybox.data._problems import Broken, Problems, digest_files, shown
from whybox.data.images import read_picture
from whybox.errors import MissingSplitError, WhyboxError
from whybox.truth import Sample, Truth

PREFIX = "coco-captions"


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its captions.

    Attributes:
        name: The name of its file, relative to the folder of the images.
        path: The picture's file.
        captions: At least one, as they are written.
    """

    name: str
    path: Path
    captions: tuple[str, ...]

    def image(self) -> Image.Image:
        """Read the picture, in RGB.

        Raises:
            ImageError: It cannot be read.
        """
        return read_picture(self.path)


@dataclass(frozen=True)
class CaptionedImages:
    """The images of a file that have captions: a data set without classes and annotated objects.

    Attributes:
        name: "coco-captions:" and the file.
        images: In the order of the file.
        problems: One line on everything that was left out.
        digest: A digest of the file.
        classes: None.
    """

    name: str
    images: tuple[CaptionedImage, ...]
    problems: tuple[str, ...] = ()
    digest: str = ""
    classes: tuple[str, ...] = ()

    @property
    def names(self) -> Sequence[str]:
        """The names of the images."""
        return [image.name for image in self.images]

    @property
    def captions(self) -> Sequence[tuple[str, ...]]:
        """The captions of each image, at least one."""
        return [image.captions for image in self.images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        nothing = torch.zeros(0, dtype=torch.long)
        truth = Truth(torch.zeros(0, 4), nothing, (), nothing.bool())
        return Sample(self.images[index].name, self.images[index].image(), truth)


def open_data(rest: str, *, on_problem: str = "skip", split: str = "val", images: Path | None = None) -> CaptionedImages:
    """Open the data set "coco-captions:REST".

    Args:
        rest: A folder or a file of captions.
        on_problem: As for `read_captions`.
        split: As for `read_captions`.
        images: As for `read_captions`.

    Returns:
        The data set.

    Raises:
        WhyboxError: As for `read_captions`, or `rest` is empty.
    """
    if not rest:
        raise WhyboxError(f"{PREFIX} needs a place: {PREFIX}:FOLDER or {PREFIX}:FILE.json")
    return read_captions(rest, split, images=images, on_problem=on_problem)


def read_captions(
    path: str | Path, split: str = "val", *, images: Path | None = None, on_problem: str = "skip"
) -> CaptionedImages:
    """Read the captions of a file, or of a folder that holds one.

    In a folder the file is the only one with "captions" in its name, or the only such one with the split's name
    ("captions_val2017.json"), there or below `annotations/`.

    Args:
        path: A file of captions, or its folder.
        split: Which of a folder's files to read.
        images: The folder of the images; by default they are looked for as for `read_coco`.
        on_problem: "skip" leaves out what is broken, "refuse" stops at it.

    Returns:
        The images that have a picture and a caption.

    Raises:
        MissingSplitError: The folder has no single file of captions for this split.
        WhyboxError: The file cannot be read, or has no captions or no images that can be used, or there are problems and they are
            to be refused.
    """
    source = _find(Path(path).expanduser(), split)
    problems = Problems(source, on_problem)
    content = read_json(source)
    listed, annotations = (_rows(content, key, source) for key in ("images", "annotations"))
    captions = _captions(annotations, problems)
    if not captions:
        raise WhyboxError(f"{source} holds no captions: its annotations need image_id and caption")
    pictures = PictureFolder(images.expanduser() if images else image_folder(source, listed, split))
    found = tuple(_images(listed, captions, pictures, problems))
    if not found:
        raise WhyboxError(f"none of the {len(listed)} images of {source} can be used: {problems.first()}")
    return CaptionedImages(f"{PREFIX}:{source}", found, problems.settle(), digest_files(source))


def _find(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise WhyboxError(f"no captions at {path}: give a JSON file, or a folder that holds one")
    for place in (path, path / "annotations"):
        files = [file for file in sorted(place.glob("*.json")) if "captions" in file.stem]
        of_split = [file for file in files if split in file.stem]
        if len(of_split) == 1:
            return of_split[0]
        # A lone file needs no split in its name, but a lone captions_train.json is no answer to "val".
        if len(files) == 1 and not any(other in files[0].stem for other in SPLITS):
            return files[0]
    raise MissingSplitError(f"no single captions*.json for the split {split!r} in {path}; name another split, or the file itself")


def _rows(content: Any, key: str, source: Path) -> list[Any]:
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not rows:
        raise WhyboxError(f"{source} is not in COCO's format of captions: it lacks a list of {key}")
    return rows


def _captions(annotations: Sequence[Any], problems: Problems) -> dict[str, list[str]]:
    """The captions by the image's id."""
    captions: dict[str, list[str]] = defaultdict(list)
    for position, row in enumerate(annotations, start=1):
        if (read := caption_in(row)) is None:
            text = row.get("caption") if isinstance(row, dict) else None
            problems.note(f"annotation number {position}", f"no image_id or no caption but {shown(text)}; left out")
        else:
            captions[read[0]].append(read[1])
    return captions


def _images(listed: Sequence[Any], captions: dict[str, list[str]], pictures: PictureFolder, problems: Problems) -> Any:
    """The usable images; each other is a problem."""
    seen: set[str] = set()
    for position, entry in enumerate(listed, start=1):
        number, name = id_in(entry, "id"), file_name(entry) if isinstance(entry, dict) else ""
        where = f"image {shown(name)} (id {number})" if name else f"image number {position}"
        try:
            if number is None or not name:
                raise Broken("no id or no file_name")
            if number in seen:
                raise Broken("its id is there already")
            seen.add(number)
            if number not in captions:
                raise Broken("no caption")
            path = pictures.folder / pictures.find(name)
        except Broken as reason:
            problems.note(where, f"{reason}; left out")
            continue
        yield CaptionedImage(name, path, tuple(captions[number]))
