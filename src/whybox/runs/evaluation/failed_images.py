"""Failed images, reported as they come: the first of a reason at once, the others in one line at the end."""

from collections.abc import Sequence

MOST_LISTED = 20
"""Problems of a data set, or images, that a warning lists one by one."""


class FailedImages:
    """Reports the first image that fails for a reason at once, and the others with the same reason in one line at the end."""

    def __init__(self) -> None:
        # By reason: the images after the first.
        self.others: dict[str, list[str]] = {}

    def add(self, image: str, reason: str) -> str | None:
        """Note a failed image.

        Args:
            image: Its name.
            reason: Why it could not be measured.

        Returns:
            The line to report now; None where the reason was reported before.
        """
        # Most reasons begin with the image's name, and would all differ.
        shared = reason.replace(image, "").strip(": ")
        if shared in self.others:
            self.others[shared].append(image)
            return None
        self.others[shared] = []
        return f"{image}: {reason}"

    def lines(self) -> list[str]:
        """The lines that remain to be reported."""
        return [
            f"{len(images)} more image{'s' * (len(images) > 1)}: {reason}: {_some(images)}"
            for reason, images in self.others.items()
            if images
        ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_LISTED]) + (", ..." if len(names) > MOST_LISTED else "")
