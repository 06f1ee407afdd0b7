"""How the pages word what is explained: a question, and what bright places mean."""

from typing import NamedTuple


class Words(NamedTuple):
    """How the page words a target.

    Attributes:
        label: Its name.
        question: What the map answers, with {name} for the detection.
        meaning: What bright places mean.
        side: The edge of the box that it is about, or "".
    """

    label: str
    question: str
    meaning: str = ""
    side: str = ""


def _edge(side: str, symbol: str, way: str) -> Words:
    question = f"Why does the {side} edge of {{name}} lie here?"
    return Words(f"{side.capitalize()} edge ({symbol})", question, f"Brighter: what moves this edge {way}.", side)


def _distance(side: str, symbol: str) -> Words:
    question = f"Why does {{name}} reach so far to the {side}?"
    return Words(f"{side.capitalize()} distance ({symbol})", question, "Brighter: what makes the box larger here.", side)


TARGETS: dict[str, Words] = {
    "score": Words("Class score", "Why {name}?", "Brighter: what raises the score of this class for this box."),
    "logit": Words("Class logit", "Why {name}?", "Brighter: what raises the logit of this class for this box."),
    "x1": _edge("left", "x1", "to the right"),
    "y1": _edge("top", "y1", "down"),
    "x2": _edge("right", "x2", "to the right"),
    "y2": _edge("bottom", "y2", "down"),
    "l": _distance("left", "l"),
    "t": _distance("top", "t"),
    "r": _distance("right", "r"),
    "b": _distance("bottom", "b"),
    "against": Words("Against the class", "What speaks against {name}?", "Brighter: what lowers the logit of the class."),
    "mask": Words("Mask", "Why this mask of {name}?", "Brighter: what raises the logits inside the mask."),
    "mask:inside": Words("Mask inside", "Why is this {name}?", "Brighter: what raises the logits away from the edge."),
    "mask:edge": Words("Mask edge", "Why does the mask of {name} end here?", "Brighter: what moves the edge outwards."),
    "angle": Words("Angle", "Why is {name} turned like this?", "Brighter: what turns the box clockwise."),
    "combined": Words("Class and edges", "Where does {name} come from?", "Brighter: what class or edges depend on most."),
}
CONTRAST, KEYPOINT, CORNER = "contrast:", "keypoint:", "corner:"
_WAYS = {"x": "to the right", "y": "down"}

SILENT = Words("", "Why {name}?")


def words_of(target: str) -> Words:
    """How the page words a target.

    Args:
        target: The target's name.

    Returns:
        Its words; a name without its own words is shown as it is.
    """
    if target in TARGETS:
        return TARGETS[target]
    if target.startswith(CONTRAST):
        other = target.removeprefix(CONTRAST)
        return Words(f"Not {other}", f"Why {{name}} and not {other}?", "Brighter: what tells the two classes apart.")
    if target.startswith((KEYPOINT, CORNER)):
        return _point(target)
    return Words(target, f"What makes the {target} of {{name}}?", f"Brighter: what raises {target}.")


def _point(target: str) -> Words:
    """Of a keypoint or a corner: "keypoint:left_wrist", "keypoint:left_wrist:x", "corner:0:y"."""
    kind, name, axis = [*target.split(":"), "", ""][:3]
    point = f"corner {name}" if f"{kind}:" == CORNER else f"the {name.replace('_', ' ')}"
    title = point.removeprefix("the ").capitalize()
    if axis not in _WAYS:
        return Words(title, f"Why {point} of {{name}}?", f"Brighter: what raises the score of {point}.")
    return Words(f"{title} ({axis})", f"Why is {point} of {{name}} here?", f"Brighter: what moves {point} {_WAYS[axis]}.")
