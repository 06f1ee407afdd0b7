"""The picture files of a data set, found by the names that an annotation file gives them."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from whybox.data._problems import Broken, shown

DEEPEST = 4
"""Folders below the pictures' folder in which a file is looked for: who points at a home folder should not wait for it."""


class PictureFolder:
    """A folder that holds pictures.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        """Look for pictures in `folder`. Nothing is read until a name is not found as it is written."""
        self.folder = folder

    def find(self, name: str, suffixes: Sequence[str] = ("",)) -> str:
        """Find a picture by name.

        A name that does not lead to a file as it is written (backslashes, the folder of another machine) is looked for by
        its last parts: the file that shares most of them, if there is exactly one. Where no file has its last part, names that
        differ in case, in how Unicode spells a letter, or in "%20" for a space count as one.

        Args:
            name: As the annotation file has it.
            suffixes: What may have to be added to the name.

        Returns:
            The name itself, with its suffix, if it leads to a file; else the name of the file that fits, relative to the
            folder, with "/".

        Raises:
            Broken: No file fits, or several fit equally well.
        """
        for suffix in suffixes:
            # Not Path.is_file, which raises an OSError where a name is too long for the system.
            if os.path.isfile(self.folder / f"{name}{suffix}"):
                return name + suffix
        parts = _parts(name)
        written = [[*parts[:-1], parts[-1] + suffix] for suffix in suffixes] if parts else []
        fits = {path: _shared(wanted, path.split("/")) for wanted in written for path in self._by_last_part.get(wanted[-1], ())}
        if not fits:
            folded = [[_folded(part) for part in wanted] for wanted in written]
            fits = {
                path: _shared(wanted, _folded(path).split("/"))
                for wanted in folded
                for path in self._by_folded_part.get(wanted[-1], ())
            }
        best = [path for path, shared in fits.items() if shared == max(fits.values())]
        if not best:
            raise Broken(f"no such file in {self.folder}")
        if len(best) > 1:
            raise Broken(f"no such file in {self.folder}, and {len(best)} files have its last name: {shown(sorted(best))}")
        return best[0]

    def holds(self, name: str) -> bool:
        """Whether a picture is found by this name."""
        try:
            return bool(self.find(name))
        except Broken:
            return False

    def lists(self, name: str) -> bool:
        """Whether the folder itself has a file of this name, but for case, Unicode's spelling and "%20"."""
        return self.folder.is_dir() and _folded(name) in map(_folded, os.listdir(self.folder))

    @cached_property
    def _by_folded_part(self) -> dict[str, list[str]]:
        folded: dict[str, list[str]] = defaultdict(list)
        for name, paths in self._by_last_part.items():
            folded[_folded(name)] += paths
        return folded

    @cached_property
    def _by_last_part(self) -> dict[str, list[str]]:
        """The files below the folder, relative to it, by their last part."""
        files = defaultdict(list)
        for place, below, names in os.walk(self.folder):
            inner = Path(place).relative_to(self.folder)
            if len(inner.parts) >= DEEPEST:
                # os.walk goes on with what is left in this list.
                below.clear()
            for name in names:
                files[name].append((inner / name).as_posix())
        return files


def _parts(name: str) -> list[str]:
    """The parts of a path of any system, without a drive and without dots."""
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..") and not part.endswith(":")]


def _folded(name: str) -> str:
    """The name without what file systems and web addresses change: case, composed letters, escaped characters."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _shared(wanted: Sequence[str], given: Sequence[str]) -> int:
    """How many of the last parts two paths share."""
    count = 0
    for left, right in zip(reversed(wanted), reversed(given), strict=False):
        if left != right:
            break
        count += 1
    return count
