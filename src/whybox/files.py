"""Results on disk: folders and files that are written atomically, and portable file names."""

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError


def check_new_folder(directory: str | Path) -> None:
    """Refuse a folder that exists and is not empty, that is a file, or that cannot be created."""
    folder = Path(directory)
    try:
        taken = folder.is_dir() and any(folder.iterdir())
        # The nearest one that is there: the others will be created.
        parent = next(parent for parent in folder.resolve().parents if parent.exists())
    except OSError as error:
        raise WhyboxError(f"{folder}: {one_line(error)}") from None
    if taken:
        raise WhyboxError(f"{folder}: already exists and is not empty; nothing was overwritten, choose another")
    if folder.exists() and not folder.is_dir():
        raise WhyboxError(f"{folder}: a file of that name exists; nothing was overwritten, choose another")
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise WhyboxError(f"{folder}: cannot be made, {parent} is {'read-only' if parent.is_dir() else 'not a folder'}")


@contextmanager
def new_folder(directory: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that is renamed to `directory` at the end; after an error nothing of it remains.

    Args:
        directory: The folder to create.
        replace: Whether an existing folder of that name is replaced, at the very end.
    """
    if not replace:
        check_new_folder(directory)
    # Resolved at once: the working directory may be another one by the end.
    folder = Path(directory).resolve()
    # Beside its destination, because a rename is atomic within one file system only.
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    # Noted before they are made, to be removed after an error.
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        draft.mkdir(parents=True)
        yield draft
        if folder.exists():
            # Windows renames onto no folder, not even an empty one; rmdir refuses one that has been filled since.
            shutil.rmtree(folder) if replace else folder.rmdir()
        draft.rename(folder)
    # Also after Ctrl+C nothing is left behind.
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise WhyboxError(f"{directory}: cannot be written ({one_line(error)}); nothing was kept") from error
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file that is renamed to `path` at the end; after an error nothing of it remains."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        # Not rename, which replaces no file on Windows.
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WhyboxError(f"{path}: cannot be written ({one_line(error)})") from error
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file atomically, text as UTF-8; a missing folder is created."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WhyboxError(f"{path.parent}: cannot be made ({one_line(error)})") from error
    with new_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove empty folders, the deepest first, up to the first that cannot be removed."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def file_stem(text: str) -> str:
    """The text as a portable file name: letters, digits, dot, dash and underscore, at most 60 characters."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:60] or "unnamed"


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Plain values as JSON without losing any; NaN and infinities, which JSON lacks, become texts that `float` reads."""
    layout: Any = {"indent": indent, "separators": (",", ": ") if indent else (",", ":"), "allow_nan": False}
    try:
        return json.dumps(value, **layout)
    except ValueError:
        return json.dumps(_replaced(value, _spelled), **layout)


def _spelled(number: float) -> str:
    """NaN or an infinity in the words of JavaScript, which are Python's too."""
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def json_text(value: Any) -> str:
    """Plain values as JSON; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_replaced(value, lambda number: None), indent=2, allow_nan=False)


def _replaced(value: Any, other: Callable[[float], Any]) -> Any:
    """The same with `other` of every number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else other(value)
    if isinstance(value, Mapping):
        return {key: _replaced(entry, other) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(entry, other) for entry in value]
    return value


def one_line(error: BaseException) -> str:
    """The error's message, without line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
