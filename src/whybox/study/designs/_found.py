"""Objects that a model found, as candidates for questions."""

from typing import TYPE_CHECKING

from whybox.study.design import Candidate, Seen

if TYPE_CHECKING:
    from torch import Tensor


def area_of(box: "Tensor", size: tuple[int, int]) -> float:
    """The area of a box.

    Args:
        box: (4,) xyxy in pixels.
        size: The image's (height, width).

    Returns:
        The area of its part inside the image, in parts of the image.
    """
    x1, y1, x2, y2 = box.tolist()
    wide, high = min(x2, size[1]) - max(x1, 0), min(y2, size[0]) - max(y1, 0)
    share: float = max(wide, 0) * max(high, 0) / (size[0] * size[1])
    return share


def found_objects(seen: Seen) -> list[Candidate]:
    """The annotated objects that every model found.

    Args:
        seen: What the models found in an image.

    Returns:
        A candidate per object.
    """
    rows = [{int(place): row for row, place in enumerate(matched.tolist()) if place >= 0} for matched in seen.matched]
    both = sorted(set(rows[0]).intersection(*rows[1:]))
    return [
        Candidate(
            seen.image,
            f"object {place}",
            seen.names[0][rows[0][place]],
            area_of(seen.found[0].boxes[rows[0][place]], seen.size),
            tuple(by_object[place] for by_object in rows),
        )
        for place in both
    ]
