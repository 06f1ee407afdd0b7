"""What is said beside each detection's map: of its text, of the method, of a contrast with itself, of words without weight, of
maps that half precision rounds to zero."""

from collections.abc import Sequence

import torch

from whybox.attention import Text, TokenMaps
from whybox.errors import WhyboxError
from whybox.explained import class_name
from whybox.method import Method
from whybox.model import Model
from whybox.prompting import reading_note
from whybox.targets import Contrast, find_target
from whybox.types import Detections, HeatMaps, Target, Trace


def check_contrast(model: Model, target: str | Target) -> None:
    """Refuse a contrast of a model's only class: it would be with itself in every image.

    Raises:
        WhyboxError: The model has no other class, or none of this name.
    """
    if not model.classes or not isinstance(target, str) or not target.startswith("contrast:"):
        return
    chosen = find_target(target, model.classes)
    if isinstance(chosen, Contrast) and set(model.classes) == {class_name(chosen.other, model.classes)}:
        what = "text" if model.takes_text else "class"
        raise WhyboxError(f"target {target!r}: the model has no other {what}, and a contrast of one with itself is 0 everywhere")


def remarks_of(method: Method, target: str | Target, model: Model, trace: Trace, detections: Detections) -> list[str]:
    """What a reader of N maps has to know of the method and of the target; "" where there is nothing."""
    remark = method.remark(trace)
    names = [class_name(label, model.classes) for label in detections.labels.tolist()]
    chosen = target
    if isinstance(target, str) and target.startswith("contrast:"):
        chosen = find_target(target, model.classes)
    other = class_name(chosen.other, model.classes) if isinstance(chosen, Contrast) else None
    same = [f"a contrast of {name} with itself is 0" if name == other else "" for name in names]
    return joined([remark] * len(names), same)


def remarks_on_texts(texts: Sequence[Text], words: TokenMaps | None) -> list[str]:
    """For N texts what the model did not read of them, and whether no word has a weight; [] for models without texts."""
    read = [reading_note(text) for text in texts]
    if words is None:
        return read
    bare = ["" if values.any() else f"no word has a weight for {words.target}" for values in words.values]
    return joined(read, bare)


def remarks_on_zeros(maps: HeatMaps, trace: Trace) -> list[str]:
    """For N maps whether all of one is zero that may be small in truth; [] for features that are not in float16."""
    # bfloat16 has the exponents of float32: nothing underflows there that would not do so everywhere.
    if not maps.routes or all(level.values.dtype != torch.float16 for level in trace.features):
        return []
    told = "float16 knows no number under 6e-8, and may have rounded all of this map to zero: explain the network in float32"
    return ["" if values.any() else told for values in maps.native]


def joined(*columns: Sequence[str]) -> list[str]:
    """N notes, each of what the columns say; a column has N entries, or none."""
    rows = zip(*(column for column in columns if column), strict=True)
    return ["; ".join(part for part in row if part) for row in rows]
