"""Models made by a function in a file of the user's: "my_model.py:build"."""

import sys
import traceback
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from whybox.errors import WhyboxError, unknown
from whybox.model import Model

_RETURNS = "an nn.Module, a whybox Model, or a module and a dictionary of options of whybox.load"


def names_file(name: str) -> bool:
    """Whether a model's name is a Python file, with or without a function after a colon.

    Args:
        name: As the user wrote it.

    Returns:
        True for "my_model.py:build" and "my_model.py".
    """
    return name.endswith(".py") or ".py:" in name


def made_in_file(name: str) -> tuple[nn.Module | Model, dict[str, Any]]:
    """Call a function in a file.

    Args:
        name: The file and the function, "my_model.py:build"; the function is called without arguments.

    Returns:
        What it made, and options for `whybox.load`.

    Raises:
        WhyboxError: The file or the function is missing, fails, or returns something else; one line.
    """
    file, _, function = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    path = Path(file)
    if not path.is_file():
        raise WhyboxError(f"{name}: there is no file {file}")
    module = _run(path, name)
    own = [key for key, value in vars(module).items() if callable(value) and getattr(value, "__module__", "") == module.__name__]
    if not function:
        raise WhyboxError(f"{name}: say which function makes the model, {file}:FUNCTION; it has {', '.join(own) or 'none'}")
    if not hasattr(module, function):
        raise unknown(f"function in {file}", function, own)
    make = getattr(module, function)
    if not callable(make):
        raise WhyboxError(f"{name}: {function} is no function; it must be one that returns {_RETURNS}")
    try:
        answer = make()
    except Exception as error:
        raise WhyboxError(f"{name} failed: {_reason(error, path)}") from error
    return _checked(name, answer)


def _run(path: Path, name: str) -> ModuleType:
    """Run the file as a module that worker processes can import as well: its folder comes first on the path, as for a script."""
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    taken = sys.modules.get(path.stem)
    # The file may have the name of a module in use, such as random.py, which must stay.
    own = taken is None or getattr(taken, "__file__", None) == str(path)
    spec = spec_from_file_location(path.stem if own else f"{path.stem} ({path.parent})", path)
    if spec is None or spec.loader is None:
        raise WhyboxError(f"{name}: {path.name} is not read as Python; its name must end in .py")
    module = module_from_spec(spec)
    # Before it runs: dataclasses look their module up.
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module.__name__]
        raise WhyboxError(f"{name}: {path.name} cannot be run: {_reason(error, path)}") from error
    return module


def _reason(error: Exception, path: Path) -> str:
    """The error's class and message in one line, with the last line of the file that it came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == path.name]
    said = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
    return f"{message} ({path.name}, line {lines[-1]})" if lines else message


def _checked(name: str, answer: Any) -> tuple[nn.Module | Model, dict[str, Any]]:
    made, options = answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, {})
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise WhyboxError(f"{name} must return {_RETURNS}, got a tuple with {type(options).__name__}")
    if isinstance(made, nn.Module) or (isinstance(made, Model) and not options):
        return made, dict(options)
    if isinstance(made, Model):
        raise WhyboxError(f"{name} returned a loaded model and options: a loaded model takes none")
    raise WhyboxError(f"{name} must return {_RETURNS}, got {type(made).__name__}")
