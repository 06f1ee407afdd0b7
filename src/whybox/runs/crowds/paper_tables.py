"""The tables of the ODAM paper on duplicate removal in crowds: rules, protocol, and the published numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

Numbers = tuple[float, ...]

COLUMNS = ("AP", "JI", "MR", "Recall", "s/img")
HIGHER_IS_BETTER = (True, True, False, True, False)


@dataclass(frozen=True)
class RuleRow:
    """One row: a rule on a detector.

    Attributes:
        title: The row's title.
        rule: The rule with its settings, as in the reference implementation.
        model: "model", the detector trained without ODAM-Train, or "trained".
        one_stage: The paper's numbers for its FCOS, one per column; empty: the paper has none.
        two_stage: The same for its Faster R-CNN.
        mended: The rule without a defect of the reference implementation; empty: the same.
    """

    title: str
    rule: str
    model: str
    one_stage: Numbers = ()
    two_stage: Numbers = ()
    mended: str = ""


@dataclass(frozen=True)
class RuleTable:
    """One table.

    Attributes:
        name: Its name on the command line.
        title: Its title.
        columns: How many of `COLUMNS` it has, from the first one on.
        rows: Its rows.
        caveats: Sentences on what cannot be the same as in the paper.
    """

    name: str
    title: str
    columns: int
    rows: tuple[RuleRow, ...]
    caveats: tuple[str, ...]


NEEDS = (
    "CrowdHuman: a folder with annotation_val.odgt and the images in Images/; give crowd crowdhuman:FOLDER:split=val. A detector "
    "trained on it, and for the rows of ODAM-Train the same one trained with it: `whybox train --data crowdhuman:FOLDER`, and "
    "with `--loss odam_train`, on several GPUs by torchrun"
)
_DETECTOR = (
    "The paper's detectors are an FCOS with an IoU branch and CrowdDet's Faster R-CNN; their weights are not available. These "
    "are numbers of another detector, by the same protocol: full boxes, IoU .5, classes that are not annotated left out."
)
_WEIGHTS = (
    "In the paper's table 10 ODAM-NMS has the weights of ODAM-Train and the other rows have not (its table 12 shows it); compare "
    "rows of one detector."
)
_SOFT = (
    "The reference implementation returns Soft-NMS's boxes with the scores that they had before: its row is not a result of "
    "Soft-NMS. `mended` returns the lowered scores."
)
_NMS, _SOFT_NMS, _FEATURE = "greedy:iou_threshold=0.5", "soft:sigma=0.5:min_score=0.1:returned=original", "feature"
_SOFT_MENDED = "soft:sigma=0.5:min_score=0.001"
_ODAM, _ODAM_9 = "odam:iou_threshold=0.5:high=0.8:low=0.2", "odam:iou_threshold=0.5:high=0.9:low=0.1"

RULE_TABLES: Mapping[str, RuleTable] = {
    table.name: table
    for table in (
        RuleTable(
            "odam-table10",
            "Duplicate removal in crowds",
            5,
            (
                RuleRow("NMS", _NMS, "model", (87.8, 78.4, 45.5, 93.2, 0.114), (86.9, 79.5, 43.2, 90.3, 0.092)),
                RuleRow(
                    "Soft-NMS", _SOFT_NMS, "model", (80.8, 74.9, 89.0, 93.0, 0.470), (76.5, 61.9, 84.8, 92.3, 0.284), _SOFT_MENDED
                ),
                RuleRow("FeatureNMS", _FEATURE, "model", (89.3, 78.1, 45.6, 95.4, 0.145), (82.0, 65.7, 68.8, 94.9, 0.120)),
                RuleRow("ODAM-NMS", _ODAM, "model"),
                RuleRow("NMS, ODAM-Train", _NMS, "trained"),
                RuleRow("Soft-NMS, ODAM-Train", _SOFT_NMS, "trained", mended=_SOFT_MENDED),
                RuleRow(
                    "ODAM-NMS, ODAM-Train", _ODAM, "trained", (89.3, 81.1, 44.5, 95.5, 0.178), (88.1, 80.5, 42.8, 91.5, 0.140)
                ),
            ),
            (_DETECTOR, _WEIGHTS, _SOFT),
        ),
        RuleTable(
            "odam-table12",
            "ODAM-Train and the thresholds of ODAM-NMS",
            3,
            (
                RuleRow("NMS", _NMS, "model", (87.8, 78.4, 45.5), (86.9, 79.5, 43.2)),
                RuleRow("NMS, ODAM-Train", _NMS, "trained", (87.5, 78.9, 45.6), (87.0, 79.3, 43.8)),
                RuleRow("ODAM-NMS .8/.2", _ODAM, "model", (87.5, 78.5, 54.0), (88.9, 78.7, 44.3)),
                RuleRow("ODAM-NMS .9/.1", _ODAM_9, "model", (88.6, 80.4, 45.5), (89.0, 79.8, 43.7)),
                RuleRow("ODAM-NMS .8/.2, ODAM-Train", _ODAM, "trained", (89.3, 81.1, 44.5), (88.1, 80.5, 42.8)),
            ),
            (_DETECTOR,),
        ),
    )
}
