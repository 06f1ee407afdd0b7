"""Duplicate removal by any rule: on tensors, and as a part of a model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whybox import registry
from whybox.errors import UnknownNameError, WhyboxError
from whybox.methods.odam import Odam
from whybox.model import ImagePromptedModel, Model, PromptedModel
from whybox.network_state import exclusive
from whybox.options import check_options, options_of, read_options
from whybox.pullback import Pullback
from whybox.rule import Rule, Suppressed, Vectors
from whybox.rule_files import SUFFIX, read_rule
from whybox.specs import format_spec, split_spec
from whybox.targets import find_target
from whybox.types import Candidates, Detections, HeatMaps, Trace

FIRST = 500
"""Candidates that a rule gets at first, the best ones; twice as many where too few are kept of them."""
MAP_STRIDE = 16
"""Network pixels per cell at which maps are compared: ODAM resizes them so that the shorter side of an 800-pixel image is 50."""


def make_rule(rule: str | Rule, **options: Any) -> Rule:
    """Make a rule of duplicate removal.

    Args:
        rule: A name, with settings ("odam:high=0.9") or without; a file of `whybox fit-nms` ("rule.json"); or a rule object,
            which is returned as it is.
        **options: The fields of the rule, for a name.

    Returns:
        The rule.

    Raises:
        WhyboxError: An unknown name or option, or an invalid value.
    """
    if isinstance(rule, Rule):
        if options:
            raise WhyboxError(f"the rule {rule.name!r} is an object with its own options: {', '.join(options)} not taken")
        return rule
    if not isinstance(rule, str):
        raise WhyboxError(f"rule must be a name ({', '.join(registry.rules())}) or a rule object, got {rule!r}")
    if rule.endswith(SUFFIX):
        written, kept = read_rule(Path(rule))
        texts: Mapping[str, str] = {}
        options = kept | options
    else:
        written, texts = split_spec(rule)
    name, rule_class = registry.named("rule", written, registry.rules())
    hints, owner = options_of(rule_class), f"rule {name!r}"
    if twice := [key for key in texts if key in options]:
        raise WhyboxError(f"{owner}: {', '.join(twice)} is given twice, in the name and as an option")
    return rule_class(**check_options(owner, hints, options), **read_options(owner, hints, texts))


def nms(
    boxes: Any,
    scores: Any,
    labels: Any = None,
    *,
    rule: str | Rule = "odam",
    maps: HeatMaps | Tensor | None = None,
    embeddings: Tensor | None = None,
    batch: Any = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Remove duplicate detections, in the way of `torchvision.ops.nms`.

    Args:
        boxes: (N,4) xyxy, in any unit.
        scores: (N,).
        labels: (N,) classes; boxes of different classes are never duplicates. None: all boxes are compared.
        rule: "greedy", "soft", "feature" or "odam", with settings ("odam:high=0.9") or without; a file of `whybox fit-nms`; or a
            rule object.
        maps: N heat maps, for rules that compare maps: HeatMaps, or (N,h,w) on one grid.
        embeddings: (N,D), for rules that compare embeddings.
        batch: (N,) the image of each box, where there are several; boxes of different images are never compared.
        **options: The rule's options: for "odam" iou_threshold, high and low.

    Returns:
        (K,) int64 indices of the kept boxes, highest scores first. A rule that lowers scores ("soft") gives (indices, scores),
        both (K,).

    Raises:
        WhyboxError: The shapes do not fit together, a value is NaN or infinite, the rule lacks what it compares, or an option
            is invalid.

    Source: each rule names its own; "odam" is algorithm 1 of the ODAM paper.
    """
    chosen = make_rule(rule, **options)
    boxes, scores = (torch.as_tensor(values) for values in (boxes, scores))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != (len(boxes),):
        raise WhyboxError(
            f"boxes must be (N, 4) and scores (N,) of as many boxes, got {tuple(boxes.shape)} and {tuple(scores.shape)}"
        )
    boxes, scores = (values.detach() if values.is_floating_point() else values.float() for values in (boxes, scores))
    for name, values in (("boxes", boxes), ("scores", scores)):
        if not values.isfinite().all():
            raise WhyboxError(f"{name} hold NaN or infinity, first in row {_first_bad(values)}")
    groups = _groups(labels, batch, boxes)
    removed = chosen(boxes, scores, groups, _given(chosen, maps, embeddings, boxes))
    return (removed.rows, removed.scores) if chosen.rescores else removed.rows


def _first_bad(values: Tensor) -> int:
    return int((~values.isfinite()).flatten(1).any(1).nonzero()[0] if values.ndim > 1 else (~values.isfinite()).nonzero()[0])


def _groups(labels: Any, batch: Any, boxes: Tensor) -> Tensor:
    """(N,) a number for each pair of image and class."""
    columns = []
    for name, given in (("labels", labels), ("batch", batch)):
        values = torch.zeros(len(boxes), dtype=torch.long) if given is None else torch.as_tensor(given)
        if values.shape != (len(boxes),) or values.is_floating_point():
            raise WhyboxError(f"{name} must be {len(boxes)} whole numbers, one per box, got {tuple(values.shape)} {values.dtype}")
        columns.append(values.to(boxes.device).long())
    if not len(boxes):
        return columns[0]
    groups: Tensor = torch.unique(torch.stack(columns, 1), dim=0, return_inverse=True)[1]
    return groups


def _given(rule: Rule, maps: HeatMaps | Tensor | None, embeddings: Tensor | None, boxes: Tensor) -> Vectors | None:
    """What the rule compares beside boxes, checked."""
    if "maps" in rule.needs:
        values, what = maps.values if isinstance(maps, HeatMaps) else maps, "maps"
    elif "embeddings" in rule.needs:
        values, what = embeddings, "embeddings"
    else:
        return None
    if values is None:
        raise WhyboxError(f"rule {rule.name!r} compares {what}: pass {what}=, one per box")
    values = torch.as_tensor(values).detach()
    if values.ndim < 2 or len(values) != len(boxes):
        raise WhyboxError(f"{what} must be one per box, {len(boxes)} in all, got {tuple(values.shape)}")
    if not values.isfinite().all():
        raise WhyboxError(f"{what} hold NaN or infinity, first in row {_first_bad(values.flatten(1))}")
    vectors = values.flatten(1).to(boxes.device)
    return Vectors(lambda rows: vectors[rows])


@dataclass(frozen=True)
class Removal:
    """What a rule made of a trace's candidates.

    Attributes:
        found: N detections before suppression, highest scores first.
        result: Which of them were kept, and why the others were not.
        kept: The K detections that are left.
        vectors: What the rule compared beside boxes, of the rows of `found`; None: nothing.
    """

    found: Detections
    result: Suppressed
    kept: Detections
    vectors: Vectors | None = None


def remove_duplicates(model: Model, trace: Trace, rule: Rule, score_threshold: float = 0.0) -> Removal:
    """Apply a rule to a trace's candidates.

    Candidates with low scores that cannot matter are left out: those under the threshold, and those that come after the model's
    largest number of detections is reached. What is kept of the better ones does not depend on them.

    Args:
        model: The model that made the trace.
        trace: A trace.
        rule: The rule.
        score_threshold: The lowest score that is of interest. A rule that lowers scores gets all candidates nevertheless.

    Returns:
        What was kept and why.

    Raises:
        WhyboxError: The model does not give what the rule compares.
    """
    found = model.unsuppressed(trace)
    found = found[found.scores.argsort(descending=True, stable=True)]
    most = model.most_detections
    if not rule.rescores:
        found = found[found.scores >= score_threshold]
    # As in `explain`: another thread waits, and autocast would round maps and their cosines.
    with exclusive(model.network), torch.inference_mode(False):
        vectors = drawn_vectors(model, trace, found, rule)
        count = FIRST if most is not None and not rule.rescores else max(len(found), 1)
        while True:
            some = found[:count]
            result = rule(some.boxes, some.scores, some.labels, vectors)
            if count >= len(found) or (most is not None and len(result.rows) >= most):
                break
            count *= 2
    rows = result.rows[:most]
    return Removal(some, result, replace(some[rows], scores=result.scores[: len(rows)].to(found.scores.dtype)), vectors)


def drawn_vectors(model: Model, trace: Trace, found: Detections, rule: Rule) -> Vectors | None:
    """What a rule compares of candidates beside their boxes, drawn when it is asked for, and once.

    Args:
        model: The model that made the trace.
        trace: A trace.
        found: N of its candidates.
        rule: The rule.

    Returns:
        Vectors of the rows of `found`; None where the rule compares boxes alone.

    Raises:
        WhyboxError: The model does not give what the rule compares.
    """
    if "maps" in rule.needs:
        return Vectors(_once(lambda rows: map_vectors(model, trace, found[rows]), len(found)), at_hand=False)
    if "embeddings" in rule.needs:
        _check_embeds(model, rule)
        return Vectors(lambda rows: model.embed_detections(trace, found[rows]), at_hand=False)
    return None


def _check_embeds(model: Model, rule: Rule) -> None:
    if not model.embeds:
        raise WhyboxError(f"rule {rule.name!r} compares learned embeddings, and {model.name} has no embedding head")


def _once(draw: Callable[[Tensor], Tensor], count: int) -> Callable[[Tensor], Tensor]:
    """`draw`, called for those of `count` rows alone that it has not been called for before."""
    place = torch.full((count,), -1, dtype=torch.long)
    drawn: list[Tensor] = []

    def ask(rows: Tensor) -> Tensor:
        new = rows.cpu()[place[rows.cpu()] < 0]
        if len(new):
            place[new] = sum(map(len, drawn)) + torch.arange(len(new))
            drawn.append(draw(new.to(rows.device)))
        return torch.cat(drawn)[place[rows.cpu()].to(rows.device)]

    return ask


def map_vectors(model: Model, trace: Trace, detections: Detections) -> Tensor:
    """The maps that ODAM-NMS compares, resized (bilinear) to a grid of `MAP_STRIDE` network pixels per cell.

    Args:
        model: The model that made the trace.
        trace: A trace.
        detections: N of its candidates.

    Returns:
        (N,D) flattened maps.
    """
    return as_vectors(logit_maps(model, trace, detections))


def as_vectors(maps: HeatMaps) -> Tensor:
    """N maps as vectors (N,D), on the grid on which ODAM-NMS compares them."""
    height, width = maps.frame.network
    # Detached: a decision has no gradient, also where the trace has one.
    return maps.resized((ceil(height / MAP_STRIDE), ceil(width / MAP_STRIDE))).detach().flatten(1)


def logit_maps(model: Model, trace: Trace, detections: Detections) -> HeatMaps:
    """ODAM maps of the class logits, for R-CNNs at the pooled features; of the scores where a model gives no logits.

    Args:
        model: The model that made the trace.
        trace: A trace.
        detections: N of its candidates.

    Returns:
        N maps.
    """
    target = find_target("score" if trace.candidates.logits is None else "logit", model.classes)
    layer = "roi" if "roi" in model.gives else None
    with exclusive(model.network):
        try:
            # "fast": also small levels are taken by windows, where "auto" would go back through the level once per map.
            maps: HeatMaps = Odam(layer=layer, route="fast")(model, trace, detections, [target])[0]
        except UnknownNameError as error:
            # Families without windows know no such route.
            if error.kind != "route":
                raise
            maps = Odam(layer=layer)(model, trace, detections, [target])[0]
    return maps


def with_nms(model: Any, rule: str | Rule, **options: Any) -> Model:
    """The model with another rule of duplicate removal; its detections, and with them all that is explained and measured, are
    those that the rule keeps.

    Args:
        model: As `load` takes it.
        rule: As for `nms`.
        **options: The rule's options.

    Returns:
        A model that shares the network.

    Raises:
        WhyboxError: The model predicts for the whole image, the rule or an option is unknown, or the model lacks what the rule
            compares.
    """
    from whybox.loading import load

    inner, chosen = load(model), make_rule(rule, **options)
    if isinstance(inner, WithNms):
        inner = inner.inner
    if inner.whole_image:
        raise WhyboxError(f"{inner.name} predicts for the whole image: there are no boxes to suppress")
    if "embeddings" in chosen.needs:
        _check_embeds(inner, chosen)
    if "maps" in chosen.needs and "features" not in inner.gives:
        raise WhyboxError(f"rule {chosen.name!r} compares heat maps, and {inner.name} gives no features to draw them from")
    return _kind_of(inner)(inner, chosen)


def _kind_of(inner: Model) -> "type[WithNms]":
    """The class of the model with a rule, which takes what the model takes."""
    if not inner.takes_text:
        return WithNms
    return ImagePromptedWithNms if isinstance(inner, ImagePromptedModel) else PromptedWithNms


class WithNms(Model):
    """A model whose detections are those that a rule of duplicate removal keeps. All else is the model's own."""

    def __init__(self, inner: Model, rule: Rule) -> None:
        self.inner = inner
        self.rule = rule
        self.name = inner.name
        self.network = inner.network
        self.kind = inner.kind

    def __getattr__(self, name: str) -> Any:
        # What a family has beyond the interface. "inner" is missing while a pickled object is put together.
        if name == "inner" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        return self.inner.gives

    @property
    def classes(self) -> Sequence[str] | None:  # type: ignore[override]
        return self.inner.classes

    @property
    def first_column(self) -> int:  # type: ignore[override]
        return self.inner.first_column

    @property
    def channels(self) -> int:  # type: ignore[override]
        return self.inner.channels

    @property
    def keypoints(self) -> Sequence[str]:  # type: ignore[override]
        return self.inner.keypoints

    @property
    def score_threshold(self) -> float:  # type: ignore[override]
        """That of the candidates that the rule gets; 0 where the rule lowers scores."""
        return 0.0 if self.rule.rescores else self.inner.unsuppressed_threshold

    @property
    def settings(self) -> str:  # type: ignore[override]
        return f"{self.inner.settings} {self._rule_spec()}".strip()

    @property
    def identity(self) -> tuple[str, ...]:
        return (*self.inner.identity, self._rule_spec())

    def _rule_spec(self) -> str:
        return f"nms={format_spec(self.rule.name, _plain(self.rule))}"

    @property
    def default_method(self) -> str:
        return self.inner.default_method

    @property
    def default_target(self) -> str:
        return self.inner.default_target

    @property
    def origin(self) -> Any:
        return self.inner.origin

    @property
    def layers(self) -> tuple[str, ...]:
        return self.inner.layers

    @property
    def fixed_rows(self) -> bool:  # type: ignore[override]
        return self.inner.fixed_rows

    @property
    def most_detections(self) -> int | None:
        return self.inner.most_detections

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """The model's own trace, with the detections that the rule keeps."""
        return self.apply_rule(
            self.inner.trace(image, differentiable=differentiable) if differentiable else self.inner.trace(image)
        )

    def apply_rule(self, trace: Trace) -> Trace:
        """A trace of the model, with the detections that the rule keeps."""
        return replace(trace, detections=remove_duplicates(self.inner, trace, self.rule).kept)

    def predict(self, images: Tensor) -> list[Candidates]:
        return self.inner.predict(images)

    @property
    def unsuppressed_threshold(self) -> float:
        return self.inner.unsuppressed_threshold

    def unsuppressed(self, trace: Trace) -> Detections:
        return self.inner.unsuppressed(trace)

    @property
    def embeds(self) -> bool:
        return self.inner.embeds

    def embed_detections(self, trace: Trace, detections: Detections) -> Tensor:
        return self.inner.embed_detections(trace, detections)

    def pullbacks(
        self, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        return self.inner.pullbacks(trace, detections, layer, route, frozen_allowed=frozen_allowed)

    def branch_pullbacks(
        self, branch: str, trace: Trace, detections: Detections, layer: str | None, route: str, *, frozen_allowed: bool = True
    ) -> Iterator[Pullback]:
        return self.inner.branch_pullbacks(branch, trace, detections, layer, route, frozen_allowed=frozen_allowed)

    def complete(self, trace: Trace, detections: Detections) -> Detections:
        return self.inner.complete(trace, detections)


class PromptedWithNms(WithNms):
    """The same for a model that takes texts."""

    inner: Any

    def prompt(self, texts: Sequence[str]) -> Model:
        """The same network and rule, prompted with these texts."""
        prompted: PromptedModel = self.inner
        return type(self)(prompted.prompt(texts), self.rule)

    def answer(self, trace: Trace) -> Trace:
        """A trace with its candidates for this model's texts; `apply_rule` gives it the detections that the rule keeps."""
        prompted: PromptedModel = self.inner
        return prompted.answer(trace)


class ImagePromptedWithNms(PromptedWithNms):
    """The same for a model that also takes images."""

    def prompt_with_images(self, images: Sequence[Tensor], names: Sequence[str]) -> Model:
        """The same network and rule, prompted with images of what it is to look for."""
        prompted: ImagePromptedModel = self.inner
        return type(self)(prompted.prompt_with_images(images, names), self.rule)


def _plain(rule: Rule) -> Mapping[str, Any]:
    options: dict[str, Any] = asdict(rule)
    return options
