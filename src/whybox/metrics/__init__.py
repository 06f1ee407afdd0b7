"""Metrics of heat maps, one per file; classes can be imported by name: `from whybox.metrics import Deletion`."""

from typing import Any

from whybox import lazy


def __getattr__(name: str) -> Any:
    """Import a metric's class when it is first used, so that importing the package stays fast."""
    return lazy.find_class(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *lazy.class_names(__name__)})
