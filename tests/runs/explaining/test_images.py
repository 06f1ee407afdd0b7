"""A run over several images, where the command line does not reach: many images, a full disk in the middle."""

import json
import os

import pytest
import torch

from methods.small_clip import load_small, make_clip
from models import hf_models
from report.test_page import Parts
from whybox import api, zoo
from whybox.errors import WhyboxError
from whybox.explanation import Explanation
from whybox.runs.explaining import images
from whybox.runs.explaining.images import Question, detect_image, explain_image, explain_images

ARGUMENTS = {"num_classes": 3, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 64, "max_size": 96}
ARGUMENTS |= {"score_thresh": 0.0, "detections_per_img": 5}
ASKED = Question(score_threshold=0.0, top=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return api.load(zoo.build("compact_fcos", ARGUMENTS).eval(), classes=("background", "cat", "dog"))


def sources(count):
    generator = torch.Generator().manual_seed(0)
    return [(f"{i}.png", torch.rand((3, 64, 96), generator=generator)) for i in range(count)]


def test_one_pass_for_all_methods_and_targets(model, monkeypatch):
    passes = []
    trace = api.trace
    monkeypatch.setattr(api, "trace", lambda *given: passes.append(1) or trace(*given))
    ticks = []
    question = Question(("odam", "gradcam"), ("score", "x1"), 0.0, 3)
    found = explain_image(model, sources(1)[0][1], "a.png", question, on_progress=lambda *told: ticks.append(told))
    assert len(passes) == 1
    assert ticks == [("a.png", 1.0)] * len(question) == [("a.png", 1.0)] * 4
    assert [(one.maps.method, one.maps.target) for one in found] == [
        ("odam", "score"),
        ("odam", "x1"),
        ("gradcam", "score"),
        ("gradcam", "x1"),
    ]
    assert all(torch.equal(one.detections.boxes, found[0].detections.boxes) for one in found)
    assert all(one.seconds["trace"] > 0 for one in found)


def test_the_best_are_taken_in_the_models_order(model):
    image = sources(1)[0][1]
    everything = api.detect(model, image, score_threshold=0.0)
    best = detect_image(model, image, Question(score_threshold=0.0, top=3))
    assert set(best.source.tolist()) <= set(everything.source.tolist())
    assert torch.equal(best.scores.sort(descending=True).values, everything.scores.sort(descending=True).values[:3])


def test_more_images_than_a_file_should_hold_lie_beside_the_page(model, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_ON_PAGE", 2)
    named = [*sources(2), ("bad.png", tmp_path / "bad.png"), ("pages.png", sources(1)[0][1])]
    outcome = explain_images(model, named, ASKED, tmp_path / "out")
    known = json.loads(dict(Parts(outcome.page.read_text()).scripts)["images"])
    assert known["images"] == [["0.png"], ["1.png"], ["pages.png"]]
    assert "Not explained: bad.png." in outcome.page.read_text()
    beside = tmp_path / "out" / known["folder"]
    assert sorted(os.listdir(beside)) == ["image-0.js", "image-1.js", "image-2.js", "thumbs-0.js"]
    body = (beside / "image-1.js").read_text().removeprefix('whyboxParts("image-1",[').removesuffix("]);\n")
    assert body == Parts((tmp_path / "out" / "1" / "index.html").read_text()).scripts[1][1].strip()
    assert (beside / "thumbs-0.js").read_text().count("data:image/jpeg") == 3
    assert sorted(os.listdir(tmp_path / "out")) == ["0", "1", "index.html", "pages", "pages-2"]


def test_many_images_of_which_none_can_be_read_leave_no_folder(model, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_ON_PAGE", 1)
    outcome = explain_images(model, [(name, tmp_path / name) for name in ("a.png", "b.png")], ASKED, tmp_path / "out")
    assert (outcome.page, len(outcome.failed)) == (None, 2)
    assert os.listdir(tmp_path) == []


def test_a_large_page_that_is_interrupted_leaves_nothing_but_whole_images(model, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MOST_ON_PAGE", 2)

    def stop(name, part):
        if name == "2.png":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain_images(model, sources(3), ASKED, tmp_path / "out", on_progress=stop)
    assert sorted(os.listdir(tmp_path / "out")) == ["0", "1"]


def test_a_disk_that_fills_up_in_the_middle_keeps_what_is_whole(model, tmp_path, monkeypatch):
    save = Explanation.save

    def fill(self, directory):
        if self.name == "1.png":
            raise WhyboxError("no space left")
        return save(self, directory)

    monkeypatch.setattr(Explanation, "save", fill)
    with pytest.raises(WhyboxError, match="no space left"):
        explain_images(model, sources(3), ASKED, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["0"]
    assert len(Explanation.load(tmp_path / "out" / "0")) == 2


def test_several_explanations_of_an_image_are_kept_together_or_not_at_all(model, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "write_page", full)
    question = Question(targets=("score", "x1"), score_threshold=0.0, top=1)
    with pytest.raises(WhyboxError, match="cannot be written"):
        explain_images(model, sources(1), question, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_slow_method_tells_its_progress(model):
    ticks = []
    question = Question(methods=("drise",), options={"masks": 12, "batch": 4}, score_threshold=0.0, top=1)
    explain_image(model, sources(1)[0][1], "a.png", question, on_progress=lambda name, part: ticks.append(part))
    assert len(ticks) > 1
    assert sum(ticks) == pytest.approx(1)


def test_a_classifier_is_explained_by_its_own_defaults(tmp_path):
    torch.manual_seed(0)
    classifier = api.load(hf_models.stirred(hf_models.vit()))
    outcome = explain_images(classifier, sources(2), Question(), tmp_path / "out")
    (explained,) = outcome.kept[0].explanations
    assert (explained["method"], explained["target"], len(explained["detections"])) == ("grad_eclip", "logit", 1)
    (asked,) = explain_images(classifier, sources(1), Question(classes=("LABEL_1", "LABEL_2")), tmp_path / "asked").kept
    assert [row["name"] for row in asked.explanations[0]["detections"]] == ["LABEL_1", "LABEL_2"]


def test_texts_are_all_explained_whatever_their_score(tmp_path):
    clip = load_small(make_clip())
    (kept,) = explain_images(clip, sources(1), Question(texts=("a tree", "a car")), tmp_path / "out").kept
    assert [row["name"] for row in kept.explanations[0]["detections"]] == ["a tree", "a car"]
