"""The tables of the ODAM paper: data and protocol of each, and the published numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from whybox.metrics import deletion, insertion
from whybox.specs import format_spec

PAPER = (
    "Zhao, Hsiao, Chan: Gradient-based Instance-Specific Visual Explanations for Object Specification and Object Discrimination"
)

_PADDED = {"crop_padding": False}
METHODS: Mapping[str, str] = {
    "Grad-CAM": format_spec("gradcam", _PADDED),
    "Grad-CAM++": format_spec("gradcam_pp", _PADDED),
    "D-RISE": format_spec("drise", {"canvas": 1343, "objectness": False}),
    "ODAM": format_spec("odam", _PADDED),
}
"""The paper's rows, with the settings of its reference implementation: maps stretched with their padding, D-RISE without
objectness and with masks cut out of a square of 1343 pixels."""
TRAINED = {"ODAM": "model", "ODAM, with ODAM-Train": "trained"}
"""The rows of a table of two detectors, and which of them each is."""
MENDED: Mapping[str, str] = {"Grad-CAM": "gradcam", "Grad-CAM++": "gradcam_pp", "D-RISE": "drise", "ODAM": "odam"}
"""The same methods without the defects of the reference code: the padding is cropped, and D-RISE is as in its own paper."""


@dataclass(frozen=True)
class Entry:
    """One column of a table.

    Attributes:
        title: The column's title.
        metric: The metric's name with its settings.
        numbers: The paper's numbers, one per row of the table; () for a column that the paper does not have.
        scale: Factor from the metric's unit to the paper's, 100 for per cent.
    """

    title: str
    metric: str
    numbers: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True)
class Part:
    """The columns of one data set.

    Attributes:
        key: The data set's option on the command line.
        needs: The data set and its folder's layout, as a phrase.
        entries: The columns.
    """

    key: str
    needs: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        name: Its name on the command line.
        title: Its title.
        parts: Its columns by data set.
        caveats: Sentences on what cannot be the same as in the paper.
        trained: Whether the rows are ODAM on a detector and on the same one trained with ODAM-Train, not the four methods.
        people: Whether the agreement between people stands below the methods.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    caveats: tuple[str, ...] = ()
    trained: bool = False
    people: bool = False


_COCO = (
    "COCO 2017: a folder with annotations/instances_val2017.json and the images in val2017/; give data coco:FOLDER:split=val2017"
)
_CROWD = "CrowdHuman: a folder with annotation_val.odgt and the images in Images/; give crowd crowdhuman:FOLDER:split=val"
_GAZE = (
    "COCO 2017 as above, and where people looked: a file of fixations (the page on human attention says which forms are read); "
    "give data coco:FOLDER:split=val2017:fixations=FILE"
)
_DETECTOR = (
    "The paper's FCOS has an IoU branch and its own label assignment; its weights are not available. torchvision's FCOS "
    "has a centerness branch: numbers of another detector, by the same protocol."
)
_AREA = "The rule for the area under the curves is not published: the trapezoid over the 11 points is used."
_ODI = "The reference code counts an image with one object as 0, and so does this table."
_CROWD_CAVEAT = "For CrowdHuman the paper gives numbers and no code: full boxes are used, and what is to be ignored is left out."

_BOTH = (
    "Two detectors of one kind: the model trained without ODAM-Train, and `trained` with it (`whybox train --loss odam_train`)."
)

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        Table(
            "odam-table1",
            "Faithfulness: AUC of deletion, insertion and visual explanation accuracy",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        Entry("Del", format_spec("deletion", deletion.PAPER), (92.79, 92.52, 73.35, 72.68), 100),
                        Entry("Ins", format_spec("insertion", insertion.PAPER), (36.78, 36.18, 43.35, 50.33), 100),
                        Entry("VEA", "vea", (0.039, 0.027, 0.157, 0.163)),
                    ),
                ),
            ),
            (_DETECTOR, _AREA),
        ),
        Table(
            "odam-table2",
            "Localization: pointing game, energy inside, compactness",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        # ties=first: the reference code takes the first pixel of a peak.
                        Entry("PG box", "pointing_game:ties=first", (26.7, 26.6, 82.6, 91.9), 100),
                        Entry("PG mask", "pointing_game:region=mask:ties=first", (22.5, 20.2, 68.0, 82.6), 100),
                        Entry("enPG box", "energy_pointing_game", (20.7, 20.0, 17.4, 73.1), 100),
                        Entry("enPG mask", "energy_pointing_game:region=mask", (15.0, 14.8, 12.0, 57.1), 100),
                        Entry("Comp", "compactness", (4.34, 4.91, 5.17, 1.36)),
                    ),
                ),
                Part(
                    "crowd",
                    _CROWD,
                    (
                        Entry("CH PG box", "pointing_game:ties=first", (15.7, 15.4, 1.5, 95.5), 100),
                        Entry("CH enPG box", "energy_pointing_game", (9.7, 11.4, 1.7, 79.5), 100),
                        Entry("CH Comp", "compactness", (3.99, 3.84, 3.53, 1.04)),
                    ),
                ),
            ),
            (_DETECTOR, _CROWD_CAVEAT),
        ),
        Table(
            "odam-table3",
            "Discrimination: object discrimination index, in per cent",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        Entry("ODI box", "odi:single=zero", (77.0, 77.3, 71.0, 34.8), 100),
                        Entry("ODI mask", "odi:region=mask:single=zero", (72.7, 73.2, 66.3, 19.5), 100),
                    ),
                ),
                Part("crowd", _CROWD, (Entry("CH ODI box", "odi:single=zero", (91.4, 92.0, 95.3, 56.9), 100),)),
            ),
            (_DETECTOR, _ODI, _CROWD_CAVEAT),
        ),
        Table(
            "odam-table6",
            "Agreement with human attention",
            (
                Part(
                    "data",
                    _GAZE,
                    (
                        Entry("Cos", "attention_cosine", (0.1802, 0.2242, 0.4142, 0.4627)),
                        Entry("Corr x 1000", "attention_correlation", (0.467, 0.674, 0.438, 2.876), 1000),
                        Entry("OTD", "attention_distance", (0.2483, 0.2225, 0.1315, 0.0653)),
                        Entry("JSD", "attention_divergence", (0.5216, 0.5051, 0.3902, 0.3180)),
                        Entry("NSS", "attention_nss", ()),
                        Entry("AUC", "attention_auc", ()),
                    ),
                ),
            ),
            (
                _DETECTOR,
                "The paper's fixations are not public, and it does not define its four measures; ours are on their pages. Its "
                "correlation is of another size than Pearson's r can be. NSS and AUC-Judd are not in the paper.",
                "The rows of people are the agreement between them, over the objects that at least two looked at: an estimate of "
                "what can be reached, and no bound. Their maps are blurred by a degree of visual angle, and the map of one "
                "person is noisier than that of all, by which the methods are judged.",
            ),
            people=True,
        ),
        Table(
            "odam-table9",
            "Localization and discrimination with and without ODAM-Train",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        Entry("PG box", "pointing_game:ties=first", (91.9, 93.3), 100),
                        Entry("PG mask", "pointing_game:region=mask:ties=first", (82.6, 83.9), 100),
                        Entry("enPG box", "energy_pointing_game", (73.1, 79.6), 100),
                        Entry("enPG mask", "energy_pointing_game:region=mask", (57.1, 63.9), 100),
                        Entry("Comp", "compactness", (1.36, 1.32)),
                        Entry("ODI box", "odi:single=zero", (34.8, 34.1), 100),
                        Entry("ODI mask", "odi:region=mask:single=zero", (19.5, 18.7), 100),
                    ),
                ),
                Part(
                    "crowd",
                    _CROWD,
                    (
                        Entry("CH PG box", "pointing_game:ties=first", (95.5, 97.3), 100),
                        Entry("CH enPG box", "energy_pointing_game", (79.5, 83.9), 100),
                        Entry("CH Comp", "compactness", (1.04, 0.91)),
                        Entry("CH ODI box", "odi:single=zero", (56.9, 51.3), 100),
                    ),
                ),
            ),
            (_DETECTOR, _ODI, _CROWD_CAVEAT, _BOTH),
            trained=True,
        ),
        Table(
            "odam-table11",
            "Faithfulness with and without ODAM-Train",
            (
                Part(
                    "data",
                    _COCO,
                    (
                        Entry("Del", format_spec("deletion", deletion.PAPER), (72.68, 74.45), 100),
                        Entry("Ins", format_spec("insertion", insertion.PAPER), (50.33, 46.66), 100),
                        Entry("VEA", "vea", (0.163, 0.143)),
                    ),
                ),
            ),
            (_DETECTOR, _AREA, _BOTH),
            trained=True,
        ),
    )
}
