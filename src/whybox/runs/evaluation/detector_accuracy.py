"""How good the detector itself is on the images of an evaluation: explanations of a poor one explain its mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whybox.accuracy.coco import coco_ap
from whybox.accuracy.crowd_ap import crowd_ap
from whybox.accuracy.jaccard import jaccard_index
from whybox.accuracy.miss_rate import miss_rate
from whybox.explained import class_name
from whybox.runs.evaluation.measure import ImageRecord

CROWD = "crowdhuman:"
"""Data sets whose name begins so are measured as CrowdHuman is, too."""


def detector_accuracy(records: Sequence[ImageRecord], classes: Sequence[str] | None, data: str) -> dict[str, Any]:
    """COCO's numbers and, on CrowdHuman, its AP, log-average miss rate and Jaccard index. A label is a score's column."""
    known = [record for record in records if "found" in record]
    if not known:
        return {}
    labels = np.concatenate([np.asarray(record[part]["labels"]) for record in known for part in ("found", "truth")])
    names = [class_name(column, classes) for column in range(int(labels.max(initial=0)) + 1)]
    truths = [{**record["truth"], "iscrowd": np.asarray(record["truth"]["ignore"], dtype=int)} for record in known]
    found = [record["found"] for record in known]
    numbers = coco_ap(found, truths, names).as_dict()
    return numbers | (_crowd(found, known) if data.startswith(CROWD) else {})


def _crowd(found: Sequence[Mapping[str, Any]], records: Sequence[ImageRecord]) -> dict[str, float]:
    """Of the data set's one class: what the detector says of others is no false alarm here."""
    people = np.unique(np.concatenate([record["truth"]["labels"] for record in records]))
    found = [_only(one, people) for one in found]
    truths = [{**record["truth"], "size": record["size"]} for record in records]
    return {
        "crowd_ap": crowd_ap(found, truths).ap,
        "log_average_miss_rate": miss_rate(found, truths).log_average,
        "jaccard_index": jaccard_index(found, truths).index,
    }


def _only(found: Mapping[str, Any], labels: Any) -> dict[str, Any]:
    kept = np.isin(found["labels"], labels)
    return {name: np.asarray(values)[kept] for name, values in found.items()}
