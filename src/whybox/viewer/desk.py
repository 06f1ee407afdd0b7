"""What the page asks: detections, maps, boxes that were not found, words, two models side by side, and what is taken away.

Everything here runs in the thread of the models, and gives plain data for JSON.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from whybox import api, registry
from whybox.attention import grounding
from whybox.catalog import list_targets
from whybox.data.images import read_image
from whybox.drift import changes_of
from whybox.errors import WhyboxError
from whybox.explained import class_name
from whybox.explanation import Explanation
from whybox.method_choice import make_method
from whybox.model import Model
from whybox.network_state import exclusive
from whybox.ops.kept_pass import KeptPass, keeping
from whybox.pictures import page_of, photo_of
from whybox.prompting import answered, prompted
from whybox.report.page import Layer, encode_detections, encode_layer, encode_shapes, page_settings, write_page
from whybox.report.wording import words_of
from whybox.selection import choose
from whybox.specs import split_spec
from whybox.targets import COMBINED, TARGETS
from whybox.types import Detections, Trace
from whybox.viewer.asked import Ask
from whybox.viewer.images import Images
from whybox.viewer.jobs import Job, cancellable
from whybox.viewer.kept import Kept, tensor_bytes

FLOOR = 0.05
"""The lowest score that the page's slider reaches without another pass; a model's own threshold may be higher."""
MOST = 300
MOST_MASKS = 100
"""Each mask has all the image's pixels."""
TRACES = 2**30
"""Bytes of the traces that are kept."""
PROMPTS = 32
NO_CLASS = ("background", "__background__", "N/A")


@dataclass(frozen=True)
class Seen:
    """An image that a model has seen.

    Attributes:
        model: The model, prompted where it reads texts.
        trace: The pass.
        detections: Those that the page knows, by row.
        name: The image's name.
        seconds: What the pass took.
    """

    model: Model
    trace: Trace
    detections: Detections
    name: str
    seconds: float


class Desk:
    """Answers what is asked of some models about some images.

    Attributes:
        models: The models, by the names that the page shows.
        images: The images.
        texts: The texts that models which read texts are asked about at first.
        traces: The passes that are kept.
    """

    def __init__(
        self, models: Mapping[str, Model], images: Images, *, texts: Sequence[str] = (), most_bytes: int = TRACES
    ) -> None:
        """See the attributes."""
        self.models, self.images, self.texts = dict(models), images, tuple(texts)
        self.traces: Kept[Seen] = Kept(most_bytes)
        self._prompted: dict[Any, Model] = {}
        self._graph = KeptPass()

    def start(self) -> dict[str, Any]:
        """What the page has to know before it shows an image."""
        return {
            "page": page_settings(),
            "names": list(self.images.named.names),
            "texts": list(self.texts),
            "models": [_describe(name, model) for name, model in self.models.items()],
        }

    def detect(self, ask: Ask, job: Job) -> dict[str, Any]:
        """An image and what a model finds in it, as the page shows it; without maps."""
        model = self._model(ask)
        if model.takes_text and not ask.texts and not model.classes:
            return self._unasked(ask)
        seen = self._see(ask, model)
        height, width = seen.trace.frame.image
        raw = [name for name in seen.trace.candidates.raw if name not in TARGETS]
        notes = [""] * len(seen.detections)
        return {
            **_photo(ask, seen.name, (height, width)),
            **_whole(seen.model),
            "seconds": {"trace": seen.seconds},
            **encode_shapes(seen.detections, seen.model.keypoints),
            "detections": encode_detections(seen.detections, _names(seen), notes),
            "targets": [*_targets(seen.model), *raw],
            "words": {name: words_of(name)._asdict() for name in raw},
            "classes": _classes(seen.model),
        }

    def draw(self, ask: Ask, job: Job) -> dict[str, Any]:
        """Maps of some detections, by one method for one target, each as the page draws it."""
        seen = self._see(ask, self._model(ask))
        explanation = self._explain(seen, ask, job)
        maps = explanation.maps
        seconds = explanation.seconds.get("maps", 0.0)
        encoded = encode_layer(Layer(maps.method, maps.target, maps, seconds, explanation.token_maps))
        encoded["words"] = _words(seen.model, ask.target)
        return {**encoded, "title": maps.method_title or maps.method, "notes": list(explanation.notes)}

    def miss(self, ask: Ask, job: Job) -> dict[str, Any]:
        """The best candidate for a box that the user drew, why its score is low, and which class leads there."""
        seen = self._see(ask, self._model(ask))
        drawn = {"boxes": [ask.box], **({} if ask.label is None else {"labels": [ask.label]})}
        found, notes = choose(seen.trace, drawn, seen.model, ask.threshold, None)
        (row,) = encode_detections(found, [class_name(int(found.labels[0]), seen.model.classes)], notes)
        label = int(found.labels[0])
        leader = int(seen.trace.candidates.scores[int(found.source[0])].argmax())
        rival = "" if leader == label else class_name(leader, seen.model.classes)
        return {"found": {**row, "drawn": {"box": list(ask.box), "label": label}}, "rival": rival}

    def compare(self, ask: Ask, job: Job) -> dict[str, Any]:
        """Both models' detections of an image, matched, with the correlation of their maps; the largest changes first."""
        first, second = self._both(ask, job)
        # The page counts all detections that it knows, those below the threshold included.
        rows = (self._see(ask, self._model(ask)).detections.scores >= ask.threshold).nonzero()[:, 0].tolist()
        pairs = [
            {
                "first": None if pair.first is None else rows[pair.first],
                "second": pair.second,
                "name": change.name,
                "iou": pair.iou,
                "correlation": pair.correlation,
                "scores": [change.before, change.after],
            }
            for pair, change in changes_of("", first, second)
        ]
        return {
            "model": ask.other,
            "detections": encode_detections(second.detections, second.names),
            "layer": encode_layer(Layer(ask.method, ask.target, second.maps)),
            "pairs": pairs,
        }

    def change(self, ask: Ask, job: Job) -> dict[str, Any]:
        """The largest change of an image between two models; 0 where neither finds anything."""
        changes = [change for _, change in changes_of("", *self._both(ask, job, keep=False))]
        return {"size": changes[0].size if changes else 0.0, "count": len(changes)}

    def take(self, ask: Ask, job: Job) -> dict[str, Any]:
        """What was looked at, to take away: the static page as text, or the numbers of the last method and target."""
        seen = self._see(ask, self._model(ask))
        explanations = []
        for i, (method, target, layer) in enumerate(ask.layers):
            job.progress(i, len(ask.layers))
            explanations.append(self._explain(seen, ask.with_layer(method, target, layer), job))
        if ask.kind == "json":
            return {"content": explanations[-1].to_dict()}
        whole = seen.model.whole_image
        return {"content": page_of(explanations[-1]) if whole else write_page([photo_of(explanations)])}

    def _both(self, ask: Ask, job: Job, *, keep: bool = True) -> tuple[Explanation, Explanation]:
        """Two models' explanations of an image, by one method for one target."""
        seen = [self._see(ask, self._model(ask, name), name, keep=keep) for name in (ask.model, ask.other)]
        methods = [make_method(ask.method, each.model, layer=None) for each in seen]
        explained = []
        for i, (each, method) in enumerate(zip(seen, methods, strict=True)):
            job.progress(i, 2)
            found = each.detections[each.detections.scores >= ask.threshold]
            with cancellable(job):
                explained.append(api.explain(each.model, each.trace, method=method, target=ask.target, detections=found))
        return explained[0], explained[1]

    def _model(self, ask: Ask, name: str | None = None) -> Model:
        wanted = ask.model if name is None else name
        if wanted not in self.models:
            raise WhyboxError(f"there is no model {wanted[:80]!r} here")
        return self.models[wanted]

    def _prompt(self, name: str, model: Model, texts: tuple[str, ...]) -> Model:
        if not model.takes_text or (not texts and model.classes):
            return model
        key = (name, texts)
        if key not in self._prompted:
            self._prompted[key] = prompted(model, list(texts) or None)
            while len(self._prompted) > PROMPTS:
                del self._prompted[next(iter(self._prompted))]
        return self._prompted[key]

    def _see(self, ask: Ask, model: Model, name: str | None = None, *, keep: bool = True) -> Seen:
        """The image's pass through the model, made or taken from those that are kept."""
        called = name or ask.model
        asked = self._prompt(called, model, ask.texts if model.takes_text else ())
        # An image-text model encodes an image once for all texts.
        once = model.kind == "image-text"
        key = (called, ask.image) if once or not model.takes_text else (called, ask.image, ask.texts)
        seen = self.traces.get(key)
        if seen is None:
            shown, source = self.images.source(ask.image)
            started = time.perf_counter()
            trace = api.trace(asked, source)
            seen = _seen(asked, trace, shown, time.perf_counter() - started)
            # A walk over a folder would push out what somebody looks at.
            if keep:
                self.traces.put(key, seen, tensor_bytes(trace))
        return seen if seen.model is asked else _seen(asked, answered(asked, seen.trace), seen.name, seen.seconds)

    def _explain(self, seen: Seen, ask: Ask, job: Job) -> Explanation:
        kind: Any = registry.named("method", split_spec(ask.method)[0], registry.methods())[1]
        options = {"progress": job.progress} if _reports(kind) else {}
        method = make_method(ask.method, seen.model, layer=ask.layer, **options)
        with cancellable(job), keeping(self._graph):
            return api.explain(
                seen.model,
                seen.trace,
                method=method,
                target=ask.target,
                detections=_wanted(seen, ask),
                score_threshold=ask.threshold,
                name=seen.name,
                words=_has_words(method, seen.model, ask.target),
            )

    def _unasked(self, ask: Ask) -> dict[str, Any]:
        """An image that waits for texts."""
        name, source = self.images.source(ask.image)
        size = tuple(read_image(source).shape[-2:])
        empty = {"seconds": {}, "keypoints": [], "limbs": [], "detections": [], "targets": ["score"], "waits": True}
        return {**_photo(ask, name, (size[0], size[1])), **_whole(self._model(ask)), **empty}


def _seen(model: Model, trace: Trace, name: str, seconds: float) -> Seen:
    texts = model.whole_image and model.takes_text
    most = MOST_MASKS if "masks" in model.gives else MOST
    detections, _ = choose(trace, None, model, FLOOR, None if texts else most)
    with exclusive(model.network):
        detections = model.complete(trace, detections)
    return Seen(model, trace, detections, name, seconds)


def _photo(ask: Ask, name: str, size: tuple[int, int]) -> dict[str, Any]:
    return {
        "name": name,
        "model": ask.model,
        "methods": {},
        "height": size[0],
        "width": size[1],
        "picture": f"photo/{ask.image}",
        "layers": [],
    }


def _whole(model: Model) -> dict[str, Any]:
    """What the detections of a model of the whole image are, in singular and plural; their boxes are not drawn."""
    return {} if not model.whole_image else {"whole": ["text", "texts"] if model.takes_text else ["class", "classes"]}


def _words(model: Model, target: str) -> dict[str, str]:
    words = words_of(target)
    if model.whole_image:
        noun = _whole(model)["whole"][0]
        meaning = words.meaning.replace("this class for this box", f"this {noun}").replace("the class", f"the {noun}")
        label = words.label.replace("Class", noun.capitalize()).replace("the class", f"the {noun}")
        words = words._replace(label=label, meaning=meaning)
    return words._asdict()


def _wanted(seen: Seen, ask: Ask) -> Any:
    """The detections that are asked about: rows of the page's list, or boxes that the user drew."""
    if ask.drawn:
        return {"boxes": [list(box) for box, _ in ask.drawn], "labels": [label for _, label in ask.drawn]}
    count = len(seen.detections)
    if outside := [row for row in ask.rows if row >= count]:
        raise WhyboxError(f"there is no detection {outside[0]}: the image has {count}")
    return seen.detections[torch.tensor(ask.rows, dtype=torch.long, device=seen.detections.boxes.device)]


def _describe(name: str, model: Model) -> dict[str, Any]:
    kinds: Mapping[str, Any] = registry.methods()
    methods = [
        {
            "name": each,
            "title": kind.title or each,
            "targets": None if kind.targets is None else sorted(kind.targets),
            "layers": any(option.name == "layer" for option in fields(kind)),
            "slow": _reports(kind),
        }
        for each, kind in kinds.items()
        if kind.serves(model)
    ]
    return {
        "name": name,
        "kind": model.kind,
        "floor": max(FLOOR, model.score_threshold),
        "method": model.default_method,
        "target": model.default_target,
        "methods": methods,
        "layers": list(model.layers),
        "targets": {each: _words(model, each) for each in _targets(model)},
        "classes": _classes(model),
        "takes_text": model.takes_text,
        "whole_image": model.whole_image,
    }


def _reports(kind: Any) -> bool:
    """Whether a method tells how far it is: those that run the model thousands of times do."""
    return any(option.name == "progress" for option in fields(kind))


def _targets(model: Model) -> list[str]:
    return [name for name in list_targets(model) if not name.startswith("contrast:")]


def _classes(model: Model) -> list[str]:
    return [name for name in model.classes or () if name not in NO_CLASS]


def _names(seen: Seen) -> list[str]:
    return [class_name(label, seen.model.classes) for label in seen.detections.labels.tolist()]


def _has_words(method: Any, model: Model, target: str) -> bool:
    if grounding(model) is not None:
        return target != COMBINED
    return api.draws_words(method, model)
