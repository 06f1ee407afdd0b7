"""Checks of the classes that plug-ins derive from `Method`, `Metric` and `Model`: misspelled attributes and unknown names."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import get_annotations
from typing import Any

from whybox.errors import FEW, WhyboxError, did_you_mean

_SIMILAR = 0.8
"""How similar (difflib's ratio) a name must be to one of the base class's to count as a misspelling of it."""


def check_attributes(cls: type, base: type) -> None:
    """Refuse a public class attribute whose name looks like a misspelling of one of the base class's.

    Python accepts `titel = "..."` and `frozen_alowed = False` silently, and the base class's default stays in effect. The
    options of a dataclass may have any name.

    Args:
        cls: A class derived from `base`.
        base: The class whose public attributes, properties and methods are the known names.

    Raises:
        WhyboxError: The class defines such an attribute, itself or in a class between it and `base`.
    """
    known = {name for part in base.__mro__ for name in _names(part)}
    options = {field.name for field in fields(cls)} if is_dataclass(cls) else set()
    for part in cls.__mro__:
        # Mixins have names of their own.
        if part is base or not issubclass(part, base):
            continue
        for name in _names(part):
            close = [] if name in known or name in options else get_close_matches(name, sorted(known), n=1, cutoff=_SIMILAR)
            if close:
                kind = base.__name__.lower()
                raise WhyboxError(f"{kind} class {cls.__name__}: a {kind} has no attribute {name!r}; did you mean {close[0]}?")


def check_known(owner: str, attribute: str, names: Any, known: Iterable[str]) -> None:
    """Refuse a set of names that holds an unknown one.

    Args:
        owner: The class, for the error: "method class LayerCam".
        attribute: The attribute that holds the names: "needs".
        names: The value of the attribute.
        known: The names that it may hold.

    Raises:
        WhyboxError: It is not a set of names, or one of the names is unknown.
    """
    listed = sorted(known)
    if not isinstance(names, frozenset | set):
        raise WhyboxError(f"{owner}: {attribute} must be a set of names, such as {{{listed[0]!r}}}, got {names!r}")
    for name in sorted(map(str, names - set(listed))):
        hint = did_you_mean(name, listed)
        all_known = "" if "known: " in hint or len(listed) <= FEW else f" (known: {', '.join(listed)})"
        raise WhyboxError(f"{owner}: {attribute} has no {name!r}; {hint}{all_known}")


def _names(cls: type) -> set[str]:
    """The public names that a class itself defines, or declares by an annotation."""
    declared = {*vars(cls), *get_annotations(cls)}
    return {name for name in declared if not name.startswith("_")}
