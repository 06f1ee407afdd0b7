"""One file per method that draws heat maps; the classes are here by name, too: `from whybox.methods import Odam`."""

from typing import Any

from whybox import lazy


def __getattr__(name: str) -> Any:
    """A class comes in when it is used."""
    return lazy.find_class(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *lazy.class_names(__name__)})
