"""Results on disk: a folder that appears whole or not at all, and names that every file system takes."""

import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError


def check_new_folder(directory: str | Path) -> None:
    """An error where the folder is there and holds something, where a file has its name, or where it cannot be made."""
    folder = Path(directory)
    try:
        taken = folder.is_dir() and any(folder.iterdir())
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
    """A folder to write into that takes the name `directory` at the end; after an error nothing of it remains.

    replace: whatever folder has the name gives way, at the very end.
    """
    if not replace:
        check_new_folder(directory)
    folder = Path(directory).resolve()
    draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    made = [parent for parent in folder.parents if not parent.exists()]
    try:
        draft.mkdir(parents=True)
        yield draft
        if folder.exists():
            shutil.rmtree(folder) if replace else folder.rmdir()
        draft.rename(folder)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise WhyboxError(f"{directory}: cannot be written ({one_line(error)}); nothing was kept") from error
        raise


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A file to write that takes the name `path` at the end; after an error nothing of it remains."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WhyboxError(f"{path}: cannot be written ({one_line(error)})") from error
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """A file that is there whole or not at all, text as UTF-8; its folder is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WhyboxError(f"{path.parent}: cannot be made ({one_line(error)})") from error
    with new_file(path) as draft:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove the folders, the deepest first, up to the first that cannot be."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def file_stem(text: str) -> str:
    """Text made fit for a file name on every system: letters, digits, dot, dash and underscore, at most 60 of them."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:60] or "unnamed"


def json_text(value: Any) -> str:
    """Plain values as JSON; numbers that it lacks become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def one_line(error: BaseException) -> str:
    """What went wrong, without line breaks."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
