"""One image of an evaluation: the explained detections or texts, their maps by every method, and every metric of each map."""

import base64
import hashlib
import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import clip_boxes_to_image

from whybox import api
from whybox.errors import FATAL, MetricError, WhyboxError
from whybox.explained import class_name
from whybox.explanation import Explanation
from whybox.frame import Size, resize_maps
from whybox.model import Model
from whybox.network_state import fingerprint
from whybox.ops.matching import match_well_detected, pairwise_iou
from whybox.runs.evaluation.plan import Plan, make_methods, make_metrics
from whybox.runs.evaluation.randomization import cascade
from whybox.runs.evaluation.texts import ask_about, group_by_text, prompted, rank_of, read_again, texts_in
from whybox.runs.labels import check_columns
from whybox.truth import DataSet, Metric, MetricInput, MetricResult, Sample, Truth
from whybox.types import Detections, HeatMaps, Trace, min_max

CHUNK = 16
"""Maps at image resolution in memory at once: 68 MB at 800x1333."""
MATCHED = 0.5
"""IoU threshold for matching detections with objects, unless only well-detected objects are selected."""
PICTURE = 96
"""Longest side, in pixels, of the stored maps for the report's examples."""
MOST_DETECTIONS = 500
"""Maximum number of detections per image for the detector's own accuracy."""

SLACK = 1e-3
"""How far a metric's value may lie outside its range by rounding."""

ImageRecord = dict[str, Any]
"""The results of one image, ready for JSON."""


@dataclass(frozen=True)
class Measurer:
    """Evaluates the images of one data set with one model by one plan; an image's record depends on nothing else.

    Attributes:
        model: The model, already prompted with the texts of all images.
        data: The annotated images.
        plan: The settings of the run.
        methods: By spec ("drise:masks=500"), the method objects.
        metrics: By spec, the metrics.
    """

    model: Model
    data: DataSet
    plan: Plan
    methods: Mapping[str, Any]
    metrics: Mapping[str, Metric]

    @classmethod
    def of(cls, model: Model, data: DataSet, plan: Plan) -> "Measurer":
        """Make a measurer with the plan's methods and metrics.

        Args:
            model: The model; an image-text model is prompted with the texts of all images.
            data: The annotated images.
            plan: The settings of the run.

        Returns:
            The measurer.
        """
        return cls(prompted(model, data.classes, plan), data, plan, make_methods(plan, model), make_metrics(plan))

    def __call__(self, index: int) -> ImageRecord:
        """Measure one image.

        Args:
            index: Its index in the data set.

        Returns:
            The image's record.
        """
        sample = self.data[index]
        model, truth = ask_about(self.model, sample, self.data.classes, self.plan)
        asked = replace(self, model=model)
        return {"index": index, **(asked._of_texts if model.whole_image else asked._of_detections)(sample, truth)}

    def _of_detections(self, sample: Sample, truth: Truth) -> ImageRecord:
        """The record of an image for a detector, and its objects with score columns as labels."""
        trace = api.trace(self.model, sample.image)
        # Again here: before the run, there may have been no image to count the columns by.
        check_columns(self.model, trace.candidates.scores.shape[1], self.data)
        most = self.plan.most_detections(len(trace.detections))
        detections = api.detect(self.model, trace, score_threshold=self.plan.score_threshold, top=most)
        detections, matched = select(detections, truth, trace.frame.image, self.plan)
        chosen = len(detections)
        if truth.fixations and all("fixations" in metric.needs for metric in self.metrics.values()):
            detections, matched = looked_at(detections, matched, truth)
        unseen = {"unseen": chosen - len(detections)} if len(detections) < chosen else {}
        detections, matched = draw_objects(detections, matched, truth, sample.name, self.plan)
        inputs = self._inputs(sample, trace, detections, truth, matched)
        # For the accuracy of the detector itself.
        kept = {"found": self._all_detections(trace), "truth": _annotated(truth)}
        return {**self._measured(sample, trace, inputs, _objects(inputs)), **kept, **unseen}

    def _of_texts(self, sample: Sample, truth: Truth) -> ImageRecord:
        """The record of an image for a whole-image model: the texts or classes that are true of the image."""
        trace = api.trace(self.model, sample.image)
        objects = group_by_text(truth, trace.frame.image)
        detections, matched = texts_in(trace, objects, self.plan.top)
        detections, matched = draw_objects(detections, matched, objects, sample.name, self.plan)
        inputs = replace(self._inputs(sample, trace, detections, objects, matched), whole=True)
        if self.model.takes_text:
            inputs = replace(inputs, score_texts=partial(self._score_texts, trace))
        rows = _texts(inputs, trace, self.model.classes)
        shapes = "boxes" if truth.masks is None and len(truth) else "masks"
        return {**self._measured(sample, trace, inputs, rows), "masks": shapes}

    def _inputs(self, sample: Sample, trace: Trace, detections: Detections, truth: Truth, matched: Tensor) -> MetricInput:
        seeds = torch.tensor([_seed(self.plan.seed, sample.name, i) for i in range(len(detections))], dtype=torch.long)
        return MetricInput(trace.image, trace.frame, detections, truth, matched, seeds, self._predict, self.plan.batch)

    def _measured(self, sample: Sample, trace: Trace, inputs: MetricInput, objects: list[dict[str, Any]]) -> ImageRecord:
        rows = {spec: self._of_method(spec, trace, inputs) for spec in self.methods} if len(inputs) else {}
        return {"image": sample.name, "size": list(trace.frame.image), "objects": objects, "rows": rows}

    def _of_method(self, spec: str, trace: Trace, inputs: MetricInput) -> dict[str, Any]:
        """One method's maps of the detections, and their metrics."""
        method, started = self.methods[spec], time.perf_counter()
        # The trace is shared by all methods and is not part of a map's time.
        explained = self._explain(method, self._current(trace), inputs.detections)
        seconds, maps = time.perf_counter() - started, explained.maps
        available = replace(inputs, redraw=partial(self._redraw, method, inputs))
        # A black box has no weights that could be randomized.
        if self.model.network is not None:
            available = replace(available, randomized=partial(self._randomized, method, inputs))
        if api.draws_words(method, self.model) and any("words" in metric.needs for metric in self.metrics.values()):
            words = api.explain_tokens(method, self.model, trace, inputs.detections, self.plan.target)
            available = replace(available, words=words)
        results = {}
        for name, metric in self.metrics.items():
            if metric.needs <= available.gives:
                results[name] = _plain(_measure(metric, maps, available))
        told: dict[str, Any] = {"remark": remark} if (remark := method.remark(trace)) else {}
        if any(maps.layers):
            told["layers"] = list(maps.layers)
        if any(maps.routes):
            told["routes"] = list(maps.routes)
        return {"seconds": seconds, "metrics": results, "pictures": [_picture(maps[i]) for i in range(len(maps))], **told}

    def _current(self, trace: Trace) -> Trace:
        """The trace, also where a metric has randomized the weights since and has restored their bits."""
        # Restoring is an in-place change as well, so that the network would count as another one.
        restored = any("randomized" in metric.needs for metric in self.metrics.values())
        return replace(trace, fingerprint=fingerprint(self.model.network)) if restored else trace

    def _explain(self, method: Any, trace: Trace, detections: Detections) -> Explanation:
        return api.explain(self.model, trace, method=method, target=self.plan.target, detections=detections)

    def _score_texts(self, trace: Trace, texts: Sequence[str]) -> Tensor:
        """The cosines (T,) of other texts with the image."""
        if trace.embedding is None:
            raise WhyboxError(
                f"{self.model.name} keeps no image embedding in its trace, so no text can be matched with the image"
            )
        image_text: Any = self.model
        embedded: Tensor = image_text.embed_texts(texts)
        return embedded @ normalize(trace.embedding.float(), dim=-1)[0].to(embedded)

    def _all_detections(self, trace: Trace) -> dict[str, Any]:
        """The detections regardless of score, as average precision needs them."""
        best = api.detect(self.model, trace, score_threshold=0.0, top=MOST_DETECTIONS)
        return {name: values.tolist() for name, values in best.to_dict().items()}

    def _predict(self, images: Tensor) -> list[Any]:
        with torch.no_grad():
            return self.model.predict(images)

    def _redraw(self, method: Any, inputs: MetricInput, image: Tensor) -> Tensor:
        """The maps (N,H,W) of the same objects on a perturbed image: of the candidates closest to their boxes."""
        # By box and not by row: the candidates of another image are others.
        drawn = {"boxes": inputs.detections.boxes, "labels": inputs.detections.labels}
        explanation = api.explain(self.model, image, method=method, target=self.plan.target, detections=drawn)
        return explanation.maps.at_image()

    def _randomized(self, method: Any, inputs: MetricInput) -> Iterator[tuple[str, Tensor]]:
        network: Any = self.model.network
        with cascade(network, lambda: self._predict(inputs.image[None]), seed=self.plan.seed) as stages:
            for layer in stages:
                # The texts were encoded with the weights before randomization.
                changed = replace(self, model=read_again(self.model))
                try:
                    yield layer, changed._redraw(method, inputs, inputs.image)
                except FATAL:
                    raise
                except WhyboxError:
                    # Random weights may leave no candidate at all; then there is no map to compare with.
                    yield layer, inputs.image.new_full((len(inputs), *inputs.frame.image), torch.nan)


def select(found: Detections, truth: Truth, size: Size, plan: Plan) -> tuple[Detections, Tensor]:
    """Select the detections to explain, and match them with annotated objects.

    Source of "well_detected": the ODAM paper's protocol (one to one, IoU over .9, +1 pixel), on detections with a score over .1.

    Args:
        found: The N detections, in image pixels.
        truth: The annotated objects; ignored regions match no detection.
        size: Of the image, (H, W).
        plan: Its `select` and `iou` decide.

    Returns:
        The M selected detections, and for each the row (M,) of its object in `truth`, -1 for none.
    """
    counted = torch.nonzero(~truth.ignore)[:, 0].to(found.boxes.device)
    # Annotations stay on the CPU, also where the detections are on a GPU.
    objects = truth[counted.cpu()]
    least, legacy = (plan.iou, True) if plan.select == "well_detected" else (MATCHED, False)
    # Detections end at the image's edge, CrowdHuman's boxes do not.
    boxes = clip_boxes_to_image(objects.boxes.to(found.boxes), size)
    labels = objects.labels.to(found.labels.device)
    # Ignored regions were left out before, so rows count among the others and are mapped back below.
    rows = match_well_detected(found.boxes, found.labels, boxes, labels, iou=least, legacy=legacy)
    matched = torch.where(rows >= 0, counted[rows.clamp(min=0)] if len(counted) else rows, -1)
    if plan.select == "all":
        return found, matched
    kept = torch.nonzero(matched >= 0 if plan.select == "well_detected" else matched < 0)[:, 0]
    return found[kept], matched[kept]


def looked_at(found: Detections, matched: Tensor, truth: Truth) -> tuple[Detections, Tensor]:
    """Leave out what nobody looked at.

    Args:
        found: The N selected detections.
        matched: For each the row (N,) of its object in `truth`, -1 for none.
        truth: The annotated objects, with fixations.

    Returns:
        The M detections whose object has fixations, and for each the row (M,) of its object.
    """
    looks = [row >= 0 and truth.fixations[row] is not None for row in matched.tolist()]
    kept = torch.tensor(looks, dtype=torch.bool, device=matched.device)
    return found[kept.to(found.boxes.device)], matched[kept]


def draw_objects(found: Detections, matched: Tensor, truth: Truth, image: str, plan: Plan) -> tuple[Detections, Tensor]:
    """Draw the objects to explain at random among the selected ones, whatever their scores.

    Args:
        found: The N selected detections, or texts.
        matched: For each the row (N,) of its object in `truth`, -1 for none.
        truth: The annotated objects.
        image: The image's name.
        plan: Its `objects_per_image` and `seed` decide.

    Returns:
        The M drawn detections, in their order, and for each the row (M,) of its object.
    """
    most = plan.objects_per_image
    if most is None or len(found) <= most:
        return found, matched
    # By the object and not by the detection: another model's detection of the object has the same number.
    rows = matched.tolist()
    lots = [_seed(plan.seed, image, f"object {truth.ids[row]}" if row >= 0 else f"detection {i}") for i, row in enumerate(rows)]
    # The lowest lots win; sorted again, so that the detections keep their order.
    drawn = sorted(sorted(range(len(lots)), key=lots.__getitem__)[:most])
    kept = torch.tensor(drawn, device=matched.device)
    return found[kept.to(found.boxes.device)], matched[kept]


def _measure(metric: Metric, maps: HeatMaps, inputs: MetricInput) -> MetricResult:
    """The metric of all maps, a few detections at a time; metrics that recompute maps run once, for all of them."""
    # They draw all maps anew, a network's pass each: in chunks that would be repeated for every chunk.
    if metric.needs & {"redraw", "randomized"}:
        return _judge(metric, maps.at_image(), inputs)
    parts = []
    # Maps are on their layers' grids; at image resolution those of a crowd would not fit memory.
    for start in range(0, len(inputs), CHUNK):
        rows = slice(start, start + CHUNK)
        parts.append(_judge(metric, maps[rows].at_image(), inputs[rows]))
    curves = None if parts[0].curves is None else torch.cat([part.curves for part in parts if part.curves is not None])
    return MetricResult(torch.cat([part.values for part in parts]), curves, parts[0].at)


def _judge(metric: Metric, maps: Tensor, inputs: MetricInput) -> MetricResult:
    measured = metric(maps, inputs)
    if not isinstance(measured, MetricResult):
        raise MetricError(f"metric {metric.name!r} must return MetricResult, got {type(measured).__name__}")
    if tuple(measured.values.shape) != (len(inputs),):
        shape = tuple(measured.values.shape)
        raise MetricError(f"metric {metric.name!r} must give one value per detection, ({len(inputs)},), got {shape}")
    if wrong := _out_of_range(measured.values, metric.range):
        raise MetricError(f"metric {metric.name!r} {wrong}")
    if measured.curves is not None and (measured.at is None or measured.curves.shape != (len(inputs), len(measured.at))):
        raise MetricError(f"metric {metric.name!r} must give curves (N,P) with P points `at`, got {tuple(measured.curves.shape)}")
    return measured


def _out_of_range(values: Tensor, limits: tuple[float, float]) -> str:
    """What is wrong with a metric's values, NaN where it is not defined; "" for nothing."""
    known = values[~values.isnan()].double()
    if known.isinf().any():
        return "gave infinity; give NaN where it is not defined"
    slack = SLACK * max(1.0, *(abs(limit) for limit in limits if math.isfinite(limit)), 1.0)
    if len(wrong := known[(known < limits[0] - slack) | (known > limits[1] + slack)]):
        return f"gave {float(wrong[0]):g}, outside its range {limits[0]:g} to {limits[1]:g}"
    return ""


def _seed(seed: int, image: str, index: int | str) -> int:
    """A seed for one detection that depends only on the run's seed, the image's name and the detection's index or name."""
    digest = hashlib.sha256(f"{seed}/{image}/{index}".encode()).digest()
    # 7 bytes fit int64, the type of the tensor of seeds, without a sign.
    return int.from_bytes(digest[:7], "big")


def _objects(inputs: MetricInput) -> list[dict[str, Any]]:
    """The explained detections with their matched objects, as JSON rows."""
    rows = []
    for i, row in enumerate(inputs.matched.tolist()):
        box, label = inputs.detections.boxes[i], int(inputs.detections.labels[i])
        annotated: dict[str, Any] = {"annotation": None, "iou": None, "truth_box": None}
        if row >= 0:
            truth_box = inputs.truth.boxes[row].to(box)
            iou = float(pairwise_iou(box[None], clip_boxes_to_image(truth_box[None], inputs.frame.image))[0, 0])
            annotated = {"annotation": inputs.truth.ids[row], "iou": iou, "truth_box": truth_box.tolist()}
        score = float(inputs.detections.scores[i])
        rows.append({"label": label, "score": score, "box": box.tolist(), **annotated})
    return rows


def _texts(inputs: MetricInput, trace: Trace, classes: Sequence[str] | None) -> list[dict[str, Any]]:
    """The explained texts, their rank among all columns, and the objects that they name, as JSON rows."""
    ranks = rank_of(inputs.detections, trace)
    rows = []
    for row, rank in zip(_objects(inputs), ranks, strict=True):
        # IoU with the whole image is meaningless for a text.
        rows.append({**row, "iou": None, "class": class_name(row["label"], classes), "rank": rank})
    return rows


def _annotated(truth: Truth) -> dict[str, Any]:
    kept = {"boxes": truth.boxes.tolist(), "labels": truth.labels.tolist(), "ignore": truth.ignore.tolist()}
    return kept if truth.masks is None else kept | {"area": truth.masks.flatten(1).sum(1).tolist()}


def _plain(measured: MetricResult) -> dict[str, Any]:
    values = measured.values.tolist()
    if measured.curves is None or measured.at is None:
        return {"values": values}
    return {"values": values, "at": measured.at.tolist(), "curves": measured.curves.tolist()}


def _picture(maps: HeatMaps) -> str:
    """One map, scaled to 0..1 and shrunk, as a gray PNG in base64."""
    values = maps.at_image()
    scale = min(1.0, PICTURE / max(values.shape[-2:]))
    small = resize_maps(values, (max(1, round(values.shape[-2] * scale)), max(1, round(values.shape[-1] * scale))))
    gray = (min_max(small)[0] * 255).round().to(torch.uint8).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read_picture(text: str) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Decode a stored map.

    Args:
        text: A gray PNG in base64.

    Returns:
        (h,w) uint8, at most `PICTURE` pixels on a side.
    """
    with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        return np.asarray(opened)
