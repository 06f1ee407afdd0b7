"""The scores of a model from its records: every measure's values, one per region, object, image or caption, and their means."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.accuracy.region_classes import DEPTHS as CLASS_DEPTHS
from whybox.accuracy.region_classes import Places
from whybox.accuracy.retrieval import DEPTHS, retrieve
from whybox.runs.clip_scores.folder import Record, ScoreFolder
from whybox.runs.clip_scores.intervals import GroupMean, bootstrap_groups
from whybox.runs.clip_scores.tasks import unpack

PLURAL = {"box": "boxes", "mask": "masks", "whole": "classification"}


@dataclass(frozen=True)
class Values:
    """The n values of a measure, 0 to 1.

    Attributes:
        title: The measure in words.
        task: Its task.
        values: (n,) a fraction only where equal similarities decide.
        images: (n,) the image of each.
        ids: (n,) what it is of in its image.
        groups: (n,) the groups whose means are averaged: classes, or all in one.
    """

    title: str
    task: str
    values: NDArray[np.float64]
    images: tuple[str, ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]

    def mean(self, seed: int = 0) -> GroupMean:
        """The mean with a 95 % interval over images."""
        return bootstrap_groups(self.values, self.images, self.groups, seed=seed)


@dataclass(frozen=True)
class ClipScores:
    """The scores of one model on one data set.

    Attributes:
        folder: The records.
        images: The names of the images that count.
        failed: (image, reason) of each that could not be scored.
        remarks: What a reader has to know, one sentence each.
    """

    folder: ScoreFolder
    images: tuple[str, ...]
    failed: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = field(default=())

    @property
    def mark(self) -> Mapping[str, Any]:
        """Model, data and settings, as in run.json."""
        return self.folder.mark

    def scored(self, task: str) -> tuple[str, ...]:
        """The images that have a record of a task."""
        return tuple(name for name in self.images if name in self.folder.records[task])

    def values(self, images: Mapping[str, Sequence[str]] | None = None) -> dict[str, Values]:
        """The values of every measure.

        Args:
            images: The images to use, by task; None: all. Retrieval then looks among these alone.

        Returns:
            By the measure's key: "boxes_top1", "masks_stuff_macro_top5", "t2i_r1", "classification_top1" ...
        """
        chosen = dict.fromkeys(self.folder.records, self.images) if images is None else images
        found = [
            *self._of_classes("regions", self.folder.of("regions", chosen.get("regions", ()))),
            *_of_retrieval(self.folder.of("retrieval", chosen.get("retrieval", ()))),
            *self._of_classes("classification", self.folder.of("classification", chosen.get("classification", ()))),
        ]
        return dict(found)

    def _of_classes(self, task: str, records: Sequence[Record]) -> Iterator[tuple[str, Values]]:
        stuff = set(self.mark.get("stuff") or ())
        kinds = ("box", "mask") if task == "regions" else ("whole",)
        rows = [(record["image"], row) for record in records for row in record["regions" if task == "regions" else "objects"]]
        for kind in kinds:
            placed = [(image, row) for image, row in rows if row[kind] is not None]
            parts = {"": placed}
            if stuff and task == "regions":
                parts |= {
                    "things": [(image, row) for image, row in placed if row["class"] not in stuff],
                    "stuff": [(image, row) for image, row in placed if row["class"] in stuff],
                }
            for part, chosen in parts.items():
                if chosen:
                    yield from _of_part(task, PLURAL[kind], part, kind, chosen)

    def as_dict(self, seed: int = 0) -> dict[str, Any]:
        """The numbers and settings as plain values: the contents of scores.json."""
        about = {name: self.mark.get(name) for name in ("model", "data", "templates", "stuff")}
        measures = {key: _plain(values, seed) for key, values in self.values().items()}
        failed = [{"image": image, "error": reason} for image, reason in self.failed]
        return {**about, "images": len(self.images), "measures": measures, "failed": failed, "remarks": list(self.remarks)}

    def table(self, seed: int = 0) -> tuple[list[str], list[list[str]]]:
        """Columns and rows to print: measure, percent, interval, values, images."""
        rows = []
        for values in self.values().values():
            mean, counts = values.mean(seed), (len(values.values), len(set(values.images)))
            rows.append([values.title, percent(mean.mean), interval(mean.low, mean.high), *map(str, counts)])
        return ["measure", "%", "95 % interval", "values", "images"], rows


def read_scores(folder: str | Path) -> ClipScores:
    """Read what `whybox score-clip` wrote.

    Args:
        folder: Its --out.

    Returns:
        The scores of all images there.

    Raises:
        WhyboxError: It is no such folder.
    """
    read = ScoreFolder.read(Path(folder))
    return ClipScores(read, tuple(dict.fromkeys(name for records in read.records.values() for name in records)))


def percent(value: float) -> str:
    """A share in percent, with one digit; "-" where it is not defined."""
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def interval(low: float, high: float) -> str:
    """An interval in percent; "-" where it is not defined."""
    return f"{percent(low)} to {percent(high)}" if np.isfinite(low) else "-"


def _plain(values: Values, seed: int) -> dict[str, Any]:
    mean = values.mean(seed)
    counts = {"values": len(values.values), "images": len(set(values.images)), "groups": len(set(values.groups))}
    return {"title": values.title, "mean": mean.mean, "low": mean.low, "high": mean.high, **counts}


def _of_part(
    task: str, what: str, part: str, kind: str, rows: Sequence[tuple[str, Mapping[str, Any]]]
) -> Iterator[tuple[str, Values]]:
    above, tied = (np.array([row[kind][name] for _, row in rows], dtype=np.int64) for name in ("above", "tied"))
    places = Places(above, tied, np.ones(len(rows), dtype=np.int64))
    images, ids = tuple(image for image, _ in rows), tuple(row["id"] for _, row in rows)
    classes = tuple(row["class"] for _, row in rows)
    begin, words = "_".join(filter(None, (what, part))), ", ".join(filter(None, (what, part)))
    for name, title, groups in (("", "", ("",) * len(rows)), ("macro_", "mean over classes of ", classes)):
        for depth in CLASS_DEPTHS:
            told = f"{words}: {title}top-{depth}"
            yield f"{begin}_{name}top{depth}", Values(told, task, places.hits(depth), images, ids, groups)


def _of_retrieval(records: Sequence[Record]) -> Iterator[tuple[str, Values]]:
    if not records:
        return
    images = tuple(record["image"] for record in records)
    texts = [text for record in records for text in record["captions"]]
    seen = np.concatenate([unpack(record["embedding"], 1) for record in records])
    read = np.concatenate([unpack(record["texts"], len(record["captions"])) for record in records])
    found = retrieve(seen @ read.T, _belongs([record["captions"] for record in records], texts))
    owners = tuple(record["image"] for record in records for _ in record["captions"])
    numbers = tuple(str(number) for record in records for number in range(len(record["captions"])))
    ways = [("t2i", "text to image", found.to_images, owners, numbers)]
    ways.append(("i2t", "image to text", found.to_texts, images, ("",) * len(images)))
    for way, words, places, of_image, ids in ways:
        for depth in DEPTHS:
            values = Values(f"{words}: R@{depth}", "retrieval", places.hits(depth), of_image, ids, ("",) * len(ids))
            yield f"{way}_r{depth}", values


def _belongs(captions: Sequence[Sequence[str]], texts: Sequence[str]) -> NDArray[np.bool_]:
    """(I,T) which texts are an image's: a text that several images have is right for each of them."""
    columns: dict[str, list[int]] = {}
    for column, text in enumerate(texts):
        columns.setdefault(text, []).append(column)
    belongs = np.zeros((len(captions), len(texts)), dtype=bool)
    for row, own in enumerate(captions):
        for text in own:
            belongs[row, columns[text]] = True
    return belongs
