"""Attention: an object is looked at on a blurred picture, through a lens or disc by disc; where, and for how long?"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from whybox.errors import WhyboxError
from whybox.study.design import Asked, Candidate, Design, Question, Row, Seen
from whybox.study.designs._found import area_of

LONGEST = 120.0
"""The longest time for a picture, in seconds: a recording of it still fits into a request."""
GRACE = 2000
"""Milliseconds by which a device's clock may run over the time."""
MOST_SAMPLES = 10_000
EDGE = 0.99999
"""The last place inside the picture: 1 is its edge, which belongs to no pixel."""
QUARTERS = ("upper left", "upper right", "lower left", "lower right")
LOOKS = 8
"""Places that a simulated respondent looks at."""
SAMPLES = "samples must be a list of [milliseconds, x, y] in order, x and y from 0 up to 1 or both null, with one place at least"


@dataclass(frozen=True)
class Attention(Design):
    """An answer is a recording: which places of the picture were uncovered, and when.

    Lengths are in parts of the picture's longest side, so that all pictures are covered alike on any screen. The defaults follow
    both sources: a lens of 5 % (MouseView.js); discs of 30 to 50 pixels, a blur whose standard deviation is as large, and 10 s
    for photographs of about 800 pixels (BubbleView).

    Source: Kim et al., "BubbleView", ACM TOCHI 2017; Anwyl-Irvine et al., "MouseView.js", Behavior Research Methods 2022 (online
    2021).

    Attributes:
        kind: "lens", which follows the pointer, or "bubbles": each click uncovers a disc until the next one.
        radius: Of the lens or disc.
        blur: Standard deviation of the Gaussian that covers the picture.
        seconds: For a picture, from the first place that is uncovered.
        box: Whether the object's box is drawn.
    """

    kind: Literal["lens", "bubbles"] = "lens"
    radius: float = 0.05
    blur: float = 0.04
    seconds: float = 10.0
    box: bool = True

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Where people look"
    ask: ClassVar[str] = "Look for what makes this the object that is named."
    task: ClassVar[str] = (
        "You will see blurred pictures, and uncover parts of them with a pointer, a finger or keys, to look for something. "
        "We record which parts, and when"
    )
    compares: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be shown."""
        limits = {"radius": (0.005, 0.5), "blur": (0.005, 0.5), "seconds": (1.0, LONGEST)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise WhyboxError(f"attention: {name} must lie between {low:g} and {high:g}, got {getattr(self, name):g}")

    @property
    def settings(self) -> dict[str, Any]:
        """All of its attributes."""
        return asdict(self)

    @property
    def own_conditions(self) -> tuple[str, ...]:
        """How the picture is uncovered: the same for everybody."""
        return (self.kind,)

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How pictures were covered, uncovered, and for how long."""
        side = "% of the longest side"
        return [
            ("uncovered by", "a lens that follows the pointer" if self.kind == "lens" else "clicks, a disc each"),
            ("radius", f"{100 * self.radius:g} {side}"),
            ("blur (standard deviation)", f"{100 * self.blur:g} {side}"),
            ("time for a picture", f"{self.seconds:g} s"),
            ("the object's box", "drawn" if self.box else "not drawn"),
        ]

    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """The annotated objects; where there are models, those that all of them found."""
        height, width = seen.size
        made = []
        for place, (box, name) in enumerate(zip(seen.truth.boxes, seen.truth_names, strict=True)):
            area = area_of(box, seen.size)
            if not name or not area or any(place not in matched.tolist() for matched in seen.matched):
                continue
            sides = (box.numpy() / [width, height, width, height]).clip(0, 1)
            parts = [round(side, 5) for side in sides.tolist()]
            details = {"annotation_id": seen.truth.ids[place], "size": [width, height], "box": parts}
            made.append(Candidate(seen.image, f"object {place}", name, area, (), details=details))
        return made

    def form(self, question: Question, asked: Asked) -> dict[str, Any]:
        """Both pictures, and how the sharp one is uncovered."""
        article = "an" if question.label[:1].lower() in tuple("aeiou") else "a"
        how = (
            "The lens follows your pointer or finger; with the arrow keys it moves, too."
            if self.kind == "lens"
            else "Click or tap where you want to look. On a keyboard, arrow keys move the ring, and Space uncovers."
        )
        here = "The object is in the box. " if self.box else ""
        return {
            "form": "uncover",
            "ask": f"Look for what makes this {article} {question.label}.",
            "help": f"{here}{how} You have {self.seconds:g} seconds from the first look.",
            "picture": question.picture,
            "sharp": question.pictures[asked.condition],
            "follows": self.kind == "lens",
            "radius": self.radius,
            "seconds": self.seconds,
            "box": question.details["box"] if self.box else None,
            "options": [],
        }

    def check(self, question: Question, asked: Asked, answer: Any) -> dict[str, Any]:
        """Samples in the order of time, and when the recording ended."""
        samples, end = (answer.get(name) if isinstance(answer, Mapping) else None for name in ("samples", "end"))
        if not isinstance(samples, list) or len(samples) > MOST_SAMPLES or not all(map(_is_sample, samples)):
            raise WhyboxError(SAMPLES)
        times = [sample[0] for sample in samples]
        if times != sorted(times) or not any(sample[1] is not None for sample in samples):
            raise WhyboxError(SAMPLES)
        if type(end) is not int or not times[-1] <= end <= 1000 * self.seconds + GRACE:
            raise WhyboxError(f"end must be whole milliseconds from the last sample to {self.seconds:g} seconds")
        return {"samples": samples, "end": end}

    def score(self, question: Question, asked: Asked, answer: Mapping[str, Any]) -> list[Row]:
        """How long was looked, how much of it in the object's box, and the recording itself."""
        held, (x1, y1, x2, y2) = _held(answer), question.details["box"]
        inside = (held[:, 0] >= x1) & (held[:, 0] < x2) & (held[:, 1] >= y1) & (held[:, 1] < y2)
        uncovered = float(held[:, 2].sum())
        return [
            {
                "condition": asked.condition,
                "seconds": answer["end"] / 1000,
                "uncovered_seconds": uncovered,
                "inside": float(held[inside, 2].sum()) / uncovered if uncovered else float("nan"),
                "box_area": (x2 - x1) * (y2 - y1),
                "samples": json.dumps(answer["samples"], separators=(",", ":")),
            }
        ]

    def instruct(self, question: Question, options: int, rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
        """A quarter of the picture to uncover."""
        quarter = int(rng.integers(len(QUARTERS)))
        place = [0.25 + 0.5 * (quarter % 2), 0.25 + 0.5 * (quarter // 2)]
        told = f"Do not search here: uncover the {QUARTERS[quarter]} quarter of the picture for a moment, then go on."
        return told, {"samples": [[0, *place]], "end": 1000}

    def follows(self, question: Question, answer: Mapping[str, Any]) -> bool:
        """Whether the longest time was spent in the quarter that was told."""
        return _quarter(answer) == _quarter(question.expected)

    def answer_at_random(
        self, question: Question, asked: Asked, strength: Mapping[str, float], rng: np.random.Generator
    ) -> dict[str, Any]:
        """Places in the box with a chance that grows with the strength, the others anywhere; each held about equally long."""
        inside = rng.random(LOOKS) < 1 - np.exp(-max(strength[asked.condition], 0.0))
        x1, y1, x2, y2 = question.details["box"]
        low, wide = np.where(inside[:, None], [x1, y1], 0.0), np.where(inside[:, None], [x2 - x1, y2 - y1], 1.0)
        places = (low + wide * rng.random((LOOKS, 2))).clip(0, EDGE).round(5)
        shares = rng.dirichlet(np.full(LOOKS, 5.0)).cumsum()
        times = [0, *(int(1000 * self.seconds * share) for share in shares[:-1])]
        samples = [[time, *place] for time, place in zip(times, places.tolist(), strict=True)]
        return {"samples": samples, "end": int(1000 * self.seconds)}


def _is_sample(sample: Any) -> bool:
    """Whether it is [milliseconds, x, y], or [milliseconds, null, null] for a picture that is covered again."""
    if not isinstance(sample, list) or len(sample) != 3 or type(sample[0]) is not int or sample[0] < 0:
        return False
    # True is an int, and NaN lies in no range.
    return sample[1:] == [None, None] or all(type(part) in (int, float) and 0 <= part < 1 for part in sample[1:])


def _held(answer: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n,3) x, y and seconds of each place: it holds until the next sample."""
    times = np.array([*(sample[0] for sample in answer["samples"]), answer["end"]], np.float64) / 1000
    places = np.array([sample[1:] for sample in answer["samples"]], np.float64).reshape(-1, 2)
    held = np.column_stack([places, np.diff(times)])
    return held[~np.isnan(held[:, 0])]


def _quarter(answer: Mapping[str, Any]) -> int:
    held = _held(answer)
    quarters = (held[:, 0] >= 0.5) + 2 * (held[:, 1] >= 0.5)
    return int(np.bincount(quarters, held[:, 2], len(QUARTERS)).argmax())
