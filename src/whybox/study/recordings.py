"""The recordings of an attention study as a file that `fixations=` of a data set reads; docs/attention.md has its form."""

import json
from typing import Any

from whybox.study.design import Question, Row
from whybox.study.designs.attention import Attention
from whybox.study.folder import Study
from whybox.study.scored import Scored

FORMAT = "whybox-pointer/1"
KINDS = {"lens": "lens", "bubbles": "click"}
"""The form's names."""


def recordings(study: Study, scored: Scored) -> str:
    """Write the recordings, in pixels of the images: the size on a screen, and what became of it meanwhile, plays no role.

    Args:
        study: The study.
        scored: Its answers.

    Returns:
        A line of JSON per picture and person; "" for a study of another design.
    """
    if not isinstance(study.design, Attention):
        return ""
    lines = [_trial(study.design, study.by_key[row["question"]], row) for row in scored.rows]
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def _trial(design: Attention, question: Question, row: Row) -> dict[str, Any]:
    width, height = question.details["size"]
    longest = max(width, height)
    samples = [
        [time, None, None] if x is None else [time, round(x * width, 2), round(y * height, 2)]
        for time, x, y in json.loads(row["samples"])
    ]
    return {
        "format": FORMAT,
        "kind": KINDS[design.kind],
        "participant": row["person"],
        "respondents": row["respondents"],
        "image": question.image,
        "annotation_id": question.details["annotation_id"],
        "shown": [0, 0, width, height],
        "radius": round(design.radius * longest, 2),
        "samples": samples,
        "end": round(1000 * row["seconds"]),
        "blur": round(design.blur * longest, 2),
        "limit": design.seconds,
    }
