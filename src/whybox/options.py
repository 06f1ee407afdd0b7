"""Options of methods, metrics and data sets, checked by their type hints before anything is built with them."""

import math
import types
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from whybox.errors import WhyboxError, did_you_mean
from whybox.specs import parse_value

Hints = Mapping[str, Any]
"""Type hints by an option's name."""

_REFUSED = object()


def options_of(option_class: Any) -> Hints:
    """The options of a dataclass, or of an object of it: its fields with their types."""
    hints = _hints(option_class if isinstance(option_class, type) else type(option_class))
    return {field.name: hints.get(field.name, Any) for field in fields(option_class) if field.init}


def keywords_of(function: Callable[..., Any], *, without: AbstractSet[str] = frozenset()) -> Hints | None:
    """The keyword-only options of a function with their types; None where it takes any."""
    hints, parameters = _hints(function), signature(function).parameters.values()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    keyword_only = [parameter.name for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    named = [name for name in keyword_only if name not in without]
    return {name: hints.get(name, Any) for name in named}


def _hints(thing: Any) -> Hints:
    try:
        return get_type_hints(thing)
    except (NameError, TypeError):
        # A hint imported under TYPE_CHECKING cannot be resolved: its values are not checked.
        return {}


def check_options(whose: str, hints: Hints, given: Mapping[str, Any]) -> dict[str, Any]:
    """Check options against their type hints.

    Args:
        whose: The options' owner, for errors: "method 'odam'".
        hints: The known options, with their types.
        given: The user's options. The command line reads the word none as None; for an option that takes the text "none"
            but not None, it is that text.

    Returns:
        The options, converted: an integer becomes a float, a list a tuple, where the hint says so.

    Raises:
        WhyboxError: An unknown option, or a value of the wrong type; NaN and infinite numbers are refused.
    """
    check_names(whose, hints, given)
    return {name: check_value(whose, name, hints[name], value) for name, value in given.items()}


def read_options(whose: str, hints: Hints, texts: Mapping[str, str]) -> dict[str, Any]:
    """Parse options written as text, each by its type hint: "2017" is a number for an int and a text for a str."""
    check_names(whose, hints, texts)
    return {name: _read(whose, name, hints[name], text) for name, text in texts.items()}


def check_fields(whose: str, made: Any) -> None:
    """Refuse an object of a dataclass one of whose options has a value of the wrong type: Python itself checks none."""
    for name, hint in options_of(made).items():
        check_value(whose, name, hint, getattr(made, name))


def check_names(whose: str, known: Hints, given: Mapping[str, Any]) -> None:
    """Refuse unknown options."""
    for name in given:
        if name not in known:
            close = did_you_mean(name, known) if known else ""
            listed = close if close.startswith("did") else f"it takes {', '.join(sorted(known)) or 'none'}"
            raise WhyboxError(f"{whose} has no option {name!r}; {listed}")


def check_value(whose: str, name: str, hint: Any, value: Any) -> Any:
    """One value, converted to its hint's type; else an error that says what was expected and what was given."""
    read = _as(hint, value)
    if read is _REFUSED and value is None:
        read = _as(hint, "none") if _is_choice(hint) or hint is str else _REFUSED
    if read is _REFUSED:
        raise WhyboxError(f"{whose}: {name} must be {describe(hint)}, got {value!r}{_closest(hint, value)}")
    return read


def _read(whose: str, name: str, hint: Any, text: str) -> Any:
    # In this order: an option of any type would take the text as it is.
    for value in (parse_value(text), text):
        if (read := _as(hint, value)) is not _REFUSED:
            return read
    return check_value(whose, name, hint, parse_value(text))


def _closest(hint: Any, value: Any) -> str:
    if not _is_choice(hint) or not isinstance(value, str):
        return ""
    tail = did_you_mean(value, [str(choice) for choice in _choices(hint)])
    return f"; {tail.split(' (known')[0]}" if tail.startswith("did") else ""


def _is_choice(hint: Any) -> bool:
    return bool(_choices(hint))


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values that a hint lists, those of a union among them."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in _parts(hint) for choice in _choices(part))


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()


def _as(hint: Any, value: Any) -> Any:
    """The value converted to the hint's type, or _REFUSED."""
    if parts := _parts(hint):
        # The exact type first, before types that the value can be converted to: 3 for int | float stays an int.
        read = [_as(part, value) for part in sorted(parts, key=lambda part: part is not type(value))]
        return next((result for result in read if result is not _REFUSED), _REFUSED)
    origin = get_origin(hint) or hint
    if origin is Literal:
        # Their types, too, because True == 1.
        chosen = [choice for choice in get_args(hint) if choice == value and type(choice) is type(value)]
        return chosen[0] if chosen else _REFUSED
    if hint is None or hint is type(None):
        return None if value is None else _REFUSED
    if origin in (bool, int, float):
        return _number(origin, value)
    if origin in (tuple, list, Sequence):
        return _several(origin, get_args(hint), value)
    if origin is Callable:
        return value if callable(value) else _REFUSED
    if origin is Path:
        return Path(value) if isinstance(value, (str, Path)) else _REFUSED
    return value if not isinstance(origin, type) or origin is object or isinstance(value, origin) else _REFUSED


def _number(kind: type, value: Any) -> Any:
    # First, because a bool is an int, and a Real.
    if kind is bool or isinstance(value, bool):
        return value if kind is bool and isinstance(value, bool) else _REFUSED
    if kind is int:
        return int(value) if isinstance(value, Integral) else _REFUSED
    return float(value) if isinstance(value, Real) and math.isfinite(value) else _REFUSED


def _several(kind: Any, inner: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return _REFUSED
    fixed = kind is tuple and inner and Ellipsis not in inner
    if fixed and len(inner) != len(value):
        return _REFUSED
    hints = inner if fixed else (inner[0] if inner else Any,) * len(value)
    read = [_as(hint, entry) for hint, entry in zip(hints, value, strict=True)]
    if any(entry is _REFUSED for entry in read):
        return _REFUSED
    return read if kind is list else tuple(read)


_WORDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "none",
    Path: "a path",
    Callable: "a function",
}


def describe(hint: Any) -> str:
    """A type in words: "a whole number", "one of box, mask", "a list of texts or none"."""
    if parts := _parts(hint):
        return " or ".join(dict.fromkeys(describe(part) for part in parts))
    origin = get_origin(hint) or hint
    if origin is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if origin in (tuple, list, Sequence):
        inner = dict.fromkeys(describe(part) for part in get_args(hint) if part is not Ellipsis)
        return f"a list of {' and '.join(_plural(part) for part in inner)}" if inner else "a list"
    return _WORDS.get(origin, f"a {getattr(origin, '__name__', origin)}")


def _plural(words: str) -> str:
    return f"{words.removeprefix('a ')}s" if words.startswith("a ") else words
