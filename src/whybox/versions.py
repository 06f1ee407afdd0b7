"""Versions of the packages that results depend on."""

import platform
from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """The version of an installed package, "unknown" where it is not installed as one."""
    try:
        return version(package)
    except PackageNotFoundError:
        return UNKNOWN


def versions(*packages: str) -> dict[str, str]:
    """Versions by package, those of whybox, torch and torchvision at least, and Python's."""
    names = dict.fromkeys(("whybox", "torch", "torchvision", *packages))
    return {"python": platform.python_version(), **{name: version_of(name) for name in names}}
