"""Recordings of a pointer over a blurred picture, a trial a line of JSON; docs/attention.md has the form.

A click uncovers a disc (BubbleView), or a lens follows the pointer (MouseView). What is uncovered is what is looked at: a click
holds until the next one; of a lens, the fixations are the times in which it stays in one place.

Source: Kim et al., "BubbleView", ACM TOCHI 2017; Anwyl-Irvine et al., "MouseView.js", Behavior Research Methods 2022;
fixations of a lens by dispersion: Salvucci and Goldberg, "Identifying fixations and saccades in eye-tracking protocols", ETRA
2000 (I-DT).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whybox.data._fields import read_number, read_numbers
from whybox.data._looks import Annotated, Floats, Look, from_screen
from whybox.data._problems import Broken, Problems, shown
from whybox.errors import WhyboxError, unknown
from whybox.frame import OnScreen

FORMAT = "whybox-pointer/1"
KINDS = ("click", "lens")
SIMULATED = "simulated"
"""What `respondents` is where `whybox study simulate` made a recording."""
KEYS = ("participant", "image", "shown", "samples", "end")
SHORTEST = 0.1
"""Seconds: a lens that stays for less is passing by. The least duration of a fixation in Salvucci and Goldberg."""


def read_pointer(file: Path, annotated: Annotated, problems: Problems) -> Iterator[Look]:
    """Read a file of recordings. That respondents were simulated, and nobody looked, is a problem of the file.

    Args:
        file: The file, a trial a line.
        annotated: The images and objects of the data set.
        problems: Gets a line per trial that cannot be used.

    Yields:
        A look per trial.

    Raises:
        WhyboxError: The file cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise WhyboxError(f"cannot read {file}: {error}") from error
    simulated = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = _read_entry(line)
            simulated += entry.get("respondents") == SIMULATED
            yield _read_trial(entry, number, annotated)
        except Broken as reason:
            problems.note(f"line {number}", reason, file)
    if simulated:
        problems.note(f"{simulated} recordings", "of simulated respondents: nobody looked", file)


def _read_entry(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Broken(f"no JSON ({error})") from None
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        raise Broken(f"expected a trial with format {FORMAT!r}, got {shown(entry)}")
    return entry


def _read_trial(entry: Mapping[str, Any], number: int, annotated: Annotated) -> Look:
    if missing := [key for key in KEYS if key not in entry]:
        raise Broken(f"lacks {', '.join(missing)}")
    if entry.get("kind") not in KINDS:
        raise Broken(unknown("kind", str(entry.get("kind")), KINDS))
    row = None if entry.get("annotation_id") is None else annotated.object_in(entry["annotation_id"], entry["image"])
    image = annotated.image(entry["image"]) if row is None else row.image
    place = read_numbers(entry["shown"], "shown")
    try:
        shown_at = OnScreen(*place.tolist())
    except (TypeError, ValueError):
        raise Broken(f"shown must be [left, top, width, height] of the picture, got {shown(entry['shown'])}") from None
    samples, end = _read_samples(entry)
    points = clicks(samples, end) if entry["kind"] == "click" else dwells(samples, end, _radius(entry))
    where = f"line {number} (participant {entry['participant']}, {image.name})"
    return Look(where, image, None if row is None else row.id, str(entry["participant"]), from_screen(points, shown_at, image))


def _radius(entry: Mapping[str, Any]) -> float:
    radius = read_number(entry.get("radius"), "radius")
    if not radius > 0:
        raise Broken(f"radius must be above 0, got {radius:g}")
    return radius


def _read_samples(entry: Mapping[str, Any]) -> tuple[Floats, float]:
    """(S,3) seconds, x, y in page pixels, NaN where the pointer is off the picture; and when the trial ended."""
    if not isinstance(entry["samples"], list):
        raise Broken(f"samples must be a list of [milliseconds, x, y], got {shown(entry['samples'])}")
    rows = []
    for sample in entry["samples"]:
        if isinstance(sample, list) and len(sample) == 3 and sample[1:] == [None, None]:
            rows.append([read_number(sample[0], "a time"), np.nan, np.nan])
            continue
        numbers = read_numbers(sample, "a sample")
        if len(numbers) != 3:
            raise Broken(f"a sample must be [milliseconds, x, y], got {shown(sample)}")
        rows.append(numbers.tolist())
    samples, end = np.asarray(rows, dtype=np.float64).reshape(-1, 3), read_number(entry["end"], "end") / 1000
    samples[:, 0] /= 1000
    if (np.diff(np.append(samples[:, 0], end)) < 0).any():
        raise Broken("the times of samples and end must not go back")
    return samples, end


def clicks(samples: Floats, end: float) -> Floats:
    """The fixations of clicks that uncover a disc each.

    Args:
        samples: (S,3) the seconds, x and y of each click; NaN where the disc was covered again.
        end: When the trial ended, in seconds.

    Returns:
        (F,3) x, y and the seconds until the next click.
    """
    lasted = np.diff(np.append(samples[:, 0], end))
    return np.column_stack([samples[:, 1:], lasted])[~np.isnan(samples[:, 1])]


def dwells(samples: Floats, end: float, reach: float) -> Floats:
    """The fixations of a lens, by dispersion: the longest times in which its width and height of travel sum to at most `reach`.

    Source: Salvucci and Goldberg 2000, I-DT.

    Args:
        samples: (S,3) seconds, x and y of the lens, NaN where it is off the picture. A lens that does not move gives no sample,
            so each one holds until the next.
        end: When the trial ended, in seconds.
        reach: The largest dispersion, the lens's radius, in the unit of x and y.

    Returns:
        (F,3) x, y, the mean over the time, and seconds; none shorter than `SHORTEST`.
    """
    until, found, first = np.append(samples[1:, 0], end), [], 0
    while first < len(samples):
        last = _stays(samples, first, reach)
        start, stop = samples[first, 0], until[last - 1] if last > first else samples[first, 0]
        if stop - start < SHORTEST:
            first += 1
            continue
        lasted = until[first:last] - samples[first:last, 0]
        x, y = lasted @ samples[first:last, 1:] / lasted.sum()
        found.append([x, y, stop - start])
        first = last
    return np.asarray(found, dtype=np.float64).reshape(-1, 3)


def _stays(samples: Floats, first: int, reach: float) -> int:
    """The index of the first sample from `first` on with which the lens has left its place."""
    low = high = samples[first, 1:]
    for index in range(first, len(samples)):
        low, high = np.minimum(low, samples[index, 1:]), np.maximum(high, samples[index, 1:])
        # NaN, off the picture, is not at most anything.
        if not (high - low).sum() <= reach:
            return index
    return len(samples)
