"""load, trace, explain: the verbs of the public page, and the only file that knows all model families."""

import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from whybox import registry
from whybox.attention import Text, TokenMaps
from whybox.data.images import ImageSource, read_image
from whybox.errors import WeightsError, WhyboxError, unknown
from whybox.explanation import Explanation, reading_note
from whybox.missed import match_drawn
from whybox.specs import parse_spec
from whybox.targets import COMBINED, SIDES, find_target
from whybox.truth import DataSet
from whybox.types import Detections, HeatMaps, Model, Target, Trace, to_unit
from whybox.weights import load_weights

BUILT_IN = "whybox"
ROUTES = ("auto", "fast", "exact")
_PLAIN = "plain"


def load(
    model: str | Path | nn.Module | Model,
    *,
    weights: str | Path | None = "default",
    device: str | torch.device | None = None,
    **options: Any,
) -> Model:
    """A model that whybox can explain.

    model: a name ("torchvision/fcos_resnet50_fpn", "hf/facebook/detr-resnet-50", "whybox/scenes"), the folder that
    `whybox train` wrote, or a module that you have built; it is used as it is, on the device where it is.
    weights, for names: "default", a file (safetensors, or a state dict that loads with weights_only), or None for random ones.
    options go to the model family; `candidates=`, `features=` and `size=` bring in any nn.Module: see the page "plain".
    """
    if isinstance(model, nn.Module):
        loaded = _wrap(model, **options)
        if isinstance(weights, Path) or weights not in ("default", None):
            load_weights(model, weights)
    elif isinstance(model, (str, Path)):
        loaded = _by_name(str(model), weights, **options)
    elif isinstance(model, Model):
        loaded = model
    else:
        raise WhyboxError(f"a model must be a name, a torch.nn.Module or a loaded model, got {type(model).__name__}")
    if device is not None:
        _move(_network(loaded), device)
    return loaded


def _move(network: nn.Module, device: str | torch.device) -> None:
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        raise WhyboxError(f"device {str(device)!r} is not to be had: {str(error).splitlines()[0]}") from error


def _by_name(name: str, weights: str | Path | None, **options: Any) -> Model:
    prefix, _, rest = name.partition("/")
    if folder := _pretrained_folder(name):
        if weights != "default":
            raise WhyboxError(f"{name} comes with its own weights; load its module yourself to use others")
        found = _built(_HUB, folder, name, weights, options)
        found.name = name
        return found
    if Path(name).is_dir() and not (Path(name) / "card.json").is_file():
        raise WhyboxError(f"{name} holds no model: expected what whybox train wrote (card.json), or Hugging Face's config.json")
    if prefix == BUILT_IN or Path(name).is_dir():
        return _from_zoo(rest if prefix == BUILT_IN else name, weights, name, **options)
    loaders = registry.loaders()
    if prefix not in loaders or not rest:
        named = [f"{known}/{one}" for known, loader in loaders.items() for one in getattr(loader, "names", lambda: ["..."])()]
        raise unknown("model", name, [*named, *(f"{BUILT_IN}/{one}" for one in _shipped())])
    return _built(prefix, rest, name, weights, options)


_HUB = "hf"


def _pretrained_folder(name: str) -> str | None:
    """The folder of a model in Hugging Face's form, shipped or the user's own; None for every other name."""
    from whybox import zoo

    prefix, _, rest = name.partition("/")
    folder = zoo.shipped_folders().get(rest) if prefix == BUILT_IN else Path(name)
    return str(folder) if folder is not None and (folder / "config.json").is_file() else None


def _shipped() -> list[str]:
    from whybox import zoo

    return [*zoo.shipped(), *zoo.shipped_folders()]


def _built(prefix: str, rest: str, name: str, weights: str | Path | None, given: Mapping[str, Any]) -> Model:
    """A model from its family's loader; weights from a file go into what it has built."""
    options = dict(given)
    file = weights if isinstance(weights, Path) or (weights and Path(weights).suffix) else None
    classes = options.pop("classes", None)
    try:
        built = registry.loaders()[prefix].build(rest, None if file else weights, **options)
    except ModuleNotFoundError as error:
        raise WhyboxError(f"{name} needs the package {error.name}: pip install 'whybox[{prefix}]'") from error
    except TypeError as error:
        raise WhyboxError(f"{name} cannot be loaded so: {error}") from error
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
    return _wrap(network, name=title, **{"classes": ("background", *classes), **options})


def _wrap(module: nn.Module, **options: Any) -> Model:
    families = registry.models()
    if "candidates" in options:
        return _wrap_as(families[_PLAIN], module, **options)
    for name, family in families.items():
        if name != _PLAIN and family.matches(module):
            return _wrap_as(family, module, **options)
    raise WhyboxError(
        f"{type(module).__name__} is of no family that whybox knows ({', '.join(families)}); tell how to read its output: "
        "whybox.load(module, candidates=fn, features=[...], size=(h, w))"
    )


def _wrap_as(family: Any, module: nn.Module, **options: Any) -> Model:
    try:
        model: Model = family.wrap(module, **options)
    except TypeError as error:
        raise WhyboxError(f"{type(module).__name__} cannot be loaded so: {error}") from error
    return model


def _network(model: Model) -> nn.Module:
    network = getattr(model, "net", None)
    if not isinstance(network, nn.Module):
        raise WhyboxError(f"{model.name} has no module of its own to move or to fill with weights")
    return network


def open_data(data: str | DataSet, *, on_problem: str = "skip") -> DataSet:
    """A data set by name: "scenes:count=40", "coco:FOLDER:split=val", "coco:FILE.json", "crowdhuman:FOLDER"; or your own.

    on_problem: "skip" leaves out what is broken and names it in `problems`; "refuse" stops at it.
    """
    if on_problem not in ("skip", "refuse"):
        raise unknown("on_problem", str(on_problem), ("skip", "refuse"))
    if not isinstance(data, (str, Path)):
        if isinstance(data, DataSet):
            return data
        raise WhyboxError(f"data must be a name or a data set (names, classes, len, [i]), got {type(data).__name__}")
    kind, _, rest = str(data).partition(":")
    known = registry.data_sets()
    if kind not in known:
        if Path(str(data)).exists():
            raise WhyboxError(f"data {str(data)!r}: say what it is: coco:{data} or crowdhuman:{data}")
        raise unknown("data", str(data), [f"{prefix}:..." for prefix in known])
    parts = rest.split(":")
    settings: list[str] = []
    while parts and "=" in parts[-1]:
        settings.insert(0, parts.pop())
    _, options = parse_spec(":".join([kind, *settings]))
    takes = [name for name in signature(known[kind].open_data).parameters if name not in ("rest", "on_problem")]
    for name in options:
        if name not in takes:
            raise WhyboxError(f"data {kind!r} has no option {name!r}; it takes {', '.join(takes) or 'none'}")
    opened: DataSet = known[kind].open_data(":".join(parts), on_problem=on_problem, **options)
    return opened


def trace(model: str | nn.Module | Model, image: ImageSource) -> Trace:
    """One forward pass over an image, kept: give it to `explain` in place of the image to ask many questions at the price of
    one pass."""
    model = load(model)
    with torch.inference_mode(False):
        pixels = read_image(image)
        pixels = pixels.clone() if pixels.is_inference() else pixels
        weight = next(iter(getattr(model, "net", nn.Module()).parameters()), pixels)
        found = model.trace(pixels.to(weight.device))
    if not (found.candidates.scores.isfinite().all() and found.detections.boxes.isfinite().all()):
        raise WeightsError(f"{model.name} gave scores or boxes that are NaN or infinite: {_suspect(model)}")
    columns = found.candidates.scores.shape[1]
    if model.classes is not None and len(model.classes) != columns:
        raise WhyboxError(f"{model.name} has {columns} score columns and {len(model.classes)} class names; give one a column")
    return replace(found, made_by=weakref.ref(getattr(model, "net", model)))


def _own_trace(model: Model, passed: Trace) -> Trace:
    """Refuse a trace that another network made."""
    if passed.made_by is not None and passed.made_by() is not getattr(model, "net", model):
        raise WhyboxError("this trace was made by another model: trace the image with the model that explains it")
    return passed


def _suspect(model: Model) -> str:
    named = getattr(model, "net", nn.Module()).named_parameters()
    bad = [name for name, weight in named if not weight.isfinite().all()]
    return f"its weights hold NaN or infinity in {bad[0]}" if bad else "its weights are finite, so look at its input scaling"


def detect(
    model: str | nn.Module | Model, image: ImageSource | Trace, *, score_threshold: float = 0.3, top: int = 100
) -> Detections:
    """The model's detections with a score of at least `score_threshold`, the `top` best, in the model's own order."""
    _check_selection(score_threshold, top)
    model = _asked(load(model), None)
    found = _answered(model, image) if isinstance(image, Trace) else trace(model, image)
    return _best(found.detections, score_threshold, top)


def _answered(model: Model, passed: Trace) -> Trace:
    """A trace of this model's, which may be older than the texts that the model is asked about now."""
    _own_trace(model, passed)
    if "text" not in model.gives:
        return passed
    answered: Trace = model.answer(passed)  # type: ignore[attr-defined]
    return answered


@overload
def explain(model: str | nn.Module | Model, image: ImageSource | Trace, **options: Any) -> Explanation: ...
@overload
def explain(model: str | nn.Module | Model, image: Sequence[ImageSource | Trace], **options: Any) -> list[Explanation]: ...
def explain(
    model: str | nn.Module | Model,
    image: ImageSource | Trace | Sequence[ImageSource | Trace],
    *,
    text: str | Sequence[Any] | None = None,
    method: str | Any = None,
    target: str | Target | None = None,
    detections: Detections | Mapping[str, Any] | Sequence[Any] | None = None,
    score_threshold: float = 0.3,
    top: int | None = None,
    route: str = "auto",
    layer: str | tuple[str, ...] | None = None,
    name: str | None = None,
    **options: Any,
) -> Explanation | list[Explanation]:
    """A heat map for every detection: why is it there, why this class, why does its side end there. For an image-text model a
    heat map for every text: where is what the text says; for a classifier, for its best class.

    image: a path, PIL image, numpy (H,W,3) uint8, torch (3,H,W) in 0..1, a Trace; or a list of them, for a list of results.
    text: for image-text models, a text or several; for a list of images, one entry an image (a text, or a list of texts), or
    one text for all.
    target: a name (`whybox targets` lists them: score, logit, x1, y1, x2, y2, combined, contrast:CLASS ...) or your own
    callable. None: the score; of a classifier the logit.
    detections: which to explain. None: the model's own, filtered by score_threshold and top (None: 100 of a detector, all
    texts). A mapping with "boxes" (N,4) in
    image pixels and "labels" (names or columns): the best candidate for each box that you draw, also where the model
    missed it; `notes` then say why its score is low. For a list of images, a list of these, one an image.
    For classifiers and image-text models a mapping with "labels" alone (names or columns) is enough.
    method: a name or a method object; options are the method's fields. None: odam for detectors, grad_eclip for the others.
    route: "auto", "fast" or "exact".
    """
    _check_selection(score_threshold, top)
    if isinstance(image, (list, tuple)):
        settings = {"method": method, "target": target, "score_threshold": score_threshold}
        settings |= {"top": top, "route": route, "layer": layer, **options}
        model = load(model)
        each = zip(image, _for_each(detections, len(image)), _text_for_each(text, len(image)), strict=True)
        return [explain(model, one, name=name, detections=own, text=words, **settings) for one, own, words in each]
    model = _asked(load(model), text)
    method = _DEFAULT_METHODS["transformer" in model.gives] if method is None else method
    target = getattr(model, "default_target", "score") if target is None else target
    chosen_method = make_method(method, model, route=route, layer=layer, **options)
    check_target(chosen_method, target)
    _check_has_boxes(model, target)
    started = time.perf_counter()
    passed = _answered(model, image) if isinstance(image, Trace) else trace(model, image)  # type: ignore[arg-type]
    traced = time.perf_counter()
    found, notes = _choose(passed, detections, model, score_threshold, top)
    maps = _maps(chosen_method, model, passed, found, target)
    seconds = {"trace": traced - started, "maps": time.perf_counter() - traced}
    image_name = name or _name_of(image)
    parts = (found, maps, passed.image, model.name, model.classes, image_name)
    if getattr(chosen_method, "same_for_all", False):
        notes = tuple(f"{chosen_method.name} takes no notice of what is asked: its map is the same for everything" for _ in notes)
    if "text" not in model.gives:
        return Explanation(*parts, notes, seconds, whole_image="transformer" in model.gives)
    return _of_texts(Explanation(*parts, notes, seconds, whole_image=True), model, passed, chosen_method, target)


def _of_texts(plain: Explanation, model: Any, passed: Trace, method: Any, target: str | Target) -> Explanation:
    """With the texts as the model read them, and what draws maps of their words and asks about others when they are wanted.

    These keep the trace without what it can be continued from: many explanations would hold it all.
    """
    texts, notes = _texts_read(model, plain.detections, plain.notes)
    light = replace(passed, state=None, features=())
    words = ask = None
    if hasattr(method, "explain_text") and target != COMBINED:
        words = partial(_token_maps, method, model, light, plain.detections, target)
    if target in ("score", "logit"):
        ask = partial(_ask_alike, model, light, method, target, plain.name)
    return replace(plain, notes=notes, texts=texts, read_words=words, ask=ask)


def _texts_read(model: Any, found: Detections, notes: tuple[str, ...]) -> tuple[tuple[Text, ...], tuple[str, ...]]:
    """The texts behind the detections, as the model read them; and the notes, which say what it did not read of them."""
    texts = tuple(model.texts[label] for label in found.labels.tolist())
    told = [[reading_note(text), note] for text, note in zip(texts, notes, strict=True)]
    return texts, tuple("; ".join(part for part in parts if part) for parts in told)


def _ask_alike(model: Model, passed: Trace, method: Any, target: Any, name: str, texts: Sequence[str]) -> Explanation:
    """Other texts of the same image, explained in the same way."""
    return explain(model, passed, text=list(texts), method=method, target=target, name=name)


_DEFAULT_METHODS = {False: "odam", True: "grad_eclip"}


def _asked(model: Model, text: Any) -> Model:
    """The model, asked about the texts where there are any."""
    prompt = getattr(model, "prompt", None)
    if text is None:
        if "text" in model.gives and not model.classes:
            raise WhyboxError(
                f"{model.name} matches images with texts: say which, text='a red ball' or a list of texts; "
                "on the command line: whybox match"
            )
        return model
    if prompt is None:
        raise WhyboxError(f"{model.name} reads no text; leave text out, or load an image-text model such as CLIP")
    texts = [text] if isinstance(text, str) else text
    if not isinstance(texts, (list, tuple)) or not all(isinstance(one, str) for one in texts):
        raise WhyboxError(f"text must be a text or a list of texts, got {text!r}")
    if not texts:
        raise WhyboxError("text is an empty list; give at least one text")
    if broken := [one for one in texts if any("\ud800" <= letter <= "\udfff" for letter in one)]:
        raise WhyboxError(f"text {broken[0]!r} holds half a character (a lone surrogate); remove it")
    asked: Model = prompt(list(texts))
    return asked


def _text_for_each(text: Any, count: int) -> Sequence[Any]:
    """Texts of several images: a list with one entry an image, or one text for all."""
    if text is None or isinstance(text, str):
        return [text] * count
    if not isinstance(text, (list, tuple)) or len(text) != count:
        came = len(text) if isinstance(text, (list, tuple)) else type(text).__name__
        raise WhyboxError(f"{count} images and texts for {came}; give one entry an image, a text or a list of texts, or one text")
    return text


def _for_each(detections: Any, count: int) -> Sequence[Any]:
    """Detections of several images: a list with one entry an image, or one for all."""
    if not isinstance(detections, (list, tuple)):
        return [detections] * count
    if len(detections) != count:
        raise WhyboxError(f"{count} images and detections of {len(detections)}; give one entry an image")
    return detections


def _check_selection(score_threshold: Any, top: Any) -> None:
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 0):
        raise WhyboxError(f"top must be a whole number of detections, 0 or more, got {top!r}")
    if not isinstance(score_threshold, (int, float)) or score_threshold != score_threshold:
        raise WhyboxError(f"score_threshold must be a number, got {score_threshold!r}")


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
    allowed = getattr(kind, "targets", None)
    name = target if isinstance(target, str) else getattr(target, "name", None)
    if allowed is not None and name not in allowed:
        raise WhyboxError(f"{kind.name} explains a detection as a whole: target {' or '.join(allowed)}, not {name or 'your own'}")


def _check_has_boxes(model: Model, target: str | Target) -> None:
    if "transformer" in model.gives and target in (*SIDES, COMBINED):
        raise WhyboxError(
            f"target {target!r} is about a box, and {model.name} answers for the whole image: score, logit, contrast:NAME"
        )


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
    missing, unfit = kind.needs - model.gives, _not_for(kind) & model.gives
    if missing or unfit:
        works = [name for name, other in known.items() if other.needs <= model.gives and not _not_for(other) & model.gives]
        lacks = f"needs {', '.join(sorted(missing))}, which {model.name} does not give"
        reason = lacks if missing else f"has nothing to compare where a model answers for the whole image, as {model.name} does"
        raise WhyboxError(f"method {kind.name!r} {reason}; what works with it: {', '.join(works) or 'nothing'}")


def _not_for(kind: Any) -> frozenset[str]:
    """What a model may not give, for a method that makes no sense then."""
    found: frozenset[str] = getattr(kind, "not_for", frozenset())
    return found


def _maps(method: Any, model: Model, passed: Trace, found: Detections, target: str | Target) -> HeatMaps:
    raw = tuple(passed.candidates.raw)
    names = ("score", *SIDES) if target == COMBINED else (target,)
    pairs = [find_target(name, model.classes, raw) for name in names]
    results: list[HeatMaps] = method(model, passed, found, [one for one, _ in pairs], [name for _, name in pairs])
    return combine(results) if target == COMBINED else results[0]


def _token_maps(method: Any, model: Model, passed: Trace, found: Detections, target: str | Target) -> TokenMaps:
    chosen, name = find_target(target, model.classes, tuple(passed.candidates.raw))
    results: list[TokenMaps] = method.explain_text(model, passed, found, [chosen], [name])
    return results[0]


def combine(results: Sequence[HeatMaps]) -> HeatMaps:
    """The elementwise maximum of several targets' maps of the same detections, each first scaled to 0..1."""
    native = tuple(
        torch.stack([to_unit(one[None])[0] for one in of_one]).amax(0)
        for of_one in zip(*(maps.native for maps in results), strict=True)
    )
    return replace(results[0], native=native, target=COMBINED)


def _best(found: Detections, score_threshold: float, top: int) -> Detections:
    kept = torch.nonzero(found.scores >= score_threshold)[:, 0]
    if len(kept) > top:
        kept = kept[found.scores[kept].topk(top).indices.sort().values]
    return found[kept]


MOST_DETECTIONS = 100
"""How many detections of an image are explained where nobody says."""


def _choose(
    passed: Trace, wanted: Any, model: Model, score_threshold: float, top: int | None
) -> tuple[Detections, tuple[str, ...]]:
    whole = "transformer" in model.gives
    if wanted is None:
        # A text is asked for by its user, whatever its score; of a classifier the best class is.
        asked = "text" in model.gives
        most = top if top is not None else len(passed.detections) if asked else MOST_DETECTIONS
        found = _best(passed.detections, -torch.inf if asked else score_threshold, most)
        found = passed.detections[:1] if whole and not len(found) else found
        return found, ("",) * len(found)
    if isinstance(wanted, Detections):
        rows, columns = passed.candidates.scores.shape
        fits = (wanted.source >= 0) & (wanted.source < rows) & (wanted.labels >= 0) & (wanted.labels < columns)
        if not fits.all():
            raise WhyboxError("detections: source or labels are not this image's candidates; pass boxes and labels instead")
        return wanted, ("",) * len(wanted)
    if not isinstance(wanted, Mapping):
        raise WhyboxError(f"detections must be Detections or a mapping with boxes and labels, got {type(wanted).__name__}")
    if whole and "labels" in wanted and "boxes" not in wanted:
        wanted = {**wanted, "boxes": passed.candidates.boxes.expand(len(wanted["labels"]), 4)}
    found, notes = match_drawn(passed, wanted, model.classes, score_threshold)
    # There was one candidate to choose from: how it fits the box says nothing.
    return found, ("",) * len(found) if whole else notes


def _name_of(image: Any) -> str:
    if isinstance(image, (str, Path)):
        return Path(image).name
    filename = getattr(image, "filename", "")
    return Path(filename).name if isinstance(filename, str) and filename else "image"
