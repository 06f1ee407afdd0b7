"""The images that a viewer may show: those that were named when it was started, and those that were sent to it."""

import os
import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Protocol

from PIL import Image, ImageOps

from whybox import api
from whybox.data.images import ImageSource, read_image
from whybox.errors import WhyboxError
from whybox.report.overlay import fit, jpeg_bytes, picture_of
from whybox.report.page import LONGEST_PHOTO, LONGEST_THUMB
from whybox.truth import DataSet
from whybox.viewer.kept import Kept
from whybox.web.uploads import open_upload

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif")
UPLOADS = 256 * 2**20
"""Bytes of the pictures that were sent, as they were sent."""
LONGEST_NAME = 200
AT_ONCE = 3
"""How many pictures are decoded at the same time."""
SENT = "u"
"""Begins the id of a picture that was sent; those that were named have numbers."""


class Named(Protocol):
    """Images that were named when the viewer was started."""

    names: Sequence[str]

    def source(self, index: int) -> ImageSource:
        """What `read_image` reads."""
        ...


class Files:
    """Image files, and those in folders.

    Attributes:
        names: Of a folder's files, from the folder on.
        outside: How many links of the folders lead out of them, and are not shown.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Look for the files; none is read."""
        self._paths: list[Path] = []
        self.outside = 0
        names = []
        for path in paths:
            found = self._inside(path) if path.is_dir() else [path]
            names += [str(each.relative_to(path)) if path.is_dir() else path.name for each in found]
            self._paths += found
        self.names: Sequence[str] = names

    def source(self, index: int) -> ImageSource:
        """The file."""
        return self._paths[index]

    def _inside(self, folder: Path) -> list[Path]:
        root = folder.resolve()
        found = []
        for place, below, files in os.walk(folder):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(files):
                path = Path(place) / name
                if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                    continue
                # Only the folder was named: a link may lead anywhere.
                if path.is_symlink() and not path.resolve().is_relative_to(root):
                    self.outside += 1
                    continue
                found.append(path)
        return found


class OfData:
    """The images of a data set."""

    def __init__(self, data: DataSet) -> None:
        """See the class."""
        self.names: Sequence[str] = data.names
        self._data, self._lock = data, Lock()

    def source(self, index: int) -> ImageSource:
        """The picture."""
        # A data set of the user's may not expect two threads.
        with self._lock:
            return self._data[index].image


def open_images(what: Sequence[str]) -> Named:
    """The images that a command line names.

    Args:
        what: Files, folders, or one data set.

    Raises:
        WhyboxError: There is no such file or data set, or a folder without images.
    """
    paths = [Path(each) for each in what]
    if len(what) == 1 and not paths[0].exists():
        if ":" not in what[0] and paths[0].suffix:
            raise WhyboxError(f"{what[0]}: no such file")
        return OfData(api.open_data(what[0]))
    if gone := [path for path in paths if not path.exists()]:
        raise WhyboxError(f"{gone[0]}: no such file")
    files = Files(paths)
    if what and not files.names:
        raise WhyboxError(f"{what[0]}: holds no image ({', '.join(SUFFIXES)})")
    return files


class Images:
    """All images of a viewer, by id.

    Attributes:
        named: Those that were named.
    """

    def __init__(self, named: Named) -> None:
        """See the attributes."""
        self.named = named
        self._sent: Kept[tuple[str, bytes]] = Kept(UPLOADS)
        # A large photograph takes a gigabyte while it is decoded, and a page may ask for fifty at once.
        self._decoding = BoundedSemaphore(AT_ONCE)
        # On the object, so that two viewers do not share what they show.
        self.thumb = lru_cache(4000)(self._thumb)
        self.photo = lru_cache(32)(self._photo)

    def source(self, image: str) -> tuple[str, ImageSource]:
        """The name of an image, and what `read_image` reads.

        Args:
            image: Its id.

        Raises:
            WhyboxError: There is none, or it was sent too long ago.
        """
        if image.startswith(SENT):
            sent = self._sent.get(image)
            if sent is None:
                raise WhyboxError("this picture is no longer in memory: add it once more")
            return sent[0], open_upload(sent[1])
        if not image.isascii() or not image.isdigit() or len(image) > 9 or int(image) >= len(self.named.names):
            raise WhyboxError(f"there is no image {image[:20]!r}")
        return self.named.names[int(image)], self.named.source(int(image))

    def add(self, data: bytes, name: str) -> str:
        """Keep a picture that was sent.

        Args:
            data: The file's bytes.
            name: The file's name, as the browser tells it.

        Returns:
            Its id, which nobody can guess.

        Raises:
            ImageError: It is no picture; see `open_upload`.
        """
        open_upload(data)
        image = SENT + secrets.token_urlsafe(12)
        last = name.replace("\\", "/").rpartition("/")[2]
        shown = "".join(letter for letter in last if letter.isprintable())[:LONGEST_NAME]
        self._sent.put(image, (shown or "picture", data), len(data))
        return image

    def _thumb(self, image: str) -> bytes:
        """A small JPEG."""
        with self._decoding:
            _, source = self.source(image)
            if isinstance(source, Path) and (small := _drafted(source)) is not None:
                return jpeg_bytes(small, 80)
            return _jpeg(source, LONGEST_THUMB)

    def _photo(self, image: str) -> bytes:
        """A JPEG for the page."""
        with self._decoding:
            return _jpeg(self.source(image)[1], LONGEST_PHOTO)


def _jpeg(source: ImageSource, longest: int) -> bytes:
    pixels = read_image(source)
    return jpeg_bytes(picture_of(pixels, fit((pixels.shape[-2], pixels.shape[-1]), longest)), 85)


def _drafted(path: Path) -> Image.Image | None:
    """A JPEG file in small, without decoding all of it; None of other files."""
    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            picture.draft("RGB", (LONGEST_THUMB, LONGEST_THUMB))
            small = ImageOps.exif_transpose(picture).convert("RGB")
    # What is wrong with it, `read_image` tells.
    except Exception:
        return None
    small.thumbnail((LONGEST_THUMB, LONGEST_THUMB))
    return small
