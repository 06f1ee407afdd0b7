"""What a page asks, read from JSON that nobody vouches for."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from whybox.errors import WhyboxError

LONGEST = 4000
MOST_TEXTS = 100
MOST_ROWS = 300
MOST_LAYERS = 24
T = TypeVar("T")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Ask:
    """A question.

    Attributes:
        image: The image's id.
        model: The model's name.
        texts: For models that read texts.
        method: The method's name, with settings or without.
        target: The target's name.
        layer: The layer whose features are weighed; None: the default.
        rows: Rows of the page's detections.
        drawn: Boxes that the user drew instead, with the columns of their classes.
        box: A box that the user asks about.
        label: Its class by name or column; None: any.
        threshold: The page's score threshold.
        other: The other model's name.
        layers: (method, target, layer) of everything that is taken away.
        kind: What is taken away: "page" or "json".
    """

    image: str
    model: str
    texts: tuple[str, ...] = ()
    method: str = ""
    target: str = ""
    layer: str | None = None
    rows: tuple[int, ...] = ()
    drawn: tuple[tuple[Box, int], ...] = ()
    box: Box = (0.0, 0.0, 0.0, 0.0)
    label: str | int | None = None
    threshold: float = 0.3
    other: str = ""
    layers: tuple[tuple[str, str, str | None], ...] = ()
    kind: str = "page"

    def with_layer(self, method: str, target: str, layer: str | None) -> "Ask":
        """The same question by another method, target and layer."""
        return replace(self, method=method, target=target, layer=layer)


def read_ask(given: Mapping[str, Any]) -> Ask:
    """Read a question.

    Args:
        given: As the page sends it; what it leaves out has its default.

    Raises:
        WhyboxError: A value of it has another type than expected.
    """
    readers: dict[str, Callable[[Any], Any]] = {
        "image": _text,
        "model": _text,
        "texts": _many(_text, MOST_TEXTS),
        "method": _text,
        "target": _text,
        "layer": _or_none(_text),
        "rows": _many(_row, MOST_ROWS),
        "drawn": _many(_drawn, MOST_ROWS),
        "box": _box,
        "label": _or_none(_label),
        "threshold": _number,
        "other": _text,
        "layers": _many(_layer, MOST_LAYERS),
        "kind": _kind,
    }
    if unknown := sorted(set(given) - set(readers)):
        raise WhyboxError(f"nothing is known of {unknown[0][:40]!r}")
    values = {}
    for name, value in given.items():
        try:
            values[name] = readers[name](value)
        except (TypeError, ValueError, KeyError, OverflowError):
            raise WhyboxError(f"{name}: {str(value)[:60]!r} is not what was expected") from None
    if missing := [name for name in ("image", "model") if name not in values]:
        raise WhyboxError(f"{missing[0]} is missing")
    return Ask(**values)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise TypeError
    return value


def _row(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError
    return float(value)


def _label(value: Any) -> str | int:
    return _text(value) if isinstance(value, str) else _row(value)


def _box(value: Any) -> Box:
    if not isinstance(value, list):
        raise TypeError
    x1, y1, x2, y2 = map(_number, value)
    return x1, y1, x2, y2


def _drawn(value: Any) -> tuple[Box, int]:
    return _box(value["box"]), _row(value["label"])


def _layer(value: Any) -> tuple[str, str, str | None]:
    if not isinstance(value, list):
        raise TypeError
    method, target, layer = value
    return _text(method), _text(target), _or_none(_text)(layer)


def _kind(value: Any) -> str:
    return {"page": "page", "json": "json"}[value]


def _or_none(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    return lambda value: None if value is None else read(value)


def _many(read: Callable[[Any], T], most: int) -> Callable[[Any], tuple[T, ...]]:
    def all_of(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list) or len(value) > most:
            raise TypeError
        return tuple(read(each) for each in value)

    return all_of
