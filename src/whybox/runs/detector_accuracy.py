"""How good the detector itself is on the images of an evaluation: explanations of a poor one explain its mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whybox.accuracy.coco import coco_ap
from whybox.accuracy.crowd_ap import crowd_ap
from whybox.accuracy.jaccard import jaccard_index
from whybox.accuracy.miss_rate import miss_rate
from whybox.explanation import class_name
from whybox.runs.measure import Shard

CROWD = "crowdhuman:"
"""Data sets whose name begins so are measured as CrowdHuman is, too."""


def detector_accuracy(shards: Sequence[Shard], classes: Sequence[str] | None, data: str) -> dict[str, Any]:
    """COCO's numbers and, on CrowdHuman, its AP, log-average miss rate and Jaccard index. A label is a score's column."""
    known = [_from_one(shard) for shard in shards if "found" in shard]
    if not known:
        return {}
    labels = [shard[part]["labels"] for shard in known for part in ("found", "truth")]
    highest = int(max((each.max() for each in labels if len(each)), default=1))
    names = [class_name(column, classes) for column in range(highest)]
    truths = [{**shard["truth"], "iscrowd": np.asarray(shard["truth"]["ignore"], dtype=int)} for shard in known]
    found = [shard["found"] for shard in known]
    numbers = coco_ap(found, truths, names).as_dict()
    return numbers | (_crowd(found, known) if data.startswith(CROWD) else {})


def _from_one(shard: Shard) -> Shard:
    """COCO counts classes from 1, columns are counted from 0: a shard with all labels one higher."""
    parts = {part: {**shard[part], "labels": np.asarray(shard[part]["labels"]) + 1} for part in ("found", "truth")}
    return {**shard, **parts}


def _crowd(found: Sequence[Mapping[str, Any]], shards: Sequence[Shard]) -> dict[str, float]:
    """Of the data set's one class: what the detector says of others is no false alarm here."""
    people = np.unique(np.concatenate([shard["truth"]["labels"] for shard in shards]))
    found = [_only(one, people) for one in found]
    truths = [{**shard["truth"], "size": shard["size"]} for shard in shards]
    return {
        "crowd_ap": crowd_ap(found, truths).ap,
        "log_average_miss_rate": miss_rate(found, truths).log_average,
        "jaccard_index": jaccard_index(found, truths).index,
    }


def _only(found: Mapping[str, Any], labels: Any) -> dict[str, Any]:
    kept = np.isin(found["labels"], labels)
    return {name: np.asarray(values)[kept] for name, values in found.items()}
