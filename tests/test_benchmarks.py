"""Distillation: the table of its study on made-up numbers and small detectors, and the memory of its steps."""

import json
import sys

import numpy as np
import pytest
from benchmarks import distillation, distillation_steps, timing
from scipy import stats

from whybox import zoo
from whybox.data.scenes import CLASSES
from whybox.errors import WhyboxError
from whybox.training import detector

FIELDS = tuple(distillation.MEASURES.values())
ALONE, FGD = [0.30, 0.32, 0.31], [0.33, 0.34, 0.35]


def seeds(values, **others):
    return [dict.fromkeys(FIELDS, value) | others for value in values]


def cells(table, name):
    return next([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if f"| {name} |" in line)


def test_means_and_paired_differences_over_the_seeds():
    arms = {"alone": seeds(ALONE), "fgd": seeds(FGD, ap_small=None), "teacher": seeds([0.4])}
    text = distillation.tables(arms, ["alone", "fgd"])
    overall, from_alone, from_fgd = text.split("\n\n")
    assert cells(overall, "alone")[:3] == ["alone", "3", "31.0 ± 1.0"]
    assert cells(overall, "fgd")[5] == "none"
    assert cells(overall, "teacher")[:3] == ["teacher", "1", "40.0"]
    theirs = stats.ttest_rel(FGD, ALONE).confidence_interval()
    spread = 100 * np.std(np.subtract(FGD, ALONE), ddof=1) / np.sqrt(3)
    seen = (stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)) * spread
    assert cells(from_alone, "fgd")[1] == f"+3.00 [{100 * theirs.low:+.2f}, {100 * theirs.high:+.2f}], seen: {seen:.2f}"
    assert cells(from_fgd, "alone")[1].startswith("-3.00 [")
    assert "teacher" not in from_alone, "a single detector has no pairs"
    assert cells(from_alone, "fgd")[4] == "none"


def test_a_single_seed_has_no_interval():
    table = distillation.tables({"alone": seeds([0.3]), "fgd": seeds([0.35])}, ["alone"])
    assert cells(table.split("\n\n")[1], "fgd")[1] == "+5.00"


def test_runs_take_turns_and_the_first_round_is_not_counted():
    ticks, order = iter([0, 9, 9, 18, 20, 21, 30, 33, 40, 44, 50, 55]), []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = timing.timed_in_turn(runs, 2, clock=lambda: next(ticks))
    assert "".join(order) == "ababab"
    assert seconds == {"a": [1, 4], "b": [3, 5]}
    assert timing.medians(seconds) == {"a": 2.5, "b": 4}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["alone"], "--arm takes NAME=DIR1,DIR2,..., got 'alone'"),
        (["a=x", "a=y"], "--arm 'a' is given twice"),
        (["a=x,y,z", "b=x,y"], "--arm 'b' has 2 folders; expected 3"),
    ],
)
def test_arms_that_do_not_fit(texts, message):
    with pytest.raises(WhyboxError, match=message.replace("(", "\\(")):
        distillation.parse_arms(texts)


def test_the_compared_arms():
    arms = distillation.parse_arms(["alone=a,b", "fgd=c,d", "teacher=t"])
    assert distillation.compared_with(arms, None, []) == ["alone"]
    assert distillation.compared_with(arms, "fgd", ["alone", "fgd"]) == ["fgd", "alone"]
    with pytest.raises(WhyboxError, match="no arm is called 'pkd'; there are alone, fgd, teacher"):
        distillation.compared_with(arms, "pkd", [])
    with pytest.raises(WhyboxError, match="arm 'teacher' has one folder and others 2"):
        distillation.compared_with(arms, "alone", ["teacher"])


@pytest.fixture
def folders(tmp_path):
    """Two untrained detectors."""
    for seed in range(2):
        network, arguments = detector.start(CLASSES, "96x72", seed)
        card = {"network": "compact_fcos", "arguments": arguments, "classes": list(CLASSES)}
        zoo.save(network, card, tmp_path / str(seed))
    return [tmp_path / str(seed) for seed in range(2)]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["distillation", *map(str, words)])
    distillation.main()


def test_a_rerun_evaluates_only_what_is_new(folders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "study.md"
    words = ["--arm", f"one={folders[0]}", "--data", "scenes:count=3", "--areas", 256, 2304, "--out", out]
    run(monkeypatch, *words)
    first = capsys.readouterr()
    assert "1 of 1" in first.err
    assert "3 images; objects:" in out.read_text()
    assert "(limits 256 and 2304 square pixels)" in out.read_text()
    kept = json.loads((tmp_path / "study.md.scores.json").read_text())
    assert set(kept[str(folders[0])]["scores"]) == set(FIELDS)
    run(monkeypatch, *words, "--arm", f"two={folders[1]}")
    assert [line.rpartition("/")[2] for line in capsys.readouterr().err.splitlines()] == ["1"], "the second folder alone"
    network, arguments = detector.start(CLASSES, "96x72", 7)
    zoo.save(network, {"network": "compact_fcos", "arguments": arguments, "classes": list(CLASSES)}, folders[0])
    run(monkeypatch, *words)
    assert "1 of 1" in capsys.readouterr().err, "trained again"
    run(monkeypatch, *words[:-2], "--out", out, "--areas", 400, 2304)
    assert "1 of 1" in capsys.readouterr().err, "other areas"


def test_mistakes_are_one_line(folders, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="holds no trained detector"):
        run(monkeypatch, "--arm", f"one={tmp_path}", "--data", "scenes:count=2")
    network = zoo.build("compact_fcos", {"num_classes": 2})
    zoo.save(network, {"network": "compact_fcos", "arguments": {"num_classes": 2}, "classes": ["cell"]}, tmp_path / "cells")
    with pytest.raises(SystemExit, match="detects cell; the data's classes are person"):
        run(monkeypatch, "--arm", f"one={tmp_path / 'cells'}", "--data", "scenes:count=2")


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
def test_a_step_of_odam_kd_needs_little_more_memory_than_one_of_fgd(monkeypatch, capsys):
    monkeypatch.setitem(distillation_steps.IMAGES, "compact", 2)
    used = []
    for loss in ("fgd", "odam_kd"):
        distillation_steps.report_peak("compact", loss)
        used.append(float(capsys.readouterr().out))
    assert 10 < used[0] < 200
    assert 1 <= used[1] / used[0] < distillation_steps.MEMORY_GOAL
