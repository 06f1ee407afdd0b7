"""What an evaluation computes: everything that its numbers depend on, and how it differs from another."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

import whybox
from whybox import api, registry
from whybox.errors import UnknownNameError, WhyboxError, unknown
from whybox.metric_choice import canonical, make_metric, written_out
from whybox.model import Model
from whybox.specs import parse_spec
from whybox.truth import DataSet, Metric
from whybox.types import Target

CONTROLS = ("control_blob", "control_box")


def is_control(spec: str) -> bool:
    """Whether a method, with or without settings, is one of the controls."""
    return parse_spec(spec)[0] in CONTROLS


SELECTIONS = ("well_detected", "all", "failures")
PROMPTS = ("class", "phrase")
TEMPLATE = "a photo of a {}"
METHODS = ("odam", "gradcam", "gradcam_pp", "drise:masks=500")
"""D-RISE's paper takes 5000 masks; a tenth of them lets the default run end in minutes on a CPU."""
METHODS_OF_WHOLE = ("grad_eclip", "game", "maskclip", "raw_attention")
"""The default methods of a model that answers for the whole image, those that it can serve."""


@dataclass(frozen=True)
class Plan:
    """What is computed for every image. Two runs of one plan on one model and data set give bit-identical numbers.

    methods, metrics: names with settings ("drise:masks=500"); of metrics also groups ("standard", "all", "faithfulness" ...).
    The controls join the methods by themselves.
    select: which detections are explained. "well_detected": those that match an annotated object of their class one to one
    with an IoU over `iou`, the paper's choice; "all": every one, with its object where one matches over .5; "failures": those
    that match none over .5. threads: of each process; another number may change the last bits of a sum.
    batch: perturbed images a forward pass, for the same reason. limit: only the first images.
    prompts, template: what an image-text model is asked about. "class": the classes present in the image, among all classes
    of the data, each in the template; "phrase": every object's own phrase, among those of the image. With it, and with a
    classifier, select, iou and score_threshold have no meaning.
    own_methods, own_metrics: objects of the user's, known by their `name`.
    """

    methods: tuple[str, ...] = METHODS
    metrics: tuple[str, ...] = ("standard",)
    target: str | Target = "score"
    select: str = "well_detected"
    iou: float = 0.9
    score_threshold: float = 0.1
    top: int = 100
    seed: int = 0
    limit: int | None = None
    batch: int = 8
    threads: int = 1
    route: str = "auto"
    prompts: str = "class"
    template: str = TEMPLATE
    own_methods: tuple[Any, ...] = ()
    own_metrics: tuple[Metric, ...] = ()

    def __post_init__(self) -> None:
        # However a name was written, it is one row and one column.
        object.__setattr__(self, "methods", tuple(_method_spec(spec) for spec in self.methods))
        object.__setattr__(self, "metrics", tuple(canonical(spec) for spec in self.metrics))
        for name in ("top", "seed", "batch", "threads", "limit"):
            value = getattr(self, name)
            if type(value) is not int and not (name == "limit" and value is None):
                raise WhyboxError(f"{name} must be a whole number, got {value!r}")
        for name in ("iou", "score_threshold"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), (int, float)):
                raise WhyboxError(f"{name} must be a number, got {getattr(self, name)!r}")
        if not isinstance(self.target, str) and not callable(self.target):
            raise WhyboxError(f"target must be a name or a callable, got {self.target!r}")
        if self.select not in SELECTIONS:
            raise unknown("selection", str(self.select), SELECTIONS)
        if self.prompts not in PROMPTS:
            raise unknown("prompts", str(self.prompts), PROMPTS)
        if not isinstance(self.template, str) or self.template.count("{}") != 1:
            raise WhyboxError(f"template must be a text with one {{}} where the class name stands, got {self.template!r}")
        for name in ("iou", "score_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise WhyboxError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for name in ("top", "batch", "threads"):
            if getattr(self, name) < 1:
                raise WhyboxError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise WhyboxError(f"seed must be 0 or more, got {self.seed}")
        if self.limit is not None and self.limit < 1:
            raise WhyboxError(f"limit must be at least 1, got {self.limit}")
        if not (self.methods or self.own_methods) or not (self.metrics or self.own_metrics):
            raise WhyboxError("name at least one method and one metric")
        _check_names("method", (*self.methods, *CONTROLS), self.own_methods, ("name", "needs"))
        known = [parse_spec(column)[0] for column in self._named()]
        for metric in self.own_metrics:
            if not isinstance(metric, Metric):
                raise WhyboxError(f"your metric {type(metric).__name__} must derive from whybox.Metric")
        _check_names("metric", known, self.own_metrics, ("name", "higher_is_better"))

    def rows(self) -> tuple[str, ...]:
        """The methods, each once, and after them the controls."""
        own = (method.name for method in self.own_methods)
        return tuple(dict.fromkeys((*self.methods, *own, *CONTROLS)))

    def columns(self) -> tuple[str, ...]:
        """The metrics, groups written out, each once."""
        return tuple(dict.fromkeys((*self._named(), *(metric.name for metric in self.own_metrics))))

    def _named(self) -> tuple[str, ...]:
        return written_out(self.metrics)


def _check_names(kind: str, known: Sequence[str], own: Sequence[Any], needed: Sequence[str]) -> None:
    """The user's own objects have what a table needs, and names that no other row or column has."""
    taken = set(known)
    for one in own:
        if lacks := [name for name in needed if not hasattr(one, name)]:
            raise WhyboxError(f"your {kind} {type(one).__name__} lacks {', '.join(lacks)}; a {kind} has {', '.join(needed)}")
        if not isinstance(one.name, str) or set(one.name) & set(":=,"):
            raise WhyboxError(f"your {kind} {type(one).__name__} needs a name without : = and commas, got {one.name!r}")
        if one.name in taken:
            raise WhyboxError(f"two {kind}s are named {one.name!r}; give yours another name")
        taken.add(one.name)


def _method_spec(spec: str) -> str:
    """The spec with the method's own name; as it is where nothing has the name."""
    written, colon, settings = spec.partition(":")
    try:
        return registry.named("method", written, registry.methods())[0] + colon + settings
    except UnknownNameError:
        return spec


def make_metrics(plan: Plan) -> dict[str, Metric]:
    """The metric behind every column of the plan."""
    own = {metric.name: metric for metric in plan.own_metrics}
    return {spec: own[spec] if spec in own else make_metric(spec) for spec in plan.columns()}


def make_methods(plan: Plan, model: Model) -> dict[str, Any]:
    """The method behind every row of the plan, refused before any image is read where the model cannot serve it."""
    made: dict[str, Any] = {}
    own = {method.name: method for method in plan.own_methods}
    for spec in plan.rows():
        if spec in own:
            made[spec] = api.make_method(own[spec], model)
            continue
        name, options = parse_spec(spec)
        kind = registry.methods().get(name)
        routed = {"route": plan.route} if kind is not None and "route" in {field.name for field in fields(kind)} else {}
        made[spec] = api.make_method(name, model, **routed | options)
    for method in made.values():
        api.check_target(method, plan.target)
    return made


def identity(plan: Plan, model: Model, data: DataSet) -> dict[str, Any]:
    """The plan with what it is applied to, as JSON holds it: what may not change between the start and the end of a run.

    model: as it is asked, so that an image-text model's prompt counts.
    How many images are measured may, so the limit and the images' names are left out: a run can be extended.
    """
    named = {field.name: getattr(plan, field.name) for field in fields(plan) if field.name != "limit"}
    terms = {name: list(value) if isinstance(value, tuple) else value for name, value in named.items()}
    own = {name: [_describe(one) for one in terms[name]] for name in ("own_methods", "own_metrics")}
    target = {"target": plan.target if isinstance(plan.target, str) else _describe(plan.target)}
    annotations = getattr(data, "digest", "") or _digest("\n".join(data.classes).encode())
    of_model = {"model": model.name, "weights": _weights_digest(model), "model_settings": _settings_digest(model)}
    where = {"device": _device(model), "torch": torch.__version__, "whybox": whybox.__version__}
    return {**terms, **own, **target, **of_model, **where, "data": data.name, "annotations": annotations}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The terms in which two identities differ."""
    return [name.replace("_", " ") for name in now if before.get(name) != now[name]]


def _describe(one: Any) -> str:
    """The user's object in words that are the same in every process: its class and its plain attributes."""
    kind = one if hasattr(one, "__qualname__") else type(one)
    plain = {name: value for name, value in getattr(one, "__dict__", {}).items() if _is_plain(value)}
    return f"{kind.__module__}.{kind.__qualname__}({', '.join(f'{name}={value!r}' for name, value in sorted(plain.items()))})"


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(_is_plain(one) for one in value.values())
    return value is None or isinstance(value, (bool, int, float, str))


def _device(model: Model) -> str:
    """Its kind, "cpu" or "cuda": sums differ in their last bits from one to another."""
    network = model.network
    weights = network.parameters() if isinstance(network, torch.nn.Module) else ()
    return next((weight.device.type for weight in weights), "")


def _weights_digest(model: Model) -> str:
    network = model.network
    if not isinstance(network, torch.nn.Module):
        return ""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _settings_digest(model: Model) -> str:
    """What a model is besides its weights: input sizes, thresholds, configurations; of every module's plain attributes."""
    network = model.network
    modules = list(network.named_modules()) if isinstance(network, torch.nn.Module) else []
    lines = [repr(model.identity)]
    for where, part in [("", model), *modules]:
        for name, value in sorted(getattr(part, "__dict__", {}).items()):
            if name.startswith("_") or name == "training":
                continue
            if is_dataclass(value) and not isinstance(value, type):
                value = {field.name: getattr(value, field.name) for field in fields(value)}
            elif callable(getattr(value, "to_dict", None)):
                value = json.dumps(value.to_dict(), default=str, sort_keys=True)
            if _is_plain(value):
                lines.append(f"{where}.{name}={value!r}")
    return _digest("\n".join(lines).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def titles(specs: Sequence[str]) -> dict[str, str]:
    """Words for a table: the method's name, its settings behind it."""
    named, known = {}, registry.methods()
    for spec in specs:
        name, options = parse_spec(spec)
        settings = ", ".join(f"{key} {value}" for key, value in options.items())
        title = known[name].title or name if name in known else name
        named[spec] = f"{title} ({settings})" if settings else title
    return named
