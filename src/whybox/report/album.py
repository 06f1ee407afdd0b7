"""The page of more images than one file should hold: each lies in a script beside it, and is loaded when it is looked at."""

from pathlib import Path
from types import TracebackType

from whybox.report.document import script_json
from whybox.report.page import Sheet, render_page
from whybox.report.parts import Parts

PER_PART = 40
"""Small pictures in a script: two or three screens of them, about 300 kB."""


class Album:
    """Writes the images as they come, so that none has to stay in memory; used in a with statement.

    Attributes:
        names: Their names.
    """

    def __init__(self, folder: Path) -> None:
        """Write into a folder, which will lie beside the page."""
        self._images, self._thumbs = Parts(folder, "image"), Parts(folder, "thumbs", PER_PART)
        self.names: list[str] = []

    def add(self, sheet: Sheet) -> None:
        """Write the next image."""
        self._images.add(sheet.body)
        self._thumbs.add(script_json(sheet.thumb))
        self.names.append(sheet.name)

    def __enter__(self) -> "Album":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._thumbs.__exit__(kind, error, trace)

    def page(self, beside: str, *, remark: str = "") -> str:
        """Render the page.

        Args:
            beside: The name of the folder, beside the page.
            remark: A line above the first image.

        Returns:
            The page as HTML.
        """
        images = {"folder": beside, "each": PER_PART, "images": [[name] for name in self.names]}
        title = self.names[0] if len(self.names) == 1 else f"{len(self.names)} images"
        return render_page(title, images, beside=beside, remark=remark)
