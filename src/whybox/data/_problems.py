"""The problems of a data set's files, one line each."""

import hashlib
from pathlib import Path

from whybox.errors import WhyboxError, unknown

POLICIES = ("skip", "refuse")

LONGEST_SHOWN = 80


def digest_files(*files: Path | None) -> str:
    """A short digest of files: data whose annotations have changed is other data.

    Args:
        *files: The files; None is passed over.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for file in files:
        if file is not None:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Broken(Exception):
    """Why a value, an annotation or an image cannot be used. Whoever reads the file adds where it stands."""


class Problems:
    """The problems found while a data set is opened. They are raised only at the end, so that the error can count them.

    Attributes:
        source: The annotation file.
        on_problem: "skip" or "refuse".
        lines: One line per problem: file, place, reason, and what was done.
    """

    def __init__(self, source: Path, on_problem: str) -> None:
        """Start without problems.

        Args:
            source: The annotation file.
            on_problem: "skip" to go on without what is broken, "refuse" to raise an error at the end.

        Raises:
            UnknownNameError: `on_problem` is neither.
        """
        if on_problem not in POLICIES:
            raise unknown("on_problem", on_problem, POLICIES)
        self.source, self.on_problem = source, on_problem
        self.lines: list[str] = []

    def note(self, where: str, reason: object, source: Path | None = None) -> None:
        """Add a problem.

        Args:
            where: The image or annotation.
            reason: What is wrong, and what was done about it.
            source: The file, where it is not the annotation file.
        """
        self.lines.append(f"{source or self.source}: {where}: {reason}")

    def settle(self) -> tuple[str, ...]:
        """End the reading of the files.

        Returns:
            All lines.

        Raises:
            WhyboxError: There are problems, and they are to be refused.
        """
        if self.lines and self.on_problem == "refuse":
            raise WhyboxError(f"{self.first()}; mend it, or on_problem='skip' leaves out what is broken")
        return tuple(self.lines)

    def first(self) -> str:
        """The first problem, and how many more there are."""
        more = len(self.lines) - 1
        return self.lines[0] + (f" (and {more} more problem{'s' if more > 1 else ''})" if more else "")


def shown(value: object) -> str:
    """A value for an error message.

    Args:
        value: Any value that JSON can hold.

    Returns:
        At most 80 characters on one line.
    """
    try:
        text = repr(value)
    # JSON may be nested more deeply than repr can follow.
    except RecursionError:
        text = f"a deeply nested {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."
