"""The fitted rules: against a plain loop over pairs, and against greedy NMS where their weights make a step."""

import json
import math

import pytest
import torch
from torch.nn.functional import normalize
from torchvision.ops import box_iou

import whybox
from suppression.fits import BOX, PAIR, any_rule
from suppression.test_rules import crowd
from whybox.duplicates import make_rule
from whybox.errors import WhyboxError
from whybox.rule import Vectors
from whybox.rule_files import save_rule

MAPS = (*PAIR[:-1], 2.0, 0.5, -1.0, PAIR[-1])


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def dot(weights, values):
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def plain(boxes, scores, labels, maps, rule):
    """[(row, final score)], best first, one pair after the other."""
    iou, units = box_iou(boxes.double(), boxes.double()), normalize(maps.flatten(1).double(), dim=1)
    log = lambda value: math.log(max(value, 1e-4))
    kept = []
    for label in set(labels.tolist()):
        rows = [row for row in range(len(boxes)) if labels[row] == label]
        lowered = {row: float(scores[row]) for row in rows}
        left = {row for row in rows if lowered[row] > rule.min_score}
        while left:
            best = max(left, key=lambda row: lowered[row])
            left.remove(best)
            supports = [sum(float(scores[row]) for row in rows if iou[best, row] > least) for least in (0.5, 0.7)]
            final = lowered[best]
            if rule.box:
                final = sigmoid(dot(rule.box, [log(final), log(float(scores[best])), *map(log, supports), 1]))
            kept.append((best, final))
            for row in list(left):
                if iou[best, row] <= 0.05:
                    continue
                overlap, first, second = float(iou[best, row]), log(float(scores[best])), log(float(scores[row]))
                values = [overlap, overlap**2, first, second, overlap * second]
                if "maps" in rule.needs:
                    known = bool(maps[best].any() and maps[row].any())
                    cosine = float(units[best] @ units[row]) if known else overlap
                    values += [cosine, overlap * cosine, cosine**2]
                lowered[row] *= (1 - sigmoid(dot(rule.pair, [*values, 1]))) ** rule.power
                if lowered[row] <= rule.min_score:
                    left.remove(row)
    return sorted(kept, key=lambda pair: -pair[1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [{}, {"box": ()}, {"power": 0.5, "min_score": 0.1}])
@pytest.mark.parametrize("name", ["fitted", "fitted_odam"])
def test_as_the_plain_loop(name, options, seed):
    boxes, scores, labels, maps = crowd(60, seed)
    maps[::7] = 0
    rule = any_rule(name, **options)
    rows, final = whybox.nms(boxes, scores, labels, rule=rule, maps=maps)
    expected = plain(boxes, scores, labels, maps, rule)
    assert rows.tolist() == [row for row, _ in expected]
    assert torch.allclose(final, torch.tensor([score for _, score in expected], dtype=torch.float32), atol=1e-6)
    assert 0 < len(rows) < 60


@pytest.mark.parametrize("name", ["fitted", "fitted_odam"])
def test_a_step_in_the_iou_is_greedy_suppression(name):
    boxes, scores, labels, maps = crowd(200, 3)
    steep = (1e8, 0.0, 0.0, 0.0, 0.0, *([0.0] * (3 if name == "fitted_odam" else 0)), -0.45e8)
    kept, final = whybox.nms(boxes, scores, labels, rule=make_rule(name, pair=steep, min_score=0.0), maps=maps)
    assert torch.equal(kept, whybox.nms(boxes, scores, labels, rule="greedy", iou_threshold=0.45))
    assert torch.allclose(final, scores[kept])


@pytest.mark.parametrize("name", ["fitted", "fitted_odam"])
def test_the_order_of_the_input_does_not_matter(name):
    boxes, scores, labels, maps = crowd(80, 5)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    rows, final = whybox.nms(boxes, scores, labels, rule=any_rule(name), maps=maps)
    other, others = whybox.nms(boxes[order], scores[order], labels[order], rule=any_rule(name), maps=maps[order])
    assert torch.equal(order[other], rows)
    assert torch.allclose(others, final)


def test_a_removed_box_names_the_one_that_brought_it_down():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    rule = make_rule("fitted_odam", pair=(20.0, 0, 0, 0, 0, 0, 0, 0, 0), min_score=0.05)
    maps = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1]])
    result = rule(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long), Vectors(lambda rows: maps[rows]))
    assert (result.rows.tolist(), result.by.tolist()) == ([0, 2], [-1, 0, -1])
    assert float(result.iou[1]) == pytest.approx(0.9)
    assert float(result.similarity[1]) == pytest.approx(0.6)
    assert result.iou.isnan().tolist() == result.similarity.isnan().tolist() == [True, False, True]


def test_nothing_in_nothing_out_and_boxes_without_area():
    nothing = torch.zeros(0, 4), torch.zeros(0)
    rows, scores = whybox.nms(*nothing, rule=any_rule("fitted"))
    assert (rows.tolist(), scores.tolist()) == ([], [])
    rows, scores = whybox.nms(torch.ones(2, 4), torch.tensor([0.9, 0.8]), rule=any_rule("fitted"))
    assert rows.tolist() == [0, 1]
    assert scores.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rule 'fitted' needs pair, 6 weights .*, got 0: fit it to your detector with `whybox fit-nms`"),
        ({"pair": PAIR[:-1]}, "6 weights .*, got 5"),
        ({"pair": PAIR, "box": (1.0,)}, "box must be 5 weights .* or none, got 1"),
        ({"pair": PAIR, "power": 0.0}, "power greater than 0"),
        ({"pair": PAIR, "min_score": 2.0}, "min_score"),
        ({"pair": ("a",) * 6}, "pair must be a list of numbers"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(WhyboxError, match=message) as caught:
        make_rule("fitted", **options)
    assert "\n" not in str(caught.value)


def test_a_rule_comes_back_from_its_file(tmp_path):
    rule, file = any_rule("fitted_odam", power=0.7), tmp_path / "rule.json"
    save_rule(rule, file, {"images": 3})
    assert make_rule(str(file)) == rule
    assert make_rule(str(file), power=2.0).power == 2.0
    assert json.loads(file.read_text())["about"] == {"images": 3}
    model = whybox.with_nms("whybox/scenes", str(file))
    assert model.rule == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read the rule .*No such file"), ("{", "cannot read the rule"), ('{"rule": 3}', "is no rule: expected")],
)
def test_files_that_hold_no_rule(tmp_path, text, message):
    file = tmp_path / "rule.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(WhyboxError, match=message):
        make_rule(str(file))


def test_another_rules_options_are_refused(tmp_path):
    file = tmp_path / "rule.json"
    file.write_text(json.dumps({"rule": "greedy", "options": {"pair": list(PAIR), "box": list(BOX)}}))
    with pytest.raises(WhyboxError, match="has no option 'pair'"):
        make_rule(str(file))
