"""Make metrics by name with their options, and resolve the names of groups and sets of metrics."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache

from whybox import registry
from whybox.class_checks import check_known
from whybox.errors import WhyboxError, did_you_mean, unknown
from whybox.options import check_fields, options_of, read_options
from whybox.specs import format_spec, split_spec
from whybox.truth import METRIC_INPUTS, Metric

STANDARD = "standard"
"""The default set."""
MATCHING = "matching"
"""The default set for models that predict for the whole image."""
ALL = "all"
FIRST_GROUPS = ("faithfulness", "localization", "discrimination", "attention")
"""The order of groups in tables; other groups follow, by name."""
FROM_TEXTS = frozenset({"whole", "words"})
"""What only models that predict for the whole image provide to a metric."""


def make_metric(spec: str) -> Metric:
    """Make a metric from a name with settings, such as "deletion:fill=blurred".

    Raises:
        WhyboxError: An unknown name or option, or an invalid value.
    """
    written, texts = split_spec(spec)
    name, metric_class = _class_named(written)
    options = read_options(f"metric {name!r}", options_of(metric_class), texts)
    try:
        metric = metric_class(**options)
    except (TypeError, ValueError) as error:
        raise WhyboxError(f"metric {format_spec(name, options)!r}: {error}") from error
    whose = f"metric {format_spec(name, options)!r}"
    check_known(whose, "needs", metric.needs, METRIC_INPUTS)
    _check_range(whose, metric.range)
    return metric


def check_metric(metric: Metric) -> None:
    """Refuse a metric object of the user's with an option, a range, a group or a set that cannot be meant.

    Raises:
        WhyboxError: What is wrong with it, in one line.
    """
    whose = f"metric {metric.name!r}"
    check_fields(whose, metric)
    check_known(whose, "needs", metric.needs, METRIC_INPUTS)
    _check_range(whose, metric.range)
    known = sorted({*metric_sets(), "other"})
    for attribute, names in (("group", [metric.group]), ("sets", list(metric.sets))):
        for name in names:
            # A group of one's own is as good as any; one that is nearly a known one is misspelled.
            if name not in known and get_close_matches(str(name).lower(), known, n=1, cutoff=0.75):
                raise WhyboxError(f"{whose}: {attribute} has no {name!r}; {did_you_mean(str(name).lower(), known)}")


def _check_range(whose: str, limits: object) -> None:
    pair = limits if isinstance(limits, tuple) and len(limits) == 2 else ()
    numbers = [float(value) for value in pair if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != 2 or not numbers[0] < numbers[1]:
        raise WhyboxError(f"{whose}: range must be (lowest, highest), such as (0.0, 1.0), got {limits!r}")


def _class_named(written: str) -> tuple[str, type[Metric]]:
    known = registry.metrics()
    try:
        return registry.named("metric", written, known)
    except WhyboxError:
        # Groups and sets are written in the same place: a misspelled one has to find them.
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
    """The names of groups and sets, and "all", each with its metrics."""
    known = _ordered()
    sets: dict[str, list[str]] = {}
    for metric in known:
        sets.setdefault(metric.group, []).extend(_usual(metric))
    for metric in known:
        for name, settings in metric.sets.items():
            sets.setdefault(name, []).extend(_specs(metric, settings))
    sets[ALL] = [spec for metric in known for spec in _usual(metric) if not make_metric(spec).needs & FROM_TEXTS]
    return {name: tuple(specs) for name, specs in sets.items()}


def written_out(names: Iterable[str], *, whole_image: bool = False) -> tuple[str, ...]:
    """Replace groups and sets by their metrics, without duplicates.

    Args:
        names: Metrics with settings, groups, or sets.
        whole_image: Whether the model predicts for the whole image: "standard" then means "matching", and "all" has the
            settings of that set.
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
    """The metric with its settings in its group and in "all"."""
    return _specs(metric, metric.sets.get(STANDARD, ("",)))


def _specs(metric: type[Metric], settings: Iterable[str]) -> list[str]:
    return [f"{metric.name}:{words}" if words else metric.name for words in settings]
