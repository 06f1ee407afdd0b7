"""Discrimination: one map, several boxes; which object is it the map of?"""

from typing import Any, ClassVar

import numpy as np

from whybox.study.design import Asked, Candidate, Question, Seen
from whybox.study.designs._found import area_of, found_objects
from whybox.study.designs._one_of import OneOf

MOST_BOXES = 6
APART = 0.5
"""Two boxes with a larger IoU count as one object."""


class Discrimination(OneOf):
    """An answer is a box, and how sure the person is. The boxes are of other detections in the image, of the same class first.

    Source: Zhao et al. (ODAM), the user study of Table 5.
    """

    name: ClassVar[str] = "discrimination"
    title: ClassVar[str] = "Discrimination"
    ask: ClassVar[str] = "This map explains one detected object. Which of the boxes is it?"
    help: ClassVar[str] = "Choose a box, then say how sure you are."
    boxed: ClassVar[bool] = False

    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """The objects that the model found beside others."""
        # Imported on use: a study is served without loading torch.
        from whybox.ops.matching import pairwise_iou

        made = []
        for candidate in found_objects(seen):
            (row,), found, names = candidate.rows, seen.found[0], seen.names[0]
            overlap = pairwise_iou(found.boxes, found.boxes)
            chosen = [row]
            # The same class first, because another class is easier to tell; then by score.
            others = sorted(range(len(found)), key=lambda i: (names[i] != names[row], -float(found.scores[i])))
            for other in others:
                if len(chosen) < MOST_BOXES and float(overlap[other, chosen].max()) <= APART:
                    chosen.append(other)
            if len(chosen) > 1:
                # From left to right: an order that does not tell the right one.
                chosen.sort(key=lambda i: tuple(found.boxes[i].tolist()))
                made.append(_with_boxes(candidate, seen, chosen, row))
        return made

    def form(self, question: Question, asked: Asked) -> dict[str, Any]:
        """The map's picture, and the boxes."""
        options = [{"label": str(i + 1), "box": list(box)} for i, box in enumerate(question.choices)]
        return {"form": "choose", "picture": question.pictures[asked.condition], "options": options}

    def label(self, question: Question, place: int) -> str:
        """The box's number on the page."""
        return f"box {place + 1}"


def _with_boxes(candidate: Candidate, seen: Seen, chosen: list[int], row: int) -> Candidate:
    height, width = seen.size
    boxes = seen.found[0].boxes[chosen].detach().cpu().numpy() / [width, height, width, height]
    choices = tuple(tuple(round(side, 4) for side in box) for box in boxes.clip(0, 1).tolist())
    area, right = area_of(seen.found[0].boxes[row], seen.size), chosen.index(row)
    return Candidate(candidate.image, candidate.item, candidate.label, area, candidate.rows, "", choices, right)
