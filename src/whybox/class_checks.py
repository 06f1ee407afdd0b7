"""Checks of the classes that plug-ins derive from `Method`, `Metric` and `Model`: misspelled attributes and unknown names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from inspect import get_annotations, signature
from typing import Any

from whybox.errors import FEW, WhyboxError, did_you_mean

_SIMILAR = 0.8
"""How similar (difflib's ratio) a name must be to one of the base class's to count as a misspelling of it."""

_MEANT = {
    **dict.fromkeys(("allow_frozen", "allows_frozen", "frozen_ok", "may_freeze"), "frozen_allowed"),
    **dict.fromkeys(("requires", "required", "requirements"), "needs"),
    **dict.fromkeys(("greater_is_better", "maximize", "bigger_is_better", "lower_is_better"), "higher_is_better"),
    **dict.fromkeys(("citation", "paper", "reference"), "source"),
    **dict.fromkeys(("provides", "outputs"), "gives"),
}
"""Words that are meant for one of the base class's names, and too unlike it to be found by their letters."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def check_class(cls: type, base: type, examples: Mapping[str, str], kinds: Mapping[str, type]) -> str:
    """Refuse a plug-in's class that misspells an attribute, lacks one, or has one of a wrong type.

    Args:
        cls: A class derived from `base`.
        base: `Method`, `Metric` or `Rule`.
        examples: The attributes that it must have, each with an example of its value as code.
        kinds: Types by attribute; a property, whose value depends on the options, is passed over.

    Returns:
        The class in words, for further errors: "method class LayerCam".

    Raises:
        WhyboxError: What is wrong with the class, in one line.
    """
    check_attributes(cls, base)
    owner = f"{base.__name__.lower()} class {cls.__name__}"
    for attribute, example in examples.items():
        if not hasattr(cls, attribute):
            raise WhyboxError(f"{owner} lacks {attribute}: add {attribute} = {example} to the class")
    for attribute, kind in kinds.items():
        value = getattr(cls, attribute)
        if not isinstance(value, (kind, property)):
            word = {str: "a text", bool: "True or False"}.get(kind, kind.__name__)
            raise WhyboxError(f"{owner}: {attribute} must be {word}, got {value!r}")
    name = getattr(cls, "name", None)
    if isinstance(name, str) and not _NAME.fullmatch(name):
        raise WhyboxError(f"{owner}: name must be lower-case letters, digits and _, such as 'layercam', got {name!r}")
    return owner


def check_takes(owner: str, cls: type, method: str, arguments: str) -> None:
    """Refuse a method of a class that cannot be called with what it is called with.

    Args:
        owner: The class, for the error.
        cls: The class.
        method: The method's name.
        arguments: The names of its arguments without self: "gradient, detections, stride".

    Raises:
        WhyboxError: It takes fewer arguments, or needs more.
    """
    try:
        signature(getattr(cls, method)).bind("self", *arguments.split(", "))
    except TypeError:
        raise WhyboxError(f"{owner}: {method} must take (self, {arguments}), got {signature(getattr(cls, method))}") from None
    except ValueError:
        # A callable without a signature, as of compiled code.
        return


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
            if name in known or name in options:
                continue
            close = get_close_matches(name, sorted(known), n=1, cutoff=_SIMILAR)
            if _MEANT.get(name) in known:
                close = [_MEANT[name]]
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
