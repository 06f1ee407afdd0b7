"""`whybox evaluate`, `compare`, `reproduce` and `metrics`, as the shell calls them."""

import json

import pytest

from runs.small import save_model, write_annotated
from whybox import registry
from whybox.cli.compare import _pair
from whybox.errors import WhyboxError


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Words that every evaluation here begins with."""
    folder = tmp_path_factory.mktemp("ground")
    model, data = save_model(folder / "net"), write_annotated(folder)
    return ["evaluate", "--data", data, "--model", model, "--score-threshold", "0", "--select", "all", "--top", "2"]


def cheap(ground, out, *more):
    return [*ground, "--methods", "odam", "--metrics", "energy_pointing_game,leakage", "--out", out, *more]


def test_a_table_and_where_the_report_is(whybox, ground):
    code, out, err = whybox(*cheap(ground, "run"))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("|")
    assert "Energy pointing game (box) ↑" in lines[0]
    assert "Leakage (box) ↓" in lines[0]
    assert sum(line.startswith(("| ODAM", "| *Control")) for line in lines) == 3
    assert lines[-2] == "gradient routes: odam: exact 8"
    assert lines[-1].startswith("report: file://")
    assert lines[-1].endswith("run/index.html")
    again = whybox(*cheap(ground, "run"))
    assert again == (code, out, err)


def test_json_is_the_summary(whybox, ground, tmp_path):
    code, out, _ = whybox(*cheap(ground, "run", "--json"))
    told = json.loads(out)
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert code == 0
    assert told.pop("folder") == "run"
    assert told == kept
    assert told["routes"] == {"odam": {"exact": 8}}
    assert {cell["method"] for cell in told["cells"]} == {"odam", "control_blob", "control_box"}


def test_objects_are_limited_and_classes_renamed_by_options(whybox, ground):
    code, out, err = whybox(*cheap(ground, "run", "--objects-per-image", "1", "--rename", "tree=house", "--json"))
    facts = json.loads(out)["facts"]
    assert (code, err) == (0, "")
    assert facts["Objects"] == "4 in 4 of 4 images"
    assert facts["Selection"].endswith("; at most 1 an image, drawn at random")
    code, out, err = whybox(*cheap(ground, "other", "--rename", "tre=house"))
    assert (code, out) == (2, "")
    assert "unknown class of the data in rename 'tre'; did you mean tree" in err


def test_an_image_that_fails_is_named_and_the_exit_code_is_1(whybox, ground, tmp_path):
    data = write_annotated(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes((tmp_path / "images" / "1.png").read_bytes()[:80])
    words = cheap(ground, "run")
    words[2] = data
    code, out, err = whybox(*words)
    assert code == 1
    assert "1.png" in err
    assert len(err.splitlines()) == 1
    assert "report:" in out


def test_nothing_measured_is_exit_code_2(whybox, ground, tmp_path):
    data = write_annotated(tmp_path)
    for picture in (tmp_path / "images").iterdir():
        picture.write_bytes(b"broken")
    words = cheap(ground, "run")
    words[2] = data
    assert whybox(*words)[0] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--metrics", "pointing_gam"), "did you mean pointing_game"),
        (("--methods", "odam:smoothin=none"), "no option 'smoothin'"),
        (("--select", "best"), "unknown selection 'best'"),
        (("--data", "cocoo:x"), "unknown data"),
        (("--data", "coco:/nowhere"), "/nowhere"),
        (("--address", "auto"), "engine ray"),
        (("--data", "."), "say what it is: coco:."),
        (("--data", "scenes:cuont=3"), "data 'scenes' has no option 'cuont'; did you mean count"),
    ],
)
def test_a_mistake_is_one_line(whybox, ground, words, told, tmp_path):
    code, out, err = whybox(*cheap(ground, "run", *words))
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_compare_two_methods_of_one_run(whybox, ground, tmp_path):
    whybox(*cheap(ground, "run"))
    code, out, _ = whybox("compare", "run", "run", "--method", "odam=control_blob", "--out", "page")
    assert code == 0
    assert "odam of A is compared with control_blob of B" in out
    assert (tmp_path / "page" / "index.html").is_file()
    told = json.loads(whybox("compare", "run", "run", "--json")[1])
    assert all(pair["difference"]["mean"] == 0 for pair in told["pairs"])
    code, _, err = whybox("compare", "run", "nowhere")
    assert code == 2
    assert "no evaluation" in err


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("odam=gradcam", ("odam", "gradcam")),
        ("odam=drise:masks=500", ("odam", "drise:masks=500")),
        ("drise:masks=500:grid=8=odam", ("drise:masks=500:grid=8", "odam")),
        ("drise:masks=500=drise:masks=50", ("drise:masks=500", "drise:masks=50")),
    ],
)
def test_a_pair_of_methods_is_read(text, pair):
    assert _pair(text) == pair


@pytest.mark.parametrize("text", ["odam", "odam=", "=odam", "drise:masks=500"])
def test_half_a_pair_is_refused(text):
    with pytest.raises(WhyboxError, match="expected A=B"):
        _pair(text)


def test_reproduce_without_data_says_what_to_put_where(whybox):
    code, out, err = whybox("reproduce", "odam-table2")
    assert code == 2
    assert "annotation_val.odgt" in out
    assert "91.9" in out
    assert err == "whybox: odam-table2: no data; pass --data or --crowd\n"


def test_reproduce_prints_the_papers_numbers_beside_ours(whybox, ground, tmp_path):
    words = ["reproduce", "odam-table3", "--data", ground[2], "--model", ground[4], "--masks", "16", "--out", "t"]
    words += ["--score-threshold", "0"]
    code, out, _err = whybox(*words, "--iou", "0.9", "--limit", "2")
    assert code == 0
    assert "| ODAM | 34.8 |" in out
    assert (tmp_path / "t" / "table.md").is_file()


def test_reproduce_tables_of_rules_and_of_two_detectors(whybox, ground, tmp_path):
    code, out, err = whybox("reproduce", "odam-table12")
    assert (code, err) == (2, "whybox: odam-table12: no data; pass --crowd\n")
    assert "81.1" in out
    code, out, _ = whybox(
        "reproduce", "odam-table10", "--crowd", ground[2], "--model", ground[4], "--trained", ground[4], "--out", "t10"
    )
    assert code == 0
    assert "| ODAM-NMS, ODAM-Train | 89.3 |" in out
    assert (tmp_path / "t10" / "detections-trained.jsonl").is_file()
    code, _, err = whybox("reproduce", "odam-table9", "--data", ground[2], "--model", ground[4])
    assert code == 2
    assert "odam-table9 compares two detectors" in err
    assert "odam-table12" in whybox("reproduce", "odam-table13")[2]


def test_reproduce_tables_of_students(whybox, ground, tmp_path):
    code, out, err = whybox("reproduce", "odam-table7")
    assert (code, err) == (2, "whybox: odam-table7: no data; pass --data\n")
    assert "  6: torchrun --nproc-per-node 8 examples/distill_coco.py --coco COCO" in out
    code, out, err = whybox("reproduce", "odam-table8", "--data", ground[2])
    assert (code, err) == (2, "whybox: odam-table8: no detectors; pass --row KEY=MODEL for each row that you trained\n")
    words = ["reproduce", "odam-table8", "--data", ground[2], "--out", "t8"]
    lines = ["from runs.small import CLASSES, make_network", "def make():"]
    (tmp_path / "mine.py").write_text("\n".join([*lines, "    return make_network(), {'classes': ('background', *CLASSES)}"]))
    mine = f"{tmp_path / 'mine.py'}:make@{ground[4]}/model.safetensors"
    code, out, err = whybox(*words, "--row", f"fcos/student={ground[4]}", "--row", f"fcos/fgd={mine}")
    assert (code, err) == (0, "")
    assert "| fcos/fgd | FCOS: FGD | 42.7 | " in out
    assert (tmp_path / "t8" / "detections-fcos-fgd.jsonl").is_file()


def test_metrics_tell_direction_needs_options_and_groups(whybox):
    told = json.loads(whybox("metrics", "--json")[1])
    assert told["metrics"].keys() == registry.metrics().keys()
    assert told["metrics"]["deletion"]["higher_is_better"] is False
    assert told["metrics"]["vea"]["needs"] == ["box", "mask"]
    assert "deletion:fill=blurred" in told["groups"]["faithfulness"]
    lines = whybox("metrics")[1].splitlines()
    assert len(lines) == len(told["metrics"]) + len(told["groups"])
