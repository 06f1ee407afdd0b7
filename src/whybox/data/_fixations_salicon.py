"""SALICON's fixations as published: a .mat file per image, or one JSON file in COCO's form.

A .mat file holds `gaze`, an entry per person with `fixations` (F,2), columns and rows counted from 1, and `resolution`
(height, width). The JSON file holds an annotation per person with `worker_id`, `image_id` and `fixations` [[x, y], ...], pixels
counted from 0. Neither has durations, so every fixation weighs the same; and nobody was to look for an object.

Source: Jiang, Huang, Duan, Zhao, "SALICON: Saliency in Context", CVPR 2015; the JSON form: github.com/NUS-VIP/salicon-evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whybox.data._coco_images import ImageEntry
from whybox.data._fields import read_id, read_numbers
from whybox.data._looks import Annotated, Floats, Look, from_screen
from whybox.data._problems import Broken, Problems, shown
from whybox.errors import WhyboxError
from whybox.frame import OnScreen

UNTIMED = 1.0
"""The duration of a fixation without one."""
CENTER = 0.5
"""A pixel's center, in pixels from its edge."""


def read_salicon_folder(folder: Path, annotated: Annotated, problems: Problems) -> tuple[Iterator[Look], tuple[Path, ...]]:
    """Read the .mat files of a folder that are of the data set's images.

    Args:
        folder: The folder.
        annotated: The images and objects of the data set.
        problems: Gets a line per file or person that cannot be used.

    Returns:
        A look per person and image, and the files.

    Raises:
        WhyboxError: The folder holds no .mat file of an image of the data set.
    """
    files = []
    for file in sorted(folder.glob("*.mat")):
        try:
            if annotated.find(file.name) is not None:
                files.append(file)
        except Broken as reason:
            problems.note("its name", reason, file)
    if not files:
        raise WhyboxError(f"{folder} holds no .mat file that is named like an image of the data set")
    return (look for file in files for look in read_salicon_mat(file, annotated, problems)), tuple(files)


def read_salicon_mat(file: Path, annotated: Annotated, problems: Problems) -> Iterator[Look]:
    """Read one .mat file, named like its image.

    Args:
        file: The file.
        annotated: The images and objects of the data set.
        problems: Gets a line per person that cannot be used, or one for the file.

    Yields:
        A look per person. People have no names, so that those of two images are never the same.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(file, simplify_cells=True)
    # Whatever SciPy's parser raises on a file that is none, or of MATLAB's later form.
    except Exception as error:
        problems.note("the file", f"cannot be read as a .mat file ({str(error) or type(error).__name__})", file)
        return
    try:
        image = annotated.image(file.name)
        people, shape = _people(content), _resolution(content)
    except Broken as reason:
        problems.note("the file", reason, file)
        return
    for number, person in enumerate(people, start=1):
        where = f"person {number}"
        try:
            # MATLAB counts from 1: its pixel 1 has its center at 0.5.
            points = _scaled(_untimed(_pairs(person) - 1 + CENTER), shape, image)
        except Broken as reason:
            problems.note(where, reason, file)
            continue
        yield Look(where, image, None, f"{image.name}/{number}", points)


def _people(content: Mapping[str, Any]) -> Sequence[Any]:
    gaze = content.get("gaze")
    if gaze is None:
        raise Broken(f"expected the variable gaze, got {shown(sorted(name for name in content if not name.startswith('_')))}")
    # Of one person, SciPy gives the struct and not a list of one.
    return [gaze] if isinstance(gaze, dict) else list(np.ravel(gaze))


def _resolution(content: Mapping[str, Any]) -> tuple[float, float] | None:
    if content.get("resolution") is None:
        return None
    numbers = np.ravel(content["resolution"])
    if len(numbers) != 2 or not all(float(number) > 0 for number in numbers):
        raise Broken(f"resolution must be height and width, got {shown(numbers.tolist())}")
    return float(numbers[0]), float(numbers[1])


def _pairs(person: Any) -> Floats:
    """(F,2) columns and rows of the fixations of one person."""
    if not isinstance(person, dict) or "fixations" not in person:
        raise Broken(f"expected the field fixations, got {shown(sorted(person) if isinstance(person, dict) else person)}")
    try:
        numbers = np.asarray(person["fixations"], dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.asarray(np.nan)
    # Of one fixation, SciPy gives (2,), and of none (0,).
    if numbers.size == 0 or numbers.shape == (2,):
        numbers = numbers.reshape(-1, 2)
    if numbers.ndim != 2 or numbers.shape[1] != 2 or not np.isfinite(numbers).all():
        raise Broken(f"fixations must be (F,2), columns and rows, got {shown(person['fixations'])}")
    return numbers


def _scaled(points: Floats, shape: tuple[float, float] | None, image: ImageEntry) -> Floats:
    """Points in pixels of a picture of another size (height, width), such as a smaller one that was shown."""
    if shape is None or shape == (image.size[1], image.size[0]):
        return points
    try:
        return from_screen(points, OnScreen(0.0, 0.0, shape[1], shape[0]), image)
    except ValueError:
        raise Broken(f"the picture's size must be above 0, got {shape[1]:g}x{shape[0]:g}") from None


def _untimed(pairs: Floats) -> Floats:
    return np.column_stack([pairs, np.full(len(pairs), UNTIMED)])


def read_salicon_json(file: Path, content: Mapping[str, Any], annotated: Annotated, problems: Problems) -> Iterator[Look]:
    """Read a JSON file.

    Args:
        file: The file, for problems.
        content: Its content.
        annotated: The images and objects of the data set; annotations of other images are left out.
        problems: Gets a line per annotation that cannot be used.

    Yields:
        A look per annotation.

    Raises:
        WhyboxError: It holds no list of annotations, or the data set has none of the images.
    """
    if not isinstance(content["annotations"], list) or not isinstance(content["images"], list):
        raise WhyboxError(f"{file}: expected lists of annotations and images, as SALICON's files have them")
    images = {read_id(entry.get("id")): entry for entry in content["images"] if isinstance(entry, dict)}
    known = 0
    for position, entry in enumerate(content["annotations"], start=1):
        where = f"annotation {position}"
        try:
            if not isinstance(entry, dict) or "fixations" not in entry:
                raise Broken(f"expected image_id, worker_id and fixations, got {shown(entry)}")
            described = images.get(read_id(entry.get("image_id")), {})
            image = annotated.find(described.get("file_name", entry.get("image_id")))
            if image is None:
                continue
            known += 1
            if wrong := [pair for pair in entry["fixations"] if not isinstance(pair, list) or len(pair) != 2]:
                raise Broken(f"a fixation must be [x, y], got {shown(wrong[0])}")
            # All at once: a file holds millions.
            numbers = read_numbers([number for pair in entry["fixations"] for number in pair], "fixations")
            shape = (float(described["height"]), float(described["width"])) if {"height", "width"} <= described.keys() else None
            points = _scaled(_untimed(numbers.reshape(-1, 2) + CENTER), shape, image)
        except (Broken, TypeError, ValueError) as reason:
            problems.note(where, reason, file)
            continue
        yield Look(where, image, None, f"worker {entry.get('worker_id', position)}", points)
    if not known:
        raise WhyboxError(f"{file}: the data set has none of its {len(images)} images")
