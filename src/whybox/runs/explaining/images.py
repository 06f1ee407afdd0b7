"""Explanation of several images with one model, each into its own folder, with one page for all."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from whybox import api, registry
from whybox.attention import TokenMaps
from whybox.data.images import ImageSource
from whybox.errors import FATAL, WhyboxError
from whybox.explained import class_name
from whybox.explanation import Explanation
from whybox.files import check_new_folder, file_stem, new_folder, write_whole
from whybox.model import Model
from whybox.pictures import photo_of
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.prompting import prompted
from whybox.remarks import check_contrast
from whybox.report.album import Album
from whybox.report.page import Sheet, make_sheet, write_page
from whybox.targets import class_index
from whybox.types import Detections, Trace
from whybox.words import check_words

MOST_ON_PAGE = 40
"""Maximum number of images in the common page's file, which a browser has to read as a whole; more lie in a folder beside it."""

INDEX = "index.html"
BESIDE = "pages"
"""That folder."""


@dataclass(frozen=True)
class Question:
    """What is explained of every image: each method for each target.

    Attributes:
        methods: Method names; (): the model's default.
        targets: Target names; (): the model's default.
        score_threshold: Minimum score of a detection, 0 to 1.
        top: Maximum number of detections per image, those with the highest scores.
        classes: Explain only detections of these classes; (): of all.
        boxes: Boxes (x1, y1, x2, y2) in image pixels, explained instead of the model's detections.
        labels: A class for each box, one for all, or ().
        route: How gradients are computed: "auto", "fast" or "exact".
        layer: A layer's name, or several; None: the model's default.
        options: Options of the methods; a method gets those that it has.
        texts: The texts for a model that takes texts.
        words: Whether what the words of each text weigh is computed, too.
    """

    methods: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    score_threshold: float = 0.3
    top: int = 100
    classes: tuple[str, ...] = ()
    boxes: tuple[tuple[float, ...], ...] = ()
    labels: tuple[str, ...] = ()
    route: str = "auto"
    layer: str | tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    words: bool = False

    def __post_init__(self) -> None:
        if self.boxes and self.classes:
            raise WhyboxError("drawn boxes take a label each; a class filter is for the model's own detections")
        if self.labels and not self.boxes:
            raise WhyboxError("a label belongs to a drawn box: give --box too, or choose detections by --class")
        if self.labels and len(self.labels) not in (1, len(self.boxes)):
            raise WhyboxError(f"{len(self.boxes)} drawn boxes and {len(self.labels)} labels; expected a label for each, or one")
        if not 0 <= self.score_threshold <= 1:
            raise WhyboxError(f"the score threshold must lie between 0 and 1, got {self.score_threshold:g}")
        if self.top < 1:
            raise WhyboxError(f"top must be at least 1, got {self.top}")

    def __len__(self) -> int:
        """The number of map sets per image."""
        return max(1, len(self.methods)) * max(1, len(self.targets))

    def of(self, model: Model) -> tuple[Model, "Question"]:
        """Prompt the model, and fill in its defaults.

        Args:
            model: The model.

        Returns:
            The model prompted with the question's texts, and the question with methods and targets and without texts.
        """
        methods, targets = self.methods or (model.default_method,), self.targets or (model.default_target,)
        return prompted(model, self.texts or None), replace(self, methods=methods, targets=targets, texts=())


@dataclass(frozen=True)
class Kept:
    """An image that was explained.

    Attributes:
        image: Its name.
        folder: The folder with its results.
        explanations: The `to_dict` of each explanation.
    """

    image: str
    folder: Path
    explanations: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run over several images.

    Attributes:
        page: The common page; None if no image was explained.
        kept: The explained images.
        failed: (name, reason in one line) of each image that could not be explained.
        match: The page of an image matched with texts, if there is one.
    """

    page: Path | None
    kept: tuple[Kept, ...]
    failed: tuple[tuple[str, str], ...]
    match: Path | None = None


def explain_images(
    model: Model,
    sources: Sequence[tuple[str, ImageSource]],
    question: Question,
    out: Path,
    *,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> Outcome:
    """Explain images into a new folder.

    Args:
        model: The model.
        sources: (name, image) pairs.
        question: What is explained of every image.
        out: A new folder. It holds the results of a single image itself; several images have a folder each inside it.
        on_progress: Called with an image's name and the newly done fraction of its map sets.
        on_warning: Called at once with a line for each image that cannot be explained.

    Returns:
        The page, the explained images and the failures.

    Raises:
        WhyboxError: The folder is not new, or a method, option or class is invalid; before the first image is read.
    """
    check_new_folder(out)
    model, question = question.of(model)
    _check_methods(model, question)
    folders = _folders(out, [name for name, _ in sources])
    kept: list[Kept] = []
    failed: list[tuple[str, str]] = []
    with _common_page(out, len(sources), failed) as add:
        for (name, source), folder in zip(sources, folders, strict=True):
            try:
                explanations = explain_image(model, source, name, question, on_progress=on_progress)
            # Before the others, because these are WhyboxErrors, too: the next image would fail alike.
            except FATAL:
                raise
            except WhyboxError as error:
                failed.append((name, str(error)))
                on_warning(str(error) if name in str(error) else f"{name}: {error}")
                continue
            keep(explanations, folder)
            kept.append(Kept(name, folder, tuple(explanation.to_dict() for explanation in explanations)))
            add(explanations)
    return Outcome(out / INDEX if kept else None, tuple(kept), tuple(failed))


def explain_image(
    model: Model, source: ImageSource, name: str, question: Question, *, on_progress: OnProgress = no_progress
) -> list[Explanation]:
    """Explain one image by every method for every target, all with the same detections and one forward pass.

    Args:
        model: The model.
        source: The image.
        name: Its name.
        question: What is explained.
        on_progress: Called with the name and the newly done fraction of the map sets.

    Returns:
        One explanation per method and target, methods outermost.
    """
    model, question = question.of(model)
    started = time.perf_counter()
    trace = api.trace(model, source)
    traced = time.perf_counter() - started
    detections = _wanted(model, trace, question)
    explanations = []
    words: dict[str, TokenMaps | None] = {}
    for method in question.methods:
        for target in question.targets:
            # Of a detector that reads text the words do not depend on the method.
            known = model.kind == "prompted detector" and target in words
            watch = _Watch(name, on_progress)
            options = _options_of(method, question) | ({"progress": watch} if "progress" in _takes(method) else {})
            explanation = api.explain(
                model,
                trace,
                method=method,
                target=target,
                detections=detections,
                score_threshold=question.score_threshold,
                top=question.top,
                route=question.route,
                layer=question.layer,
                name=Path(name).name,
                words=question.words and not known,
                **options,
            )
            token_maps = words[target] if known else explanation.token_maps
            words[target] = token_maps
            seconds = {**explanation.seconds, "trace": traced}
            explanations.append(replace(explanation, seconds=seconds, token_maps=token_maps))
            if not isinstance(detections, Mapping):
                # Their masks and keypoints are not computed again.
                detections = explanation.detections
            # To the end, also for a method that reports no progress of its own.
            watch(1, 1)
    return explanations


class _Watch:
    """Passes on a method's progress, as the newly done fraction of a map set."""

    def __init__(self, name: str, on_progress: OnProgress) -> None:
        self.name, self.on_progress, self.reported = name, on_progress, 0.0

    def __call__(self, done: int, total: int) -> None:
        # A method may report as often as it likes: only what is new is passed on.
        part = done / total - self.reported
        if part > 0:
            self.reported += part
            self.on_progress(self.name, part)


def detect_image(model: Model, source: ImageSource | Trace, question: Question) -> Detections:
    """The model's detections that a question selects.

    Args:
        model: A detector.
        source: An image, or a trace of one.
        question: Its classes, score threshold and top decide.

    Returns:
        The detections, in the model's order.
    """
    model, question = question.of(model)
    # Without a limit: `top` counts detections of the chosen classes only.
    everything = api.detect(model, source, score_threshold=question.score_threshold, top=10**9)
    columns = [class_index(name, model.classes) for name in question.classes]
    if columns:
        everything = everything[torch.isin(everything.labels, torch.tensor(columns, device=everything.labels.device))]
    best = everything.scores.argsort(descending=True, stable=True)[: question.top]
    # Sorted back to the model's order.
    return everything[best.sort().values]


def describe(detections: Detections, classes: Sequence[str] | None) -> list[dict[str, Any]]:
    """Detections as plain numbers and text.

    Args:
        detections: N detections.
        classes: Names of the model's score columns, or None.

    Returns:
        N dicts with name, label, score, box and source.
    """
    columns = (detections.labels, detections.scores, detections.boxes, detections.source)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        {"name": class_name(label, classes), "label": label, "score": score, "box": box, "source": source}
        for label, score, box, source in rows
    ]


def keep(explanations: Sequence[Explanation], folder: Path) -> None:
    """Save the explanations of one image.

    Args:
        explanations: One, saved in the folder itself, or several, each saved in a subfolder with one page for all.
        folder: A new folder.
    """
    if len(explanations) == 1:
        explanations[0].save(folder)
        return
    with new_folder(folder) as draft:
        for explanation in explanations:
            explanation.save(draft / file_stem(f"{explanation.maps.method}-{explanation.maps.target}"))
        (draft / INDEX).write_text(write_page([photo_of(explanations)]), encoding="utf-8")


def _wanted(model: Model, trace: Trace, question: Question) -> Detections | dict[str, Any] | None:
    """The argument `detections` of `explain`; None, for whole-image models, selects all texts or the best class."""
    if not question.boxes and model.whole_image:
        return {"labels": list(question.classes)} if question.classes else None
    if not question.boxes:
        return detect_image(model, trace, question)
    labels = question.labels * len(question.boxes) if len(question.labels) == 1 else question.labels
    return {"boxes": [list(box) for box in question.boxes], **({"labels": list(labels)} if labels else {})}


def _options_of(method: str, question: Question) -> dict[str, Any]:
    """The options that the method has; one that no method has is passed to all of them, so that an error names it."""
    takes = {name: _takes(name) for name in question.methods}
    anywhere = set().union(*takes.values())
    return {key: value for key, value in question.options.items() if key in takes[method] or key not in anywhere}


def _takes(method: str) -> set[str]:
    _, method_class = registry.named("method", method, registry.methods())
    return {option.name for option in fields(method_class)}


def _check_methods(model: Model, question: Question) -> None:
    """Refuse methods, options, targets and classes that cannot work before the first image is read."""
    for method in question.methods:
        made = api.make_method(method, model, route=question.route, layer=question.layer, **_options_of(method, question))
        for target in question.targets:
            api.check_target(method, target)
            check_contrast(model, target)
            check_words(made, model, target, words=question.words, single_words=False)
    for name in question.classes:
        class_index(name, model.classes)


def _folders(out: Path, names: Sequence[str]) -> list[Path]:
    """A folder for each image: `out` for a single one; for several, distinct folders inside it, named after the files."""
    if len(names) == 1:
        return [out]
    used = {BESIDE: 1}
    folders = []
    for name in names:
        # Images of different folders may have the same name.
        stem = file_stem(Path(name).stem)
        used[stem] = used.get(stem, 0) + 1
        folders.append(out / (stem if used[stem] == 1 else f"{stem}-{used[stem]}"))
    return folders


@contextmanager
def _common_page(out: Path, count: int, failed: Sequence[tuple[str, str]]) -> Iterator[Callable[[Sequence[Explanation]], None]]:
    """Take the explanations of image after image; the page of them all is written at the end."""
    if count == 1:
        # A single image's own page is the page.
        yield lambda explanations: None
    elif count <= MOST_ON_PAGE:
        sheets: list[Sheet] = []
        yield lambda explanations: sheets.append(make_sheet(photo_of(explanations)))
        if sheets:
            write_whole(out / INDEX, write_page(sheets, remark=_remark(failed)))
    else:
        with new_folder(out / BESIDE) as draft, Album(draft) as album:
            yield lambda explanations: album.add(make_sheet(photo_of(explanations)))
        if album.names:
            write_whole(out / INDEX, album.page(BESIDE, remark=_remark(failed)))
        else:
            # Both are empty: where nothing was explained, no folder remains.
            (out / BESIDE).rmdir()
            out.rmdir()


def _remark(failed: Sequence[tuple[str, str]]) -> str:
    return f"Not explained: {', '.join(Path(name).name for name, _ in failed)}." if failed else ""
