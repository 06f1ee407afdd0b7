"""The public functions: load, trace, detect and explain."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from whybox import registry
from whybox.data.images import ImageSource, as_picture, read_image
from whybox.duplicates import WithNms, remove_duplicates, with_nms
from whybox.errors import UnknownNameError, WhyboxError
from whybox.explanation import Explanation
from whybox.loading import load, open_data
from whybox.method_choice import check_target, make_method
from whybox.model import Model
from whybox.network_state import device_of, exclusive, fingerprint
from whybox.ops.maps import GradientMethod
from whybox.prompting import TextPrompt, answered, prompted, texts_for_each, texts_read
from whybox.remarks import check_contrast, joined, remarks_of, remarks_on_texts, remarks_on_zeros
from whybox.report.texts import distinct_words
from whybox.rule import Rule
from whybox.selection import MOST_DETECTIONS, best, check_selection, choose
from whybox.targets import COMBINED, SIDES, find_target
from whybox.types import Detections, HeatMaps, Target, Trace, min_max
from whybox.words import check_words, draws_words, explain_tokens

__all__ = [
    "check_target",
    "combine",
    "detect",
    "draws_words",
    "explain",
    "explain_tokens",
    "load",
    "make_method",
    "open_data",
    "trace",
]


def trace(model: str | nn.Module | Model, image: ImageSource, *, differentiable: bool = False) -> Trace:
    """Store one forward pass over an image: given to `explain` in place of the image, it serves any number of explanations.

    Args:
        model: A name, a module, or a loaded model.
        image: A path, PIL image, numpy (H,W,3) uint8, or torch (3,H,W) in 0..1.
        differentiable: Whether features and candidates keep their graph down to the network's weights, and with them the maps
            that `explain` draws from the trace: a loss on them can train the network.

    Returns:
        A `Trace`, on the network's device.

    Raises:
        WeightsError: The scores or boxes are NaN or infinite.
        WhyboxError: The class names do not fit the scores, or the model has no differentiable trace.
    """
    model = load(model)
    with torch.inference_mode(False):
        pixels = read_image(image, model.channels)
        # Autograd cannot save an inference tensor for backward; its clone, made outside inference mode, is a normal tensor.
        pixels = pixels.clone() if pixels.is_inference() else pixels
        device = pixels.device if model.network is None else device_of(model.network)
        return model.trace(pixels.to(device), differentiable=differentiable)


def detect(
    model: str | nn.Module | Model,
    image: ImageSource | Trace,
    *,
    text: TextPrompt | None = None,
    score_threshold: float = 0.3,
    top: int | None = MOST_DETECTIONS,
    nms: str | Rule | None = None,
    **unknown: Any,
) -> Detections:
    """The model's detections, in the model's own order.

    Args:
        model: A name, a module, or a loaded model.
        image: A path, PIL image, numpy (H,W,3) uint8, torch (3,H,W) in 0..1, or a Trace.
        text: For models that take texts: as for `explain`.
        score_threshold: The lowest score. What the model itself leaves out stays out: load it with a lower one.
        top: The largest number of detections; those with the highest scores are kept. None: 100.
        nms: A rule of duplicate removal in place of the model's own ("odam", "odam:high=0.9", "soft", a rule object); see
            `whybox.nms`.
        **unknown: None are accepted; the error suggests the option that was probably meant.

    Returns:
        N `Detections`, with masks, keypoints or corners where the model gives such.

    Raises:
        WhyboxError: A model that takes texts has none, or an option is unknown.
    """
    _refuse_unknown("detect", unknown, ("text", "score_threshold", "top", "nms"))
    check_selection(score_threshold, top)
    model = prompted(load(model) if nms is None else with_nms(model, nms), text)
    with exclusive(model.network):
        if isinstance(model, WithNms):
            trace = _trace_of(model.inner, image)
            found = remove_duplicates(model.inner, trace, model.rule, score_threshold).kept
        else:
            trace = _trace_of(model, image)
            found = trace.detections
        return model.complete(trace, best(found, score_threshold, MOST_DETECTIONS if top is None else top))


def _trace_of(model: Model, image: ImageSource | Trace) -> Trace:
    """The image's trace. A given trace is refused where another network made it, or this one in another state."""
    if not isinstance(image, Trace):
        return trace(model, image)
    if image.stored:
        # Not exactly: another device, or another number of threads, adds in another order.
        refusal = f"this stored trace is of another model, or of {model.name} in another state: trace the image again"
        return _suppressed(model, _traced_again(model, image, refusal, rtol=1e-3, atol=1e-4))
    if image.made_by is not None and image.made_by() is not model.origin:
        raise WhyboxError("this trace was made by another model: trace the image with the model that explains it")
    if image.fingerprint is not None and image.fingerprint != fingerprint(model.network):
        # A forward pass may itself change what the fingerprint holds (a counter, a cached shape): only its outputs can tell.
        refusal = (
            f"{model.name} has changed since this trace was made (weights, modules, their attributes or hooks): trace the image "
            "again, so that scores and maps are of one state"
        )
        return _suppressed(model, _traced_again(model, image, refusal, rtol=1e-5, atol=1e-6))
    return _suppressed(model, answered(model, image))


def _suppressed(model: Model, trace: Trace) -> Trace:
    """A given trace with the detections that the model's rule keeps: another rule may have made it."""
    return model.apply_rule(trace) if isinstance(model, WithNms) else trace


def _traced_again(model: Model, given: Trace, refusal: str, *, rtol: float, atol: float) -> Trace:
    """A new trace of a given trace's image, refused with `refusal` where its outputs are others than the given ones'."""
    again = trace(model, given.image, differentiable=given.differentiable)
    if not all(_close(a, b, rtol, atol) for a, b in _outputs_of(again, given)):
        raise WhyboxError(refusal)
    return answered(model, again)


def _outputs_of(again: Trace, given: Trace) -> list[tuple[Tensor, Tensor]]:
    """What two traces of one image are compared by."""
    new, old = again.candidates, given.candidates
    if again.embedding is None or given.embedding is None:
        return [(new.scores, old.scores), (new.boxes, old.boxes)]
    pairs = [(again.embedding, given.embedding)]
    # The candidates of an image-text model belong to its prompts, which may be others by now; where the cosines are those of
    # the same prompts, the logits tell of a changed scale.
    if new.logits is not None and old.logits is not None and _close(new.scores, old.scores, 1e-5, 1e-6):
        pairs.append((new.logits, old.logits))
    return pairs


def _close(a: Tensor, b: Tensor, rtol: float, atol: float) -> bool:
    """Whether two tensors differ by rounding alone; half precision rounds more coarsely."""
    if a.shape != b.shape:
        return False
    coarse = max(torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0 for values in (a, b))
    a, b = a.detach().float().cpu(), b.detach().float().cpu()
    # Small values of one tensor are rounded as its large ones are: they come out of the same sums.
    largest = max(1.0, float(b.abs().max())) if b.numel() else 1.0
    return torch.allclose(a, b, rtol=max(rtol, 4 * coarse), atol=max(atol, 4 * coarse) * largest)


_MEANT = {
    **dict.fromkeys(("threshold", "conf", "confidence", "score_thresh", "conf_threshold", "box_threshold"), "score_threshold"),
    **dict.fromkeys(("top_k", "topk", "k", "max_detections", "max_det", "limit"), "top"),
    **dict.fromkeys(("texts", "prompt", "prompts", "caption", "query"), "text"),
    **dict.fromkeys(("boxes", "box", "labels"), "detections"),
    "methods": "method",
    "targets": "target",
}
"""The names of these options in other libraries, mapped to the options of `explain` and `detect`."""
_OPTIONS = ("text", "method", "target", "detections", "score_threshold", "top", "route", "layer", "name", "words", "single_words")


def _refuse_unknown(verb: str, options: Mapping[str, Any], own: Sequence[str]) -> None:
    """Refuse options that the function does not have, and suggest the one that was probably meant."""
    for option in options:
        close = get_close_matches(option, own, n=1, cutoff=0.75)
        meant = _MEANT[option] if _MEANT.get(option) in own else close[0] if close else None
        if meant is not None:
            raise WhyboxError(f"{verb} has no option {option!r}; did you mean {meant}=?")
        raise WhyboxError(f"{verb} has no option {option!r}; it takes {', '.join(own)}")


def _refuse_mistaken(method: str | Any, options: Mapping[str, Any]) -> None:
    """Refuse a misspelled option of `explain`; all others are left to the method."""
    kind = registry.methods().get(method) if isinstance(method, str) else method
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else set()
    for option in options.keys() - known:
        if option in _MEANT or get_close_matches(option, _OPTIONS, n=1, cutoff=0.75):
            _refuse_unknown("explain", {option: None}, _OPTIONS)


@overload
def explain(
    model: str | nn.Module | Model,
    image: ImageSource | Trace,
    *,
    text: TextPrompt | None = None,
    method: str | Any = None,
    target: str | Target | None = None,
    detections: Detections | Mapping[str, Any] | Any = None,
    score_threshold: float = 0.3,
    top: int | None = None,
    route: str = "auto",
    layer: str | tuple[str, ...] | None = None,
    name: str | None = None,
    words: bool = False,
    single_words: bool = False,
    **options: Any,
) -> Explanation: ...
@overload
def explain(
    model: str | nn.Module | Model,
    image: Sequence[ImageSource | Trace],
    *,
    text: TextPrompt | Sequence[Sequence[str | Tensor]] | None = None,
    method: str | Any = None,
    target: str | Target | None = None,
    detections: Detections | Mapping[str, Any] | Sequence[Any] | Any = None,
    score_threshold: float = 0.3,
    top: int | None = None,
    route: str = "auto",
    layer: str | tuple[str, ...] | None = None,
    name: str | None = None,
    words: bool = False,
    single_words: bool = False,
    **options: Any,
) -> list[Explanation]: ...
def explain(
    model: str | nn.Module | Model,
    image: ImageSource | Trace | Sequence[ImageSource | Trace],
    *,
    text: TextPrompt | Sequence[Any] | None = None,
    method: str | Any = None,
    target: str | Target | None = None,
    detections: Detections | Mapping[str, Any] | Sequence[Any] | Any = None,
    score_threshold: float = 0.3,
    top: int | None = None,
    route: str = "auto",
    layer: str | tuple[str, ...] | None = None,
    name: str | None = None,
    words: bool = False,
    single_words: bool = False,
    **options: Any,
) -> Explanation | list[Explanation]:
    """Draw one heat map per detection: why it was detected, why with this class, why its box ends where it does. For an
    image-text model one heat map per text: where the image shows what the text says; for a classifier, for its best class.

    Args:
        model: A name, a module, or a loaded model.
        image: A path, PIL image, numpy (H,W,3) uint8, torch (3,H,W) in 0..1, or a Trace; or a list of them.
        text: For models that take texts: a text, or a list of texts; for image-text models also a tensor (D,), the embedding of
            a text, of an ensemble of prompts or of another image, or {"name": embedding}; for OWL-ViT and OWLv2 also PIL images
            of what is looked for, or {"name": image}. With a list of images, a text or a flat list of texts applies to every
            image; a list of lists, text=[["a"], ["b", "c"]], has one list per image.
        method: A name (see `list_methods`) or a method object. None: the model's default, odam for detectors and grad_eclip
            for models that predict for the whole image.
        target: A name (see `list_targets`: score, logit, x1, y1, x2, y2, combined, contrast:CLASS, mask, keypoint:NAME ...) or
            your own callable from a Trace to one number per detection. None: the score; for a classifier the logit.
        detections: Which to explain. None: the model's own, filtered by `score_threshold` and `top`. Detections of the trace.
            A mapping with "boxes" (N,4) xyxy in image pixels and "labels" (names or columns), supervision.Detections,
            ultralytics' Results, or COCO's dictionaries: the best candidate for each box, also where the model missed it; `notes`
            then say why its score is low. For models that predict for the whole image, a mapping with "labels" alone is enough.
            With a list of images, a list of these.
        score_threshold: The lowest score of a model's own detections; texts are explained whatever their score. What the model
            itself leaves out stays out, as `notes` then say: to go below its `score_threshold`, load it with a lower one.
        top: The largest number of detections; those with the highest scores are kept. None: 100 for a detector, all texts.
        route: How gradients are taken: "auto", "fast" or "exact".
        layer: The layer whose features are weighted: one of the model's `layers`, or a module's path.
        name: The image's name on the page; None: its file name.
        words: Whether to also compute one number per token and word of the texts: `result.words`, `result.tokens`.
        single_words: Whether to also draw one map per distinct word of the texts: `result.single_words`, shown on the page.
        **options: The method's fields.

    Returns:
        An `Explanation`; for a list of images, one per image.

    Raises:
        WhyboxError: An argument is invalid; the message says what was expected and what to do.
    """
    check_selection(score_threshold, top)
    if isinstance(image, (list, tuple)):
        settings: dict[str, Any] = {"method": method, "target": target, "score_threshold": score_threshold, "top": top}
        settings |= {"route": route, "layer": layer, "name": name, "words": words, "single_words": single_words, **options}
        model, each = load(model), texts_for_each(text, len(image))
        if each and each[0] is text:
            # The same texts for every image: prompting here encodes them once.
            model, each = prompted(model, text), [None] * len(image)
        entries = zip(image, _for_each(detections, len(image)), each, strict=True)
        return [explain(model, source, detections=drawn, text=texts, **settings) for source, drawn, texts in entries]
    model = prompted(load(model), text)
    method = model.default_method if method is None else method
    target = model.default_target if target is None else target
    _refuse_mistaken(method, options)
    chosen_method = make_method(method, model, route=route, layer=layer, **options)
    check_target(chosen_method, target)
    _check_has_boxes(model, target)
    check_contrast(model, target)
    check_words(chosen_method, model, target, words=words, single_words=single_words)
    # One lock over trace and maps: another thread's pass in between would find hooks and flags that are not its own.
    with exclusive(model.network):
        result, trace = _explained(model, image, chosen_method, target, detections, score_threshold, top, words, name)
        return _with_single_words(result, model, trace, chosen_method, target) if single_words else result


def _explained(
    model: Model,
    image: Any,
    method: Any,
    target: str | Target,
    wanted: Any,
    score_threshold: float,
    top: int | None,
    words: bool,
    name: str | None,
) -> tuple[Explanation, Trace]:
    """The explanation of one image with a method that was checked, and the image's trace."""
    started = time.perf_counter()
    trace = _trace_of(model, image)
    traced = time.perf_counter()
    chosen, notes = choose(trace, wanted, model, score_threshold, top)
    if chosen.bare:
        chosen = model.complete(trace, chosen)
    maps = _maps(method, model, trace, chosen, target)
    seconds = {"trace": traced - started, "maps": time.perf_counter() - traced}
    if method.same_for_all:
        notes = tuple(f"the map of {method.name} does not depend on the target" for _ in notes)
    texts = texts_read(model, chosen)
    tokens = explain_tokens(method, model, trace, chosen, target) if words else None
    of_maps = remarks_of(method, target, model, trace, chosen), remarks_on_zeros(maps, trace)
    remarks = joined(remarks_on_texts(texts, tokens), notes, *of_maps)
    result = Explanation(
        chosen,
        maps,
        as_picture(trace.image),
        model.name,
        model.classes,
        name or _name_of(image),
        tuple(remarks),
        seconds,
        model.whole_image,
        texts,
        tokens,
        keypoints=tuple(model.keypoints),
    )
    return result, trace


def _with_single_words(result: Explanation, model: Model, trace: Trace, method: Any, target: str | Target) -> Explanation:
    """Add the maps of the texts' distinct words, each a prompt of its own, with the same image, method and target."""
    distinct = distinct_words(result.texts)
    if not distinct:
        return result
    # With the same trace, so that the image is not encoded again.
    return replace(result, single_words=explain(model, trace, text=distinct, method=method, target=target, name=result.name))


def _for_each(detections: Any, count: int) -> Sequence[Any]:
    """The `detections` argument of each image: a list with one entry per image, or one value for all."""
    if not isinstance(detections, (list, tuple)):
        return [detections] * count
    if len(detections) != count:
        raise WhyboxError(f"{count} images and detections of {len(detections)}; give one entry per image")
    return detections


def _check_has_boxes(model: Model, target: str | Target) -> None:
    if model.whole_image and target in (*SIDES, COMBINED):
        raise WhyboxError(
            f"target {target!r} is about a box, and {model.name} predicts for the whole image: score, logit, contrast:NAME"
        )


def _maps(method: Any, model: Model, trace: Trace, chosen: Detections, target: str | Target) -> HeatMaps:
    raw = tuple(trace.candidates.raw)
    # "combined" is no target: it is drawn from the maps of five.
    names = ("score", *SIDES) if target == COMBINED else (target,)
    targets = [find_target(each, model.classes, raw, model) for each in names]
    try:
        results: list[HeatMaps] = method(model, trace, chosen, targets)
    except UnknownNameError as error:
        # Where a family looks a name up, it knows the modules or the layers of one pass, not all that the user may name.
        if error.kind != "layer" or not isinstance(method, GradientMethod):
            raise
        raise _unknown_layer(method.layer, model) from error
    return combine(results) if target == COMBINED else results[0]


def _unknown_layer(wanted: Any, model: Model) -> UnknownNameError:
    """The error for an unknown layer, with close matches and the layers that exist."""
    paths = [] if model.network is None else [path for path, _ in model.network.named_modules() if path]
    close = get_close_matches(str(wanted), dict.fromkeys([*model.layers, *paths]), n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return UnknownNameError(f"unknown layer {wanted!r}; {hint}{model.name} has {', '.join(model.layers)}, and any module's path")


def combine(results: Sequence[HeatMaps]) -> HeatMaps:
    """The elementwise maximum of several targets' maps of the same detections, each first min-max scaled to 0..1.

    Args:
        results: One HeatMaps per target, each with N maps.

    Returns:
        N maps of the target "combined".
    """
    native = tuple(
        torch.stack([min_max(values[None])[0] for values in of_detection]).amax(0)
        for of_detection in zip(*(maps.native for maps in results), strict=True)
    )
    return replace(results[0], native=native, target=COMBINED)


def _name_of(image: Any) -> str:
    if isinstance(image, (str, Path)):
        return Path(image).name
    # Pillow's images know the file that they were opened from.
    filename = getattr(image, "filename", "")
    return Path(filename).name if isinstance(filename, str) and filename else "image"
