"""Hugging Face's models by name: the family that a configuration belongs to builds its model."""

from types import ModuleType
from typing import Any

from whybox.errors import WeightsError, WhyboxError
from whybox.model import Model
from whybox.models.hf import classification, detection, image_text, instances, prompted
from whybox.models.hf._hub import PREFIX, fetch
from whybox.models.hf._prompts import READERS

__all__ = ["PREFIX", "build"]


def build(name: str, weights: str | None = "default", **options: Any) -> Model:
    """A model from a repository on the Hugging Face hub, its local cache, or a local folder; weights None: random ones.

    The options are passed to the family that its configuration belongs to.
    """
    from transformers import AutoConfig

    if weights not in ("default", None):
        raise WeightsError(f"{PREFIX}/{name} takes its own weights, a file or None, got weights={weights!r}")
    config = fetch(AutoConfig, name)
    model: Model = _family(config, name).build(name, weights, **options)
    return model


def _family(config: Any, name: str) -> ModuleType:
    for family in (detection, instances, prompted, classification, image_text):
        if family.knows(config):
            return family
    made = ", ".join(config.architectures or ()) or config.model_type
    raise WhyboxError(
        f"{PREFIX}/{name} is a {made}, which whybox does not know: it explains detection transformers, MaskFormer and "
        f"Mask2Former, detectors that read text ({', '.join(READERS)}), image classifiers "
        f"({', '.join(classification.FAMILIES)}) and image-text models ({', '.join(image_text.FAMILIES)})"
    )
