"""The errors that users see: one line each, with what was expected, what came, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class WhyboxError(Exception):
    """A mistake that the user can mend. Its text is one line; the command line prints it and exits with 2."""


class ImageError(WhyboxError):
    """An image that cannot be read, is empty, or is too large."""


class UnknownNameError(WhyboxError):
    """A model, method, target or class name that nothing answers to. kind: which of these."""

    kind = ""


class GradientError(WhyboxError):
    """Something between the features and the explained value stops the gradient."""


class MetricError(WhyboxError):
    """A metric that does not give what a metric has to."""


class MissingSplitError(WhyboxError):
    """A split that a data set does not have."""


class WeightsError(WhyboxError):
    """Weights that do not fit the network, or that hold NaN."""


FATAL = (UnknownNameError, WeightsError, GradientError, MetricError)
"""What is wrong with every image, so that a run over many of them stops."""


def reason_of(error: Exception) -> str:
    """In one line why an image could not be worked on; what is no WhyboxError is named by its class."""
    text = str(error).strip() if isinstance(error, WhyboxError) else f"{type(error).__name__}: {error}".strip()
    return text.splitlines()[0] if text else type(error).__name__


FEW = 5
"""So many names are listed even where one of them is close."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence's tail: the closest known names, else all of them."""
    names = sorted(known)
    close = get_close_matches(name, names, n=3, cutoff=0.5) or [
        known for known in names if name and name.lower() in known.lower()
    ]
    if close:
        all_of_few = f" (known: {', '.join(names)})" if len(close) < len(names) <= FEW else ""
        return f"did you mean {' or '.join(close)}?{all_of_few}"
    return f"known: {', '.join(names)}" if names else "none is known here"


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name of `kind` ("method", "target", ...) that is not among `known`."""
    error = UnknownNameError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}")
    error.kind = kind
    return error
