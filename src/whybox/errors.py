"""The errors that users see: one line each, with what was expected, what was given, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class WhyboxError(Exception):
    """An error that the user can fix. Its message is one line; the command line prints it and exits with 2."""


class ImageError(WhyboxError):
    """An image that cannot be read, is empty, or is too large."""


class UnknownNameError(WhyboxError):
    """An unknown model, method, target, layer or class name.

    Attributes:
        kind: Which of these: "method", "target", "layer", ...
    """

    kind = ""


class GradientError(WhyboxError):
    """No gradient flows from the explained value to the features."""


class MetricError(WhyboxError):
    """A metric that returns an invalid result."""


class MissingSplitError(WhyboxError):
    """A split that a data set does not have."""


class WeightsError(WhyboxError):
    """Weights that do not fit the network, or that contain NaN."""


FATAL = (UnknownNameError, WeightsError, GradientError, MetricError)
"""Errors that affect every image, so that a run over many images stops."""


def reason_of(error: Exception) -> str:
    """One line on why an image failed; an error that is not a WhyboxError is prefixed with its class."""
    text = str(error).strip() if isinstance(error, WhyboxError) else f"{type(error).__name__}: {error}".strip()
    return text.splitlines()[0] if text else type(error).__name__


FEW = 5
"""Up to this many known names are all listed, even where one of them is a close match."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the closest known names, or else all of them."""
    names = sorted(known)
    # difflib overlooks a short name inside a long one.
    close = get_close_matches(name, names, n=3, cutoff=0.5) or [
        known for known in names if name and name.lower() in known.lower()
    ]
    if close:
        all_of_few = f" (known: {', '.join(names)})" if len(close) < len(names) <= FEW else ""
        return f"did you mean {' or '.join(close)}?{all_of_few}"
    return f"known: {', '.join(names)}" if names else "none is known here"


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for an unknown name.

    Args:
        kind: What was looked up: "method", "target", ...
        name: As the user wrote it.
        known: The names that exist.
    """
    error = UnknownNameError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}")
    error.kind = kind
    return error
