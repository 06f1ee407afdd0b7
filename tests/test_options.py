"""Options, checked by their type hints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from whybox.errors import WhyboxError
from whybox.options import check_options, describe, keywords_of, options_of, read_options


@dataclass(frozen=True)
class Everything:
    """One option of every type."""

    masks: "int" = 1
    noise: float = 0.0
    crop: bool = True
    word: str = "a"
    smoothing: Literal["none", "gaussian"] = "none"
    threshold: float | Literal["mean"] = "mean"
    most: int | None = None
    layer: str | tuple[str, ...] | None = None
    texts: Sequence[str] = ()
    pair: tuple[int, float] = (1, 2.0)
    folder: Path | None = None
    watch: Callable[[int], None] | None = None
    hidden: int = field(default=0, init=False)


HINTS = options_of(Everything)


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("masks", 3, 3),
        ("masks", np.int64(3), 3),
        ("noise", 1, 1.0),
        ("noise", np.float32(0.5), 0.5),
        ("crop", False, False),
        ("smoothing", "gaussian", "gaussian"),
        ("smoothing", None, "none"),
        ("threshold", 0.5, 0.5),
        ("threshold", "mean", "mean"),
        ("most", None, None),
        ("layer", ["a", "b"], ("a", "b")),
        ("layer", None, None),
        ("texts", ["a"], ("a",)),
        ("pair", [1, 2], (1, 2.0)),
        ("folder", "here", Path("here")),
        ("watch", print, print),
    ],
)
def test_a_value_of_the_type_is_taken(name, value, read):
    assert check_options("x", HINTS, {name: value}) == {name: read}
    assert type(check_options("x", HINTS, {name: value})[name]) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("masks", True, "masks must be a whole number, got True"),
        ("masks", 2.0, "masks must be a whole number, got 2.0"),
        ("masks", None, "masks must be a whole number, got None"),
        ("noise", float("nan"), "noise must be a number, got nan"),
        ("noise", float("inf"), "noise must be a number, got inf"),
        ("noise", False, "noise must be a number, got False"),
        ("crop", 1, "crop must be true or false, got 1"),
        ("word", 3, "word must be a text, got 3"),
        ("smoothing", "gausian", "smoothing must be one of none, gaussian, got 'gausian'; did you mean gaussian?"),
        ("threshold", "median", "threshold must be a number or mean, got 'median'"),
        ("most", "x", "most must be a whole number or none, got 'x'"),
        ("layer", 3, "layer must be a text or a list of texts or none, got 3"),
        ("texts", "abc", "texts must be a list of texts, got 'abc'"),
        ("texts", [1], "texts must be a list of texts, got [1]"),
        ("pair", [1], "pair must be a list of whole numbers and numbers, got [1]"),
        ("watch", 3, "watch must be a function or none, got 3"),
        ("sgima", 3, "method 'x' has no option 'sgima'"),
        ("nois", 3, "method 'x' has no option 'nois'; did you mean noise"),
        ("hidden", 3, "method 'x' has no option 'hidden'"),
    ],
)
def test_another_value_is_one_line(name, value, told):
    with pytest.raises(WhyboxError) as caught:
        check_options("method 'x'", HINTS, {name: value})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("word", "2017", "2017"),
        ("word", "none", "none"),
        ("masks", "2017", 2017),
        ("noise", "1", 1.0),
        ("most", "none", None),
        ("smoothing", "none", "none"),
        ("threshold", "0.5", 0.5),
        ("folder", "007", Path("007")),
        ("crop", "true", True),
    ],
)
def test_a_text_is_read_as_what_the_option_is(name, text, read):
    assert read_options("x", HINTS, {name: text}) == {name: read}


def test_options_of_a_function_are_its_keywords():
    def open_data(rest: str, *, on_problem: str = "skip", count: int = 3) -> None: ...
    def open_any(rest: str, **options: object) -> None: ...

    assert keywords_of(open_data, without={"on_problem"}) == {"count": int}
    assert keywords_of(open_any) is None


def test_every_hint_has_words():
    assert describe(list[int]) == "a list of whole numbers"
    assert describe(Everything) == "a Everything"
