"""The results of an evaluation as arrays, and as Parquet tables with one row per object, method and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
    """The measured values of N explained objects of all images, in the order of the images.

    Attributes:
        rows: The plan's methods, R specs.
        columns: The plan's metrics, C specs.
        objects: N dicts: image, index, label, class, score, box, annotation, iou, truth_box, place (its index in the image).
        values: (R,C,N), NaN where a metric is not defined.
        curves: By (row, column), (N,P), rows of NaN where a curve is not defined.
        at: By column, the x values (P,) of its curves.
        seconds: By row, the seconds of one map.
        layers: By row, N names of the layer that each map is drawn on; only methods that draw on one have a row here.
        routes: By row, N names of how the gradient of each map was taken; only methods with gradients have a row here.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    objects: tuple[Mapping[str, Any], ...]
    values: Floats
    curves: Mapping[tuple[str, str], Floats]
    at: Mapping[str, Floats]
    seconds: Mapping[str, float]
    layers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def images(self) -> NDArray[np.int64]:
        """The index of each object's image, (N,)."""
        return np.asarray([row["index"] for row in self.objects], dtype=np.int64)

    def common(self, column: str) -> NDArray[np.bool_]:
        """The objects on which a metric is defined for every method that has any value of it.

        Source: the ODAM paper's comparison, over objects that all methods share.

        Args:
            column: The metric's spec.

        Returns:
            (N,) bool.
        """
        values = self.values[:, self.columns.index(column)]
        defined = np.isfinite(values)
        # A method without any value, such as one without maps of words, does not empty the table.
        has_values = defined.any(1)
        return np.asarray(defined[has_values].all(0) & has_values.any(), dtype=np.bool_)

    def of(self, row: str, column: str) -> Floats:
        """One method's values of one metric.

        Args:
            row: The method's spec.
            column: The metric's spec.

        Returns:
            (N,), NaN where the metric is not defined.
        """
        picked: Floats = self.values[self.rows.index(row), self.columns.index(column)]
        return picked


def gather(records: Sequence[ImageRecord], rows: Sequence[str], columns: Sequence[str], classes: Sequence[str] | None) -> Results:
    """Collect the records of all images in one table.

    Args:
        records: The images' records; those without objects are left out.
        rows: The methods' specs.
        columns: The metrics' specs.
        classes: Names of the model's score columns, or None.

    Returns:
        The results, NaN where a record has no value of a metric.
    """
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
                measures = record["rows"][row]["metrics"].get(column)
                if measures is None:
                    continue
                values[r, c, start:stop] = measures["values"]
                if "curves" in measures:
                    # The points are the metric's, the same in every record.
                    at.setdefault(column, measures["at"])
                    if (row, column) not in curves:
                        curves[row, column] = np.full((len(objects), len(measures["at"])), np.nan)
                    curves[row, column][start:stop] = measures["curves"]
        start = stop
    return Results(
        tuple(rows),
        tuple(columns),
        objects,
        values,
        curves,
        at,
        _seconds(measured, rows),
        _of_maps("layers", measured, rows),
        _of_maps("routes", measured, rows),
    )


def _object(record: ImageRecord, place: int, classes: Sequence[str] | None) -> dict[str, Any]:
    row = record["objects"][place]
    # A text's row has its class already.
    return {"image": record["image"], "index": record["index"], "place": place, "class": class_name(row["label"], classes), **row}


def _seconds(records: Sequence[ImageRecord], rows: Sequence[str]) -> dict[str, float]:
    """Median over the images of the seconds that one map took."""
    # The median: the first image of a process includes warming up.
    each = {row: [record["rows"][row]["seconds"] / len(record["objects"]) for record in records] for row in rows}
    return {row: float(np.median(times)) for row, times in each.items() if times}


def _of_maps(what: str, records: Sequence[ImageRecord], rows: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """By method, the "layers" or the "routes" of each object's map. Records of earlier versions do not name them."""
    named: dict[str, tuple[str, ...]] = {}
    for row in rows:
        each = [record["rows"][row].get(what) or [""] * len(record["objects"]) for record in records]
        names = tuple(name for of_image in each for name in of_image)
        if any(names):
            named[row] = names
    return named


def write_parquet(results: Results, folder: Path) -> None:
    """Write results.parquet and curves.parquet, each with one row per object, method and metric.

    Args:
        results: The values and curves.
        folder: The folder of the run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    long = _long(results)
    with new_file(folder / "results.parquet") as draft:
        pq.write_table(pa.table(long), draft, compression="zstd")
    with new_file(folder / "curves.parquet") as draft:
        pq.write_table(_long_curves(results), draft, compression="zstd")


def _long(results: Results) -> dict[str, Any]:
    """The columns of results.parquet: the object varies slowest, the metric fastest."""
    import pyarrow as pa

    count, rows, columns = len(results), len(results.rows), len(results.columns)
    per_object = rows * columns
    of_object: dict[str, Any] = {}
    for name in ("image", "class", "annotation"):
        texts = [row[name] for row in results.objects]
        of_object[name] = pa.array([text for text in texts for _ in range(per_object)], pa.string())
    for name in ("index", "place", "label"):
        of_object[name] = np.repeat(np.asarray([row[name] for row in results.objects], dtype=np.int32), per_object)
    for name in ("score", "iou"):
        # An object without an annotation has no IoU.
        numbers = [np.nan if row[name] is None else row[name] for row in results.objects]
        of_object[name] = np.repeat(np.asarray(numbers, dtype=np.float64), per_object)
    for side, name in enumerate(("x1", "y1", "x2", "y2")):
        of_object[name] = np.repeat(np.asarray([row["box"][side] for row in results.objects], dtype=np.float64), per_object)
    methods = [row for row in results.rows for _ in results.columns] * count
    metrics = list(results.columns) * (rows * count)
    # (R,C,N) to the order of the other columns: object, method, metric.
    values = results.values.transpose(2, 0, 1).reshape(-1)
    # Methods that draw on no layer have no names of layers, and those without gradients none of routes.
    blank = ("",) * count
    of_maps: dict[str, Any] = {}
    for name, named in (("layer", results.layers), ("route", results.routes)):
        by_row = [named.get(row, blank) for row in results.rows]
        of_maps[name] = pa.array([names[i] for i in range(count) for names in by_row for _ in results.columns], pa.string())
    return {
        **of_object,
        "method": pa.array(methods, pa.string()),
        **of_maps,
        "metric": pa.array(metrics, pa.string()),
        "value": values,
    }


def _long_curves(results: Results) -> Any:
    """The table of curves.parquet. Built of arrays, because Python lists of numbers take ten times the memory."""
    import pyarrow as pa

    images = pa.array([row["image"] for row in results.objects], pa.string())
    index = pa.array(results.images, pa.int32())
    place = pa.array([row["place"] for row in results.objects], pa.int32())
    names = ("image", "index", "place", "method", "metric", "at", "values")
    types = (pa.string(), pa.int32(), pa.int32(), pa.string(), pa.string(), pa.list_(pa.float64()), pa.list_(pa.float64()))
    parts = []
    for (row, column), curves in results.curves.items():
        at = np.broadcast_to(results.at[column], curves.shape)
        specs = [pa.array([spec] * len(results), pa.string()) for spec in (row, column)]
        parts.append(pa.table([images, index, place, *specs, _lists(at), _lists(curves)], list(names)))
    return pa.concat_tables(parts) if parts else pa.schema(list(zip(names, types, strict=True))).empty_table()


def _lists(rows: Floats) -> Any:
    """An array (N,P) as a column of N lists, without a Python object per number."""
    import pyarrow as pa

    # 32 bits: pyarrow's plain lists have offsets of that width.
    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(rows).ravel()))


def write_json(value: Any, file: Path) -> None:
    """Write plain values as a JSON file.

    Args:
        value: Dicts, lists, text and numbers; NaN and infinity become null.
        file: The file, written completely or not at all.
    """
    write_whole(file, json_text(value))
