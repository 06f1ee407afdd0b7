"""The agreement between people against what is worked out by hand, and Table 6 with it."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runs.small import make_model
from whybox.errors import WhyboxError
from whybox.metrics._fixations import fixation_map
from whybox.metrics.attention_cosine import AttentionCosine, attention_cosine
from whybox.metrics.attention_nss import AttentionNss, attention_nss
from whybox.metrics.leakage import Leakage
from whybox.runs.attention.people import agreement, people_values
from whybox.runs.evaluation.evaluate import evaluate
from whybox.runs.evaluation.reproduce import reproduce, table_named
from whybox.truth import Sample, Truth

SIZE = (24, 32)
POINTS = torch.tensor([[5.0, 6, 0.2], [20, 10, 0.1], [6, 7, 0.3], [7, 5, 0.2], [25, 20, 0.4], [6, 6, 0.5]])
NAMES = ("a", "a", "b", "b", "c", "c")


class Looked:
    """One image: an object of three people, one of a single person, one of nobody."""

    name, classes, problems, names = "looked", ("thing",), (), ("one",)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        boxes = torch.tensor([[2.0, 2, 30, 20]]).expand(3, 4)
        looks, names = (POINTS, POINTS[:2], None), (NAMES, ("a", "a"), None)
        kinds, ignore = torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.bool)
        truth = Truth(boxes, kinds, ("7", "8", "9"), ignore, fixations=looks, viewers=names)
        return Sample("one", Image.new("RGB", SIZE[::-1]), truth)


OBJECTS = [{"index": 0, "annotation": name} for name in ("8", "7", "9", None)]


def of(*people):
    return POINTS[[name in people for name in NAMES]]


def drawn(*people):
    return fixation_map(of(*people).double(), SIZE, 3.0)[None]


def test_leaving_one_out_by_hand():
    expected = [
        attention_cosine(drawn("b", "c"), drawn("a")),
        attention_cosine(drawn("a", "c"), drawn("b")),
        attention_cosine(drawn("a", "b"), drawn("c")),
    ]
    metrics = {"cos": AttentionCosine(sigma_pixels=3.0), "leakage": Leakage()}
    values = people_values(Looked(), OBJECTS, metrics, how="leave_one_out")
    assert set(values) == {"cos"}, "a metric of more than fixations cannot judge people"
    assert values["cos"][1] == pytest.approx(float(torch.cat(expected).mean()))
    assert np.isnan(values["cos"]).tolist() == [True, False, True, True]


def test_nss_of_the_others_at_ones_fixations():
    """By hand with the metric's own width of a Gaussian, which NSS does not have: the ODAM paper's."""
    expected = []
    for one in "abc":
        others = [name for name in "abc" if name != one]
        values = fixation_map(of(*others).double(), SIZE).flatten()
        pixels = [int(y) * SIZE[1] + int(x) for x, y, _ in of(one).tolist()]
        expected.append(float(attention_nss(values, torch.tensor(pixels))))
    values = people_values(Looked(), OBJECTS[1:2], {"nss": AttentionNss()}, how="leave_one_out")
    assert values["nss"].tolist() == pytest.approx([np.mean(expected)], abs=1e-6)


def test_halves_are_of_people_and_not_of_fixations():
    metric = AttentionCosine(sigma_pixels=3.0)
    possible = [float(attention_cosine(drawn(*set("abc") - {*half}), drawn(*half))) for half in combinations("abc", 1)]
    (value,) = people_values(Looked(), OBJECTS[1:2], {"cos": metric}, how="halves", seed=3)["cos"]
    assert min(possible) <= value <= max(possible)
    (again,) = people_values(Looked(), OBJECTS[1:2], {"cos": metric}, how="halves", seed=3)["cos"]
    assert value == again


def test_people_who_look_alike_agree_wholly():
    looks = POINTS[:2].repeat(4, 1)
    first = torch.arange(8) < 4
    assert agreement(looks, [(first, ~first)], SIZE, AttentionCosine(sigma_pixels=3.0)) == pytest.approx(1)
    assert np.isnan(agreement(looks, [], SIZE, AttentionCosine()))


def test_table_six_has_controls_and_people_beside_the_methods(tmp_path, gazed):
    settings = {"iou": 0.9, "score_threshold": 0.0, "top": 2, "limit": 1}
    data, _, looked = gazed.partition(":fixations=")
    strange = tmp_path / "strange.json"
    strange.write_text(json.dumps([*json.loads(Path(looked).read_text()), {"annotation_id": 9999, "fixations": [[1, 1, 1]]}]))
    source = f"{data}:fixations={strange}"
    text = reproduce(table_named("odam-table6"), {"data": source}, make_model(), tmp_path / "t", masks=8, **settings)
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    for title in ("ODAM", "Control: blob", "Control: box", "People: the others, for one", "People: half, for the other half"):
        assert lines[title].count("|") == lines["method"].count("|")
    assert "| NSS ↑ | AUC ↑ |" in lines["method"], "columns that the paper does not have stand alone"
    kept = json.loads((tmp_path / "t" / "table.json").read_text())
    assert ["strange.json" in line for line in kept["problems"]] == [True], "as that nobody looked, for simulated recordings"
    assert "About the data" in text
    assert text in (tmp_path / "t" / "table.md").read_text()
    kept = kept["values"]
    ceiling = {row["column"]: row["ours"]["mean"] for row in kept if row["method"].startswith("People: the others")}
    assert set(ceiling) == {"Cos", "Corr x 1000", "OTD", "JSD", "NSS", "AUC"}
    assert ceiling["AUC"] > 0.5
    assert next(row for row in kept if row["column"] == "NSS")["paper"] is None


def test_what_nobody_looked_at_is_explained_for_other_metrics_alone(tmp_path, gazed):
    data, _, looked = gazed.partition(":fixations=")
    few = tmp_path / "few.json"
    few.write_text(json.dumps([row for row in json.loads(Path(looked).read_text()) if row["annotation_id"] == 1]))
    settings = {"methods": "odam", "score_threshold": 0.0, "limit": 1}
    done = evaluate(make_model(), f"{data}:fixations={few}", metrics="attention_nss", **settings)
    both = evaluate(make_model(), f"{data}:fixations={few}", metrics="attention_nss,energy_pointing_game", **settings)
    left_out = len(both.results) - len(done.results)
    assert (len(done.results), left_out) == (1, 3)
    assert np.isfinite(done.mean("odam", "attention_nss").mean)
    assert done.mean("odam", "attention_nss").mean == both.mean("odam", "attention_nss").mean
    (told,) = [line for line in done.report.remarks if "nobody" in line]
    assert told.startswith(f"{left_out} detections were left out: every metric compares with fixations")
    assert not any("nobody" in line for line in both.report.remarks)


def test_table_six_without_fixations_says_what_is_missing(tmp_path, annotated):
    told = []
    settings = {"iou": 0.9, "score_threshold": 0.0, "top": 1, "limit": 1, "on_warning": told.append}
    with pytest.raises(WhyboxError, match="nothing could be measured"):
        reproduce(table_named("odam-table6"), {"data": annotated}, make_model(), tmp_path / "t", masks=8, **settings)
    assert any("Cos" in line for line in told)
