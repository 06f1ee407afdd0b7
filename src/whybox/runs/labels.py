"""A data set's labels as a model's score columns, matched by class name."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from whybox.errors import WhyboxError
from whybox.truth import Truth


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
    unknown = tuple(name for name in data_classes if name not in model_classes)
    if data_classes and len(unknown) == len(data_classes):
        raise WhyboxError(
            f"the model knows none of the data set's classes ({_some(data_classes)}); it has {_some(model_classes)}: "
            "use data of its classes, or load it with classes= named as in the data set"
        )
    return unknown


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
