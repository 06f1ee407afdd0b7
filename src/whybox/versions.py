"""Versions of the packages that results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """The version of an installed package, or "unknown"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, whybox, torch, torchvision and the given packages, by name."""
    names = dict.fromkeys(("whybox", "torch", "torchvision", *packages))
    return {"python": platform.python_version(), **{name: version_of(name) for name in names}}
