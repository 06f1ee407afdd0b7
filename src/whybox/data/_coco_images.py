"""The images that a COCO file lists: which can be used, and of what size they are."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from whybox.data._coco_files import file_name
from whybox.data._fields import id_in, read_number
from whybox.data._pictures import PictureFolder
from whybox.data._problems import Broken, Problems, shown
from whybox.data.images import stored_sizes
from whybox.errors import ImageError, WhyboxError


class ImageEntry(NamedTuple):
    """A usable entry of the file's images; size (W,H) in pixels."""

    id: str
    name: str
    size: tuple[int, int]
    path: Path


def read_images(content: Mapping[str, Any], pictures: PictureFolder, problems: Problems) -> dict[str, ImageEntry]:
    """Read the images that can be used.

    Args:
        content: The file's content.
        pictures: The folder of the images.
        problems: Where what is left out or repaired is noted.

    Returns:
        The usable images by id.

    Raises:
        WhyboxError: There is none.
    """
    # Counted beforehand, so that the line about an image that is left out can tell what goes with it.
    counts = Counter(id_in(row, "image_id") for row in content["annotations"])

    def leave_out(where: str, reason: object, number: str | None) -> None:
        count = 0 if number is None else counts[number]
        problems.note(where, f"{reason}; left out{f' with its {count} annotations' if count else ''}")

    read: dict[str, list[ImageEntry]] = defaultdict(list)
    for position, entry in enumerate(content["images"], start=1):
        where = _image_words(entry, position)
        try:
            image, repairs = _read_entry(entry, pictures)
        except Broken as reason:
            leave_out(where, reason, id_in(entry, "id"))
            continue
        read[image.id].append(image)
        for repair in repairs:
            problems.note(where, repair)
    entries, by_name = {}, dict[str, ImageEntry]()
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


def _read_entry(entry: Any, pictures: PictureFolder) -> tuple[ImageEntry, list[str]]:
    """An image, and a line on each thing that had to be repaired."""
    if not isinstance(entry, dict):
        raise Broken(f"no image entry: {shown(entry)}")
    number, name = id_in(entry, "id"), file_name(entry)
    if number is None:
        raise Broken(f"the id must be a number or a word, got {shown(entry.get('id'))}")
    if not name:
        raise Broken(f"no file_name but {shown(entry.get('file_name'))}")
    found = pictures.find(name)
    size, repair = _read_size(entry, pictures.folder / found)
    repairs = [] if found == name else [f"no such file in {pictures.folder}: read as {found!r}, the one file that fits"]
    return ImageEntry(number, found, size, pictures.folder / found), repairs + ([repair] if repair else [])


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
