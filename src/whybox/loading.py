"""Load models and data sets by name, and wrap modules as models."""

import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whybox import registry
from whybox.catalog import BUILT_IN, HUB, check_task, unknown_model, unsupported
from whybox.data._checked import checked
from whybox.data._renamed import renamed
from whybox.errors import WhyboxError, unknown
from whybox.model import Model
from whybox.model_files import made_in_file, names_file
from whybox.options import check_names, check_options, keywords_of, read_options
from whybox.specs import parse_value, split_spec
from whybox.trace_checks import check_class_names
from whybox.truth import DataSet
from whybox.unwrapping import unwrapped
from whybox.weights import load_weights

_PLAIN = "plain"
_SETTING = re.compile(r"\s*[A-Za-z][\w-]*\s*=")
DATA_SET = ("name", "classes", "problems", "names")
"""The attributes of a data set."""


def load(
    model: str | Path | nn.Module | Model,
    *,
    weights: str | Path | None = "default",
    device: str | torch.device | None = None,
    **options: Any,
) -> Model:
    """A model that whybox can explain.

    Args:
        model: A name ("torchvision/fcos_resnet50_fpn", "hf/facebook/detr-resnet-50", "open_clip/ViT-B-16", "whybox/scenes"),
            a folder written by `whybox train`, a function in a file of yours ("my_model.py:build") that returns a module, a
            Model, or a module and a dictionary of these options, or a module that you have built, which is used as it is, on
            its device; of a DataParallel, compiled or PEFT-wrapped module, the network inside.
        weights: For names: "default", a file (safetensors, or a state dict that loads with weights_only), or None for random
            initialization. For a module, also one that a function returns: a file that is loaded into it.
        device: The device to move the network to; None: it stays where it is.
        **options: Options of the model family; `candidates=`, `features=` and `size=` wrap any nn.Module: see the page "plain".

    Returns:
        A `Model`; a `Model` that was given is returned unchanged.

    Raises:
        UnknownNameError: No model has this name; the message says what would work.
        WhyboxError: The module is not supported, or the options, weights or device do not fit.
    """
    if isinstance(model, nn.Module):
        loaded = _of_module(model, weights, **options)
    elif isinstance(model, (str, Path)) and names_file(str(model)):
        loaded = _from_file(str(model), weights, options)
    elif isinstance(model, (str, Path)):
        loaded = _by_name(str(model), weights, **options)
    elif isinstance(model, Model):
        loaded = model
    else:
        raise WhyboxError(f"a model must be a name, a torch.nn.Module or a loaded model, got {type(model).__name__}")
    # Before anything is matched with them: of a single text, every letter would be a class.
    check_class_names(loaded.name, loaded.classes)
    if device is not None:
        _move(_network(loaded), device)
    return loaded


def _of_module(module: nn.Module, weights: str | Path | None, **options: Any) -> Model:
    module = unwrapped(module)
    model = _wrap(module, **options)
    if isinstance(weights, Path) or weights not in ("default", None):
        load_weights(module, weights)
    return model


def _from_file(name: str, weights: str | Path | None, options: Mapping[str, Any]) -> Model:
    """The model that a function of the user's returns; options given here take the place of those that it returns."""
    made, returned = made_in_file(name)
    if isinstance(made, nn.Module):
        return _of_module(made, weights, **{"name": f"{Path(name).name}", **returned, **options})
    if options:
        raise WhyboxError(f"{name} returned a loaded model, which takes no options ({', '.join(options)})")
    if isinstance(weights, Path) or weights not in ("default", None):
        load_weights(_network(made), weights)
    return made


def _move(network: nn.Module, device: str | torch.device) -> None:
    try:
        network.to(device)
    # An AssertionError is what torch raises where it was built without CUDA.
    except (RuntimeError, AssertionError) as error:
        raise WhyboxError(f"device {str(device)!r} is not available: {str(error).splitlines()[0]}") from error


def _by_name(name: str, weights: str | Path | None, **options: Any) -> Model:
    prefix, _, rest = name.partition("/")
    # Before the folders of `whybox train`: what tells them apart is the file config.json.
    if folder := _pretrained_folder(name):
        if weights != "default":
            raise WhyboxError(f"{name} comes with its own weights; load its module yourself to use others")
        model = _built(HUB, folder, name, weights, options)
        model.name = name
        return model
    if Path(name).is_dir() and not (Path(name) / "card.json").is_file():
        raise WhyboxError(f"{name} holds no model: expected what whybox train wrote (card.json), or Hugging Face's config.json")
    if prefix == BUILT_IN or Path(name).is_dir():
        return _from_zoo(rest if prefix == BUILT_IN else name, weights, name, **options)
    loaders = registry.loaders()
    if prefix not in loaders or not rest:
        raise unknown_model(name)
    check_task(name)
    return _built(prefix, rest, name, weights, options)


def _pretrained_folder(name: str) -> str | None:
    """The folder of a model in Hugging Face's format, shipped or the user's; None for every other name."""
    from whybox import zoo

    prefix, _, rest = name.partition("/")
    folder = zoo.shipped_folders().get(rest) if prefix == BUILT_IN else Path(name)
    return str(folder) if folder is not None and (folder / "config.json").is_file() else None


def _built(prefix: str, rest: str, name: str, weights: str | Path | None, given: Mapping[str, Any]) -> Model:
    """A model built by its family's loader, with weights from a file loaded into it."""
    options = dict(given)
    # Weights that a hub knows by name ("COCO_V1", "laion2b_s34b_b88k") have no suffix.
    file = weights if isinstance(weights, Path) or (weights and Path(weights).suffix) else None
    classes = options.pop("classes", None)
    try:
        built = registry.loaders()[prefix].build(rest, None if file else weights, **options)
    except ModuleNotFoundError as error:
        raise WhyboxError(f"{name} needs the package {error.name}: pip install 'whybox[{prefix}]'") from error
    except TypeError as error:
        raise _refused(name, error, options) from error
    if not isinstance(built, nn.Module):
        if file:
            load_weights(_network(built), file)
        if classes is not None:
            built.classes = classes
        return built  # type: ignore[no-any-return]
    if file:
        load_weights(built, file)
    return _wrap(built, name=name, classes=classes)


def _from_zoo(name: str, weights: str | Path | None, title: str, **options: Any) -> Model:
    from whybox import zoo

    if weights != "default":
        raise WhyboxError(f"{title} comes with its own weights; load its module yourself to use others")
    network, classes, _ = zoo.load(name)
    # A card names the objects alone; torchvision's column 0 is the background.
    return _wrap(network, name=title, **{"classes": ("background", *classes), **options})


def _wrap(module: nn.Module, **options: Any) -> Model:
    families = registry.models()
    if "candidates" in options:
        return _wrap_as(families[_PLAIN], module, **options)
    for name, family in families.items():
        if name != _PLAIN and family.matches(module):
            return _wrap_as(family, module, **options)
    raise unsupported(module)


def _wrap_as(family: Any, module: nn.Module, **options: Any) -> Model:
    try:
        model: Model = family.wrap(module, **options)
    except TypeError as error:
        raise _refused(type(module).__name__, error, options) from error
    return model


def _refused(name: str, error: TypeError, options: Mapping[str, Any]) -> WhyboxError:
    """The error for options that a function does not take; a mistake inside it is told as one, with its place."""
    text = str(error)
    named = any(repr(option) in text for option in options)
    if "required positional argument" in text or "required keyword" in text or ("argument" in text and named):
        return WhyboxError(f"{name} cannot be loaded with these options: {text}")
    place = traceback.extract_tb(error.__traceback__)[-1]
    return WhyboxError(
        f"{name}: loading failed in {Path(place.filename).name}, line {place.lineno} ({place.name}): TypeError: {text}"
    )


def _network(model: Model) -> nn.Module:
    network = model.network
    if not isinstance(network, nn.Module):
        raise WhyboxError(f"{model.name} has no module of its own to move or to fill with weights")
    return network


def open_data(
    data: str | DataSet, *, on_problem: str = "skip", rename: Mapping[str, str] | None = None, **options: Any
) -> DataSet:
    """Open a data set by name.

    Args:
        data: "scenes:count=40", "coco:FOLDER:split=val", "coco:FILE.json", "crowdhuman:FOLDER"; or your own `DataSet`.
        on_problem: "skip" leaves out invalid entries and lists them in `problems`; "refuse" raises an error.
        rename: New names for classes, such as those of a model: {"motorbike": "motorcycle", "sofa": "couch"}.
        **options: Options of a data set that is opened by name, as an alternative to writing them in the name.

    Returns:
        The data set; the samples of one that is not whybox's own are checked as they are read.

    Raises:
        UnknownNameError: No data set has this name, or the data set has no class of a name in `rename`.
        WhyboxError: The data set has no such option, or the option's value has the wrong type.
    """
    opened = _opened(data, on_problem, options)
    return opened if rename is None else renamed(opened, rename)


def _opened(data: str | DataSet, on_problem: str, options: Mapping[str, Any]) -> DataSet:
    if on_problem not in ("skip", "refuse"):
        raise unknown("on_problem", str(on_problem), ("skip", "refuse"))
    if not isinstance(data, (str, Path)):
        given: Any = data
        if isinstance(given, DataSet):
            check_names("a data set that is open already", {}, options)
            return checked(given)
        missing = [name for name in (*DATA_SET, "__len__", "__getitem__") if not hasattr(given, name)]
        raise WhyboxError(
            f"data must be a name or a data set, an object with {', '.join(DATA_SET)}, len() and [i]; "
            f"this {type(given).__name__} lacks {', '.join(missing)}"
        )
    prefix, _, rest = str(data).partition(":")
    known = registry.data_sets()
    if prefix not in known:
        if Path(str(data)).exists():
            raise WhyboxError(f"data {str(data)!r}: say what it is: coco:{data} or crowdhuman:{data}")
        # The name alone is compared: with its options, no known name would be close to it.
        raise unknown("data", prefix, known)
    parts = rest.split(":")
    settings: list[str] = []
    # From the end, because the path before them may hold colons, as C:\data does, or an equals sign.
    while parts and _SETTING.match(parts[-1]) and not Path(":".join(parts)).exists():
        settings.insert(0, parts.pop())
    _, texts = split_spec(":".join([prefix, *settings]))
    chosen = _data_options(prefix, texts, options)
    return checked(known[prefix].open_data(":".join(parts), on_problem=on_problem, **chosen))


def _data_options(prefix: str, texts: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a data set: those written in its name, as text, and those given as keywords."""
    if twice := sorted(set(texts) & set(given)):
        raise WhyboxError(f"data {prefix!r}: {', '.join(twice)} is given twice, in the name and as an option")
    hints = keywords_of(registry.data_sets()[prefix].open_data, without={"on_problem"})
    if hints is None:
        return {name: parse_value(text) for name, text in texts.items()} | dict(given)
    return read_options(f"data {prefix!r}", hints, texts) | check_options(f"data {prefix!r}", hints, given)
