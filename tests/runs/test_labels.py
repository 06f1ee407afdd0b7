"""Labels of a data set as columns of a model."""

from types import SimpleNamespace

import pytest
import torch

from whybox.errors import UnknownNameError, WhyboxError
from whybox.runs.labels import check_columns, column_names, lacking, match_classes, to_columns
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


class Unnamed:
    """As much of a model as the matching of classes asks for."""

    name, first_column, classes = "plain", 0, None

    def __init__(self, **attributes):
        vars(self).update(attributes)


def named(*classes, rename=None):
    return SimpleNamespace(name="coco:val", classes=classes, rename=rename or {})


def test_columns_without_names_need_as_many_classes():
    check_columns(Unnamed(), 2, named("cat", "dog"))
    check_columns(Unnamed(first_column=1), 3, named("cat", "dog"))
    check_columns(Unnamed(classes=("cat",)), 1, named("cat", "dog"))
    check_columns(Unnamed(), 5, named())
    with pytest.raises(UnknownNameError) as told:
        check_columns(Unnamed(), 3, named("cat", "dog"))
    assert str(told.value) == (
        "plain has 3 score columns without names, and coco:val has 2 classes, so they cannot be matched in their order; load it "
        "with classes=[...], 3 names, those of the data's classes as there (cat, dog)"
    )
    with pytest.raises(UnknownNameError, match="2 score columns without names, the first of which is the background, and"):
        check_columns(Unnamed(first_column=1), 2, named("cat", "dog"))


def test_names_of_columns():
    assert column_names(Unnamed(first_column=1), ("cat", "dog")) == ("background", "cat", "dog")
    assert column_names(Unnamed(classes=("dog",)), ("cat", "dog")) == ("dog",)


def test_what_the_model_lacks_is_named_once_with_a_suggestion():
    model = Unnamed(classes=("person", "motorcycle", "couch"))
    (told,) = match_classes(model, named("person", "Motorbike", "sofa"))
    assert told == (
        "plain does not know Motorbike, sofa: objects of these classes are left out; "
        "did you mean rename={'Motorbike': 'motorcycle'}?"
    )
    assert match_classes(model, named("person", "couch")) == ()
    with pytest.raises(WhyboxError, match=r"none of the data set's classes .* give rename=\{'motorbike': 'motorcycle'\}"):
        match_classes(model, named("motorbike", "sofa"))


def test_a_new_name_that_the_model_lacks_is_refused():
    model = Unnamed(classes=("person", "motorcycle", "couch"))
    with pytest.raises(UnknownNameError, match=r"unknown class of the model in rename 'motorcicle'; did you mean motorcycle"):
        match_classes(model, named("person", "motorcicle", rename={"motorbike": "motorcicle"}))
