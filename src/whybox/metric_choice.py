"""Metrics by name, with options, and the names that stand for several of them: groups and sets, read from the classes."""

from collections.abc import Iterable, Mapping
from functools import cache

from whybox import registry
from whybox.errors import WhyboxError, unknown
from whybox.options import options_of, read_options
from whybox.specs import format_spec, split_spec
from whybox.truth import Metric

STANDARD = "standard"
"""The set that is measured where the user names none."""
MATCHING = "matching"
"""The same with a model that answers for the whole image."""
ALL = "all"
FIRST_GROUPS = ("faithfulness", "localization", "discrimination", "attention")
"""In this order in a table; the others come after them, by name."""
FROM_TEXTS = frozenset({"whole", "words"})
"""What only a model that answers for the whole image can give a metric."""


def make_metric(spec: str) -> Metric:
    """The metric behind a name with settings, "deletion:fill=blurred".

    Raises:
        WhyboxError: An unknown name or option, or a value that the option does not take.
    """
    written, texts = split_spec(spec)
    name, metric_class = _class_named(written)
    options = read_options(f"metric {name!r}", options_of(metric_class), texts)
    try:
        return metric_class(**options)
    except (TypeError, ValueError) as error:
        raise WhyboxError(f"metric {format_spec(name, options)!r}: {error}") from error


def _class_named(written: str) -> tuple[str, type[Metric]]:
    known = registry.metrics()
    try:
        return registry.named("metric", written, known)
    except WhyboxError:
        raise unknown("metric", written, (*known, *metric_sets())) from None


def canonical(spec: str) -> str:
    """The spec with the metric's own name, however it was written; as it is where nothing has the name."""
    written, colon, settings = spec.partition(":")
    if written.lower() in metric_sets():
        return written.lower() + colon + settings
    try:
        return _class_named(written)[0] + colon + settings
    except WhyboxError:
        return spec


@cache
def metric_sets() -> Mapping[str, tuple[str, ...]]:
    """The names that stand for several metrics: groups, sets, and "all", each with its members written out."""
    known = _ordered()
    found: dict[str, list[str]] = {}
    for metric in known:
        found.setdefault(metric.group, []).extend(_usual(metric))
    for metric in known:
        for name, settings in metric.sets.items():
            found.setdefault(name, []).extend(_specs(metric, settings))
    found[ALL] = [spec for metric in known for spec in _usual(metric) if not make_metric(spec).needs & FROM_TEXTS]
    return {name: tuple(specs) for name, specs in found.items()}


def written_out(names: Iterable[str], *, whole_image: bool = False) -> tuple[str, ...]:
    """Metrics with groups and sets written out, each once.

    Args:
        names: Metrics with settings, groups, or sets.
        whole_image: Whether the model answers for the whole image. There "standard" stands for "matching", and in "all" the
            metrics have their settings of that set.
    """
    sets = dict(metric_sets())
    if whole_image:
        sets[STANDARD] = sets[MATCHING]
        of_matching = {metric: _specs(metric, metric.sets.get(MATCHING, ())) for metric in _ordered()}
        sets[ALL] = tuple(spec for metric, specs in of_matching.items() for spec in specs or _usual(metric))
    return tuple(dict.fromkeys(spec for name in names for spec in sets.get(name, (name,))))


def _ordered() -> list[type[Metric]]:
    def place(metric: type[Metric]) -> tuple[int, str, str]:
        first = FIRST_GROUPS.index(metric.group) if metric.group in FIRST_GROUPS else len(FIRST_GROUPS)
        return first, metric.group, metric.name

    return sorted(registry.metrics().values(), key=place)


def _usual(metric: type[Metric]) -> list[str]:
    """The metric as it stands in its group and in "all"."""
    return _specs(metric, metric.sets.get(STANDARD, ("",)))


def _specs(metric: type[Metric], settings: Iterable[str]) -> list[str]:
    return [f"{metric.name}:{words}" if words else metric.name for words in settings]
