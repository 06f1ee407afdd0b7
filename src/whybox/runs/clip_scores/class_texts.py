"""The classes of a data set as embeddings: an ensemble of templates, or the texts that the model is prompted with."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from whybox.attention import ImageTextModel
from whybox.errors import WhyboxError
from whybox.runs.evaluation.texts import fill_template

DEFAULT = ("a photo of a {}.",)
BATCH = 256
"""Texts in one pass of the text encoder."""


def read_templates(given: Sequence[str]) -> tuple[str, ...]:
    """Read templates as a user writes them.

    Args:
        given: Templates with one "{}" each, or text files with a template in every line.

    Returns:
        The distinct templates, in order.

    Raises:
        WhyboxError: A text is neither a template nor a file, or a file cannot be read or holds none.
    """
    found: list[str] = []
    for text in given:
        lines = [text] if "{}" in text else _lines(Path(text).expanduser())
        for line in lines:
            if line.count("{}") != 1:
                raise WhyboxError(f"a template must have one {{}} where the class name stands, got {line!r}")
            found.append(line)
    return tuple(dict.fromkeys(found))


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        raise WhyboxError(
            f"templates {str(file)!r}: neither a text with one {{}} where the class name stands, nor a file of such texts"
        ) from None
    if not lines:
        raise WhyboxError(f"{file}: holds no template")
    return lines


def choose_templates(model: ImageTextModel, classes: Sequence[str], templates: Sequence[str] | None) -> tuple[str, ...]:
    """The templates that a run uses.

    Args:
        model: The model.
        classes: K class names.
        templates: As the user gave them; None: the model's prompts, where it has any, or else "a photo of a {}.".

    Returns:
        The templates; () for the model's own prompts.

    Raises:
        WhyboxError: A template is invalid, or the model is prompted with another number of texts than there are classes.
    """
    if templates is not None:
        if isinstance(templates, str) or not templates:
            raise WhyboxError(f"templates must be a list of texts with one {{}} each, got {templates!r}")
        return read_templates(templates)
    if model.texts and len(model.texts) != len(classes):
        raise WhyboxError(
            f"{model.name} is prompted with {len(model.texts)} texts, and the data set has {len(classes)} classes: prompt it "
            "with one text per class, in their order, or give templates"
        )
    return () if model.texts else DEFAULT


def embed_classes(model: ImageTextModel, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embed classes.

    Source: Radford et al., CLIP, ICML 2021, section 3.1.4: the mean of the templates' unit embeddings, scaled to length 1.

    Args:
        model: The model.
        classes: K class names.
        templates: The result of `choose_templates`; (): the texts that the model is prompted with.

    Returns:
        (K,D) of length 1.
    """
    if not templates:
        return model.prompt_embeddings().float()
    sums = [embed_texts(model, [fill_template(template, name) for name in classes]) for template in templates]
    return normalize(torch.stack(sums).sum(0), dim=-1)


def embed_texts(model: ImageTextModel, texts: Sequence[str]) -> Tensor:
    """(T,D) of length 1, in batches."""
    parts = [model.embed_texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
    return torch.cat(parts).float()
