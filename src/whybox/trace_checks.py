"""What a model family gives is checked as it comes: a trace, the answers to a batch, and pullbacks."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from whybox.errors import WeightsError, WhyboxError
from whybox.pullback import Pullback
from whybox.types import Candidates, Detections, Trace


def check_class_names(model: str, classes: Any) -> None:
    """Refuse a single text as class names, whose letters would be taken for classes.

    Args:
        model: The model's name.
        classes: Its class names, or None.

    Raises:
        WhyboxError: They are one text.
    """
    if isinstance(classes, str):
        raise WhyboxError(f"{model}: classes must be a tuple of names, got the text {classes!r}; write ({classes!r},)")


def check_trace(model: str, classes: Any, network: Any, trace: Any) -> Trace:
    """Refuse a trace whose parts do not fit one another, or whose scores or boxes are not finite.

    Args:
        model: The model's name.
        classes: Its class names, or None.
        network: Its network, or None; its weights are searched for what is not finite.
        trace: What its `trace` returned.

    Returns:
        The trace.

    Raises:
        WeightsError: The scores, or the boxes of the detections, are NaN or infinite.
        WhyboxError: A part is missing, has another shape than the others, or refers to what is not there.
    """
    if not isinstance(trace, Trace):
        raise WhyboxError(f"{model}: trace() must return a whybox.types.Trace, got {type(trace).__name__}")
    candidates, found = trace.candidates, trace.detections
    _check_candidates(model, candidates)
    if not isinstance(found, Detections):
        raise WhyboxError(f"{model}: detections must be whybox.Detections, got {type(found).__name__}")
    for name, values in (("labels", found.labels), ("source", found.source)):
        _check_whole(f"{model}: detections.{name}", values)
    for index, feature in enumerate(trace.features):
        if feature.values.ndim != 3:
            shape = tuple(feature.values.shape)
            raise WhyboxError(f"{model}: features[{index}].values must be (C,h,w), got {shape}; leave out the batch's axis")
    if not all(map(_finite, (candidates.scores, found.scores, found.boxes))):
        raise WeightsError(f"{model} gave scores or boxes that are NaN or infinite: {_suspect(network)}")
    columns = candidates.scores.shape[1]
    if classes is not None and len(classes) != columns:
        raise WhyboxError(
            f"{model} has {columns} score columns and {len(classes)} class names; pass one class name per score column"
        )
    _check_ranges(model, trace, columns)
    return trace


def _check_candidates(model: str, candidates: Any) -> None:
    """Types and shapes; those of boxes, scores and level are checked where candidates are made."""
    if not isinstance(candidates, Candidates):
        raise WhyboxError(f"{model}: candidates must be whybox.types.Candidates, got {type(candidates).__name__}")
    _check_whole(f"{model}: candidates.level", candidates.level)
    count, columns = candidates.scores.shape
    if candidates.logits is not None and candidates.logits.shape != (count, columns):
        shape = tuple(candidates.logits.shape)
        raise WhyboxError(f"{model}: candidates.logits must be of the scores' shape {(count, columns)}, got {shape}")
    for part, entries in (("raw", candidates.raw), ("factors", candidates.factors)):
        for name, values in entries.items():
            if tuple(values.shape) not in ((count,), (count, columns)):
                wanted = f"({count},) or {(count, columns)}, a row per candidate"
                raise WhyboxError(f"{model}: candidates.{part}[{name!r}] must be {wanted}, got {tuple(values.shape)}")


def _check_whole(owner: str, values: Any) -> None:
    if not isinstance(values, Tensor) or values.dtype.is_floating_point or values.dtype == torch.bool:
        got = values.dtype if isinstance(values, Tensor) else type(values).__name__
        raise WhyboxError(f"{owner} must be a tensor of whole numbers, got {got}; use .long()")


def _check_ranges(model: str, trace: Trace, columns: int) -> None:
    """Refuse labels, rows and levels that are not there. All limits in one tensor: a graphics card is waited for once."""
    found, rows, levels = trace.detections, len(trace.candidates), len(trace.features)
    numbers = {
        "detections.labels": (found.labels, 0, columns, "a label is a column of the candidates' scores, from 0 on"),
        "detections.source": (found.source, -1, rows, "it is the row of the detection among the candidates, -1 where not known"),
        "candidates.level": (trace.candidates.level, -1, levels, "it is the row's map in features, -1 where not known"),
    }
    # Without features there are no levels: a black box may say anything.
    filled = {name: entry for name, entry in numbers.items() if len(entry[0]) and (levels or name != "candidates.level")}
    if not filled:
        return
    limits = torch.stack([limit.long() for values, *_ in filled.values() for limit in values.aminmax()]).tolist()
    for (name, (_, first, count, meaning)), low, high in zip(filled.items(), limits[::2], limits[1::2], strict=True):
        if low < first or high >= count:
            raise WhyboxError(f"{model}: {name} must lie in {first}..{count - 1}, got {low}..{high}: {meaning}")


def _finite(values: Tensor) -> bool:
    # A sum reads the numbers once and writes none; of finite ones it may overflow, which is looked at again.
    return bool(values.detach().sum().isfinite()) or bool(values.isfinite().all())


def _suspect(network: Any) -> str:
    named = network.named_parameters() if isinstance(network, nn.Module) else ()
    bad = [name for name, weight in named if not weight.isfinite().all()]
    return f"its weights hold NaN or infinity in {bad[0]}" if bad else "its weights are finite, so look at its input scaling"


def check_answers(model: str, answers: Any, count: int) -> list[Candidates]:
    """Refuse what is not one set of candidates per image.

    Args:
        model: The model's name.
        answers: What its `predict` returned.
        count: Number of images.

    Returns:
        The answers.

    Raises:
        WhyboxError: They are something else.
    """
    if not isinstance(answers, (list, tuple)) or len(answers) != count:
        got = f"{len(answers)} entries" if isinstance(answers, (list, tuple)) else type(answers).__name__
        raise WhyboxError(f"{model}: predict() must return a list with one Candidates per image, {count} here, got {got}")
    return list(answers)


def check_pullbacks(model: str, pullbacks: Any, count: int) -> Iterator[Pullback]:
    """Pass pullbacks on as they come, and refuse one that is none, a row that is not there, and one that comes twice.

    Args:
        model: The model's name.
        pullbacks: What its `pullbacks` returned.
        count: Number of detections.

    Yields:
        The pullbacks.

    Raises:
        WhyboxError: They are something else, or a row's pullback is not the only one.
    """
    if not isinstance(pullbacks, Iterable):
        raise WhyboxError(f"{model}: pullbacks() must yield Pullback objects, got {type(pullbacks).__name__}")
    seen: set[int] = set()
    for pullback in pullbacks:
        if not isinstance(pullback, Pullback):
            got = "None" if pullback is None else type(pullback).__name__
            raise WhyboxError(f"{model}: pullbacks() must yield Pullback objects, got {got}; leave out empty levels")
        rows = pullback.rows.tolist()
        if len(rows) != len(pullback.trace.detections):
            raise WhyboxError(
                f"{model}: a pullback has {len(rows)} rows and {len(pullback.trace.detections)} detections in its trace; narrow "
                "it with trace.rows(candidates, detections)"
            )
        for row in rows:
            if not 0 <= row < count or row in seen:
                wrong = f"gave detection {row} twice" if row in seen else f"gave row {row} of {count} detections"
                raise WhyboxError(f"{model}: pullbacks() {wrong}; rows are indices into the given detections, each of them once")
            seen.add(row)
        yield pullback
