"""The paper's tables on duplicate removal, on a small CrowdHuman folder made of scenes."""

import json

import numpy as np
import pytest
import torch

import whybox
from whybox import zoo
from whybox.accuracy.crowd_ap import crowd_ap
from whybox.accuracy.jaccard import jaccard_index
from whybox.accuracy.miss_rate import miss_rate
from whybox.errors import WhyboxError
from whybox.runs.crowds.paper_tables import RULE_TABLES
from whybox.runs.crowds.reproduce import reproduce_rules, rule_statement

IMAGES = 3


@pytest.fixture(scope="module")
def crowdhuman(tmp_path_factory):
    """The people of crowd scenes in CrowdHuman's format; one of them is to be ignored."""
    folder, lines = tmp_path_factory.mktemp("crowdhuman"), []
    (folder / "Images").mkdir()
    for number, sample in enumerate(whybox.open_data(f"scenes:variant=crowd:count={IMAGES}:seed=21")):
        sample.image.save(folder / "Images" / f"{number}.jpg", quality=95)
        people = []
        for box in sample.truth.boxes[sample.truth.labels == 0].tolist():
            x, y, right, bottom = box
            full = [x, y, right - x, bottom - y]
            entry = {"tag": "person", "fbox": full, "vbox": full, "hbox": full, "extra": {"box_id": len(people)}}
            people.append(entry)
        people[-1]["extra"]["ignore"] = 1
        lines.append(json.dumps({"ID": str(number), "gtboxes": people}))
    (folder / "annotation_val.odgt").write_text("\n".join(lines) + "\n")
    return whybox.open_data(f"crowdhuman:{folder}:split=val")


@pytest.fixture(scope="module")
def model():
    return whybox.load("whybox/scenes")


@pytest.mark.parametrize("name", RULE_TABLES)
def test_a_table_says_what_it_needs_and_what_the_paper_found(name):
    table = RULE_TABLES[name]
    text = rule_statement(table)
    assert "annotation_val.odgt" in text
    for row in table.rows:
        for number in (*row.one_stage, *row.two_stage):
            assert f"{number:g}" in text


def test_table_10_by_the_measures_of_what_was_kept(crowdhuman, model, tmp_path):
    text = reproduce_rules(RULE_TABLES["odam-table10"], crowdhuman, model, tmp_path, on_warning=(told := []).append)
    assert told == ["FeatureNMS: left out: rule 'feature' compares learned embeddings, and whybox/scenes has no embedding head"]
    assert "| NMS | 87.8 |" in text
    kept = json.loads((tmp_path / "table.json").read_text())
    rows = {row["rule"]: row for row in kept["values"]}
    assert rows["NMS"]["paper"] == {"AP": 87.8, "JI": 78.4, "MR": 45.5, "Recall": 93.2, "s/img": 0.114}
    assert rows["FeatureNMS"]["ours"] is rows["ODAM-NMS, ODAM-Train"]["ours"] is rows["ODAM-NMS"]["paper"] is None
    for title, rule in (("NMS", "greedy:iou_threshold=0.5"), ("ODAM-NMS", "odam")):
        detections, truths = [], []
        for sample in crowdhuman:
            found = whybox.detect(whybox.with_nms(model, rule), sample.image, score_threshold=0, top=1000)
            people = found.labels == model.classes.index("person")
            detections.append({"boxes": found.boxes[people], "scores": found.scores[people]})
            truths.append({"boxes": sample.truth.boxes, "ignore": sample.truth.ignore, "size": sample.image.size[::-1]})
        ours = rows[title]["ours"]
        assert ours["AP"] == pytest.approx(100 * crowd_ap(detections, truths).ap)
        assert ours["MR"] == pytest.approx(100 * miss_rate(detections, truths).log_average)
        assert ours["JI"] == pytest.approx(100 * jaccard_index(detections, truths).index)
        assert ours["s/img"] > 0
    # Scores that were lowered rank otherwise than those that were not.
    mended = reproduce_rules(RULE_TABLES["odam-table10"], crowdhuman, model, tmp_path / "mended", mended=True)
    assert mended != text


def test_table_12_with_two_detectors_goes_on_after_an_interruption(crowdhuman, model, tmp_path):
    table, trained = RULE_TABLES["odam-table12"], zoo.load("whybox/scenes").network
    for weight in trained.head.classification_head.parameters():
        weight.data *= 0.9
    other = whybox.load(trained, classes=model.classes)
    whole = reproduce_rules(table, crowdhuman, model, tmp_path / "whole", trained=other)
    assert whole.count("\n") == 6
    reproduce_rules(table, crowdhuman, model, tmp_path / "cut", trained=other, limit=1)
    file = tmp_path / "cut" / "detections-model.jsonl"
    file.write_text(file.read_text() + '{"image": "1", "si')
    done = []
    again = reproduce_rules(
        table, crowdhuman, model, tmp_path / "cut", trained=other, on_progress=lambda name, part: done.append(name)
    )
    assert again == whole
    assert len(done) == 2 * IMAGES
    assert len(file.read_text().splitlines()) == 1 + IMAGES


def test_a_folder_of_another_run_is_refused(crowdhuman, model, tmp_path):
    reproduce_rules(RULE_TABLES["odam-table12"], crowdhuman, model, tmp_path, limit=1)
    with pytest.raises(WhyboxError, match="is of a run with another rules; choose another folder"):
        reproduce_rules(RULE_TABLES["odam-table10"], crowdhuman, model, tmp_path, limit=1)


def test_an_empty_image_and_a_rule_that_keeps_nothing(tmp_path, model):
    class Empty:
        name, classes, names, problems = "empty", ("person",), ("a",), ()

        def __len__(self):
            return 1

        def __getitem__(self, row):
            nothing = torch.zeros(0, dtype=torch.long)
            truth = whybox.Truth(torch.zeros(0, 4), nothing, (), nothing.bool())
            return whybox.Sample("a", whybox.open_data("scenes:count=1")[0].image, truth)

    text = reproduce_rules(RULE_TABLES["odam-table12"], Empty(), model, tmp_path, on_warning=lambda line: None)
    assert "nan" in text
    values = json.loads((tmp_path / "table.json").read_text())["values"]
    assert values[0]["ours"] == {"AP": None, "JI": None, "MR": None}
    assert np.isfinite(values[0]["paper"]["AP"])
