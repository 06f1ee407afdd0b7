"""load, trace, detect, explain: the verbs of the public page."""

import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from whybox.attention import Text, TokenMaps
from whybox.data.images import ImageSource, read_image
from whybox.errors import WeightsError, WhyboxError
from whybox.explanation import Explanation, reading_note
from whybox.loading import load, open_data
from whybox.method_choice import check_target, make_method
from whybox.missed import match_drawn
from whybox.model import Model
from whybox.targets import COMBINED, SIDES, find_target
from whybox.types import Detections, HeatMaps, Target, Trace, min_max

__all__ = [
    "check_target",
    "combine",
    "detect",
    "explain",
    "load",
    "make_method",
    "open_data",
    "trace",
]


def trace(model: str | nn.Module | Model, image: ImageSource) -> Trace:
    """One forward pass over an image, kept: give it to `explain` in place of the image to ask many questions at the price of
    one pass."""
    model = load(model)
    with torch.inference_mode(False):
        pixels = read_image(image)
        pixels = pixels.clone() if pixels.is_inference() else pixels
        weight = next(iter(_parameters(model)), pixels)
        found = model.trace(pixels.to(weight.device))
    if not (found.candidates.scores.isfinite().all() and found.detections.boxes.isfinite().all()):
        raise WeightsError(f"{model.name} gave scores or boxes that are NaN or infinite: {_suspect(model)}")
    columns = found.candidates.scores.shape[1]
    if model.classes is not None and len(model.classes) != columns:
        raise WhyboxError(f"{model.name} has {columns} score columns and {len(model.classes)} class names; give one a column")
    return replace(found, made_by=weakref.ref(model if model.network is None else model.network))


def _own_trace(model: Model, passed: Trace) -> Trace:
    """Refuse a trace that another network made."""
    if passed.made_by is not None and passed.made_by() is not (model if model.network is None else model.network):
        raise WhyboxError("this trace was made by another model: trace the image with the model that explains it")
    return passed


def _parameters(model: Model) -> Iterator[nn.Parameter]:
    """Of the network, where the model has one."""
    return iter(()) if model.network is None else model.network.parameters()


def _suspect(model: Model) -> str:
    named = [] if model.network is None else model.network.named_parameters()
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
    if not model.takes_text:
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
    method = model.default_method if method is None else method
    target = model.default_target if target is None else target
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
    if not model.takes_text:
        return Explanation(*parts, notes, seconds, whole_image=model.whole_image)
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


def _asked(model: Model, text: Any) -> Model:
    """The model, asked about the texts where there are any."""
    prompt = getattr(model, "prompt", None)
    if text is None:
        if model.takes_text and not model.classes:
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


def _check_has_boxes(model: Model, target: str | Target) -> None:
    if model.whole_image and target in (*SIDES, COMBINED):
        raise WhyboxError(
            f"target {target!r} is about a box, and {model.name} answers for the whole image: score, logit, contrast:NAME"
        )


def _maps(method: Any, model: Model, passed: Trace, found: Detections, target: str | Target) -> HeatMaps:
    raw = tuple(passed.candidates.raw)
    names = ("score", *SIDES) if target == COMBINED else (target,)
    results: list[HeatMaps] = method(model, passed, found, [find_target(name, model.classes, raw) for name in names])
    return combine(results) if target == COMBINED else results[0]


def _token_maps(method: Any, model: Model, passed: Trace, found: Detections, target: str | Target) -> TokenMaps:
    chosen = find_target(target, model.classes, tuple(passed.candidates.raw))
    results: list[TokenMaps] = method.explain_text(model, passed, found, [chosen])
    return results[0]


def combine(results: Sequence[HeatMaps]) -> HeatMaps:
    """The elementwise maximum of several targets' maps of the same detections, each first scaled to 0..1."""
    native = tuple(
        torch.stack([min_max(one[None])[0] for one in of_one]).amax(0)
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
    whole = model.whole_image
    if wanted is None:
        # A text is asked for by its user, whatever its score; of a classifier the best class is.
        asked = model.takes_text
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
