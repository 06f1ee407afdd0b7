"""The files of a COCO data set: which annotation file, its content as a whole, and the folder of its images."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whybox.data._fields import id_in, read_json
from whybox.data._pictures import PictureFolder
from whybox.data._problems import shown
from whybox.errors import MissingSplitError, WhyboxError

SPLITS = ("train", "val", "test")


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


def read_content(source: Path) -> dict[str, Any]:
    """Read an annotation file.

    Args:
        source: The file.

    Returns:
        Its content, with lists of "images", "annotations" and "categories".

    Raises:
        WhyboxError: It cannot be read, is of another form, or lists no images.
    """
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


def image_folder(source: Path, listed: Sequence[Any], split: str) -> Path:
    """Find the folder of the images: the first likely one that holds an image of the file, by its name as written or else by the
    end of it.

    Args:
        source: The annotation file.
        listed: Its images.
        split: The split, which a folder may be named after.

    Returns:
        The folder.

    Raises:
        WhyboxError: No image is found in any of them.
    """
    above = source.parent
    later = source.stem.removeprefix("instances_").removeprefix("panoptic_").removeprefix("captions_")
    folders = [above / "images", above, *(above.parent / name for name in ("images", split, source.stem, later))]
    names = [name for entry in listed if isinstance(entry, dict) and (name := file_name(entry))]
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


def caption_in(row: Any) -> tuple[str, str] | None:
    """Read a caption.

    Args:
        row: An entry of the annotations.

    Returns:
        The image's id, and the text in one line; None where either is missing.
    """
    number, text = id_in(row, "image_id"), row.get("caption") if isinstance(row, dict) else None
    return (number, " ".join(text.split())) if number is not None and isinstance(text, str) and text.strip() else None


def file_name(entry: Mapping[str, Any]) -> str:
    """The name of an image's file.

    Args:
        entry: The image's entry.

    Returns:
        Its "file_name"; without one the last part of its address; "" for neither.
    """
    name, address = entry.get("file_name"), entry.get("coco_url")
    if name is None and isinstance(address, str):
        return address.rpartition("/")[2]
    return name if isinstance(name, str) else ""
