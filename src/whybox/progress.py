"""Callbacks for the progress and the warnings of long computations."""

from collections.abc import Callable

OnProgress = Callable[[str, float], None]
"""Called with an image's name, and the share of it that was newly completed (1: all of it)."""

OnWarning = Callable[[str], None]
"""Called with one line about a problem that did not end the computation."""


def no_progress(name: str, part: float) -> None:
    """Discard progress."""


def no_warning(line: str) -> None:
    """Discard a warning."""
