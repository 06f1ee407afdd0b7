"""Rules of duplicate removal compared on annotated images, with intervals of their differences."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch

from whybox.accuracy.crowd_sample import CrowdMeasures, CrowdSample, PairedDifference, paired_differences
from whybox.duplicates import make_rule
from whybox.errors import WhyboxError
from whybox.rule import Rule, Suppressed
from whybox.runs.crowds.candidates import ImageCandidates
from whybox.specs import format_spec

GRIDS: Mapping[str, Mapping[str, Sequence[Any]]] = {
    "greedy": {"iou_threshold": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)},
    "soft": {"sigma": (0.05, 0.1, 0.2, 0.3, 0.5), "min_score": (0.01,)},
    "feature": {"low": (0.1, 0.3, 0.5), "high": (0.7, 0.8, 0.9), "distance": (0.3, 0.5, 0.7, 1.0, 1.3)},
    "odam": {"iou_threshold": (0.4, 0.5, 0.6, 0.7), "low": (0.1, 0.2, 0.3, 0.5, 0.7), "high": (0.7, 0.8, 0.9, 1.5)},
}
"""The settings that are tried of each rule."""


def settings_of(name: str) -> tuple[Rule, ...]:
    """A rule with each of its settings in `GRIDS`."""
    grid = GRIDS[name]
    return tuple(make_rule(name, **dict(zip(grid, values, strict=True))) for values in product(*grid.values()))


def measure_rules(images: Iterable[ImageCandidates], rules: Sequence[Rule]) -> list[CrowdSample]:
    """Apply rules to the candidates of images.

    Args:
        images: The images; each is used once and forgotten.
        rules: Those that compare maps need images with maps.

    Returns:
        One sample of matched detections per rule, all of the same images. Every class of an image is a unit of the measures,
        whole images are drawn in their intervals.
    """
    samples = [CrowdSample() for _ in rules]
    for number, image in enumerate(images):
        for rule, sample in zip(rules, samples, strict=True):
            for detections, truth in by_class(image, image.apply(rule)):
                sample.add(number, detections, truth)
    return samples


def by_class(image: ImageCandidates, result: Suppressed) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What was kept and what there is, once per class that has detections or objects."""
    labels = image.labels[result.rows]
    for label in torch.unique(torch.cat([image.columns, image.labels])).tolist():
        kept, there = labels == label, image.columns == label
        detections = {"boxes": image.boxes[result.rows][kept], "scores": result.scores[kept]}
        yield detections, {"boxes": image.truth[there], "ignore": image.ignore[there], "size": image.size}


def merit(measures: CrowdMeasures) -> float:
    """What settings are chosen by: AP - MR + JI."""
    return measures.ap - measures.miss_rate + measures.jaccard_index


def choose(images: Iterable[ImageCandidates], rules: Sequence[Rule]) -> Rule:
    """The rule with the highest `merit` on these images; of equal ones the first."""
    values = [merit(sample.measures()) for sample in measure_rules(images, rules)]
    return rules[max(range(len(rules)), key=values.__getitem__)]


@dataclass(frozen=True)
class Comparison:
    """Rules measured on the same images.

    Attributes:
        titles: A title per rule.
        rules: The rules; the first is what the others are compared with.
        samples: Their matched detections.
        differences: Per rule, its measures minus those of the first; empty for the first.
        images: Number of images.
    """

    titles: tuple[str, ...]
    rules: tuple[Rule, ...]
    samples: tuple[CrowdSample, ...]
    differences: tuple[Mapping[str, PairedDifference], ...]
    images: int

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows, in per cent, with the differences from the first rule and their intervals."""
        rows = []
        for title, sample, gains in zip(self.titles, self.samples, self.differences, strict=True):
            cells = []
            for name, value in sample.measures()._asdict().items():
                gain = gains.get(name)
                more = "" if gain is None else f" ({100 * gain.value:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}])"
                cells.append(f"{100 * value:.1f}{more}")
            rows.append([title, *cells])
        return ["rule", *TITLES], rows

    def as_dict(self) -> dict[str, Any]:
        """The same numbers by name, 0 to 1; NaN where a measure is not defined."""
        columns = zip(self.titles, self.rules, self.samples, self.differences, strict=True)
        return {
            "images": self.images,
            "rules": [
                {
                    "title": title,
                    "rule": format_spec(rule.name, asdict(rule)),
                    "measures": sample.measures()._asdict(),
                    "differences": {name: gain._asdict() for name, gain in gains.items()},
                }
                for title, rule, sample, gains in columns
            ],
        }


TITLES = ("AP", "MR", "JI", "recall", "recall, crowded")


def compare(images: Iterable[ImageCandidates], rules: Sequence[Rule], titles: Sequence[str], *, draws: int = 1000) -> Comparison:
    """Measure rules on images.

    Args:
        images: The images.
        rules: The rules; the first is what the others are compared with.
        titles: A title per rule.
        draws: Resamples of the intervals.

    Returns:
        The measures, and the paired differences from the first rule.

    Raises:
        WhyboxError: There is no image.
    """
    samples = measure_rules(images, rules)
    if not samples[0].images:
        raise WhyboxError("no image to compare rules on: none could be read, or none has a detection or an object")
    gains = [{}, *(paired_differences(sample, samples[0], draws=draws) for sample in samples[1:])]
    return Comparison(tuple(titles), tuple(rules), tuple(samples), tuple(gains), samples[0].images)
