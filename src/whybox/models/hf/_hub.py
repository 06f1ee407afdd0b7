"""Load configurations, networks, processors and tokenizers from the Hugging Face hub, its local cache or local folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from whybox.errors import WeightsError, WhyboxError

PREFIX = "hf"
"""The prefix of model names on the hub."""


def fetch(kind: Any, name: str) -> Any:
    """`kind.from_pretrained(name)`; from the local cache where there is no connection."""
    try:
        return _load(kind, name)
    # ValueError, too: huggingface_hub so refuses names that cannot be those of a repository (HFValidationError).
    except (OSError, ValueError) as error:
        try:
            return _load(kind, name, local_files_only=True)
        except (OSError, ValueError):
            raise WeightsError(
                f"{PREFIX}/{name} is neither a folder nor available from the hub or its local cache: check the name and the "
                f"connection, or give the path of a downloaded folder ({_first_line(error)})"
            ) from error


def _load(kind: Any, name: str, **options: Any) -> Any:
    try:
        with _silent(Path(name).is_dir()):
            return kind.from_pretrained(name, **options)
    except ImportError as error:
        raise WhyboxError(f"{PREFIX}/{name} needs a package that is missing: {_first_line(error)}") from error
    except ValueError as error:
        if "does not recognize this architecture" not in str(error):
            raise
        known = f"the installed transformers {version('transformers')} does not know the architecture of {PREFIX}/{name}"
        raise WhyboxError(f"{known}: install a newer one") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def fetch_beside(kind: Any, name: str) -> Any:
    """The processor or tokenizer of a repository or folder; None where a local folder has none."""
    return _on_this_machine(kind, name) if Path(name).is_dir() else fetch(kind, name)


@contextmanager
def _silent(local: bool) -> Iterator[None]:
    """No progress bar for local files; downloads have one."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if local and shown:
            logging.enable_progress_bar()


def kept(kind: Any, module: Any) -> Any:
    """The processor or tokenizer stored locally beside the weights that the module was loaded from, or None."""
    return _on_this_machine(kind, module.name_or_path) if module.name_or_path else None


def _on_this_machine(kind: Any, name: str) -> Any:
    try:
        return _load(kind, name, local_files_only=True)
    except (OSError, ValueError):
        return None


def fetch_network(kind: Any, name: str, weights: str | None) -> nn.Module:
    """The network with its weights; weights None: with random ones."""
    if weights is None:
        # _from_config, because the public from_config is that of the Auto classes alone.
        network: nn.Module = kind._from_config(fetch(kind.config_class, name))
    else:
        network = fetch(kind, name)
    return network


def package_of(module: nn.Module) -> tuple[str, str]:
    """Package and class, ("clip", "CLIPModel"), of a class of transformers.models or one derived from it; else ("", "")."""
    # By the names of modules, so that transformers is not imported for networks of other packages.
    for kind in type(module).__mro__:
        path = kind.__module__.split(".")
        if path[:2] == ["transformers", "models"] and len(path) > 2:
            return path[2], kind.__name__
    return "", ""


def class_names(config: Any, columns: int) -> list[str]:
    """The names of the score columns, as the library looks them up: column c is `id2label[c]`.

    Keys may be texts ("10", as JSON writes them) and stand in any order. Ids from 1 on of as many classes as there are columns
    are taken in their order; a column without a name is "class 7".
    """
    names = {int(key): str(name) for key, name in config.id2label.items()}
    ids = sorted(names)
    if len(ids) == columns and ids and ids[-1] >= columns:
        return [names[key] for key in ids]
    return [names.get(column, f"class {column}") for column in range(columns)]
