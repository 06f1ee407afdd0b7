"""Data sets by name: their options in the name and as keywords, and what an unknown name or option is told."""

from types import SimpleNamespace

import pytest

import whybox
from whybox import registry
from whybox.data.scenes import open_data as open_scenes
from whybox.errors import UnknownNameError, WhyboxError

RING = SimpleNamespace(PREFIX="ring", open_data=open_scenes)


@pytest.fixture
def ring(monkeypatch):
    """A data set "ring" beside the registered ones."""
    known = {**registry.data_sets(), "ring": RING}
    monkeypatch.setattr(registry, "data_sets", lambda: known)


def test_an_option_may_stand_in_the_name_or_be_a_keyword():
    assert len(whybox.open_data("scenes", count=3)) == len(whybox.open_data("scenes:count=3")) == 3


def test_an_unknown_option_is_refused_with_those_that_exist():
    with pytest.raises(whybox.WhyboxError, match=r"data 'scenes' has no option 'zoom'; it takes count, .*seed"):
        whybox.open_data("scenes", zoom=4)
    with pytest.raises(whybox.WhyboxError, match=r"data 'scenes' has no option 'cont'; did you mean count\?"):
        whybox.open_data("scenes", cont=4)


def test_an_option_is_given_once():
    with pytest.raises(whybox.WhyboxError, match="data 'scenes': count is given twice"):
        whybox.open_data("scenes:count=3", count=4)


def test_an_open_data_set_takes_no_options():
    data = whybox.open_data("scenes:count=3")
    assert whybox.open_data(data) is data
    with pytest.raises(whybox.WhyboxError, match="has no option 'count'; it takes none"):
        whybox.open_data(data, count=4)


def test_an_unknown_name_is_compared_without_its_options(ring):
    with pytest.raises(UnknownNameError, match=r"unknown data 'rinng'; did you mean ring\?"):
        whybox.open_data("rinng:count=3:seed=1234:on_nothing=whatever")


def test_classes_of_the_data_take_other_names():
    data = whybox.open_data("scenes:count=2")
    other = whybox.open_data("scenes:count=2", rename={"tree": "oak"})
    assert other.classes == tuple("oak" if name == "tree" else name for name in data.classes)
    assert (other.name, list(other.names), len(other), other.problems) == (data.name, list(data.names), 2, data.problems)
    assert other[1].truth.labels.tolist() == data[1].truth.labels.tolist()
    # An evaluation under other names is another one.
    assert other.digest != data.digest
    assert whybox.open_data(data, rename={}) is data


def test_classes_that_get_one_name_are_one_class():
    data = whybox.open_data("scenes:variant=crowd:count=2")
    first, last = data.classes[0], data.classes[-1]
    other = whybox.open_data(data, rename={last: first})
    assert other.classes == data.classes[:-1]
    labels = data[1].truth.labels
    assert other[1].truth.labels.tolist() == [0 if label == len(data.classes) - 1 else label for label in labels.tolist()]


def test_a_misspelt_name_in_rename_is_told():
    with pytest.raises(UnknownNameError, match=r"unknown class of the data in rename 'tre'; did you mean tree"):
        whybox.open_data("scenes:count=1", rename={"tre": "oak"})
    with pytest.raises(whybox.WhyboxError, match="rename must give new class names by old ones"):
        whybox.open_data("scenes:count=1", rename=["tree"])


def test_an_object_that_is_no_data_set_is_told_what_it_lacks():
    with pytest.raises(WhyboxError, match=r"this dict lacks name, classes, problems, names$"):
        whybox.open_data({"images": []})
