"""`whybox fit-nms`, from the words on the line to the rule's file."""

import json

import pytest

CROWDS = "scenes:variant=crowd:count=2"


def test_a_rule_is_fitted_compared_and_used(whybox, tmp_path):
    code, out, err = whybox("fit-nms", "--data", f"{CROWDS}:seed=5", "--test", f"{CROWDS}:seed=6", "--out", "rule.json")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "pairs of boxes" in lines[0]
    assert lines[1].startswith("AUROC of duplicates 0.9")
    assert [line.split("\t")[0] for line in lines[2:4]] == ["greedy NMS, best threshold", "Fitted decay"]
    assert lines[4] == "rule: rule.json"
    told = json.loads((tmp_path / "rule.json").read_text())
    assert (told["rule"], len(told["options"]["pair"]), told["about"]["images"]) == ("fitted", 6, 2)
    assert told["about"]["test"]["images"] == 2
    code, out, _ = whybox(
        "evaluate",
        "--data",
        f"{CROWDS}:seed=7",
        "--nms",
        "rule.json",
        "--out",
        "run",
        "--limit",
        "1",
        "--metrics",
        "pointing_game",
        "--methods",
        "odam",
    )
    assert code == 0


def test_with_maps_and_as_json(whybox, tmp_path):
    code, out, _ = whybox("fit-nms", "--data", f"{CROWDS}:seed=5", "--maps", "--out", "rule.json", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["file"] == "rule.json"
    assert told["auroc"] > 0.9
    assert json.loads((tmp_path / "rule.json").read_text())["rule"] == "fitted_odam"


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("rule.txt", "ending in .json, got rule.txt"),
        ("no/rule.json", "in a folder that exists"),
        ("old.json", "must be a new file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_first(whybox, tmp_path, out, message):
    (tmp_path / "old.json").write_text("{}")
    code, _, err = whybox("fit-nms", "--data", "nothing:there", "--out", out)
    assert code == 2
    assert message in err
    assert (tmp_path / "old.json").read_text() == "{}"


def test_images_without_crowds_have_nothing_to_learn_from(whybox, tmp_path):
    code, _, err = whybox("fit-nms", "--data", "scenes:count=1:seed=3", "--out", "rule.json")
    assert code == 2
    assert "nothing to fit a rule to" in err
    assert not (tmp_path / "rule.json").exists()
