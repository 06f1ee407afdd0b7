"""The names of all methods, metrics, targets and models, and suggestions for an unknown model's name."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from torch import nn

from whybox import registry
from whybox.errors import UnknownNameError, WhyboxError
from whybox.model import Model
from whybox.targets import COMBINED, DESCRIPTIONS, SIDES, TARGETS, parts_of

BUILT_IN = "whybox"
HUB = "hf"
WELL_KNOWN = (
    "hf/facebook/detr-resnet-50",
    "hf/facebook/detr-resnet-101",
    "hf/microsoft/conditional-detr-resnet-50",
    "hf/SenseTime/deformable-detr",
    "hf/PekingU/rtdetr_r50vd",
    "hf/ustc-community/dfine-small-coco",
    "hf/hustvl/yolos-tiny",
    "hf/openai/clip-vit-base-patch16",
    "hf/openai/clip-vit-base-patch32",
    "hf/openai/clip-vit-large-patch14",
    "hf/google/siglip-base-patch16-224",
    "hf/Salesforce/blip-itm-base-coco",
    "hf/google/vit-base-patch16-224",
    "open_clip/ViT-B-16",
    "open_clip/ViT-B-32",
    "open_clip/ViT-L-14",
    "open_clip/ViT-B-16-SigLIP",
    "open_clip/RN50",
)
"""Examples from model hubs, which cannot be listed in full: their other models work as well."""
_FILES = (".pt", ".pth", ".pkl", ".ckpt", ".safetensors", ".bin", ".onnx", ".engine", ".torchscript", ".tflite")
_RUNTIMES = (".onnx", ".engine", ".tflite")


def list_methods(model: Model | None = None) -> list[str]:
    """The names of the methods.

    Args:
        model: Only those that work with this model; None: all.

    Returns:
        Names for `explain(..., method=)`.
    """
    return [name for name, kind in registry.methods().items() if model is None or kind.serves(model)]


def list_metrics(given: Iterable[str] | None = None) -> list[str]:
    """The names of the metrics.

    Args:
        given: Only those that need nothing else than these: "box", "mask", "fixations", "predict", "redraw", "randomized",
            "whole", "words"; None: all.

    Returns:
        Names for `evaluate(..., metrics=)`.
    """
    # Asked with the default options, on which `needs` may depend.
    known: dict[str, Any] = dict(registry.metrics())
    return [name for name, kind in known.items() if given is None or frozenset(kind().needs) <= frozenset(given)]


def list_targets(model: Model | None = None) -> list[str]:
    """The names of the targets.

    Args:
        model: Only those that this model's kind has; None: all, with every family's raw outputs.

    Returns:
        Names for `explain(..., target=)`; in "contrast:CLASS", CLASS stands for a class name.
    """
    if model is None:
        return list(DESCRIPTIONS)
    boxes = (*SIDES, COMBINED)
    named = [*TARGETS, COMBINED, "contrast:CLASS", *parts_of(model)]
    return [name for name in named if not (model.whole_image and name in boxes)]


def list_models(pattern: str = "*") -> list[str]:
    """The names of models that `load` knows.

    Args:
        pattern: Only names that match it, with the wildcards * and ?: "*fcos*".

    Returns:
        The shipped models, all of torchvision's detectors, and well-known models of "hf/" and "open_clip/", where the name of
        any supported Hugging Face repository or open_clip model works, too.
    """
    return [name for name in [*shipped_models(), *_listed(), *WELL_KNOWN] if fnmatchcase(name.lower(), pattern.lower())]


def shipped_models() -> list[str]:
    """The names of the models that come with the package."""
    from whybox import zoo

    return [f"{BUILT_IN}/{name}" for name in (*zoo.shipped(), *zoo.shipped_folders())]


def _listed() -> list[str]:
    """The model names of the families that provide a list."""
    loaders: dict[str, Any] = dict(registry.loaders())
    return [f"{prefix}/{name}" for prefix, loader in loaders.items() if hasattr(loader, "names") for name in loader.names()]


def unknown_model(name: str) -> UnknownNameError:
    """The error for an unknown model's name, with what would work in its place."""
    return UnknownNameError(f"unknown model {name!r}; {_what_works(name)}")


def check_task(name: str) -> None:
    """Refuse the name of a network of torchvision's for another task than detection, to which other detectors' names are close.

    Raises:
        UnknownNameError: What does work.
    """
    prefix, _, rest = name.partition("/")
    if prefix != "torchvision":
        return
    from torchvision import models

    if rest in models.list_models(models):
        raise UnknownNameError(f"{name}: torchvision's {rest} classifies images; {_CLASSIFIERS}")
    if rest in models.list_models() and rest not in models.list_models(models.detection):
        raise UnknownNameError(f"{name}: torchvision's {rest} is no detector; {_DETECTORS}")


def unsupported(module: nn.Module) -> WhyboxError:
    """The error for a module of no known family, with what would work."""
    kind = type(module).__name__
    # By the place of its class: no package needs to be imported. Not by its base classes, which detectors may share.
    package, *inside = type(module).__module__.split(".")
    torchvision = package == "torchvision" and inside[:1] == ["models"] and not _OTHER_TASKS & set(inside)
    if torchvision or package == "timm" or (package == "transformers" and kind.endswith("ForImageClassification")):
        return WhyboxError(f"{package}'s {kind} is an image classifier or its backbone; {_CLASSIFIERS}")
    return WhyboxError(f"{kind} is not a supported model ({', '.join(registry.models())}); {_DETECTORS}")


_OTHER_TASKS = {"detection", "segmentation", "video", "optical_flow", "feature_extraction", "_utils"}
_CLASSIFIERS = (
    "of classifiers, whybox explains Hugging Face's ViT and DeiT, as in whybox.load('hf/google/vit-base-patch16-224') or with "
    "their module; of the others, detectors and image-text models (CLIP, SigLIP, BLIP)"
)
_DETECTORS = "to use any detector, say how to read its output: whybox.load(module, candidates=fn, features=[...], size=(h, w))"


def _what_works(name: str) -> str:
    suffix = PurePath(name).suffix.lower()
    if name.startswith("timm/"):
        return f"timm's networks classify images; {_CLASSIFIERS}"
    if suffix in _RUNTIMES:
        return f"a {suffix} file has no gradients: load the network that it was exported from as a torch.nn.Module"
    if suffix in _FILES:
        return (
            "a file of weights is not a model: build its network and pass the module, whybox.load(module, candidates=fn, "
            f"features=[...], size=(h, w)), or load a model by name with weights={name!r}"
            + (f" (ultralytics: ultralytics/{name})" if suffix == ".pt" else "")
        )
    close = _close_to(name)
    # OWNER/NAME is how the hub itself writes it, without a prefix.
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        hub = f"{HUB}/{name}"
        return f"for a Hugging Face repository: {' or '.join(dict.fromkeys([hub, *close]))}"
    if close:
        return f"did you mean {' or '.join(close)}?"
    prefixes = ", ".join(f"{prefix}/" for prefix in (BUILT_IN, *registry.loaders()))
    examples = ", ".join((*shipped_models(), *WELL_KNOWN[:1]))
    return f"a name starts with one of {prefixes}, as in {examples}, or is FILE.py:FUNCTION; see whybox models"


def _close_to(name: str) -> list[str]:
    """Names whose last part is like the last part of this one, at most three."""
    known = list_models()
    wanted = name.lower().rpartition("/")[2]
    # Reversed, so that of models whose last parts are equal the first one listed, a shipped one, is suggested.
    tails = {full.lower().rpartition("/")[2]: full for full in reversed(known)}
    if wanted in tails:
        return [tails[wanted]]
    close = get_close_matches(wanted, tails, n=3, cutoff=0.75)
    # difflib finds no likeness between a short beginning, "fcos", and a long name.
    close = close or [tail for tail in tails if len(wanted) > 2 and tail.startswith(wanted)][:3]
    return [tails[tail] for tail in close]
