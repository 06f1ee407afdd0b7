"""The identity of a run: everything that makes its numbers, and so may not change until it is finished."""

import dataclasses
import hashlib
import json
import platform
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torchvision.ops import MultiScaleRoIAlign

from whybox import registry
from whybox.data._checked import innermost
from whybox.files import strict_json
from whybox.model import Model
from whybox.runs.evaluation.code_digest import Walk, digest_of, digest_text, is_installed, module_words
from whybox.runs.evaluation.plan import Plan
from whybox.specs import parse_spec
from whybox.truth import DataSet
from whybox.versions import version_of

PACKAGES = ("whybox", "torch", "torchvision", "numpy", "pillow")
"""Packages whose versions always count."""
SET_BY_PASSES = frozenset({"training", "map_levels"})
"""Attributes of modules that depend on what ran before: the mode, which every pass here sets, and what torchvision's
MultiScaleRoIAlign keeps of its first image."""


def identity(plan: Plan, model: Model, data: DataSet) -> dict[str, Any]:
    """The identity of a run: everything that may not change between its start and its end.

    The limit and the images' names are left out, so that a run can be extended.

    Args:
        plan: The plan.
        model: The model, prompted with the texts of all images, so that they count.
        data: The data set.

    Returns:
        Terms by name, with values that JSON can hold.
    """
    named = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan) if field.name != "limit"}
    terms = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    own_objects = {name: [_describe(part) for part in terms[name]] for name in ("own_methods", "own_metrics")}
    target = {"target": plan.target if isinstance(plan.target, str) else _describe(plan.target)}
    # A data set of the user's may have no digest of its annotations: then its class names have to do.
    annotations = getattr(data, "digest", "") or digest_text(["\n".join(data.classes)])
    of_model = {
        "model": model.name,
        "weights": weights_digest(model),
        "model_settings": _settings_digest(model),
        "code_of_the_network": digest_text(_network_words(model, Walk())),
        "functions_of_the_model": digest_of(_functions(model)),
    }
    registered = {"registered_methods": _registered(plan.rows(), registry.methods())}
    registered |= {"registered_metrics": _registered(plan.columns(), registry.metrics())}
    where = {"device": _device(model), "versions": _versions(plan, model)}
    of_data = {"data": data.name, "annotations": annotations, "code_of_the_data": _data_digest(data)}
    return {**terms, **own_objects, **target, **registered, **of_model, **where, **of_data}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names of the terms in which two identities differ.

    Args:
        before: The identity of an earlier run, as read from its run.json.
        now: The identity to compare it with.

    Returns:
        Names to print, without underscores; of several versions, those that differ.
    """
    # Both as they are written: a NaN is none that equals itself, and a list was a tuple.
    return [_difference(name, before.get(name), value) for name, value in now.items() if not _same(before.get(name), value)]


def _same(before: Any, now: Any) -> bool:
    return bool(json.loads(strict_json(before)) == json.loads(strict_json(now)))


def _difference(name: str, before: Any, now: Any) -> str:
    words = name.replace("_", " ")
    if not isinstance(before, dict) or not isinstance(now, dict) or not (before or now):
        return words
    differing = [key for key in dict.fromkeys((*before, *now)) if not _same(before.get(key), now.get(key))]
    return f"{words} ({', '.join(f'{key} {before.get(key)} → {now.get(key)}' for key in differing)})"


def _data_digest(data: DataSet) -> str:
    """A digest of how a data set of the user's makes its samples: the code of its class, and functions that it holds; "" for
    whybox's own. Plain attributes are left out: a count among them would keep a run from being extended."""
    data = innermost(data)
    if is_installed(type(data).__module__):
        return ""
    held = {name: value for name, value in getattr(data, "__dict__", {}).items() if callable(value)}
    return digest_of(type(data), held)


def _describe(part: Any) -> str:
    """The user's object as text that is the same in every process: its class, or function, its plain attributes, and a digest
    of its code."""
    # Not repr: by default it holds the object's address. Functions and classes have a __qualname__, instances do not.
    named = part if hasattr(part, "__qualname__") else type(part)
    plain = {name: value for name, value in getattr(part, "__dict__", {}).items() if _is_plain(value)}
    settings = ", ".join(f"{name}={value!r}" for name, value in sorted(plain.items()))
    return f"{named.__module__}.{named.__qualname__}({settings}) {digest_of(part)}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(_is_plain(entry) for entry in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def _registered(specs: tuple[str, ...], known: Mapping[str, type]) -> dict[str, str]:
    """Digests of the registered classes that a package registers whose code is not installed but lies elsewhere, by name."""
    named = {name: known[name] for name in (parse_spec(spec)[0] for spec in specs) if name in known}
    return {name: digest_of(kind) for name, kind in named.items() if not is_installed(kind.__module__)}


def _versions(plan: Plan, model: Model) -> dict[str, str]:
    """The versions of Python and of every package that takes part, by name."""
    walk = Walk()
    deque(_network_words(model, walk), maxlen=0)
    deque(walk.whole((_functions(model), plan.own_methods, plan.own_metrics, plan.target)), maxlen=0)
    # Bytecode differs between minor versions of Python, whose patches do not change results.
    python = ".".join(platform.python_version_tuple()[:2])
    packages = dict.fromkeys((*PACKAGES, *sorted(walk.packages - {"PIL"})))
    return {"python": python} | {name: version_of(name) for name in packages}


def _device(model: Model) -> str:
    """The type of the network's device, "cpu" or "cuda": sums differ in their last bits from one to another."""
    network = model.network
    weights = network.parameters() if isinstance(network, torch.nn.Module) else ()
    return next((weight.device.type for weight in weights), "")


def weights_digest(model: Model) -> str:
    """A digest of the network's weights and buffers; "" without a network."""
    network = model.network
    if not isinstance(network, torch.nn.Module):
        return ""
    digest = hashlib.sha256()
    # Buffers that are not saved with the weights compute with them.
    tensors = {**dict(network.named_buffers()), **network.state_dict()}
    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            continue
        digest.update(name.encode())
        # Viewed as bytes: numpy has no bfloat16 (pytorch/pytorch#110285). A copy, because torch calls one number with a stride of
        # 0 contiguous, and views it as no bytes; ONNX files that were made modules hold such.
        values = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _settings_digest(model: Model) -> str:
    """A digest of what a model is besides its weights: the plain attributes of every module, such as sizes and thresholds."""
    network = model.network
    modules = list(network.named_modules()) if isinstance(network, torch.nn.Module) else []
    lines = [repr(model.identity)]
    for where, part in [("", model), *modules]:
        for name, value in sorted(getattr(part, "__dict__", {}).items()):
            if name.startswith("_") or name in SET_BY_PASSES or (name == "scales" and isinstance(part, MultiScaleRoIAlign)):
                continue
            if callable(getattr(value, "to_dict", None)):  # the configurations of transformers
                value = json.dumps(value.to_dict(), default=str, sort_keys=True)
            if _is_plain(value):
                lines.append(f"{where}.{name}={value!r}")
            elif dataclasses.is_dataclass(value) and not isinstance(value, type):
                lines.append(f"{where}.{name}={digest_of(value)}")
    return digest_text(["\n".join(lines)])


def _network_words(model: Model, walk: Walk) -> Iterator[str]:
    """The code of the model's class, where it is the user's, and of its network."""
    yield from walk.words(type(model))
    if isinstance(model.network, torch.nn.Module):
        yield from module_words(model.network, walk)
    yield from walk.rest()


def _functions(model: Model) -> dict[str, Any]:
    """The functions that a model was given, such as `candidates`; all that it holds where its class is the user's."""
    held = {name: value for name, value in vars(model).items() if value is not model.network}
    if not is_installed(type(model).__module__):
        return held
    return {name: value for name, value in held.items() if callable(value) and not isinstance(value, torch.nn.Module)}
