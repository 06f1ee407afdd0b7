"""Any detector, through one small function of the user's that reads boxes and scores off the network's output."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from whybox.errors import WhyboxError
from whybox.models.plain._detector import Plain, ReadOutput
from whybox.models.plain._prompted import make_prompted


def matches(module: nn.Module) -> bool:
    """Never by itself: this family is asked for by giving `candidates=`."""
    return False


def wrap(module: nn.Module, candidates: ReadOutput, features: Sequence[str] | None = None, **options: Any) -> Plain:
    """A model from the user's module; the options are the fields of Plain, and with `texts` those of PromptedPlain."""
    if features is None:
        raise WhyboxError(
            f"say which layers of {type(module).__name__} to draw maps on, features=[...]: paths from module.named_modules(), "
            "best the inputs of its head"
        )
    if "texts" in options:
        return make_prompted(module, candidates, features, **options)
    return Plain(module, candidates, features, **options)
