"""Forward simulation: who sees the map predicts what the detector says."""

from typing import Any, ClassVar

import numpy as np

from whybox.study.design import Asked, Candidate, Question, Seen
from whybox.study.designs._found import area_of
from whybox.study.designs._one_of import OneOf

MOST_NAMES = 4
NO_CLASS = ("background", "__background__", "N/A")
"""Names of score columns that stand for no class."""


class ForwardSimulation(OneOf):
    """An answer is a class name, right where the detector says it, whether or not that is true, and how sure the person is.

    Right and wrong detections are balanced where the model makes mistakes, so that naming the object is not enough. The image
    without a map is a condition too: what a map adds is the difference from it.

    Source: Doshi-Velez and Kim, "Towards A Rigorous Science of Interpretable Machine Learning", 2017, forward simulation.
    """

    name: ClassVar[str] = "forward_simulation"
    title: ClassVar[str] = "Forward simulation"
    ask: ClassVar[str] = "A detector drew this box. What does it say is in the box?"
    help: ClassVar[str] = "The detector makes mistakes: say what you think it says, not what is true. Then say how sure you are."
    image_alone: ClassVar[bool] = True

    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """The model's detections, right and wrong."""
        made, found, names = [], seen.found[0], seen.names[0]
        for row, name in enumerate(names):
            choices = tuple(sorted(_class_names(seen, row, name, rng)))
            if len(choices) > 1:
                kind = "right" if int(seen.matched[0][row]) >= 0 else "wrong"
                area = area_of(found.boxes[row], seen.size)
                made.append(Candidate(seen.image, f"detection {row}", name, area, (row,), kind, choices, choices.index(name)))
        return made

    def form(self, question: Question, asked: Asked) -> dict[str, Any]:
        """The picture of the one condition, and class names."""
        options = [{"label": name} for name in question.choices]
        return {"form": "choose", "picture": question.pictures[asked.condition], "options": options}

    def label(self, question: Question, place: int) -> str:
        """The class name."""
        return str(question.choices[place])


def _class_names(seen: Seen, row: int, name: str, rng: np.random.Generator) -> set[str]:
    """The detection's class, and other classes: those that the detector itself comes closest to, where it tells."""
    classes, source = seen.classes[0], int(seen.found[0].source[row])
    if source < 0:
        places = rng.permutation(len(classes)).tolist()
    else:
        places = seen.traces[0].candidates.scores[source].detach().cpu().argsort(descending=True).tolist()
    others = [classes[i] for i in places if i < len(classes) and classes[i] not in (name, *NO_CLASS)]
    return {name, *others[: MOST_NAMES - 1]}
