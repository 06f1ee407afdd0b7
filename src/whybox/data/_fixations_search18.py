"""COCO-Search18's fixations as published: a JSON list, an entry per trial, in pixels of a screen of 1680x1050.

The pictures were resized to the screen with their aspect ratio kept, and padded (its readme.txt); the readme does not say on
which side. The target's box, which every entry holds in screen pixels, tells: of the two places, the one at which the boxes
fit the annotations better over the whole file is taken.

Source: Chen, Yang, Ahn, Samaras, Hoai, Zelinsky, "COCO-Search18 fixation dataset", Scientific Reports 2021.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from whybox.data._coco_images import ImageEntry
from whybox.data._coco_objects import ObjectEntry
from whybox.data._fields import read_box, read_numbers
from whybox.data._looks import Annotated, Floats, Look, from_screen, size_of
from whybox.data._problems import Broken, Problems, shown
from whybox.errors import WhyboxError
from whybox.frame import OnScreen
from whybox.ops.matching import pairwise_iou

SCREEN = (1050, 1680)
"""(height, width)"""
KEYS = frozenset({"name", "subject", "task", "X", "Y", "T"})
FITS = 0.5
"""The least IoU of a target's box and the annotation that it is."""


class Trial(NamedTuple):
    """One person's search; box (4,) xyxy of the target and points (F,3) in screen pixels, seconds."""

    where: str
    image: ImageEntry
    task: str
    person: str
    box: Floats
    points: Floats


def is_search18(content: Sequence[Any]) -> bool:
    """Whether a JSON list is a file of COCO-Search18."""
    return bool(content) and isinstance(content[0], dict) and content[0].keys() >= KEYS


def read_search18(file: Path, content: Sequence[Any], annotated: Annotated, problems: Problems) -> Iterator[Look]:
    """Read the trials whose target is in the picture and was found.

    The first fixation of each is left out: it was on the cross in the middle of the screen before the search began.

    Args:
        file: The file, for problems.
        content: Its content.
        annotated: The images and objects of the data set; trials of other images are left out.
        problems: Gets a line per trial that cannot be used.

    Yields:
        A look per trial.

    Raises:
        WhyboxError: The data set has none of the images.
    """
    trials = []
    for position, entry in enumerate(content, start=1):
        try:
            trial = _read_trial(entry, position, annotated)
        except Broken as reason:
            problems.note(f"entry {position}", reason, file)
            continue
        if trial is not None:
            trials.append(trial)
    if not trials:
        raise WhyboxError(f"{file}: no search of its {len(content)} with a target that was found is in an image of the data set")
    centered = _fit(trials, annotated, centered=True) >= _fit(trials, annotated, centered=False)
    for trial in trials:
        place = OnScreen.fitted(size_of(trial.image), SCREEN, centered=centered)
        row, overlap = _target(trial, place, annotated)
        if row is None or overlap < FITS:
            problems.note(trial.where, f"no annotation of class {trial.task!r} fits the target's box {trial.box.tolist()}", file)
            continue
        yield Look(trial.where, trial.image, row.id, trial.person, from_screen(trial.points, place, trial.image))


def _read_trial(entry: Any, position: int, annotated: Annotated) -> Trial | None:
    """A trial; None for one of another image, without the target, or with a wrong answer."""
    if not isinstance(entry, dict) or not entry.keys() >= KEYS:
        raise Broken(f"expected {', '.join(sorted(KEYS))}, got {shown(entry)}")
    image = annotated.find(entry["name"])
    if image is None or entry.get("condition", "present") != "present" or entry.get("correct", 1) == 0:
        return None
    columns = [read_numbers(entry[key], key) for key in ("X", "Y", "T")]
    if len({len(column) for column in columns}) > 1:
        raise Broken(f"X, Y and T must be of one length, got {[len(column) for column in columns]}")
    points = np.stack(columns, axis=1)[1:]
    points[:, 2] /= 1000
    where = f"entry {position} (subject {entry['subject']}, {image.name})"
    return Trial(where, image, str(entry["task"]), f"subject {entry['subject']}", read_box(entry, "bbox"), points)


def _fit(trials: Sequence[Trial], annotated: Annotated, *, centered: bool) -> float:
    """The mean IoU of the targets' boxes and the annotations that fit them best."""
    # A target once, and not once a subject.
    each: Mapping[Any, Trial] = {(trial.image.id, trial.task, *trial.box): trial for trial in trials}
    places = (OnScreen.fitted(size_of(trial.image), SCREEN, centered=centered) for trial in each.values())
    return float(np.mean([_target(trial, place, annotated)[1] for trial, place in zip(each.values(), places, strict=True)]))


def _target(trial: Trial, place: OnScreen, annotated: Annotated) -> tuple[ObjectEntry | None, float]:
    """The object of the task's class that fits the target's box best, and their IoU."""
    rows = [row for row in annotated.within(trial.image) if annotated.classes[row.label] == trial.task]
    if not rows:
        return None, 0.0
    corners = place.points_to_image(torch.from_numpy(trial.box.reshape(2, 2)), size_of(trial.image))
    overlaps = pairwise_iou(corners.reshape(1, 4), torch.from_numpy(np.stack([row.box for row in rows])))[0]
    best = int(overlaps.argmax())
    return rows[best], float(overlaps[best])
