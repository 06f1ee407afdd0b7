"""Text prompts: checked, given to the model, distributed over images, and notes on what the model did not read of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from whybox.attention import GroundingModel, ImageTextModel, Text, TextEmbedding, grounding
from whybox.data.images import read_image
from whybox.errors import WhyboxError
from whybox.model import ImagePromptedModel, Model, PromptedModel
from whybox.types import Detections, Trace

TextPrompt = str | Tensor | Image.Image | Mapping[str, Any] | Sequence[str | Tensor | Image.Image]
"""A text, its embedding (D,) or several (K,D), a mapping that names embeddings, or a list of texts and embeddings (D,); or, for
detectors that take them, PIL images of what is looked for: one, several, or a mapping that names them."""

LONGEST_QUOTE = 120


def prompted(model: Model, text: Any) -> Model:
    """The model, prompted with texts.

    Args:
        model: Any model.
        text: A text, its embedding (D,) as a tensor, or a list of these; (K,D) are K embeddings, a mapping names them. Or PIL
            images of what is looked for. None leaves the model as it is.

    Raises:
        WhyboxError: The model needs texts and has none, takes no texts or no images, or `text` is not a text.
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
        raise WhyboxError(
            f"{model.name} reads no text; leave text out, or load a detector that reads text, such as Grounding DINO, or an "
            "image-text model, such as CLIP"
        )
    if images := _images(text):
        if not isinstance(model, ImagePromptedModel):
            raise WhyboxError(f"{model.name} is asked with texts; images of what is looked for are for OWL-ViT and OWLv2")
        return model.prompt_with_images([read_image(image) for image in images.values()], list(images))
    texts = _checked(text)
    if any(isinstance(entry, TextEmbedding) for entry in texts) and model.kind != "image-text":
        raise WhyboxError(f"{model.name} reads its texts together with the image, and takes no embedding: give the text itself")
    return model.prompt(texts)  # type: ignore[arg-type]


def _images(text: Any) -> dict[str, Image.Image]:
    """PIL images by name, where `text` is such; {} where it is something else.

    Raises:
        WhyboxError: There are texts among the images.
    """
    named = dict(text) if isinstance(text, Mapping) else None
    entries = list(named.values()) if named is not None else list(text) if isinstance(text, (list, tuple)) else [text]
    found = [isinstance(entry, Image.Image) for entry in entries]
    if not any(found):
        return {}
    if not all(found):
        raise WhyboxError("text mixes images of what is looked for with texts: ask with the ones, then with the others")
    names = [str(name) for name in named] if named is not None else [f"image {i + 1}" for i in range(len(entries))]
    return dict(zip(names, entries, strict=True))


def _checked(text: Any) -> list[str | TextEmbedding]:
    """A list of texts and embeddings, from everything that `text` may be."""
    if isinstance(text, (str, Tensor, TextEmbedding)):
        text = [text]
    if isinstance(text, Mapping):
        text = [_named(str(name), value) for name, value in text.items()]
    if isinstance(text, (list, tuple)) and any(isinstance(entry, (list, tuple)) for entry in text):
        raise WhyboxError(f"text={text!r} has lists for several images, and there is one image: {SPELLINGS}")
    if not isinstance(text, (list, tuple)) or not all(isinstance(entry, (str, Tensor, TextEmbedding)) for entry in text):
        raise WhyboxError(f"text must be a text, an embedding (D,), or a list of them, got {text!r}")
    if not text:
        raise WhyboxError("text is an empty list; give at least one text")
    entries = [entry for part in text for entry in (_rows(part) if isinstance(part, Tensor) else [part])]
    given = [entry for entry in entries if isinstance(entry, Tensor)]
    names = iter(["embedding"] if len(given) == 1 else [f"embedding {i + 1}" for i in range(len(given))])
    texts = [_named(next(names), entry) if isinstance(entry, Tensor) else entry for entry in entries]
    written = [entry for entry in texts if isinstance(entry, str)]
    # Tokenizers fail on it where nothing tells any more which text it was.
    if broken := [entry for entry in written if any("\ud800" <= letter <= "\udfff" for letter in entry)]:
        raise WhyboxError(f"text {broken[0]!r} holds half a character (a lone surrogate); remove it")
    return texts


def _rows(values: Tensor) -> list[Tensor]:
    """The embeddings in a tensor (D,) or (K,D)."""
    if values.ndim not in (1, 2) or not values.is_floating_point():
        shape = f"{values.dtype} {tuple(values.shape)}"
        raise WhyboxError(f"a text's embedding must be floats (D,), or (K,D) for K of them, got {shape}")
    return [values] if values.ndim == 1 else list(values)


def _named(name: str, value: Any) -> str | TextEmbedding:
    """One entry of a mapping: a text stays as it is and loses its name; an embedding keeps it."""
    if isinstance(value, (str, TextEmbedding)):
        return value
    if not isinstance(value, Tensor) or value.ndim != 1:
        raise WhyboxError(f"text {name!r} must be a text or an embedding (D,), got {_kind_of(value)}")
    if not value.isfinite().all() or not value.any():
        raise WhyboxError(f"the embedding {name!r} is zero, or holds NaN or infinity")
    return TextEmbedding(name, _rows(value)[0])


def _kind_of(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


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
    reads: Any = grounding(model) or model
    if not (model.takes_text and isinstance(reads, (ImageTextModel, GroundingModel))):
        return ()
    return tuple(reads.texts[label] for label in detections.labels.tolist())


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
