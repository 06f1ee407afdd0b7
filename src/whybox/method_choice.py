"""Methods by name, with their options: refused where they do not fit the model, the target, or each other."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from whybox import registry
from whybox.errors import WhyboxError, unknown
from whybox.model import Model
from whybox.types import Target

ROUTES = ("auto", "fast", "exact")


def make_method(method: str | Any, model: Model, **options: Any) -> Any:
    """The method behind a name, with its options; refused where the model does not give what it needs."""
    if not isinstance(method, str):
        return _check_object(method, model, options)
    known = registry.methods()
    if method not in known:
        raise unknown("method", method, known)
    kind = known[method]
    allowed = {field.name for field in fields(kind)}
    given = {key: value for key, value in options.items() if key in allowed or (key, value) not in _DEFAULTS}
    for key in given.keys() - allowed:
        raise WhyboxError(f"method {method!r} has no option {key!r}; it takes {', '.join(sorted(allowed)) or 'none'}")
    for option in fields(kind):
        if option.name in given:
            # On a command line the word none stands for None, and for some options it is a name.
            if given[option.name] is None and isinstance(option.default, str) and "None" not in str(option.type):
                given[option.name] = "none"
            check_value(f"method {method!r}", option, given[option.name])
    if options.get("route", "auto") not in ROUTES:
        raise unknown("route", str(options["route"]), ROUTES)
    _check_needs(kind, model, known)
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise WhyboxError(f"method {method!r}: {error}") from error


_DEFAULTS = (("route", "auto"), ("layer", None))


def check_target(method: str | Any, target: str | Target) -> None:
    """Refuse a target that a method cannot explain; most explain any."""
    kind: Any = registry.methods()[method] if isinstance(method, str) else method
    allowed = kind.targets
    name = target if isinstance(target, str) else getattr(target, "name", None)
    if allowed is not None and name not in allowed:
        raise WhyboxError(f"{kind.name} explains a detection as a whole: target {' or '.join(allowed)}, not {name or 'your own'}")


_ENDLESS = (float("inf"), float("-inf"))


def check_value(whose: str, option: Any, value: Any) -> None:
    """A number where the default of a field is one, true or false where it is; else an error that says whose option it is."""
    default = option.default
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}.get(type(default))
    # Where the annotation allows more than the default's type, the class itself looks at the value.
    if wanted is None or "|" in str(option.type):
        return
    fits = isinstance(value, (int, float) if isinstance(default, float) else type(default))
    if not fits or isinstance(value, bool) != isinstance(default, bool) or value != value or value in _ENDLESS:
        raise WhyboxError(f"{whose}: {option.name} must be {wanted}, got {value!r}")


def _check_object(method: Any, model: Model, options: Mapping[str, Any]) -> Any:
    """A method object has its options already."""
    if not callable(method) or isinstance(method, type) or not hasattr(method, "needs"):
        raise WhyboxError(f"method must be a name or a method object such as Odam(), got {method!r}")
    given = [key for key, value in options.items() if (key, value) not in _DEFAULTS]
    if given:
        raise WhyboxError(f"{', '.join(given)}: set this on the method object, {type(method).__name__}(...)")
    _check_needs(method, model, registry.methods())
    return method


def _check_needs(kind: Any, model: Model, known: Mapping[str, Any]) -> None:
    missing, unfit = kind.needs - model.gives, model.kind in kind.not_for
    if missing or unfit:
        works = [name for name, other in known.items() if other.serves(model)]
        lacks = f"needs {', '.join(sorted(missing))}, which {model.name} does not give"
        reason = lacks if missing else f"has nothing to compare where a model answers for the whole image, as {model.name} does"
        raise WhyboxError(f"method {kind.name!r} {reason}; what works with it: {', '.join(works) or 'nothing'}")
