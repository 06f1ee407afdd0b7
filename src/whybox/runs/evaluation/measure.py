"""One image of an evaluation: which detections or texts are explained, their maps by every method, every metric of each map."""

import base64
import hashlib
import io
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
from whybox.errors import MetricError, WhyboxError
from whybox.explained import class_name
from whybox.explanation import Explanation
from whybox.frame import Size, resize_maps
from whybox.model import Model
from whybox.ops.matching import match_well_detected, pairwise_iou
from whybox.runs.evaluation.plan import Plan, make_methods, make_metrics
from whybox.runs.evaluation.randomization import cascade
from whybox.runs.evaluation.texts import ask_about, group_by_text, prompted, rank_of, read_again, texts_in
from whybox.runs.labels import to_columns
from whybox.truth import DataSet, Metric, MetricInput, MetricResult, Sample, Truth
from whybox.types import Detections, HeatMaps, Trace, min_max

CHUNK = 16
"""Detections whose maps stand in memory at the image's size at once: 68 MB at 800x1333."""
MATCHED = 0.5
"""IoU over which a detection stands for an object, where not only the well-detected ones are asked for."""
PICTURE = 96
"""Longest side of the maps that are kept for the examples."""
FOUND = 500
"""Detections that are kept of every image for the detector's own accuracy."""

ImageRecord = dict[str, Any]
"""What is known of one image, as JSON holds it."""


@dataclass(frozen=True)
class Measurer:
    """Measures images of one data set with one model by one plan; what it gives for an image depends on nothing else."""

    model: Model
    data: DataSet
    plan: Plan
    methods: Mapping[str, Any]
    metrics: Mapping[str, Metric]

    @classmethod
    def of(cls, model: Model, data: DataSet, plan: Plan) -> "Measurer":
        """With the plan's methods and metrics made, and an image-text model asked about the texts of all images."""
        return cls(prompted(model, data.classes, plan), data, plan, make_methods(plan, model), make_metrics(plan))

    def __call__(self, index: int) -> ImageRecord:
        """Measure image `index`."""
        sample = self.data[index]
        if self.model.whole_image:
            model, truth = ask_about(self.model, sample, self.data.classes, self.plan)
            return {"index": index, **replace(self, model=model)._of_texts(sample, truth)}
        return {"index": index, **self._of_detections(sample)}

    def _of_detections(self, sample: Sample) -> ImageRecord:
        """What a detector finds, and what its maps are worth."""
        truth = to_columns(sample.truth, self.data.classes, self.model.classes, first_column=self.model.first_column)
        passed = api.trace(self.model, sample.image)
        found = api.detect(self.model, passed, score_threshold=self.plan.score_threshold, top=self.plan.top)
        found, matched = select(found, truth, passed.frame.image, self.plan)
        inputs = self._inputs(sample, passed, found, truth, matched)
        kept = {"found": self._found(passed), "truth": _annotated(truth)}
        return {**self._measured(sample, passed, inputs, _objects(inputs)), **kept}

    def _of_texts(self, sample: Sample, truth: Truth) -> ImageRecord:
        """The texts or classes that are true of the image, and what their maps are worth."""
        passed = api.trace(self.model, sample.image)
        objects = group_by_text(truth, passed.frame.image)
        found, matched = texts_in(passed, objects, self.plan.top)
        inputs = replace(self._inputs(sample, passed, found, objects, matched), whole=True)
        if self.model.takes_text:
            inputs = replace(inputs, score_texts=partial(self._score_texts, passed))
        rows = _texts(inputs, passed, self.model.classes)
        drawn = "boxes" if truth.masks is None and len(truth) else "masks"
        return {**self._measured(sample, passed, inputs, rows), "masks": drawn}

    def _inputs(self, sample: Sample, passed: Trace, found: Detections, truth: Truth, matched: Tensor) -> MetricInput:
        seeds = torch.tensor([_seed(self.plan.seed, sample.name, i) for i in range(len(found))], dtype=torch.long)
        return MetricInput(passed.image, passed.frame, found, truth, matched, seeds, self._predict, self.plan.batch)

    def _measured(self, sample: Sample, passed: Trace, inputs: MetricInput, objects: list[dict[str, Any]]) -> ImageRecord:
        rows = {spec: self._of_method(spec, passed, inputs) for spec in self.methods} if len(inputs) else {}
        return {"image": sample.name, "size": list(passed.frame.image), "objects": objects, "rows": rows}

    def _of_method(self, spec: str, passed: Trace, inputs: MetricInput) -> dict[str, Any]:
        """One method's maps of the detections, and what the metrics say of them."""
        method, started = self.methods[spec], time.perf_counter()
        explained = self._explain(method, passed, inputs.detections)
        seconds, maps = time.perf_counter() - started, explained.maps
        whole = replace(inputs, redraw=partial(self._redraw, method, inputs))
        if self.model.network is not None:
            whole = replace(whole, randomized=partial(self._randomized, method, inputs))
        if api.draws_words(method, self.model) and any("words" in metric.needs for metric in self.metrics.values()):
            words = api.explain_tokens(method, self.model, passed, inputs.detections, self.plan.target)
            whole = replace(whole, words=words)
        results = {}
        for name, metric in self.metrics.items():
            if metric.needs <= whole.gives:
                results[name] = _plain(_measure(metric, maps, whole))
        return {"seconds": seconds, "metrics": results, "pictures": [_picture(maps[i]) for i in range(len(maps))]}

    def _explain(self, method: Any, passed: Trace, found: Detections) -> Explanation:
        return api.explain(self.model, passed, method=method, target=self.plan.target, detections=found)

    def _score_texts(self, passed: Trace, texts: Sequence[str]) -> Tensor:
        """The cosines (T,) of other texts with the image."""
        if passed.embedding is None:
            raise WhyboxError(f"{self.model.name} keeps no embedding of the image in its trace: no text can be matched with it")
        known: Any = self.model
        embedded: Tensor = known.embed_texts(texts)
        return embedded @ normalize(passed.embedding.float(), dim=-1)[0].to(embedded)

    def _found(self, passed: Trace) -> dict[str, Any]:
        best = api.detect(self.model, passed, score_threshold=0.0, top=FOUND)
        return {name: values.tolist() for name, values in best.to_dict().items()}

    def _predict(self, images: Tensor) -> list[Any]:
        with torch.no_grad():
            return self.model.predict(images)

    def _redraw(self, method: Any, inputs: MetricInput, image: Tensor) -> Tensor:
        """The maps of the same objects on a changed image: of the candidates closest to their boxes."""
        drawn = {"boxes": inputs.detections.boxes, "labels": inputs.detections.labels}
        one = api.explain(self.model, image, method=method, target=self.plan.target, detections=drawn)
        return one.maps.at_image()

    def _randomized(self, method: Any, inputs: MetricInput) -> Iterator[tuple[str, Tensor]]:
        network: Any = self.model.network
        with cascade(network, lambda: self._predict(inputs.image[None]), seed=self.plan.seed) as stages:
            for layer in stages:
                # The texts were encoded by the weights of before.
                changed = replace(self, model=read_again(self.model))
                try:
                    yield layer, changed._redraw(method, inputs, inputs.image)
                except WhyboxError:
                    # Random weights may leave no candidate at all: then there is no map to compare with.
                    yield layer, inputs.image.new_full((len(inputs), *inputs.frame.image), torch.nan)


def select(found: Detections, truth: Truth, size: Size, plan: Plan) -> tuple[Detections, Tensor]:
    """Those of the detections that the plan asks for, and the row of the object that each stands for, -1 for none. size: of
    the image, (H, W).

    Source of "well_detected": the ODAM paper's protocol (one to one, IoU over .9, +1 pixel), on detections with a score over .1.
    """
    real = torch.nonzero(~truth.ignore)[:, 0].to(found.boxes.device)
    objects = truth[real.cpu()]
    least, legacy = (plan.iou, True) if plan.select == "well_detected" else (MATCHED, False)
    # Detections end at the image's edge, CrowdHuman's boxes do not.
    boxes = clip_boxes_to_image(objects.boxes.to(found.boxes), size)
    labels = objects.labels.to(found.labels.device)
    rows = match_well_detected(found.boxes, found.labels, boxes, labels, iou=least, legacy=legacy)
    matched = torch.where(rows >= 0, real[rows.clamp(min=0)] if len(real) else rows, -1)
    if plan.select == "all":
        return found, matched
    kept = torch.nonzero(matched >= 0 if plan.select == "well_detected" else matched < 0)[:, 0]
    return found[kept], matched[kept]


def _measure(metric: Metric, maps: HeatMaps, inputs: MetricInput) -> MetricResult:
    """The metric of all maps, a few detections at a time; what draws anew is asked once, for all of them."""
    if metric.needs & {"redraw", "randomized"}:
        return _judge(metric, maps.at_image(), inputs)
    parts = []
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
        came = tuple(measured.values.shape)
        raise MetricError(f"metric {metric.name!r} must give one value per detection, ({len(inputs)},), got {came}")
    if measured.curves is not None and (measured.at is None or measured.curves.shape != (len(inputs), len(measured.at))):
        raise MetricError(f"metric {metric.name!r} must give curves (N,P) with P points `at`, got {tuple(measured.curves.shape)}")
    return measured


def _seed(seed: int, image: str, index: int) -> int:
    """A seed for one detection that depends on the run's seed, the image's name and the detection's place alone."""
    digest = hashlib.sha256(f"{seed}/{image}/{index}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _objects(inputs: MetricInput) -> list[dict[str, Any]]:
    """The explained detections: what they are and what they stand for."""
    rows = []
    for i, row in enumerate(inputs.matched.tolist()):
        box, label = inputs.detections.boxes[i], int(inputs.detections.labels[i])
        known: dict[str, Any] = {"annotation": None, "iou": None, "truth_box": None}
        if row >= 0:
            other = inputs.truth.boxes[row].to(box)
            iou = float(pairwise_iou(box[None], clip_boxes_to_image(other[None], inputs.frame.image))[0, 0])
            known = {"annotation": inputs.truth.ids[row], "iou": iou, "truth_box": other.tolist()}
        score = float(inputs.detections.scores[i])
        rows.append({"label": label, "score": score, "box": box.tolist(), **known})
    return rows


def _texts(inputs: MetricInput, passed: Trace, classes: Sequence[str] | None) -> list[dict[str, Any]]:
    """The explained texts: their words, their place among all columns, and the objects that they name."""
    ranks = rank_of(inputs.detections, passed)
    told = []
    for one, rank in zip(_objects(inputs), ranks, strict=True):
        # An overlap with the whole image says nothing of a text.
        told.append({**one, "iou": None, "class": class_name(one["label"], classes), "rank": rank})
    return told


def _annotated(truth: Truth) -> dict[str, Any]:
    kept = {"boxes": truth.boxes.tolist(), "labels": truth.labels.tolist(), "ignore": truth.ignore.tolist()}
    return kept if truth.masks is None else kept | {"area": truth.masks.flatten(1).sum(1).tolist()}


def _plain(measured: MetricResult) -> dict[str, Any]:
    values = measured.values.tolist()
    if measured.curves is None or measured.at is None:
        return {"values": values}
    return {"values": values, "at": measured.at.tolist(), "curves": measured.curves.tolist()}


def _picture(maps: HeatMaps) -> str:
    """One map, scaled to 0..1 and shrunk, as a grey PNG in base64."""
    values = maps.at_image()
    scale = min(1.0, PICTURE / max(values.shape[-2:]))
    small = resize_maps(values, (max(1, round(values.shape[-2] * scale)), max(1, round(values.shape[-1] * scale))))
    grey = (min_max(small)[0] * 255).round().to(torch.uint8).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def read_picture(text: str) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """What `_picture` kept, (h,w) uint8."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
        return np.asarray(opened)
