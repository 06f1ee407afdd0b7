"""The paper's tables: what they need, the protocol, the numbers beside ours."""

import json

import pytest

from runs.small import make_model
from whybox.errors import WhyboxError
from whybox.metrics.deletion import Deletion
from whybox.runs.evaluation.paper_tables import METHODS, TABLES
from whybox.runs.evaluation.plan import make_metric
from whybox.runs.evaluation.reproduce import reproduce, statement, table_named
from whybox.specs import parse_spec


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_what_it_needs_and_what_the_paper_found(name):
    table = table_named(name)
    text = statement(table)
    for part in table.parts:
        assert part.needs in text
        for entry in part.entries:
            assert make_metric(entry.metric)
            assert all(f"{number:g}" in text for number in entry.numbers)


def test_the_protocol_is_the_reference_implementations():
    """Spot checks against the facts of the paper and its code."""
    deletion = make_metric(TABLES["odam-table1"].parts[0].entries[0].metric)
    assert isinstance(deletion, Deletion)
    assert (deletion.fill, deletion.points, deletion.relative, deletion.legacy_iou) == ("random", 11, True, True)
    assert (deletion.resolution, deletion.floor, deletion.most) == ("network", 0.05, 500)
    assert parse_spec(METHODS["D-RISE"]) == ("drise", {"canvas": 1343, "objectness": False})
    assert parse_spec(METHODS["ODAM"]) == ("odam", {"crop_padding": False})


def test_a_table_is_computed_and_kept(tmp_path, annotated):
    table = table_named("odam-table3")
    settings = {"iou": 0.9, "score_threshold": 0.0, "top": 5}
    text = reproduce(table, {"data": annotated}, make_model(), tmp_path / "t", masks=16, **settings)
    kept = json.loads((tmp_path / "t" / "table.json").read_text())
    assert [row["method"] for row in kept["values"][:4]] == ["Grad-CAM", "Grad-CAM++", "D-RISE", "ODAM"]
    assert [row["paper"] for row in kept["values"][:4]] == [77.0, 77.3, 71.0, 34.8]
    row = next(one for one in kept["values"] if one["method"] == "ODAM" and one["column"] == "ODI box")
    assert row["objects"] >= 2
    assert f"{row['ours']['mean']:.4g}" in text
    assert "Control: box" in text
    assert (tmp_path / "t" / "data" / "index.html").is_file()


def test_without_data_it_says_what_to_put_where(tmp_path):
    with pytest.raises(WhyboxError, match=r"instances_val2017\.json"):
        reproduce(table_named("odam-table1"), {}, make_model(), tmp_path / "t")
    with pytest.raises(WhyboxError, match="unknown table"):
        table_named("odam-table4")


def test_a_table_of_two_detectors(tmp_path, annotated):
    """Both rows are ODAM, each on its own detector, in a run of its own."""
    table = table_named("odam-table9")
    settings = {"iou": 0.9, "score_threshold": 0.0, "top": 5}
    other = make_model()
    for weight in other.network.head.classification_head.parameters():
        weight.data *= 0.7
    with pytest.raises(WhyboxError, match="compares two detectors: give trained"):
        reproduce(table, {"data": annotated}, make_model(), tmp_path / "t", **settings)
    text = reproduce(table, {"data": annotated}, make_model(), tmp_path / "t", trained=other, **settings)
    kept = json.loads((tmp_path / "t" / "table.json").read_text())["values"]
    assert [(row["method"], row["paper"]) for row in kept[:2]] == [("ODAM", 91.9), ("ODAM, with ODAM-Train", 93.3)]
    energies = [row["ours"]["mean"] for row in kept if row["column"] == "enPG box"]
    assert len(set(energies)) == 2
    assert all(f"{energy:.4g}" in text for energy in energies)
    for folder in ("data", "data-trained"):
        assert (tmp_path / "t" / folder / "index.html").is_file()
