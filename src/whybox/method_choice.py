"""Make methods by name with their options, and check that they fit the model and the target."""

from collections.abc import Mapping
from typing import Any

from whybox import registry
from whybox.errors import WhyboxError, unknown
from whybox.method import Method
from whybox.model import Model
from whybox.options import check_fields, check_options, options_of, read_options
from whybox.specs import split_spec
from whybox.types import Target

ROUTES = ("auto", "fast", "exact")


def make_method(method: str | Any, model: Model, **options: Any) -> Any:
    """Make a method by name; a method object is checked and returned as it is.

    Args:
        method: A name, as `whybox methods` lists it or as people write it ("Grad-CAM++"), with settings ("drise:masks=500") or
            without; or an object such as `Odam()`.
        model: The model to explain.
        options: The fields of the method, for a name. The defaults `route="auto"` and `layer=None` are always accepted.

    Raises:
        WhyboxError: An unknown name or option, a value of the wrong type, or a model that does not give what the method needs.
    """
    if not isinstance(method, str):
        return _check_object(method, model, options)
    written, texts = split_spec(method)
    name, method_class = registry.named("method", written, registry.methods())
    hints = options_of(method_class)
    # `explain` passes the defaults to every method, also to those without such a field.
    chosen = {key: value for key, value in options.items() if key in hints or (key, value) not in _DEFAULTS}
    if twice := [key for key in texts if key in chosen and (key, chosen[key]) not in _DEFAULTS]:
        raise WhyboxError(f"method {name!r}: {', '.join(twice)} is given twice, in the name and as an option")
    chosen = check_options(f"method {name!r}", hints, chosen) | read_options(f"method {name!r}", hints, texts)
    if options.get("route", "auto") not in ROUTES:
        raise unknown("route", str(options["route"]), ROUTES)
    _check_needs(method_class, model)
    try:
        return method_class(**chosen)
    except (TypeError, ValueError) as error:
        raise WhyboxError(f"method {name!r}: {error}") from error


_DEFAULTS = (("route", "auto"), ("layer", None))


def check_target(method: str | Any, target: str | Target) -> None:
    """Refuse a target that a method cannot explain; most methods explain any target."""
    chosen: Any = registry.named("method", method, registry.methods())[1] if isinstance(method, str) else method
    registry.check_targets(chosen)
    allowed = chosen.targets
    name = target if isinstance(target, str) else getattr(target, "name", None)
    if allowed is not None and name not in allowed:
        whole = f"{chosen.name} explains a detection as a whole"
        raise WhyboxError(f"{whole}: target {' or '.join(allowed)}, not {name or 'your own'}")


def _check_object(method: Any, model: Model, options: Mapping[str, Any]) -> Any:
    """A method object has its options already."""
    if isinstance(method, type) and issubclass(method, Method):
        raise WhyboxError(f"method must be an object, got the class {method.__name__}; pass {method.__name__}()")
    if not isinstance(method, Method):
        raise WhyboxError(f"method must be a name or a method object such as Odam(), got {method!r}")
    given = [key for key, value in options.items() if (key, value) not in _DEFAULTS]
    if given:
        raise WhyboxError(f"{', '.join(given)}: set this on the method object, {type(method).__name__}(...)")
    check_fields(f"method {method.name!r}", method)
    if (route := getattr(method, "route", "auto")) not in ROUTES:
        raise unknown("route", str(route), ROUTES)
    _check_needs(method, model)
    return method


def _check_needs(method: Any, model: Model) -> None:
    missing, unfit = method.needs - model.gives, model.kind in method.not_for
    if missing or unfit:
        works = [name for name, other in registry.methods().items() if other.serves(model)]
        lacks = f"needs {', '.join(sorted(missing))}, which {model.name} does not give"
        whole = f"has nothing to compare where a model predicts for the whole image, as {model.name} does"
        boxes = f"is for models that predict for the whole image, and {model.name} finds boxes"
        reason = lacks if missing else whole if model.whole_image else boxes
        raise WhyboxError(f"method {method.name!r} {reason}; what works with it: {', '.join(works) or 'nothing'}")
