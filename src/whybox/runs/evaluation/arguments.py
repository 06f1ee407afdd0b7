"""The arguments of `evaluate`: they become a plan, and what cannot work is refused before the first image is read."""

from collections.abc import Mapping, Sequence
from typing import Any

from whybox import registry
from whybox.errors import WhyboxError
from whybox.metric_choice import STANDARD, canonical, written_out
from whybox.model import Model
from whybox.progress import OnWarning
from whybox.runs.evaluation.engines import Setup
from whybox.runs.evaluation.failed_images import MOST_LISTED
from whybox.runs.evaluation.plan import METHODS, METHODS_OF_WHOLE, Plan, make_methods, make_metrics
from whybox.runs.evaluation.report import prefers_sure
from whybox.runs.evaluation.texts import check_prompts
from whybox.runs.labels import match_classes


def make_plan(settings: Mapping[str, Any], model: Model) -> Plan:
    """Make the plan of `evaluate`'s arguments: names and the user's objects are separated, and None becomes the model's default.

    Args:
        settings: The arguments that belong to a plan, by name.
        model: The loaded model.

    Returns:
        The plan.

    Raises:
        WhyboxError: An invalid setting.
    """
    read = {**settings, **{name: value for name, value in _defaults(model).items() if settings[name] is None}}
    for entries in ("methods", "metrics"):
        read[entries], read[f"own_{entries}"] = _names_and_objects(entries, read[entries])
    if model.whole_image:
        read["metrics"] = written_out((canonical(name) for name in read["metrics"]), whole_image=True)
    return Plan(**read)


def _names_and_objects(entries: str, given: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    listed = given.split(",") if isinstance(given, str) else given if isinstance(given, (list, tuple)) else [given]
    names = tuple(entry.strip() for entry in listed if isinstance(entry, str) and entry.strip())
    objects = tuple(entry for entry in listed if not isinstance(entry, str))
    for entry in objects:
        if isinstance(entry, type):
            raise WhyboxError(f"{entries}: expected names, or objects, got the class {entry.__name__}; pass {entry.__name__}()")
        if not callable(entry) or not hasattr(entry, "name"):
            raise WhyboxError(f"{entries}: expected names, or objects that can be called and have a name, got {entry!r}")
    return names, objects


def _defaults(model: Model) -> dict[str, Any]:
    """The methods, metrics and target of a model where none are given."""
    methods: Sequence[str] = METHODS
    if model.whole_image:
        methods = [name for name in METHODS_OF_WHOLE if registry.methods()[name].serves(model)]
    return {"methods": methods, "metrics": STANDARD, "target": model.default_target}


def check(setup: Setup, on_warning: OnWarning) -> tuple[str, ...]:
    """Refuse what cannot work before the first image is read, and report problems of the data set.

    Args:
        setup: The model, the data and the plan.
        on_warning: Called with a line for each problem.

    Returns:
        What the report has to say on how the classes were matched.

    Raises:
        WhyboxError: The model, the data and the plan do not fit.
    """
    make_methods(setup.plan, setup.model)
    make_metrics(setup.plan)
    if not len(setup.data):
        raise WhyboxError(f"{setup.data.name}: contains no usable image")
    if len(set(setup.data.names)) < len(setup.data):
        raise WhyboxError(f"{setup.data.name}: image names must be unique, because a run is resumed by them")
    for line in setup.data.problems[:MOST_LISTED]:
        on_warning(line)
    if (more := len(setup.data.problems) - MOST_LISTED) > 0:
        on_warning(f"{more} more problems; all are listed in summary.json and in the report")
    check_prompts(setup.model, setup.data.classes, setup.plan)
    if remark := prefers_sure(setup):
        on_warning(remark)
    # Its classes are texts that are made of the data's own names: nothing has to be matched.
    if setup.model.takes_text:
        return ()
    sentences = match_classes(setup.model, setup.data)
    for line in sentences:
        on_warning(line)
    return sentences
