"""Labels of a data set as columns of a model."""

import pytest
import torch

from whybox.errors import WhyboxError
from whybox.runs.labels import lacking, to_columns
from whybox.truth import Truth


def truth(labels):
    count = len(labels)
    boxes = torch.arange(4.0 * count).reshape(count, 4)
    masks = torch.eye(max(count, 1), dtype=torch.bool)[:count, None]
    return Truth(
        boxes,
        torch.tensor(labels, dtype=torch.long),
        tuple(f"#{i}" for i in range(count)),
        torch.zeros(count, dtype=torch.bool),
        masks,
    )


def test_labels_become_columns_by_name():
    found = to_columns(truth([0, 2, 1, 0]), ("cat", "dog", "cow"), ("background", "cow", "cat"))
    assert found.labels.tolist() == [2, 1, 2]
    assert found.ids == ("#0", "#1", "#3")
    assert found.boxes[:, 0].tolist() == [0, 4, 12]
    assert found.masks[2, 0].tolist() == [False, False, False, True]


def test_the_truth_that_was_given_stays():
    given = truth([0, 1])
    to_columns(given, ("cat", "dog"), ("dog", "cat"))
    assert given.labels.tolist() == [0, 1]


def test_a_model_without_names_takes_the_labels():
    given = truth([1, 0])
    assert to_columns(given, ("cat", "dog"), None) is given
    assert to_columns(given, ("cat", "dog"), None, first_column=1).labels.tolist() == [2, 1]
    assert lacking(("cat", "dog"), None) == ()


def test_no_objects():
    assert to_columns(truth([]), ("cat",), ("cat",)).labels.tolist() == []


def test_what_the_model_lacks_is_named():
    assert lacking(("cat", "dog"), ("background", "dog")) == ("cat",)
    with pytest.raises(WhyboxError, match=r"none of the data set's classes \(cat, dog\); it has background, bus"):
        lacking(("cat", "dog"), ("background", "bus"))
