"""Losses on heat maps and embeddings, one file each; their options can be imported from here:
`from whybox.losses import OdamTrain`."""

from typing import Any

from whybox import lazy


def __getattr__(name: str) -> Any:
    """Import a class on first use."""
    return lazy.find_class(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *lazy.class_names(__name__)})
