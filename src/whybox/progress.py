"""How work that takes long says how far it is, and what went wrong on the way."""

from collections.abc import Callable

OnProgress = Callable[[str, float], None]
"""Called with what was worked on (an image's name) and how much of it is newly done: 1 for all of it."""

OnWarning = Callable[[str], None]
"""Called with a line on something that went wrong without ending the work."""


def no_progress(name: str, part: float) -> None:
    """Nobody watches."""


def no_warning(line: str) -> None:
    """Nobody listens."""
