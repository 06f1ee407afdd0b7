"""Parts of a page in scripts beside it, which it loads when they are looked at.

A page that is opened from disk may fetch nothing, but it may load scripts.
"""

from pathlib import Path
from types import TracebackType


class Parts:
    """Writes parts as they come: `each` of them into STEM-0.js, the next ones into STEM-1.js, and so on.

    Used in a with statement, at whose end the last script is written. What is interrupted is the caller's to remove, as with
    `files.new_folder`: the page is written after its parts.
    """

    def __init__(self, folder: Path, stem: str, each: int = 1) -> None:
        """Make the folder, or use one that is there."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._stem, self._each = folder, stem, each
        self._open: list[str] = []
        self._written = 0

    def add(self, part: str) -> None:
        """Take the next part, JSON from `script_json`."""
        self._open.append(part)
        if len(self._open) == self._each:
            self._write()

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._open:
            self._write()

    def _write(self) -> None:
        name = f"{self._stem}-{self._written}"
        text = f'whyboxParts("{name}",[{",".join(self._open)}]);\n'
        (self._folder / f"{name}.js").write_text(text, encoding="utf-8")
        self._open.clear()
        self._written += 1
