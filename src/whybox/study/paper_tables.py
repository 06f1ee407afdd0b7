"""The tables of the ODAM paper on studies with people: its published numbers, and the counts behind them."""

from collections.abc import Mapping
from dataclasses import dataclass

PAPER = (
    "Zhao, Hsiao and Chan, Gradient-based Instance-Specific Visual Explanations for Object Specification and Object "
    "Discrimination (ODAM)"
)
METHODS = {"gradcam": "Grad-CAM", "gradcam_pp": "Grad-CAM++", "drise": "D-RISE", "odam": "ODAM"}
"""The rows of both tables, by the method's name here."""


@dataclass(frozen=True)
class PaperStudy:
    """A table with the published numbers of a study.

    Attributes:
        name: Its name on the command line.
        title: Its title.
        designs: The designs that it is made with.
        heads: Its columns.
        rows: The published numbers by method, one per column.
        needs: What a study of one's own has to be.
        caveats: Sentences on what cannot be recovered or be the same.
    """

    name: str
    title: str
    designs: tuple[str, ...]
    heads: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    needs: str
    caveats: tuple[str, ...]


CHOSEN = ("better detector (42.3 mAP)", "other detector (36.6 mAP)", "no difference")
CHOSEN_PERCENT = (38.2, 28.6, 33.2)
"""Published are the first two; the last is the rest."""
CHOSEN_TEST = (8.10, 0.004)
"""chi-square with one degree of freedom, and its p-value."""
CHOSEN_COUNTS = (229, 172, 199)
"""The only counts of up to 1300 answers, with both shares within a tenth and the first one rounded to what is printed, that give
the published chi-square: 38.17 %, 28.67 % (printed as 28.6) and 8.102."""

CONFIDENCE_COUNTS: Mapping[str, tuple[int, ...]] = {
    "gradcam": (79, 45, 15, 8, 1),
    "gradcam_pp": (95, 36, 10, 7, 1),
    "drise": (31, 55, 39, 18, 7),
    "odam": (0, 1, 11, 32, 106),
}
"""Answers of Table 5 by confidence, 1 to 5."""
RIGHT_COUNTS: Mapping[str, int] = {"gradcam": 21, "gradcam_pp": 28, "drise": 91, "odam": 141}
"""Right answers of Table 5."""

_OTHER = "The paper's pictures and single answers are not public: a study here is another one, by the same design."

STUDY_TABLES: Mapping[str, PaperStudy] = {
    table.name: table
    for table in (
        PaperStudy(
            "odam-table4",
            "User trust: ranks of four methods, and which of two detectors is trusted",
            ("trust_ranking", "better_detector"),
            ("rank 1, %", "rank 2, %", "rank 3, %", "rank 4, %", "average rank"),
            {
                "gradcam": (3.9, 12.9, 30.5, 52.7, 3.3),
                "gradcam_pp": (7.3, 22.2, 43.1, 27.5, 2.9),
                "drise": (35.1, 29.5, 17.5, 17.9, 2.2),
                "odam": (53.8, 35.4, 8.9, 1.9, 1.6),
            },
            (
                "a trust_ranking study of 120 objects with gradcam,gradcam_pp,drise:masks=5000,odam, 40 people with 30 questions "
                "each; and a better_detector study of two FCOS with ResNet-50"
            ),
            (
                (
                    "The second part's test, chi2(1) = 8.10 and p = .004, comes out of 229 against 172 of 600 answers, 199 "
                    "without a preference, and of no counts of 1200 answers; how many people gave the 600 is not stated."
                ),
                (
                    "Rank shares have one digit after the point, so that counts of 1200 answers are known to within one; the "
                    "paper's tests of the ranks need each answer, and cannot be computed again."
                ),
                _OTHER,
            ),
        ),
        PaperStudy(
            "odam-table5",
            "Object discrimination: which object is the map of, and how sure are people",
            ("discrimination",),
            (*(f"confidence {step}, %" for step in range(1, 6)), "average confidence", "right, %"),
            {
                "gradcam": (53.38, 30.41, 10.14, 5.41, 0.68, 1.70, 14.19),
                "gradcam_pp": (63.76, 24.16, 6.71, 4.70, 0.67, 1.54, 18.79),
                "drise": (20.67, 36.67, 26.01, 11.98, 4.68, 2.43, 60.67),
                "odam": (0.0, 0.67, 7.33, 21.34, 70.68, 4.62, 94.00),
            },
            (
                "a discrimination study of 150 objects with gradcam,gradcam_pp,drise:masks=5000,odam; 10 people with 15 answers "
                "to each method"
            ),
            (
                (
                    "The percentages give the counts: 148 answers to Grad-CAM, 149 to Grad-CAM++, 150 to the others. Five of the "
                    "printed numbers differ from these counts by one or two hundredths: D-RISE's 26.01, 11.98 and 4.68, ODAM's "
                    "21.34 and 70.68."
                ),
                "Which person gave which answer is not known: tests over people cannot be computed again.",
                _OTHER,
            ),
        ),
    )
}
