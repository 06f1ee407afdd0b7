"""What a COCO data set says beside boxes and masks: captions of its images, and which of its classes are stuff."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from whybox.data._coco_files import caption_in, file_name
from whybox.data._fields import id_in, read_flag, read_json
from whybox.data._problems import Broken
from whybox.errors import WhyboxError


def find_captions(annotations: Path) -> Path | None:
    """Find the captions that belong to an annotation file.

    Args:
        annotations: The file with the boxes: "annotations/instances_val2017.json", "val.json".

    Returns:
        The file itself where it has captions; else "captions_val2017.json" or "captions_val.json" beside it or in
        `annotations/`, or the only file there whose name begins with "captions"; None where there is no such file.
    """
    if _captions(read_json(annotations)):
        return annotations
    split = annotations.stem.removeprefix("instances_").removeprefix("panoptic_")
    for folder in (annotations.parent, annotations.parent / "annotations"):
        files = sorted(folder.glob("captions*.json"))
        of_split = [file for file in files if file.stem.removeprefix("captions").strip("_-") == split]
        if found := of_split or (files if len(files) == 1 and files[0].stem == "captions" else []):
            return found[0]
    return None


def read_captions(file: Path, annotations: Path | None = None) -> dict[str, tuple[str, ...]]:
    """Read captions in COCO's format.

    Args:
        file: A JSON object with "annotations", a list of {"image_id": ..., "caption": ...}.
        annotations: Another file of the same images, whose "images" give names to ids where `file` has none.

    Returns:
        The captions by the image's file name, in the file's order; entries without a text or a known image are left out.

    Raises:
        WhyboxError: A file cannot be read, or there are no captions of images with a name.
    """
    content = read_json(file)
    rows = _captions(content)
    if not rows:
        raise WhyboxError(f'{file} has no captions: expected an object with "annotations", a list of image_id and caption')
    names = _names(content) or (_names(read_json(annotations)) if annotations else {})
    captions: dict[str, list[str]] = {}
    for number, text in rows:
        if number in names:
            captions.setdefault(names[number], []).append(text)
    if not captions:
        raise WhyboxError(f"{file} has captions, but no images with these ids: it needs the list images with id and file_name")
    return {name: tuple(texts) for name, texts in captions.items()}


def captions_of_images(captions: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> list[tuple[str, ...]]:
    """The captions of each image.

    Args:
        captions: The result of `read_captions`.
        names: N images' names.

    Returns:
        N entries; () for an image without. Names are compared whole, or else by their last part where only one image has it.
    """
    by_end: dict[str, list[str]] = {}
    for name in captions:
        by_end.setdefault(_end(name), []).append(name)
    found = []
    for name in names:
        same_end = by_end.get(_end(name), [])
        key = name if name in captions or len(same_end) != 1 else same_end[0]
        found.append(captions.get(key, ()))
    return found


def read_stuff(annotations: Path) -> frozenset[str] | None:
    """The classes of a COCO file that are stuff (sky, grass) and no things, by `isthing` of its categories.

    Args:
        annotations: The file.

    Returns:
        Their names; None where no category says what it is.

    Raises:
        WhyboxError: The file cannot be read, or an `isthing` is neither yes nor no.
    """
    content = read_json(annotations)
    listed = content.get("categories") if isinstance(content, dict) else None
    told = [row for row in listed if isinstance(row, dict) and "isthing" in row] if isinstance(listed, list) else []
    try:
        return frozenset(str(row.get("name")) for row in told if not read_flag(row["isthing"], "isthing")) if told else None
    except Broken as reason:
        raise WhyboxError(f"{annotations}: categories: {reason}") from None


def _captions(content: Any) -> list[tuple[str, str]]:
    """Each caption with its image's id."""
    listed = content.get("annotations") if isinstance(content, dict) else None
    return [read for row in listed if (read := caption_in(row)) is not None] if isinstance(listed, list) else []


def _names(content: Any) -> dict[str, str]:
    listed = content.get("images") if isinstance(content, dict) else None
    entries = [row for row in listed if isinstance(row, dict)] if isinstance(listed, list) else []
    pairs = [(id_in(entry, "id"), file_name(entry)) for entry in entries]
    return {number: name for number, name in pairs if number is not None and name}


def _end(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name
