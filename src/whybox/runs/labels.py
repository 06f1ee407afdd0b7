"""A data set's labels as a model's score columns: matched by class name, or in their order where the columns have no names."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch

from whybox import api
from whybox.errors import FATAL, UnknownNameError, WhyboxError, unknown
from whybox.model import Model
from whybox.truth import DataSet, Truth

TRIED = 5
"""Images of which one must be readable for the model's columns to be counted before a run."""


def to_columns(truth: Truth, data_classes: Sequence[str], model_classes: Sequence[str] | None, *, first_column: int = 0) -> Truth:
    """Map the labels of an image's objects to the model's score columns.

    Args:
        truth: The objects; labels are indices in `data_classes`.
        data_classes: The data set's class names.
        model_classes: Names of the model's columns; None: the data's classes are the columns from `first_column` on.
        first_column: The column of the data set's first class, see `Model.first_column`.

    Returns:
        The objects of classes that the model has, with score columns as labels.
    """
    if model_classes is None:
        return replace(truth, labels=truth.labels + first_column) if first_column else truth
    known = list(model_classes)
    # -1 marks classes that the model lacks.
    columns = [known.index(name) if name in known else -1 for name in data_classes]
    labels = torch.tensor(columns, dtype=torch.long, device=truth.labels.device)[truth.labels]
    return replace(truth, labels=labels)[torch.nonzero(labels >= 0)[:, 0]]


def column_names(model: Model, data_classes: Sequence[str]) -> Sequence[str]:
    """The names of the model's score columns.

    Args:
        model: The model.
        data_classes: The data set's class names.

    Returns:
        The model's own names; without these the data's, in their order from `first_column` on.
    """
    return ("background",) * model.first_column + tuple(data_classes) if model.classes is None else model.classes


def asked_for_classes(model: Model, data: DataSet) -> Model:
    """Prompt a detector that reads text, and was given none, with the data's classes.

    Args:
        model: Any model.
        data: The data set.

    Returns:
        The prompted detector; any other model unchanged.
    """
    if model.whole_image or not model.takes_text or model.classes or not data.classes:
        return model
    asked: Any = model
    prompted: Model = asked.prompt(list(data.classes))
    return prompted


def match_classes(model: Model, data: DataSet) -> tuple[str, ...]:
    """Check that the data's classes can be matched with the model's columns, before a run.

    Args:
        model: A model with classes of its own.
        data: The data set.

    Returns:
        Sentences without a full stop on what a reader of the run has to know: classes that the model lacks, columns that were
        matched in their order.

    Raises:
        WhyboxError: The model knows none of the classes, or has another number of columns and no names for them.
    """
    if not data.classes:
        return ()
    if model.classes is None:
        return _matched_in_order(model, data)
    # A data set of the user's need not know renaming.
    for name in getattr(data, "rename", {}).values():
        if name not in model.classes:
            raise unknown("class of the model in rename", name, model.classes)
    missing = lacking(data.classes, model.classes)
    if not missing:
        return ()
    close = _close(missing, model.classes, data.classes)
    hint = f"; did you mean rename={close!r}?" if close else ""
    return (f"{model.name} does not know {', '.join(missing)}: objects of these classes are left out{hint}",)


def lacking(data_classes: Sequence[str], model_classes: Sequence[str] | None) -> tuple[str, ...]:
    """The data set's classes that the model does not know.

    Args:
        data_classes: The data set's class names.
        model_classes: Names of the model's columns, or None.

    Returns:
        The names of the classes; empty for a model without class names.

    Raises:
        WhyboxError: The model knows none of the classes.
    """
    if model_classes is None:
        return ()
    unknown_names = tuple(name for name in data_classes if name not in model_classes)
    if data_classes and len(unknown_names) == len(data_classes):
        close = _close(unknown_names, model_classes, data_classes)
        other = f"give rename={close!r}" if close else "rename= the data's classes"
        raise WhyboxError(
            f"the model knows none of the data set's classes ({_some(data_classes)}); it has {_some(model_classes)}: "
            f"use data of its classes, {other}, or load it with classes= named as in the data set"
        )
    return unknown_names


def check_columns(model: Model, columns: int, data: DataSet) -> None:
    """Refuse a model without class names that has another number of columns than the data has classes.

    Args:
        model: The model.
        columns: The number of its score columns.
        data: The data set.

    Raises:
        UnknownNameError: The numbers differ.
    """
    first, count = model.first_column, len(data.classes)
    if model.classes is not None or not count or columns - first == count:
        return
    background = ", the first of which is the background" if first else ""
    raise UnknownNameError(
        f"{model.name} has {columns} score columns without names{background}, and {data.name} has {count} classes, so they "
        f"cannot be matched in their order; load it with classes=[...], {columns} names, those of the data's classes as there "
        f"({_some(data.classes)})"
    )


def _matched_in_order(model: Model, data: DataSet) -> tuple[str, ...]:
    if (columns := _count_columns(model, data)) is not None:
        check_columns(model, columns, data)
    first, last = model.first_column, model.first_column + len(data.classes) - 1
    return (
        f"{model.name} has no class names: its score columns were matched with the data's classes in their order, from "
        f"{data.classes[0]} (column {first}) to {data.classes[-1]} (column {last}); classes=[...] names them",
    )


def _count_columns(model: Model, data: DataSet) -> int | None:
    """The number of the model's score columns, of its pass over the first readable image; None: it is not known."""
    for index in range(min(TRIED, len(data))):
        try:
            return int(api.trace(model, data[index].image).candidates.scores.shape[1])
        except FATAL:
            raise
        except Exception:
            # The run tells why an image fails.
            continue
    return None


def _close(missing: Sequence[str], model_classes: Sequence[str], data_classes: Sequence[str]) -> dict[str, str]:
    """For classes that the model lacks, the name that is most like it among those that the data does not use."""
    # A name that the data uses itself is taken: it would be the target of two classes.
    free = {name.lower(): name for name in model_classes if name not in data_classes}
    found: dict[str, Any] = {name: get_close_matches(name.lower(), free, n=1, cutoff=0.6) for name in missing}
    return {name: free[close[0]] for name, close in found.items() if close}


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
