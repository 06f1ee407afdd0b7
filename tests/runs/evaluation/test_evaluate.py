"""A whole evaluation: numbers, files, failures, workers that agree, and runs that were killed and went on."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from inspect import signature
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import whybox
from runs.small import PLAN, Broken, make_model, make_network, save_model, write_annotated
from whybox import api
from whybox.accuracy.coco import coco_ap
from whybox.data.scenes import CLASSES
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.methods.control_blob import ControlBlob, control_blob_map
from whybox.methods.odam import Odam
from whybox.metrics.deletion import Deletion
from whybox.metrics.energy_pointing_game import EnergyPointingGame
from whybox.model import Model
from whybox.runs.evaluation.compare import compare
from whybox.runs.evaluation.evaluate import evaluate
from whybox.runs.evaluation.measure import draw_objects, select
from whybox.runs.evaluation.plan import Plan
from whybox.truth import Metric, MetricInput, MetricResult, Truth
from whybox.types import Candidates, Detections, Trace

SAME = ("results.parquet", "curves.parquet", "summary.json", "table.md", "index.html")
"""Files that must not depend on who measured, or on how often the run was broken off."""


@pytest.fixture(scope="module")
def whole(annotated, tmp_path_factory):
    """One unbroken run in this process."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return evaluate(make_model(), annotated, out=folder, **PLAN)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in SAME}


def test_values_are_those_of_the_metrics_called_by_hand(whole, annotated):
    """Image 2, its first detection, ODAM: explained, judged and found again in the table."""
    model, data = make_model(), api.open_data(annotated)
    sample = data[2]
    columns = replace(sample.truth, labels=sample.truth.labels + 1)
    result = whybox.explain(model, sample.image, score_threshold=0.0, top=2)
    case = MetricInput(
        result.image, result.maps.frame, result.detections, columns, torch.tensor([-1, -1]), torch.zeros(2, dtype=torch.long)
    )
    found = whole.results
    rows = [i for i, one in enumerate(found.objects) if one["image"] == sample.name]
    assert [found.objects[i]["box"] for i in rows] == result.detections.boxes.tolist()
    deletion = found.of("odam", "deletion:points=3")[rows]
    case = MetricInput(**{**vars(case), "predict": model.predict, "matched": torch.tensor(_matched(result, sample))})
    case = MetricInput(**{**vars(case), "seeds": torch.tensor(_seeds(sample.name))})
    torch.set_num_threads(1)
    by_hand = Deletion(points=3)(result.maps.at_image(), case).values.numpy()
    assert np.allclose(deletion, by_hand, equal_nan=True, rtol=1e-5)
    energy = EnergyPointingGame()(result.maps.at_image(), case).values.numpy()
    assert np.allclose(found.of("odam", "energy_pointing_game")[rows], energy, equal_nan=True)


def _matched(result, sample):
    """Greedy by hand for two detections: the best object of the same class over IoU .5, one to one."""
    from torchvision.ops import box_iou

    iou = box_iou(result.detections.boxes, sample.truth.boxes) * (result.detections.labels[:, None] == sample.truth.labels + 1)
    rows = [-1, -1]
    while iou.numel() and iou.max() > 0.5:
        i, j = divmod(int(iou.argmax()), iou.shape[1])
        rows[i] = j
        iou[i], iou[:, j] = 0, 0
    return rows


def _seeds(name):
    import hashlib

    return [int.from_bytes(hashlib.sha256(f"0/{name}/{i}".encode()).digest()[:7], "big") for i in range(2)]


def test_the_long_table_has_a_row_an_object_method_and_metric(whole):
    table = pq.read_table(whole.folder / "results.parquet").to_pylist()
    results = whole.results
    assert len(table) == len(results) * len(results.rows) * len(results.columns)
    assert {row["method"] for row in table} == {*PLAN["methods"], "control_blob", "control_box"}
    for number in (0, len(table) // 2, len(table) - 1):
        row = table[number]
        place = [i for i, one in enumerate(results.objects) if (one["image"], one["place"]) == (row["image"], row["place"])]
        value = results.of(row["method"], row["metric"])[place[0]]
        assert row["value"] == value or (np.isnan(row["value"]) and np.isnan(value))
        assert [row[side] for side in ("x1", "y1", "x2", "y2")] == results.objects[place[0]]["box"]
    assert all(row["layer"].startswith("fpn[") for row in table if row["method"] == "odam")
    assert not any(row["layer"] for row in table if row["method"].startswith("control"))
    assert {row["route"] for row in table if row["method"] == "odam"} == {"exact"}
    assert not any(row["route"] for row in table if row["method"] != "odam")
    curves = pq.read_table(whole.folder / "curves.parquet").to_pylist()
    deletion = [row for row in curves if row["metric"] == "deletion:points=3" and row["method"] == "odam"]
    assert all(row["at"] == [0.0, 0.5, 1.0] and len(row["values"]) == 3 for row in deletion)
    assert len(deletion) == len(results)


def test_cells_are_means_over_common_objects_and_controls_stand_beside(whole):
    for (row, column), cell in whole.report.cells.items():
        shared = whole.results.common(column)
        values = whole.results.of(row, column)[shared]
        assert cell.mean == pytest.approx(values.mean())
        assert cell.count == shared.sum()
    versus = whole.report.versus["odam", "deletion:points=3"]
    shared = whole.results.common("deletion:points=3")
    controls = [whole.results.of(name, "deletion:points=3")[shared] for name in ("control_blob", "control_box")]
    better = min(controls, key=lambda values: values.mean())
    assert versus.mean == pytest.approx((better - whole.results.of("odam", "deletion:points=3")[shared]).mean())


def test_the_detectors_own_accuracy_is_cocos(whole, annotated):
    model, data = make_model(), api.open_data(annotated)
    samples = [data[i] for i in range(len(data))]
    found = [whybox.detect(model, sample.image, score_threshold=0.0).to_dict() for sample in samples]
    truths = [{"boxes": sample.truth.boxes, "labels": sample.truth.labels + 1} for sample in samples]
    assert whole.accuracy["ap50"] == coco_ap(found, truths, model.classes).as_dict()["ap50"]


def test_the_folder_holds_what_was_promised(whole):
    names = {path.name for path in whole.folder.iterdir()}
    assert {*SAME, "run.json", "records", "figures", "times.json"} == names
    assert list((whole.folder / "figures").glob("*.png"))
    assert "whybox" in (whole.folder / "index.html").read_text()
    times = json.loads((whole.folder / "times.json").read_text())["seconds_per_map"]
    assert all(value >= 0 for value in times.values())
    assert len(times) == 4


def test_without_a_folder_only_the_result_comes(annotated):
    done = evaluate(make_model(), annotated, **{**PLAN, "metrics": "energy_pointing_game", "methods": "odam", "limit": 1})
    assert done.folder is None
    assert done.mean("odam", "energy_pointing_game").count == np.isfinite(done.results.values[0, 0]).sum() >= 1
    assert "Energy" in done.table()
    with pytest.raises(WhyboxError, match="unknown cell"):
        done.mean("odam", "vea")


def test_every_column_and_every_row_has_its_own_title(annotated, tmp_path):
    plan = {**PLAN, "metrics": "leakage,leakage:floor=zero,odi,odi:overlap=exclude", "limit": 1}
    done = evaluate(make_model(), annotated, out=tmp_path / "run", **{**plan, "methods": "odam,odam:smoothing=global"})
    found = compare(tmp_path / "run", tmp_path / "run")
    for part in (done.report.columns, done.report.rows, found.columns, found.rows):
        named = [one.title for one in part]
        assert len(set(named)) == len(named) > 3
    for name in ("table.md", "index.html"):
        text = (tmp_path / "run" / name).read_text()
        assert "overlap exclude" in text


@dataclass(frozen=True)
class Mean(Metric):
    """A user's own metric."""

    times: float = 2.0

    name: ClassVar[str] = "own_mean"
    title: ClassVar[str] = "Mean"
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    needs: ClassVar[frozenset[str]] = frozenset()
    source: ClassVar[str] = "a test"

    def __call__(self, maps, case):
        return MetricResult(self.times * maps.flatten(1).mean(1))


def test_metrics_and_methods_of_the_users_own(annotated, tmp_path):
    own = {**PLAN, "metrics": ["energy_pointing_game", Mean()], "methods": [Odam(smoothing="global")], "limit": 2}
    done = evaluate(make_model(), annotated, out=tmp_path / "run", **own)
    assert done.results.rows == ("odam", "control_blob", "control_box")
    one = done.results.objects[0]
    whole = control_blob_map(torch.tensor([one["box"]]), (64, 96))
    assert done.results.of("control_blob", "own_mean")[0] == pytest.approx(2 * float(whole.mean()), rel=1e-5)
    gradcam = evaluate(make_model(), annotated, **{**own, "methods": "gradcam"})
    assert np.allclose(done.results.of("odam", "own_mean"), gradcam.results.of("gradcam", "own_mean"))
    assert "Mean" in done.table()
    assert ("odam", "own_mean") in compare(tmp_path / "run", tmp_path / "run").pairs
    with pytest.raises(WhyboxError, match="differs in: own metrics"):
        evaluate(make_model(), annotated, out=tmp_path / "run", **{**own, "metrics": ["energy_pointing_game", Mean(3.0)]})
    with pytest.raises(WhyboxError, match="expected names, or objects"):
        evaluate(make_model(), annotated, **{**own, "metrics": [Mean]})
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        evaluate(make_model(), annotated, **own, sed=1)
    with pytest.raises(WhyboxError, match="two metrics are named 'own_mean'"):
        evaluate(make_model(), annotated, **{**own, "metrics": [Mean(), Mean(3.0)]})
    with pytest.raises(WhyboxError, match="two methods are named 'control_blob'"):
        evaluate(make_model(), annotated, **{**own, "methods": [ControlBlob(sigma=0.5)]})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (torch.rand(3), "must return MetricResult, got Tensor"),
        (MetricResult(torch.rand(1)), r"one value per detection, \(2,\), got \(1,\)"),
        (MetricResult(torch.rand(2), torch.rand(2, 3)), r"curves \(N,P\) with P points `at`, got \(2, 3\)"),
    ],
)
def test_a_metric_that_gives_something_else_stops_the_run(annotated, given, told):
    class Wrong(Mean):
        def __call__(self, maps, case):
            return given

    with pytest.raises(WhyboxError, match=told):
        evaluate(make_model(), annotated, **{**PLAN, "metrics": [Wrong()], "methods": "odam"})


def test_a_metric_without_what_a_table_needs_is_named(annotated):
    class Bare:
        name = "bare"

        def __call__(self, maps, case):
            return MetricResult(maps.mean((1, 2)))

    with pytest.raises(WhyboxError, match="name must be lower-case letters, digits and _, such as 'layercam', got 'own:mean'"):
        evaluate(make_model(), annotated, metrics=[type("Odd", (Mean,), {"name": "own:mean"})()])
    with pytest.raises(WhyboxError, match="your metric Bare must derive from"):
        evaluate(make_model(), annotated, metrics=[Bare()])


@dataclass(frozen=True)
class Saying(Odam):
    """ODAM that remarks on two of the four images."""

    name: ClassVar[str] = "saying"

    def remark(self, trace):
        return "" if trace.image.mean() < 0.4 else "the image is bright"


def test_the_report_says_what_a_method_remarks(annotated):
    small = {**PLAN, "methods": ["odam", Saying()], "metrics": "leakage"}
    done = evaluate(make_model(), annotated, **small)
    assert done.report.remarks.count("saying: the image is bright.") == 1
    silent = evaluate(make_model(), annotated, **small | {"methods": "odam"})
    assert not any("the image is bright" in remark for remark in silent.report.remarks)


def test_other_annotations_or_settings_are_refused_and_more_images_are_not(tmp_path):
    data = write_annotated(tmp_path)
    small = {**PLAN, "metrics": ("leakage",), "methods": ("odam",)}
    first = evaluate(make_model(), data, out=tmp_path / "run", **small, limit=2)
    longer = evaluate(make_model(), data, out=tmp_path / "run", **small)
    assert {one["image"] for one in first.results.objects} == {"0.png", "1.png"}
    assert {one["image"] for one in longer.results.objects} == {"0.png", "1.png", "2.png", "3.png"}
    other = make_model()
    other.network.transform.min_size = (48,)
    with pytest.raises(WhyboxError, match="differs in: model settings"):
        evaluate(other, data, out=tmp_path / "run", **small)
    file = tmp_path / "val.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(WhyboxError, match="differs in: annotations"):
        evaluate(make_model(), data, out=tmp_path / "run", **small)


def test_an_image_that_comes_back_is_measured_with_the_others(tmp_path):
    data = write_annotated(tmp_path)
    small = {**PLAN, "metrics": ("leakage",), "methods": ("odam",)}
    whole = evaluate(make_model(), data, **small)
    picture = tmp_path / "images" / "1.png"
    picture.rename(tmp_path / "elsewhere.png")
    lines = []
    part = evaluate(make_model(), data, out=tmp_path / "run", on_warning=lines.append, **small)
    assert any("1.png" in line for line in lines)
    assert len({one["image"] for one in part.results.objects}) == 3
    (tmp_path / "elsewhere.png").rename(picture)
    again = evaluate(make_model(), data, out=tmp_path / "run", **small)
    assert [one["image"] for one in again.results.objects] == [one["image"] for one in whole.results.objects]
    assert np.array_equal(again.results.values, whole.results.values, equal_nan=True)


class Perfect(Model):
    """A detector without class names that finds what is annotated in the 4 pictures, which it knows by their pixels."""

    name, gives, layers = "perfect", frozenset({"candidates"}), ()

    def __init__(self, data, columns):
        self.answers = {self._key(data[i].image): data[i].truth for i in range(len(data))}
        self.columns = columns

    def _key(self, picture):
        return np.asarray(picture).tobytes()

    def trace(self, image, *, differentiable=False):
        truth = self.answers[self._key((image * 255).round().byte().permute(1, 2, 0).numpy())]
        scores = torch.nn.functional.one_hot(truth.labels, self.columns).float()
        source = torch.arange(len(truth))
        found = Detections(truth.boxes, scores.amax(1), truth.labels, source)
        return Trace(image, Frame.same(tuple(image.shape[-2:])), (), Candidates(truth.boxes, scores, 0 * source), found)

    def predict(self, images):
        return [self.trace(image).candidates for image in images]

    def pullbacks(self, trace, detections, layer, route, *, frozen_allowed=True):
        raise NotImplementedError


def test_columns_without_names_are_matched_in_their_order_and_that_is_said(annotated):
    data = api.open_data(annotated)
    lines = []
    small = {"methods": "control_box", "metrics": "leakage", "iou": 0.5}
    done = evaluate(Perfect(data, len(CLASSES)), data, **small, on_warning=lines.append)
    assert done.accuracy["ap50"] == 1
    assert set(done.accuracy["ap50_per_class"]) <= set(CLASSES)
    assert {one["class"] for one in done.results.objects} <= set(CLASSES)
    (told,) = lines
    assert told.startswith("perfect has no class names: its score columns were matched with the data's classes in their order")
    assert f"{told}." in done.report.remarks


def test_columns_without_names_of_another_number_are_refused(annotated, tmp_path):
    """One more column, the background's, say: every label would be off by one, and AP 0."""
    data = api.open_data(annotated)
    with pytest.raises(WhyboxError, match=r"perfect has 7 score columns without names, and coco:\S+ has 6 classes.* classes=\["):
        evaluate(Perfect(data, 7), data, methods="control_box", metrics="leakage", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_torchvisions_background_column_is_taken_into_account(annotated, whole):
    done = evaluate(api.load(make_network()), annotated, **{**PLAN, "metrics": "leakage"}, on_warning=[].append)
    assert done.accuracy == whole.accuracy
    assert [one["class"] for one in done.results.objects] == [one["class"] for one in whole.results.objects]


def test_classes_under_other_names_are_renamed(annotated, whole):
    names = ["background", *("oak" if name == "tree" else name for name in CLASSES)]
    model = api.load(make_network(), classes=names)
    small = {**PLAN, "methods": "odam", "metrics": "leakage"}
    lines = []
    left_out = evaluate(model, annotated, **small, on_warning=lines.append)
    assert any("does not know tree: objects of these classes are left out" in line for line in lines)
    assert any("does not know tree" in remark for remark in left_out.report.remarks)
    done = evaluate(model, annotated, **small, rename={"tree": "oak"})
    assert done.accuracy["ap50"] == whole.accuracy["ap50"] != left_out.accuracy["ap50"]
    with pytest.raises(WhyboxError, match="unknown class of the model in rename 'oack'; did you mean oak"):
        evaluate(model, annotated, **small, rename={"tree": "oack"})


def test_nothing_selected_says_what_to_do(annotated):
    done = evaluate(make_model(), annotated, **{**PLAN, "select": "well_detected", "score_threshold": 1.0, "top": None})
    assert "lower iou (0.9) or score_threshold (1)" in done.report.remarks[0]


def test_nothing_measured_is_an_error(annotated):
    with pytest.raises(WhyboxError, match=r"none of 4 images could be measured; 0\.png: 0\.png: cannot be read"):
        evaluate(make_model(), Broken(annotated, bad=range(4)), on_warning=lambda line: None, **PLAN)


def test_python_hears_of_what_went_wrong(annotated):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        evaluate(make_model(), Broken(annotated), **{**PLAN, "metrics": ["leakage"], "methods": "odam"})
    told = [str(one.message) for one in heard]
    assert told == ["a line about something left out", "1.png: 1.png: cannot be read"]
    assert {one.filename for one in heard} == {__file__}


def test_images_that_fail_alike_are_told_together(annotated):
    lines = []
    plan = {**PLAN, "metrics": ["leakage"], "methods": "odam"}
    evaluate(make_model(), Broken(annotated, bad=range(3)), on_warning=lines.append, **plan)
    assert lines[1:] == ["0.png: 0.png: cannot be read", "2 more images: cannot be read: 1.png, 2.png"]


def test_every_setting_of_a_plan_is_a_parameter_with_its_default():
    taken = signature(evaluate).parameters
    for field in dataclass_fields(Plan):
        if not field.name.startswith("own_"):
            suited = field.name in ("methods", "metrics", "target")
            assert taken[field.name].default == (None if suited else field.default)


def test_what_a_worker_cannot_read_is_told(annotated):
    with pytest.raises(WhyboxError, match=r"cannot be sent to workers|cannot read what it was sent"):
        evaluate(make_model(), annotated, workers=2, **{**PLAN, "metrics": [make_local_metric()]})


def make_local_metric():
    class Local(Mean):
        pass

    return Local()


def test_nobody_at_an_address_is_told_at_once(annotated):
    with pytest.raises(WhyboxError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        evaluate(make_model(), annotated, engine="ray", address="127.0.0.1:1", **PLAN)


def test_ctrl_c_ends_in_one_line(tmp_path):
    data = write_annotated(tmp_path)
    words = ["evaluate", "--data", data, "--model", save_model(tmp_path / "net"), "--metrics", "all", "--workers", "2"]
    words += ["--select", "all", "--score-threshold", "0", "--out", str(tmp_path / "run"), "--methods", "drise:masks=1000000"]
    # A shell that runs the tests in the background has them ignore the signal.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}\nfrom whybox.cli.main import run; run({words!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _wait_for_workers(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (130, "", "whybox: interrupted\n")


def _wait_for_workers(process):
    """Until both workers are there, and a moment for them to begin their first image, which takes hours."""
    until = time.monotonic() + 60
    while time.monotonic() < until and len(_children(process.pid)) < 3:
        time.sleep(0.05)
    time.sleep(3)


def test_the_users_model_and_threads_are_left_as_they_were(annotated):
    model = make_model()
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    evaluate(model, annotated, **{**PLAN, "limit": 1})
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_processes_give_the_same_files(whole, tmp_path, annotated):
    evaluate(make_model(), annotated, out=tmp_path / "run", workers=2, **PLAN)
    assert contents(tmp_path / "run") == contents(whole.folder)


def test_a_ray_cluster_of_two_workers_gives_the_same_files(whole, tmp_path, monkeypatch, annotated):
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    evaluate(make_model(), annotated, out=tmp_path / "run", engine="ray", workers=2, **PLAN)
    assert contents(tmp_path / "run") == contents(whole.folder)


def test_a_failing_image_is_named_and_the_run_goes_on(tmp_path, annotated):
    lines = []
    done = evaluate(
        make_model(), Broken(annotated), out=tmp_path / "run", on_warning=lines.append, **{**PLAN, "metrics": ["leakage"]}
    )
    assert done.failed == (("1.png", "1.png: cannot be read"),)
    assert any("a line about something left out" in line for line in lines)
    assert {one["image"] for one in done.results.objects} == {"0.png", "2.png", "3.png"}
    again = {**PLAN, "metrics": ["leakage"], "on_warning": lines.append}
    mended = evaluate(make_model(), Broken(annotated, bad=()), out=tmp_path / "run", **again)
    assert mended.failed == ()
    assert len({one["image"] for one in mended.results.objects}) == 4


def _matched_image(scores):
    """Objects 10 pixels apart, each found exactly, in the order of `scores`."""
    boxes = torch.tensor([[10.0 * i, 0, 10.0 * i + 8, 8] for i in range(len(scores))])
    labels = torch.zeros(len(scores), dtype=torch.long)
    truth = Truth(boxes, labels, tuple(f"#{i}" for i in range(len(scores))), torch.zeros(len(scores), dtype=torch.bool))
    return Detections(boxes, torch.tensor(scores), labels, torch.arange(len(scores))), truth


def test_objects_are_drawn_after_matching_and_whatever_their_scores():
    found, truth = _matched_image([0.95 - 0.05 * i for i in range(12)])
    plan = Plan(iou=0.5, objects_per_image=3)
    drawn = []
    for image in range(200):
        objects, matched = draw_objects(*select(found, truth, (20, 200), plan), truth, f"{image}.png", plan)
        assert len(objects) == 3
        assert torch.equal(objects.boxes, truth.boxes[matched])
        drawn += matched.tolist()
    counts = np.bincount(drawn, minlength=12)
    # 600 objects of 12: 50 each, with a standard deviation of 6.
    assert 25 < counts.min() <= counts.max() < 75


def test_two_models_are_measured_on_the_same_drawn_objects():
    found, truth = _matched_image([0.9] * 8)
    plan = Plan(iou=0.5, objects_per_image=3)
    _, first = draw_objects(*select(found, truth, (20, 200), plan), truth, "a.png", plan)
    other = found[torch.tensor([7, 2, 5, 0, 1, 3, 4, 6])]
    _, second = draw_objects(*select(other, truth, (20, 200), plan), truth, "a.png", plan)
    assert sorted(first.tolist()) == sorted(second.tolist())
    _, third = draw_objects(*select(found, truth, (20, 200), plan), truth, "a.png", replace(plan, seed=1))
    assert sorted(first.tolist()) != sorted(third.tolist())


def test_matched_objects_do_not_depend_on_a_limit_before_matching(annotated):
    small = {**PLAN, "methods": "odam", "metrics": "leakage", "select": "well_detected", "iou": 0.5, "limit": 2}
    del small["top"]
    lines = []
    every = evaluate(make_model(), annotated, **small)
    some = evaluate(make_model(), annotated, **small, objects_per_image=1, on_warning=lines.append)
    surest = evaluate(make_model(), annotated, **small, top=1, on_warning=lines.append)
    of_image = [[one for one in every.results.objects if one["image"] == name] for name in ("0.png", "1.png")]
    assert all(len(objects) > 1 for objects in of_image)
    assert [one["image"] for one in some.results.objects] == ["0.png", "1.png"]
    facts = [dict(done.report.facts)["Selection"] for done in (every, some, surest)]
    assert "an image" not in facts[0]
    assert facts[1].endswith("; at most 1 an image, drawn at random")
    assert facts[2].endswith("; each image's 1 detections with the highest scores alone")
    assert len(lines) == 1
    assert "sure detections are preferred; objects_per_image 1 draws among all matched objects" in lines[0]
    assert any("Top 1 keeps" in remark for remark in surest.report.remarks)


def test_without_top_more_than_a_hundred_detections_are_matched():
    assert Plan().most_detections(300) == 300
    assert Plan(select="all").most_detections(300) == 100
    assert Plan(top=7).most_detections(300) == 7


def test_another_plan_or_model_does_not_mix_into_a_folder(tmp_path, annotated):
    small = {**PLAN, "metrics": ("leakage",), "methods": ("odam",), "limit": 1}
    evaluate(make_model(), annotated, out=tmp_path / "run", **small)
    with pytest.raises(WhyboxError, match="differs in: seed"):
        evaluate(make_model(), annotated, out=tmp_path / "run", **small, seed=5)
    other = make_model()
    with torch.no_grad():
        next(other.network.parameters()).mul_(2)
    with pytest.raises(WhyboxError, match="differs in: weights"):
        evaluate(other, annotated, out=tmp_path / "run", **small)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(WhyboxError, match="not empty"):
        evaluate(make_model(), annotated, out=tmp_path / "other", **small)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": ("odan",)}, "did you mean odam"),
        ({"metrics": ("deletoin",)}, "did you mean deletion"),
        ({"metrics": ("deletion:fil=black",)}, "no option 'fil'"),
        ({"select": "good"}, "unknown selection"),
        ({"iou": 2}, "iou must lie between 0 and 1"),
        ({"engine": "spark"}, "unknown engine"),
        ({"workers": 0}, "workers must be a whole number from 1 on"),
        ({"workers": "2"}, "workers must be a whole number from 1 on"),
        ({"top": 2.5}, "top must be a whole number"),
        ({"objects_per_image": 0}, "objects_per_image must be at least 1"),
        ({"seed": None}, "seed must be a whole number"),
        ({"target": 3}, "target must be a name"),
        ({"metrics": ("deletion:points=x",)}, "points must be a whole number, got 'x'"),
        ({"metrics": ("deletion:points=5.5",)}, "points must be a whole number, got 5.5"),
        ({"metrics": ("pointing_game:tolerance=inf",)}, "tolerance must be a number, got inf"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"address": "auto"}, "engine ray too"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"target": "x1"}, "drise explains a detection as a whole"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(change, told, tmp_path, annotated):
    with pytest.raises(WhyboxError, match=told):
        evaluate(make_model(), annotated, out=tmp_path / "run", **{**PLAN, **change})
    assert not (tmp_path / "run").exists()


def test_a_damaged_shard_is_measured_again(whole, tmp_path, annotated):
    folder = tmp_path / "run"
    evaluate(make_model(), annotated, out=folder, **PLAN)
    record = next(folder.glob("records/2.png-*.json.gz"))
    record.write_bytes(record.read_bytes()[:100])
    evaluate(make_model(), annotated, out=folder, **PLAN)
    assert contents(folder) == contents(whole.folder)


def test_killed_at_a_random_moment_it_goes_on_to_the_same_result(whole, tmp_path, annotated):
    """SIGKILL between images or in the middle of one; two workers, of which none may be left behind."""
    words = [sys.executable, "-m", "whybox.cli.main", "evaluate", "--data", annotated, "--model", save_model(tmp_path / "net")]
    words += ["--methods", ",".join(PLAN["methods"]), "--metrics", ",".join(PLAN["metrics"]), "--select", "all"]
    words += ["--score-threshold", "0", "--top", "2", "--out", str(tmp_path / "run"), "--workers", "2"]
    code = f"import sys; sys.argv = {words[2:]!r}; from whybox.cli.main import run; run()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for_shards(tmp_path / "run" / "records", 2, process)
    time.sleep(random.uniform(0, 0.3))
    workers = _children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _wait_until_gone(workers)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    # A model's name is where it lies, so the facts of the two runs differ; no number may.
    for name in ("results.parquet", "curves.parquet"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()
    ours, theirs = (json.loads((folder / "summary.json").read_text()) for folder in (tmp_path / "run", whole.folder))
    assert ours["cells"] == theirs["cells"]
    assert ours["versus_controls"] == theirs["versus_controls"]


def _wait_for_shards(folder, count, process):
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if folder.is_dir() and len(list(folder.glob("*.json.gz"))) >= count:
            return
        time.sleep(0.01)


def _children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry))
    return found


def _wait_until_gone(pids):
    until = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < until, "a worker outlived the run"
        time.sleep(0.05)


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [40.0, 40.0, 60.0, 60.0]])


def found_and_truth():
    found = whybox.Detections(BOXES, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2]), torch.arange(3))
    truth = Truth(BOXES[:1].repeat(2, 1), torch.tensor([2, 1]), ("crowd", "one"), torch.tensor([True, False]))
    return found, truth


@pytest.mark.parametrize(
    ("chosen", "rows", "matched"),
    [("well_detected", [0], [1]), ("all", [0, 1, 2], [1, -1, -1]), ("failures", [1, 2], [-1, -1])],
)
def test_selections(chosen, rows, matched):
    """Detection 0 is the one object; 1 is a duplicate of it; 2 is nothing. An ignored object is nobody's match."""
    found, truth = found_and_truth()
    kept, objects = select(found, truth, (64, 96), Plan(select=chosen))
    assert kept.source.tolist() == rows
    assert objects.tolist() == matched
