"""What an evaluation found, as tables: one row an object, method and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.explained import class_name
from whybox.files import json_text, new_file, write_whole
from whybox.runs.evaluation.measure import ImageRecord

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Results:
    """N explained objects of all images, in order.

    rows, columns: the plan's methods and metrics. objects: N dicts: image, index, label, class, score, box, annotation,
    iou, truth_box, place (in its image). values: (rows, columns, N), NaN where a metric is not defined. curves: by
    (row, column), (N,P) with NaN rows; at: by column, (P,). seconds: by row, of one map.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    objects: tuple[Mapping[str, Any], ...]
    values: Floats
    curves: Mapping[tuple[str, str], Floats]
    at: Mapping[str, Floats]
    seconds: Mapping[str, float]

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def images(self) -> NDArray[np.int64]:
        """(N,) the number of the image of each object."""
        return np.asarray([one["index"] for one in self.objects], dtype=np.int64)

    def common(self, column: str) -> NDArray[np.bool_]:
        """(N,) the objects on which the metric is defined for every method that has it at all, as the ODAM paper compares."""
        values = self.values[:, self.columns.index(column)]
        known = np.isfinite(values)
        some = known.any(1)
        return np.asarray(known[some].all(0) & some.any(), dtype=np.bool_)

    def of(self, row: str, column: str) -> Floats:
        """(N,) one method's values of one metric."""
        picked: Floats = self.values[self.rows.index(row), self.columns.index(column)]
        return picked


def gather(records: Sequence[ImageRecord], rows: Sequence[str], columns: Sequence[str], classes: Sequence[str] | None) -> Results:
    """All images' results as one table."""
    measured = [record for record in records if record.get("objects")]
    objects = tuple(_object(record, place, classes) for record in measured for place in range(len(record["objects"])))
    values = np.full((len(rows), len(columns), len(objects)), np.nan)
    at: dict[str, Floats] = {}
    curves: dict[tuple[str, str], Floats] = {}
    start = 0
    for record in measured:
        stop = start + len(record["objects"])
        for r, row in enumerate(rows):
            for c, column in enumerate(columns):
                found = record["rows"][row]["metrics"].get(column)
                if found is None:
                    continue
                values[r, c, start:stop] = found["values"]
                if "curves" in found:
                    at.setdefault(column, found["at"])
                    if (row, column) not in curves:
                        curves[row, column] = np.full((len(objects), len(found["at"])), np.nan)
                    curves[row, column][start:stop] = found["curves"]
        start = stop
    return Results(tuple(rows), tuple(columns), objects, values, curves, at, _seconds(measured, rows))


def _object(record: ImageRecord, place: int, classes: Sequence[str] | None) -> dict[str, Any]:
    one = record["objects"][place]
    return {"image": record["image"], "index": record["index"], "place": place, "class": class_name(one["label"], classes), **one}


def _seconds(records: Sequence[ImageRecord], rows: Sequence[str]) -> dict[str, float]:
    """Median over the images of the seconds that one map took."""
    each = {row: [record["rows"][row]["seconds"] / len(record["objects"]) for record in records] for row in rows}
    return {row: float(np.median(times)) for row, times in each.items() if times}


def write_parquet(results: Results, folder: Path) -> None:
    """results.parquet, one row an object, method and metric; curves.parquet, one an object, method and metric with a curve."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    long = _long(results)
    with new_file(folder / "results.parquet") as draft:
        pq.write_table(pa.table(long), draft, compression="zstd")
    with new_file(folder / "curves.parquet") as draft:
        pq.write_table(_long_curves(results), draft, compression="zstd")


def _long(results: Results) -> dict[str, Any]:
    """Columns of the long table, object by object."""
    import pyarrow as pa

    count, rows, columns = len(results), len(results.rows), len(results.columns)
    each = rows * columns
    of_object: dict[str, Any] = {}
    for name in ("image", "class", "annotation"):
        texts = [one[name] for one in results.objects]
        of_object[name] = pa.array([text for text in texts for _ in range(each)], pa.string())
    for name in ("index", "place", "label"):
        of_object[name] = np.repeat(np.asarray([one[name] for one in results.objects], dtype=np.int32), each)
    for name in ("score", "iou"):
        numbers = [np.nan if one[name] is None else one[name] for one in results.objects]
        of_object[name] = np.repeat(np.asarray(numbers, dtype=np.float64), each)
    for side, name in enumerate(("x1", "y1", "x2", "y2")):
        of_object[name] = np.repeat(np.asarray([one["box"][side] for one in results.objects], dtype=np.float64), each)
    methods = [row for row in results.rows for _ in results.columns] * count
    metrics = list(results.columns) * (rows * count)
    values = results.values.transpose(2, 0, 1).reshape(-1)
    return {**of_object, "method": pa.array(methods, pa.string()), "metric": pa.array(metrics, pa.string()), "value": values}


def _long_curves(results: Results) -> Any:
    """A table a row, method and metric with curves; built of arrays, since lists of numbers would take ten times the memory."""
    import pyarrow as pa

    images = pa.array([one["image"] for one in results.objects], pa.string())
    index = pa.array(results.images, pa.int32())
    place = pa.array([one["place"] for one in results.objects], pa.int32())
    names = ("image", "index", "place", "method", "metric", "at", "values")
    kinds = (pa.string(), pa.int32(), pa.int32(), pa.string(), pa.string(), pa.list_(pa.float64()), pa.list_(pa.float64()))
    parts = []
    for (row, column), curves in results.curves.items():
        at = np.broadcast_to(results.at[column], curves.shape)
        words = [pa.array([word] * len(results), pa.string()) for word in (row, column)]
        parts.append(pa.table([images, index, place, *words, _lists(at), _lists(curves)], list(names)))
    return pa.concat_tables(parts) if parts else pa.schema(list(zip(names, kinds, strict=True))).empty_table()


def _lists(rows: Floats) -> Any:
    """(N,P) as N lists."""
    import pyarrow as pa

    ends = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.ascontiguousarray(rows).ravel()))


def write_json(value: Any, file: Path) -> None:
    """Plain values as a JSON file; numbers that JSON lacks become null."""
    write_whole(file, json_text(value))
