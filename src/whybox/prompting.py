"""Text prompts: checked, given to the model, distributed over images, and notes on what the model did not read of them."""

from collections.abc import Sequence
from typing import Any

from whybox.attention import ImageTextModel, Text
from whybox.errors import WhyboxError
from whybox.model import Model, PromptedModel
from whybox.types import Detections, Trace

LONGEST_QUOTE = 120


def prompted(model: Model, text: Any) -> Model:
    """The model, prompted with texts.

    Args:
        model: Any model.
        text: A text or a list of texts; None leaves the model as it is.

    Raises:
        WhyboxError: The model needs texts and has none, takes no texts, or `text` is not a text.
    """
    if text is None:
        if model.takes_text and not model.classes:
            matches = ("matches images with texts", "whybox match"), ("finds boxes for texts", "whybox explain --text")
            does, command = matches[0] if model.whole_image else matches[1]
            raise WhyboxError(
                f"{model.name} {does}: say which, text='a red ball' or a list of texts; on the command line: {command}"
            )
        return model
    if not isinstance(model, PromptedModel) or not model.takes_text:
        raise WhyboxError(f"{model.name} reads no text; leave text out, or load an image-text model such as CLIP")
    return model.prompt(_checked(text))


def _checked(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else text
    if isinstance(texts, (list, tuple)) and any(isinstance(entry, (list, tuple)) for entry in texts):
        raise WhyboxError(f"text={text!r} has lists for several images, and there is one image: {SPELLINGS}")
    if not isinstance(texts, (list, tuple)) or not all(isinstance(entry, str) for entry in texts):
        raise WhyboxError(f"text must be a text or a list of texts, got {text!r}")
    if not texts:
        raise WhyboxError("text is an empty list; give at least one text")
    if broken := [entry for entry in texts if any("\ud800" <= letter <= "\udfff" for letter in entry)]:
        raise WhyboxError(f"text {broken[0]!r} holds half a character (a lone surrogate); remove it")
    return list(texts)


SPELLINGS = "text=['a', 'b'] asks every image about both texts, text=[['a'], ['b', 'c']] has a list for each image"


def texts_for_each(text: Any, count: int) -> list[Any]:
    """The texts of each of several images.

    Args:
        text: None, a text or a flat list of texts: the same for every image. A list of lists: one per image.
        count: The number of images.

    Raises:
        WhyboxError: Texts and lists are mixed, or there is not one list per image.
    """
    if not isinstance(text, (list, tuple)):
        return [text] * count
    lists = [isinstance(entry, (list, tuple)) for entry in text]
    if not any(lists):
        return [text] * count
    if not all(lists):
        raise WhyboxError(f"text mixes texts and lists of texts; {SPELLINGS}")
    if len(text) != count:
        raise WhyboxError(f"{count} images and {len(text)} lists of texts; {SPELLINGS}")
    return list(text)


def answered(model: Model, trace: Trace) -> Trace:
    """The trace with its candidates for the model's current texts; it may have been made with others."""
    return model.answer(trace) if model.takes_text and isinstance(model, PromptedModel) else trace


def texts_read(model: Model, detections: Detections) -> tuple[Text, ...]:
    """The texts of N detections as the model read them; () for models without texts."""
    if not (model.takes_text and isinstance(model, ImageTextModel)):
        return ()
    return tuple(model.texts[label] for label in detections.labels.tolist())


def with_reading_notes(notes: Sequence[str], texts: Sequence[Text]) -> tuple[str, ...]:
    """N notes, each preceded by what the model did not read of its text."""
    parts = [(reading_note(text), note) for text, note in zip(texts, notes, strict=True)]
    return tuple("; ".join(part for part in pair if part) for pair in parts)


def reading_note(text: Text) -> str:
    """What the model did not read of a text, because it was too long or is not in its vocabulary; "" where it read all."""
    parts = []
    if text.cut:
        count = len(text.tokens)
        parts.append(f"longer than the model's context: it read {count} token{'s' * (count != 1)} and not {_quoted(text.cut)}")
    if text.unknown:
        parts.append(f"not in the model's vocabulary: {', '.join(_quoted(word) for word in text.unknown)}")
    return "; ".join(parts)


def _quoted(text: str) -> str:
    """In quotes; long texts are shortened."""
    return repr(text) if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]!r}... ({len(text)} characters)"
