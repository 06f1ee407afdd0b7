"""The plan of an evaluation, and what its methods and metrics are called."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

from whybox import api, registry
from whybox.errors import UnknownNameError, WhyboxError, unknown
from whybox.metric_choice import canonical, check_metric, make_metric, written_out
from whybox.model import Model
from whybox.selection import MOST_DETECTIONS
from whybox.specs import parse_spec
from whybox.truth import Metric
from whybox.types import Target

CONTROLS = ("control_blob", "control_box")


def is_control(spec: str) -> bool:
    """Whether a method is one of the controls.

    Args:
        spec: The method's name, with or without settings.

    Returns:
        True for a control.
    """
    return parse_spec(spec)[0] in CONTROLS


SELECTIONS = ("well_detected", "all", "failures")
PROMPTS = ("class", "phrase")
TEMPLATE = "a photo of a {}"
OPTIONAL = ("objects_per_image", "top", "limit")
"""Numbers of a plan that may be None, for no limit."""
METHODS = ("odam", "gradcam", "gradcam_pp", "drise:masks=500")
"""The default methods of detectors. D-RISE's paper takes 5000 masks; with a tenth of them a run takes minutes on a CPU."""
METHODS_OF_WHOLE = ("grad_eclip", "game", "maskclip", "raw_attention")
"""The default methods of whole-image models, as far as a model provides what they need."""


@dataclass(frozen=True)
class Plan:
    """What is computed for every image. Two runs of one plan on one model and data set give bit-identical numbers.

    Attributes:
        methods: Names with settings ("drise:masks=500"). The controls are added to them.
        metrics: Names with settings, and groups ("standard", "all", "faithfulness" ...).
        target: What is explained, a name or a callable.
        select: Which detections are explained. "well_detected": those that match an annotated object of their class one to
            one with an IoU over `iou`, as in the ODAM paper; "all": every one, with its object where one matches over .5;
            "failures": those that match none over .5.
        iou: IoU threshold of "well_detected", 0 to 1.
        score_threshold: Lowest score of a detection, 0 to 1.
        objects_per_image: Maximum number of explained objects, or texts, per image, drawn at random among all that `select`
            chose, whatever their scores; None: all. The draw depends on `seed`, the image and the annotated object alone, so
            that two models with the same objects are measured on the same ones.
        top: Maximum number of detections per image, or texts: those with the highest scores, before detections are matched
            with objects. None: for "well_detected" and for texts all, else 100.
        seed: Seed of everything random.
        limit: Evaluate only the first images; None: all.
        batch: Perturbed images per forward pass; another number may change the last bits of a sum.
        threads: Threads per process; another number may change the last bits of a sum.
        route: How gradients are computed: "auto", "fast" or "exact".
        prompts: What an image-text model is evaluated on. "class": the classes present in the image, among all classes of the
            data, each in the template; "phrase": every object's own phrase, among those of the image. For image-text models
            and classifiers, `select`, `iou` and `score_threshold` are ignored.
        template: The text around a class name, which replaces "{}".
        own_methods: The user's method objects, identified by their `name`.
        own_metrics: The user's metric objects, identified by their `name`.
    """

    methods: tuple[str, ...] = METHODS
    metrics: tuple[str, ...] = ("standard",)
    target: str | Target = "score"
    select: str = "well_detected"
    iou: float = 0.9
    score_threshold: float = 0.1
    objects_per_image: int | None = None
    top: int | None = None
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
        # One row or column per method or metric, however its name was written. The dataclass is frozen, hence __setattr__.
        object.__setattr__(self, "methods", tuple(_method_spec(spec) for spec in self.methods))
        object.__setattr__(self, "metrics", tuple(canonical(spec) for spec in self.metrics))
        for name in ("seed", "batch", "threads", *OPTIONAL):
            value = getattr(self, name)
            # Not isinstance: True is an int.
            if type(value) is not int and not (name in OPTIONAL and value is None):
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
        for name in ("batch", "threads", *OPTIONAL):
            if (value := getattr(self, name)) is not None and value < 1:
                raise WhyboxError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise WhyboxError(f"seed must be 0 or more, got {self.seed}")
        if not (self.methods or self.own_methods) or not (self.metrics or self.own_metrics):
            raise WhyboxError("name at least one method and one metric")
        # The controls are rows of every table, so their names are taken.
        _check_names("method", (*self.methods, *CONTROLS), self.own_methods, ("name", "needs"))
        known = [parse_spec(column)[0] for column in self._named()]
        for metric in self.own_metrics:
            if not isinstance(metric, Metric):
                raise WhyboxError(f"your metric {type(metric).__name__} must derive from whybox.Metric")
            check_metric(metric)
        _check_names("metric", known, self.own_metrics, ("name", "higher_is_better"))

    def most_detections(self, found: int) -> int:
        """The number of detections of an image that are matched with objects.

        Args:
            found: The number of the image's detections.

        Returns:
            `top` where it is set; else all for "well_detected", where a limit before matching would prefer sure detections,
            and 100 for the other selections.
        """
        if self.top is not None:
            return self.top
        return found if self.select == "well_detected" else MOST_DETECTIONS

    def rows(self) -> tuple[str, ...]:
        """The rows of the table.

        Returns:
            The methods' specs without repetition, followed by the controls.
        """
        own_names = (method.name for method in self.own_methods)
        return tuple(dict.fromkeys((*self.methods, *own_names, *CONTROLS)))

    def columns(self) -> tuple[str, ...]:
        """The columns of the table.

        Returns:
            The metrics' specs without repetition, groups written out.
        """
        return tuple(dict.fromkeys((*self._named(), *(metric.name for metric in self.own_metrics))))

    def _named(self) -> tuple[str, ...]:
        return written_out(self.metrics)


def _check_names(noun: str, known: Sequence[str], objects: Sequence[Any], needed: Sequence[str]) -> None:
    """Refuse the user's objects that lack an attribute which tables need, or whose name is taken or reads as settings."""
    taken = set(known)
    for part in objects:
        if lacks := [name for name in needed if not hasattr(part, name)]:
            raise WhyboxError(f"your {noun} {type(part).__name__} lacks {', '.join(lacks)}; a {noun} has {', '.join(needed)}")
        if not isinstance(part.name, str) or set(part.name) & set(":=,"):
            raise WhyboxError(f"your {noun} {type(part).__name__} needs a name without : = and commas, got {part.name!r}")
        if part.name in taken:
            raise WhyboxError(f"two {noun}s are named {part.name!r}; give yours another name")
        taken.add(part.name)


def _method_spec(spec: str) -> str:
    """The spec with the method's registered name; unchanged where no method has the name, for `make_methods` to refuse."""
    written, colon, settings = spec.partition(":")
    try:
        return registry.named("method", written, registry.methods())[0] + colon + settings
    except UnknownNameError:
        return spec


def make_metrics(plan: Plan) -> dict[str, Metric]:
    """Make the plan's metrics.

    Args:
        plan: The plan.

    Returns:
        The metrics by spec, in the order of the table's columns.
    """
    own_metrics = {metric.name: metric for metric in plan.own_metrics}
    return {spec: own_metrics[spec] if spec in own_metrics else make_metric(spec) for spec in plan.columns()}


def make_methods(plan: Plan, model: Model) -> dict[str, Any]:
    """Make the plan's methods, and refuse those that cannot run before any image is read.

    Args:
        plan: The plan.
        model: The model to explain.

    Returns:
        The methods by spec, in the order of the table's rows.

    Raises:
        WhyboxError: The model lacks what a method needs, an option is invalid, or a method cannot explain the target.
    """
    made: dict[str, Any] = {}
    own_methods = {method.name: method for method in plan.own_methods}
    for spec in plan.rows():
        if spec in own_methods:
            made[spec] = api.make_method(own_methods[spec], model)
            continue
        name, options = parse_spec(spec)
        method_class = registry.methods().get(name)
        takes_route = method_class is not None and "route" in {field.name for field in fields(method_class)}
        # The plan's route is a default: a method's own setting comes after it and wins.
        routed = {"route": plan.route} if takes_route else {}
        made[spec] = api.make_method(name, model, **routed | options)
    for method in made.values():
        api.check_target(method, plan.target)
    return made


def titles(specs: Sequence[str]) -> dict[str, str]:
    """The titles of methods for tables: the method's name as people write it, followed by its settings.

    Args:
        specs: Names with settings.

    Returns:
        Titles by spec, no two of them equal.
    """
    named, known = {}, registry.methods()
    for spec in specs:
        name, options = parse_spec(spec)
        title = known[name].title or name if name in known else name
        named[spec] = _add_words(title, [_words(option) for option in options.items()])
    return tell_apart(named)


def tell_apart(named: Mapping[str, str]) -> dict[str, str]:
    """Make titles unique: the fewest settings that tell those with the same title apart are added to them.

    Args:
        named: Titles by spec.

    Returns:
        Titles by spec, no two of them equal.
    """
    groups: dict[str, list[str]] = {}
    for spec, title in named.items():
        groups.setdefault(title, []).append(spec)
    longer = dict(named)
    for title, specs in groups.items():
        if len(specs) > 1:
            longer |= {spec: _add_words(title, words) for spec, words in _settings_apart(specs).items()}
    # Different settings may still read the same, and a user's metric may have any title: then the name itself is added.
    repeated = {title for title, count in Counter(longer.values()).items() if count > 1}
    return {spec: _add_words(named[spec], [spec]) if title in repeated else title for spec, title in longer.items()}


def _settings_apart(specs: Sequence[str]) -> dict[str, list[str]]:
    """By spec, the words for its settings among the fewest that differ between all of them; all of its settings if none do."""
    settings = {spec: parse_spec(spec)[1] for spec in specs}
    names = list(dict.fromkeys(name for options in settings.values() for name in options))
    # All of them is what follows below, where fewer do not suffice.
    for count in range(1, len(names)):
        for some in combinations(names, count):
            chosen = {spec: [_words(option) for option in settings[spec].items() if option[0] in some] for spec in specs}
            if len({tuple(sorted(words)) for words in chosen.values()}) == len(specs):
                return chosen
    return {spec: [_words(option) for option in settings[spec].items()] for spec in specs}


def _words(option: tuple[str, Any]) -> str:
    name, value = option
    return f"{name} {str(value).lower() if isinstance(value, bool) else value}"


def _add_words(title: str, words: Sequence[str]) -> str:
    """The title with words in parentheses, in those at its end where it has some."""
    if not words:
        return title
    before = f"{title[:-1]}, " if title.endswith(")") else f"{title} ("
    return f"{before}{', '.join(words)})"
