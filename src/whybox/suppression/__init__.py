"""One file per rule of duplicate removal; their classes can be imported from here: `from whybox.suppression import Soft`.

The room is not called nms, because `whybox.nms` is the function.
"""

from typing import Any

from whybox import lazy


def __getattr__(name: str) -> Any:
    """Import a class on first use."""
    return lazy.find_class(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *lazy.class_names(__name__)})
