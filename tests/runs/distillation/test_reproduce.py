"""The paper's tables on distillation, on a small folder in COCO's format made of scenes, with small detectors."""

import json
import shlex

import pytest
import torch

import whybox
from whybox import zoo
from whybox.data.scenes import CLASSES, export_coco
from whybox.errors import UnknownNameError, WhyboxError
from whybox.runs.distillation.paper_tables import LAUNCH, STUDENT_TABLES
from whybox.runs.distillation.reproduce import parse_rows, reproduce_students, student_statement
from whybox.training import detector
from whybox.training.distillation import make_loss

TABLE7, TABLE8 = STUDENT_TABLES["odam-table7"], STUDENT_TABLES["odam-table8"]
IMAGES = 3


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = export_coco(tmp_path_factory.mktemp("coco") / "val2017", IMAGES, seed=21)
    return whybox.open_data(f"coco:{folder / 'instances.json'}")


@pytest.fixture(scope="module")
def shipped():
    return whybox.load("whybox/scenes")


@pytest.mark.parametrize("table", STUDENT_TABLES.values(), ids=lambda table: table.name)
def test_a_table_says_what_it_needs_and_how_its_rows_are_trained(table):
    text = student_statement(table)
    assert "train2017.zip" in text
    for row in table.rows:
        assert all(f"{number:g}" in text for number in row.numbers)
        assert len(row.numbers) == len(table.columns) or row.key.endswith("/teacher")
        assert (f"  {row.key}: {LAUNCH}" in text) == bool(row.words)
    assert len({row.key for row in table.rows}) == len(table.rows)


def test_the_commands_name_losses_and_the_weights_of_teachers_that_are_trained():
    for table in STUDENT_TABLES.values():
        made = {}
        for row in table.rows:
            words = shlex.split(row.words)
            options = {name: words[words.index(name) + 1] for name in ("--loss", "--teacher", "--out", "--body") if name in words}
            if row.words:
                made[options["--out"]] = options["--body"]
            if "--teacher" in options:
                body, _, weights = options["--teacher"].partition("@")
                assert made[weights.removesuffix("/model.pt")] == body, "trained in a row above"
                assert make_loss(options["--loss"])


def test_the_flat_softmax_leaves_bottom_up_attention():
    from whybox.losses.odam_kd import top_down_attention

    row = next(row for row in TABLE7.rows if row.key == "2")
    loss = make_loss(shlex.split(row.words)[-3])
    maps = [torch.rand(2, 5, 7, generator=torch.Generator().manual_seed(0))]
    attention = top_down_attention(maps, temperature=loss.sharpness, scale=loss.scale)
    assert attention.sub(1).abs().max() < 1e-5


def test_a_row_is_scored_as_coco_scores_it(coco, shipped, tmp_path):
    text = reproduce_students(TABLE8, coco, {"fcos/odam_kd": shipped}, tmp_path)
    assert "| fcos/gid | FCOS: GID | 42.0 |  | 25.6 |" in text
    kept = json.loads((tmp_path / "table.json").read_text())
    rows = {row["key"]: row for row in kept["values"]}
    assert rows["fcos/odam_kd"]["paper"] == {"mAP": 42.8, "S": 27.4, "M": 46.7, "L": 55.0}
    assert rows["retinanet/teacher"]["paper"] == {"mAP": 38.9}
    assert rows["fcos/fgd"]["ours"] is None
    theirs = by_pycocotools(coco, shipped)
    ours = rows["fcos/odam_kd"]["ours"]
    assert ours["mAP"] > 20
    assert list(ours.values()) == pytest.approx([100 * theirs[place] for place in (0, 3, 4, 5)], abs=1e-6)
    assert f"| fcos/odam_kd | FCOS: ODAM-KD | 42.8 | {ours['mAP']:.1f} |" in text
    recall = reproduce_students(TABLE7, coco, {"6": shipped}, tmp_path / "seven")
    assert f"| 56.5 | {100 * theirs[8]:.1f} |" in recall


def by_pycocotools(data, model):
    """COCO's twelve numbers from the file itself, with its own areas of masks."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    file = data.name.removeprefix("coco:")
    with contextlib.redirect_stdout(io.StringIO()):
        truth, rows = COCO(file), []
        for image, sample in zip(truth.getImgIds(), data, strict=True):
            found = whybox.trace(model, sample.image).detections
            for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
                x, y, right, bottom = box
                category = 1 + CLASSES.index(model.classes[label])
                rows.append({"image_id": image, "category_id": category, "bbox": [x, y, right - x, bottom - y], "score": score})
        evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    return evaluation.stats


def test_an_interrupted_table_goes_on_and_another_detector_is_refused(coco, shipped, tmp_path):
    network, arguments = detector.start(CLASSES, "96x72", 3)
    zoo.save(network, {"network": "compact_fcos", "arguments": arguments, "classes": list(CLASSES)}, tmp_path / "tiny")
    models = {"student": whybox.load(tmp_path / "tiny"), "6": shipped}
    whole = reproduce_students(TABLE7, coco, models, tmp_path / "whole")
    reproduce_students(TABLE7, coco, models, tmp_path / "cut", limit=1)
    file = tmp_path / "cut" / "detections-6.jsonl"
    file.write_text(file.read_text() + '{"image": "1", "fo')
    done = []
    again = reproduce_students(TABLE7, coco, models, tmp_path / "cut", on_progress=lambda name, part: done.append(name))
    assert again == whole
    assert len(done) == 2 * IMAGES
    assert len(file.read_text().splitlines()) == 1 + IMAGES
    with pytest.raises(WhyboxError, match="is of a run with another model; choose another folder"):
        reproduce_students(TABLE7, coco, {"6": models["student"]}, tmp_path / "cut")


def test_rows_are_named_by_their_keys():
    rows = parse_rows(TABLE8, ["fcos/fgd=DIR", "fcos/student=my.py:fcos_resnet50@fcos-alone/model.pt"])
    assert rows == {"fcos/fgd": ("DIR", None), "fcos/student": ("my.py:fcos_resnet50", "fcos-alone/model.pt")}
    with pytest.raises(UnknownNameError, match="unknown row of odam-table8 'fcos/fdg'; did you mean fcos/fgd"):
        parse_rows(TABLE8, ["fcos/fdg=DIR"])
    for texts, message in (
        (["6"], "--row takes KEY=MODEL or KEY=MODEL@WEIGHTS, got '6'"),
        (["6=a", "6=b"], "--row 6 is given twice"),
        ([], "odam-table7: no detectors; pass --row KEY=MODEL for each row that you trained"),
    ):
        with pytest.raises(WhyboxError) as error:
            parse_rows(TABLE7, texts)
        assert str(error.value) == message


def test_a_model_without_boxes(coco, tmp_path):
    model = whybox.load("whybox/scenes-clip")
    with pytest.raises(WhyboxError, match="row 6: whybox/scenes-clip finds no boxes; expected a detector"):
        reproduce_students(TABLE7, coco, {"6": model}, tmp_path)
