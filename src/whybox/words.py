"""Explanations of a text's words: one number per token, and one map per distinct word."""

from collections.abc import Mapping, Sequence
from typing import Any

from whybox import registry
from whybox.attention import ImageTextModel, TokenMaps, grounding
from whybox.errors import WhyboxError
from whybox.method import TextMethod
from whybox.model import Model
from whybox.targets import COMBINED, find_target
from whybox.types import Detections, Target, Trace, target_name

TOKENS = "input_x_gradient"
"""How the tokens of a prompted detector's texts are weighed, whatever method draws the maps of the image."""
SCORES = ("score", "logit")
"""Targets that every text has; a contrast refers to two of the user's texts."""


def draws_words(method: Any, model: Model) -> bool:
    """Whether a method has maps of texts, and the model reads them."""
    return isinstance(method, TextMethod) and _reads_texts(model)


def check_words(method: Any, model: Model, target: str | Target, *, words: bool, single_words: bool) -> None:
    """Refuse word options that the method, the model or the target does not support.

    Raises:
        WhyboxError: The model reads no texts, the method has no maps of words, or the target refers to the user's texts.
    """
    if not (words or single_words):
        return
    if model.kind == "prompted detector":
        _check_grounding(model, target, single_words)
        return
    if not _reads_texts(model):
        raise WhyboxError(f"{model.name} reads no text, so that there are no words to weigh: leave words and single_words out")
    if words and not isinstance(method, TextMethod):
        kinds: Mapping[str, Any] = registry.methods()
        known = [name for name, kind in kinds.items() if kind.serves(model) and isinstance(kind, TextMethod)]
        raise WhyboxError(f"{method.name} gives no maps of words; methods that do: {', '.join(known)}")
    if single_words and target not in SCORES:
        raise WhyboxError(f"single_words are explained for target {' or '.join(SCORES)}, got {target!r}")


def _check_grounding(model: Model, target: str | Target, single_words: bool) -> None:
    """Of a prompted detector."""
    if single_words:
        raise WhyboxError(f"{model.name} finds boxes: ask about single words as texts, text=['red', 'ball'], or words=True")
    if target == COMBINED:
        raise WhyboxError("words are explained for one target at a time: score, logit, x1, y1, x2, y2, contrast:NAME")
    if grounding(model) is None:
        raise WhyboxError(
            f"{model.name} does not say which words made a box: leave words out, or give a plain module tokens= and embeddings="
        )


def explain_tokens(method: TextMethod, model: Model, trace: Trace, detections: Detections, target: str | Target) -> TokenMaps:
    """One number per token of the detections' texts."""
    chosen: Sequence[Target] = [find_target(target, model.classes, tuple(trace.candidates.raw), model)]
    if (detector := grounding(model)) is not None:
        texts = tuple(detector.texts[label] for label in detections.labels.tolist())
        return TokenMaps(detector.token_values(trace, detections, chosen)[0], texts, TOKENS, target_name(chosen[0]))
    return method.explain_text(model, trace, detections, chosen)[0]


def _reads_texts(model: Model) -> bool:
    return model.whole_image and model.takes_text and isinstance(model, ImageTextModel)
