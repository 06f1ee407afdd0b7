"""What a rule of duplicate removal decided in several images, with one page for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whybox.data.images import ImageSource
from whybox.decide import explain_nms
from whybox.decisions import MOST_PAIRS, save_decisions
from whybox.errors import ImageError
from whybox.files import check_new_folder
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.report.decisions import CrowdSheet
from whybox.runs.explaining.images import Question
from whybox.targets import class_index

MOST_ON_PAGE = 20
"""Maximum number of images on the page: an image takes up to two megabytes there."""


@dataclass(frozen=True)
class DecidedImages:
    """What a rule decided in several images.

    Attributes:
        page: The page; None where there is none.
        told: `Decisions.to_dict` of each image, under the name that it was given by.
        failed: (name, reason in one line) of each image that could not be read.
    """

    page: Path | None
    told: tuple[Mapping[str, Any], ...]
    failed: tuple[tuple[str, str], ...]


def decide_images(
    model: Model,
    sources: Sequence[tuple[str, ImageSource]],
    question: Question,
    out: Path | None = None,
    *,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> DecidedImages:
    """Detect in images, and tell of every removed box why it was removed.

    Args:
        model: A model of `with_nms`.
        sources: (name, image) pairs.
        question: Its texts, classes, score threshold and top decide what is told of.
        out: A new folder for the page and decisions.json; None: without, and without maps.
        on_progress: Called with an image's name after each image.
        on_warning: Called at once with a line for each image that cannot be read.

    Returns:
        The decisions.

    Raises:
        WhyboxError: The folder is not new, or a class is unknown; before the first image is read.
    """
    if out is not None:
        check_new_folder(out)
    model, question = question.of(model)
    for name in question.classes:
        class_index(name, model.classes)
    told: list[Mapping[str, Any]] = []
    failed: list[tuple[str, str]] = []
    sheets: list[CrowdSheet] = []
    for name, source in sources:
        pairs = MOST_PAIRS if out is not None and len(sheets) < MOST_ON_PAGE else 0
        try:
            decisions = explain_nms(
                model,
                source,
                score_threshold=question.score_threshold,
                top=question.top,
                classes=question.classes,
                pairs=pairs,
                name=name,
            )
        except ImageError as error:
            failed.append((name, str(error)))
            on_warning(str(error) if name in str(error) else f"{name}: {error}")
        else:
            told.append(decisions.to_dict())
            if pairs:
                sheets.append(replace(decisions, name=Path(name).name).sheet())
        on_progress(name, 1)
    page = (
        save_decisions(sheets, told, out, remark=_remark(len(told) - len(sheets), failed)) if out is not None and sheets else None
    )
    return DecidedImages(page, tuple(told), tuple(failed))


def _remark(left: int, failed: Sequence[tuple[str, str]]) -> str:
    more = "1 more image is" if left == 1 else f"{left} more images are"
    remarks = [f"{more} in decisions.json alone."] if left else []
    remarks += [f"Not read: {', '.join(Path(name).name for name, _ in failed)}."] if failed else []
    return " ".join(remarks)
