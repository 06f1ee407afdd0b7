"""Accuracy of the detector itself on the images of an evaluation: AP and, on CrowdHuman, MR^-2 and JI."""

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
"""Prefix of the data sets' names that also get CrowdHuman's measures."""


def detector_accuracy(records: Sequence[ImageRecord], classes: Sequence[str] | None, data: str) -> dict[str, Any]:
    """COCO's measures and, on CrowdHuman, its AP, log-average miss rate and Jaccard index.

    Args:
        records: The images' records; those without detections, such as failed images, are left out.
        classes: Names of the model's score columns, which labels are; None: columns are named by their number.
        data: The data set's name.

    Returns:
        The measures by name; empty without records of detections.
    """
    known = [record for record in records if "found" in record]
    if not known:
        return {}
    labels = np.concatenate([np.asarray(record[part]["labels"]) for record in known for part in ("found", "truth")])
    # initial, because images without any box have no largest label.
    names = [class_name(column, classes) for column in range(int(labels.max(initial=0)) + 1)]
    # Ignored regions take COCO's crowd rule: detections inside them are no false positives.
    truths = [{**record["truth"], "iscrowd": np.asarray(record["truth"]["ignore"], dtype=int)} for record in known]
    detections = [record["found"] for record in known]
    numbers = coco_ap(detections, truths, names).as_dict()
    return numbers | (_crowd(detections, known) if data.startswith(CROWD) else {})


def _crowd(detections: Sequence[Mapping[str, Any]], records: Sequence[ImageRecord]) -> dict[str, float]:
    """CrowdHuman's measures of its only class; detections of other classes are no false positives."""
    people = np.unique(np.concatenate([record["truth"]["labels"] for record in records]))
    detections = [_of_labels(image, people) for image in detections]
    truths = [{**record["truth"], "size": record["size"]} for record in records]
    return {
        "crowd_ap": crowd_ap(detections, truths).ap,
        "log_average_miss_rate": miss_rate(detections, truths).log_average,
        "jaccard_index": jaccard_index(detections, truths).index,
    }


def _of_labels(detections: Mapping[str, Any], labels: Any) -> dict[str, Any]:
    kept = np.isin(detections["labels"], labels)
    return {name: np.asarray(values)[kept] for name, values in detections.items()}
