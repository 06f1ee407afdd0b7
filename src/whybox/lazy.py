"""Look up the registered classes of a package, importing a file only when one of its classes is needed."""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any


def find_class(package: str, name: str) -> Any:
    """The class `name` that a file of the package registers: the file's name is the class's `name`.

    Args:
        package: The package's import name: "whybox.methods".
        name: The class, such as "Odam".

    Raises:
        AttributeError: No file registers such a class. A name that starts in lower case is refused before any file is imported.
    """
    if name[:1].isupper():
        for module in _likely_first(package, name):
            value = vars(module).get(name)
            # vars, because a class that derives from a registered one inherits its name.
            if isinstance(value, type) and vars(value).get("name") == module.__name__.rpartition(".")[2]:
                return value
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def class_names(package: str) -> list[str]:
    """The names of all classes that the files of a package register; imports every file."""
    return sorted(
        value.__name__
        for module in _likely_first(package, "")
        for value in vars(module).values()
        if isinstance(value, type) and vars(value).get("name") == module.__name__.rpartition(".")[2]
    )


def _likely_first(package: str, name: str) -> Iterator[ModuleType]:
    """The public files of a package, starting with the one that matches the class's name."""
    files = [entry.name for entry in pkgutil.iter_modules(import_module(package).__path__) if not entry.name.startswith("_")]
    for file in sorted(files, key=lambda file: (file.replace("_", "") != name.lower(), file)):
        yield import_module(f"{package}.{file}")
