"""What rules say about a pair: the numbers and thresholds that decided."""

import math
from dataclasses import dataclass

import pytest
import torch

from suppression.fits import any_rule
from whybox.rule import Rule, Suppressed, against, cosine
from whybox.suppression.feature import Feature
from whybox.suppression.greedy import Greedy
from whybox.suppression.odam import OdamNms
from whybox.suppression.soft import Soft

NAN = math.nan


@pytest.mark.parametrize(
    ("rule", "removed", "iou", "similarity", "clause"),
    [
        (Greedy(), True, 0.62, NAN, "IoU 0.62 > 0.50: a duplicate"),
        (Greedy(0.6), False, 0.5976, NAN, "IoU 0.598 ≤ 0.600: not a duplicate"),
        (OdamNms(), True, 0.62, 0.71, "IoU 0.62 > 0.50 and cosine of the maps 0.71 ≥ 0.20: a duplicate"),
        (OdamNms(), False, 0.62, 0.08, "IoU 0.62 > 0.50, but cosine of the maps 0.08 < 0.20: not a duplicate"),
        (OdamNms(), True, 0.31, 0.9, "IoU 0.31 ≤ 0.50, but cosine of the maps 0.90 ≥ 0.80: a duplicate"),
        (OdamNms(), False, 0.31, 0.5, "IoU 0.31 ≤ 0.50 and cosine of the maps 0.50 < 0.80: not a duplicate"),
        (OdamNms(), True, 0.62, NAN, "IoU 0.62 > 0.50, and a map is zero everywhere, so that the IoU alone decides: a duplicate"),
        (Feature(), True, 0.95, 3.0, "IoU 0.95 > 0.90: a duplicate whatever the embeddings"),
        (Feature(), False, 0.05, 0.1, "IoU 0.05 ≤ 0.10: not a duplicate whatever the embeddings"),
        (Feature(), True, 0.4, 0.8, "IoU 0.40 > 0.10 and distance of the embeddings 0.80 ≤ 1.00: a duplicate"),
        (Feature(), False, 0.4, 1.8, "IoU 0.40 > 0.10 and distance of the embeddings 1.80 > 1.00: not a duplicate"),
        (any_rule("fitted"), False, 0.5, NAN, "IoU 0.50 and both scores lower its score"),
        (
            any_rule("fitted_odam"),
            True,
            0.5,
            0.25,
            "IoU 0.50, cosine of the maps 0.25 and both scores lower its score; all together, it fell to 0.01 or below",
        ),
        (Soft(), False, 0.5, NAN, "IoU 0.50 multiplies its score by 0.61"),
        (Soft("linear"), True, 0.4, NAN, "IoU 0.40 multiplies its score by 0.60; all together, it fell to 0.001 or below"),
    ],
)
def test_the_clause_names_what_decided(rule, removed, iou, similarity, clause):
    assert rule.why(removed, iou, similarity) == clause


def test_a_rule_of_ones_own_has_a_clause():
    @dataclass(frozen=True)
    class Nothing(Rule):
        name = "nothing"

        def __call__(self, boxes, scores, groups, vectors=None):
            return Suppressed(*([None] * 5))

    assert Nothing().why(True, 0.6, 0.9) == "IoU 0.60 and cosine of the maps 0.90: a duplicate"
    assert Nothing().why(False, 0.6, NAN) == "IoU 0.60: not a duplicate"


def test_numbers_that_round_to_the_threshold_have_more_decimals():
    assert against(0.5004, ">", 0.5) == "0.5004 > 0.5000"
    assert against(0.5, "≤", 0.5) == "0.50 ≤ 0.50"
    assert against(0.64, "<", 0.999) == "0.640 < 0.999"


def test_similarities_are_those_that_the_rules_compare():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand((2, 5, 7), generator=generator)
    first[4] = 0
    expected = torch.nn.functional.cosine_similarity(first, second)
    assert torch.allclose(OdamNms().similarity(first, second)[:4], expected[:4])
    assert OdamNms().similarity(first, second)[4].isnan()
    assert torch.allclose(cosine(first * 1e-30, second)[:4], expected[:4], atol=1e-6)
    assert torch.allclose(Feature().similarity(first, second), (first - second).square().sum(1).sqrt())
