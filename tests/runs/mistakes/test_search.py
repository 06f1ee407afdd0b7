"""A run over images laid out by hand, with a model that answers by rote; and one over drawn scenes with a trained one."""

import csv
import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from PIL import Image

from whybox import api
from whybox.accuracy.coco import coco_ap
from whybox.duplicates import with_nms
from whybox.errors import ImageError, WhyboxError
from whybox.frame import Frame
from whybox.methods.control_box import ControlBox
from whybox.model import Model
from whybox.runs.mistakes.folder import keep_errors
from whybox.runs.mistakes.search import Search, find_errors
from whybox.truth import Sample, Truth
from whybox.types import Candidates, Detections, HeatMaps, Trace

CAT, DOG = 1, 2
FIRST = (10, 10, 30, 30)
SECOND = (50, 10, 70, 30)
THIRD = (20, 32, 40, 58)
EDGE = (80, 40, 100, 60)


class Rote(Model):
    """Answers with the candidates set for an image, which it knows by its first pixel; the first `kept` are detections."""

    name, layers, classes = "rote", (), ("background", "cat", "dog")
    gives = frozenset({"candidates"})

    def __init__(self, answers):
        self.answers = answers

    def trace(self, image, *, differentiable=False):
        rows, kept = self.answers[int(image[0, 0, 0] * 255)]
        boxes = torch.tensor([row[2] for row in rows]).float().reshape(-1, 4)
        labels = torch.tensor([row[0] for row in rows], dtype=torch.long)
        scores = torch.zeros(len(rows), 3)
        scores[torch.arange(len(rows)), labels] = torch.tensor([row[1] for row in rows]).float()
        own = torch.tensor([row[1] for row in rows]).float()
        candidates = Candidates(boxes, scores, torch.zeros(len(rows), dtype=torch.long))
        found = Detections(boxes, own, labels, torch.arange(len(rows)))[:kept]
        return Trace(image, Frame.same(tuple(image.shape[-2:])), (), candidates, found)

    def predict(self, images):
        raise NotImplementedError

    def pullbacks(self, trace, detections, layer, route, *, frozen_allowed=True):
        raise NotImplementedError


@dataclass
class Pictures:
    """Images whose first pixel is their index; an entry None cannot be read. Objects are (label, box)."""

    content: list
    classes: tuple = ("dog", "cat", "bird")
    name: str = "by hand"
    problems: tuple = ()
    names: list = field(init=False)

    def __post_init__(self):
        self.names = [f"{i}.png" for i in range(len(self.content))]

    def __len__(self):
        return len(self.content)

    def __getitem__(self, index):
        rows = self.content[index]
        if rows is None:
            raise ImageError("not an image that can be read")
        picture = Image.new("RGB", (100, 60), (index, 90, 90))
        boxes = torch.tensor([row[1] for row in rows]).float().reshape(-1, 4)
        labels = torch.tensor([row[0] for row in rows], dtype=torch.long)
        ids = tuple(f"{index}/{i}" for i in range(len(rows)))
        return Sample(self.names[index], picture, Truth(boxes, labels, ids, torch.zeros(len(rows), dtype=torch.bool)))


# The data set's labels: 0 dog, 1 cat, 2 bird, which the model lacks.
OBJECTS = [(1, FIRST), (0, SECOND), (1, THIRD), (2, EDGE)]
# Found; doubled; the dog taken for a cat; nothing there; too unsure to count; and a candidate that suppression dropped.
ANSWERS = [
    (CAT, 0.9, FIRST),
    (CAT, 0.8, (10, 10, 30, 28)),
    (CAT, 0.7, SECOND),
    (DOG, 0.6, EDGE),
    (CAT, 0.2, (0, 40, 10, 50)),
    (CAT, 0.15, (20, 32, 40, 56)),
]


@pytest.fixture
def said():
    return []


def run(answers, content, said, **settings):
    model, data = Rote(answers), Pictures(content)
    return model, data, find_errors(model, data, Search("control_box", **settings), on_warning=said.append)


def test_one_image_by_hand(said):
    _, _, errors = run([(ANSWERS, 5)], [OBJECTS], said)
    assert said == ["rote does not know bird: objects of these classes are left out"]
    assert (errors.images, errors.objects, errors.correct) == (1, 3, 1)
    assert [(one.kind, one.name) for one in errors.mistakes] == [
        ("duplicate", "cat"),
        ("classification", "cat"),
        ("background", "dog"),
        ("missed", "cat"),
    ]
    duplicate, wrong, _, missed = errors.mistakes
    assert duplicate.rival.scores.item() == pytest.approx(0.9)
    assert (wrong.object.id, wrong.object.name, wrong.object.label) == ("0/1", "dog", DOG)
    assert (missed.object.id, missed.score) == ("0/2", pytest.approx(0.15))
    assert missed.iou == pytest.approx(24 / 26)
    assert "too low there" in missed.note
    assert "the object" in missed.note


def test_columns_without_names_are_matched_in_their_order(said):
    class Unnamed(Rote):
        classes = None

    content = [[(1, FIRST), (2, SECOND)]]
    model, data = Unnamed([([(1, 0.9, FIRST), (2, 0.8, SECOND)], 2)]), Pictures(content)
    errors = find_errors(model, data, Search("control_box"), on_warning=said.append)
    assert (errors.correct, errors.ap50) == (2, 1)
    assert said == list(errors.notes) == errors.as_dict()["notes"]
    assert "matched with the data's classes in their order, from dog (column 0) to bird (column 2)" in said[0]
    with pytest.raises(WhyboxError, match="3 score columns without names, and by hand has 2 classes"):
        find_errors(model, Pictures([[(1, FIRST)]], classes=("dog", "cat")), Search("control_box"), on_warning=said.append)


def test_ap50_counts_every_detection_and_is_pycocotools(said):
    _, _, errors = run([(ANSWERS, 5)], [OBJECTS], said)
    rows = ANSWERS[:5]
    detections = {"boxes": [row[2] for row in rows], "scores": [row[1] for row in rows], "labels": [row[0] for row in rows]}
    truth = {"boxes": [FIRST, SECOND, THIRD], "labels": [CAT, DOG, CAT]}
    assert errors.ap50 == pytest.approx(coco_ap([detections], [truth], Rote.classes).ap50)
    assert errors.gains["classification"] > 0


def test_a_neighbors_candidate_is_not_the_missed_objects_own(said):
    """Two overlapping cats, one found: the surest candidate over the other (IoU 0.54) is the found one's."""
    near = (16, 10, 36, 30)
    answers = [(CAT, 0.9, FIRST), (CAT, 0.4, (17, 10, 37, 30))]
    _, _, errors = run([(answers, 1)], [[(1, FIRST), (1, near)]], said)
    (missed,) = errors.mistakes
    assert (missed.kind, int(missed.found.source)) == ("missed", 1)
    assert missed.score == pytest.approx(0.4)
    assert "not kept by the detector" in missed.note


def test_objects_beyond_the_image_are_cut_or_left_out(said):
    """A box that reaches 20 px beyond the image is found by the detection of its visible part."""
    found = (CAT, 0.9, (80, 40, 100, 60))
    _, _, errors = run([([found], 1)], [[(1, (80, 40, 120, 60)), (1, (110, 0, 130, 20))]], said)
    assert (errors.objects, errors.correct, errors.mistakes) == (1, 1, ())


def test_suppression_is_told_of_duplicates_and_of_missed_objects(said, tmp_path):
    """Two overlapping cats (IoU 0.54), one found: its detection removes the other's."""
    near, third = (16, 10, 36, 30), (50, 10, 70, 30)
    answers = [(CAT, 0.9, FIRST), (CAT, 0.4, (17, 10, 37, 30)), (CAT, 0.8, third), (CAT, 0.04, EDGE)]
    content = [[(1, FIRST), (1, near), (1, third), (1, EDGE)]]
    model, data = with_nms(Rote([(answers, 4)]), "greedy:iou_threshold=0.45"), Pictures(content)
    errors = find_errors(model, data, Search("control_box"), on_warning=said.append)
    missed, unsure = (one for one in errors.mistakes if one.kind == "missed")
    assert (missed.object.id, float(missed.rival.scores)) == ("0/1", pytest.approx(0.9))
    assert missed.decision.why == "IoU 0.48 > 0.45: a duplicate"
    assert (unsure.rival, unsure.decision) == (None, None), "its score is under the model's threshold: it came to no comparison"
    assert errors.suppression == "NMS, iou threshold 0.45"
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    told = json.loads((tmp_path / "out" / "errors.json").read_text())
    row = next(row for row in told["errors"] if row["truth"] and row["truth"]["id"] == "0/1")
    assert row["removed_by"]["score"] == pytest.approx(0.9)
    assert row["suppression"] == {"outcome": "removed", "iou": 0.4815, "similarity": None, "why": missed.decision.why}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Removed: IoU 0.48 &gt; 0.45: a duplicate." in page
    assert "the detection that removed it, 0.90" in page
    assert "NMS, iou threshold 0.45" in page


def test_a_wrongly_kept_box_is_told_with_its_numbers(said, tmp_path):
    answers = [(CAT, 0.9, FIRST), (CAT, 0.8, (10, 10, 30, 22))]
    model, data = with_nms(Rote([(answers, 2)]), "greedy:iou_threshold=0.7"), Pictures([[(1, FIRST)]])
    errors = find_errors(model, data, Search("control_box"), on_warning=said.append)
    (duplicate,) = errors.mistakes
    assert duplicate.decision.why == "IoU 0.60 ≤ 0.70: not a duplicate"
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Kept: IoU 0.60 ≤ 0.70: not a duplicate." in page
    assert "<dt>IoU of the two</dt><dd>0.60</dd>" in page
    # A model whose rule is not known: the two boxes alone.
    model, data, errors = run([(answers, 2)], [[(1, FIRST)]], said)
    assert (errors.mistakes[0].decision, errors.suppression) == (None, "")
    keep_errors(model, data, errors, tmp_path / "plain", on_warning=said.append)
    assert "<dt>duplicate removal</dt>" not in (tmp_path / "plain" / "index.html").read_text()


def test_no_candidates_and_no_objects(said, tmp_path):
    model, data, errors = run([([], 0), ([], 0)], [[(1, FIRST)], []], said)
    (missed,) = errors.mistakes
    assert math.isnan(missed.score)
    assert (errors.ap50, errors.objects) == (0.0, 1)
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    assert "the model has no candidate for it" in (tmp_path / "out" / "index.html").read_text()


def test_a_data_set_without_any_object(said, tmp_path):
    """There is no AP then: null in the JSON, an empty cell in the table."""
    model, data, errors = run([([], 0)], [[]], said)
    assert (errors.mistakes, errors.objects) == ((), 0)
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    assert json.loads((tmp_path / "out" / "errors.json").read_text())["ap50"] is None
    assert "missed,0," in (tmp_path / "out" / "counts.csv").read_text().splitlines()
    assert "No error to show." in (tmp_path / "out" / "index.html").read_text()


def test_a_bad_image_is_named_and_the_run_goes_on(said, tmp_path):
    model, data, errors = run([([], 0), (ANSWERS, 5)], [None, OBJECTS], said)
    assert errors.failed == (("0.png", "not an image that can be read"),)
    assert said[1:] == ["0.png: not an image that can be read"]
    kept = keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    told = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert told["failed"] == [{"image": "0.png", "error": "not an image that can be read"}]
    assert (told["images"], len(kept.mistakes)) == (1, 4)


def test_an_image_that_fails_only_when_it_is_explained(said, tmp_path):
    model, data, errors = run([(ANSWERS, 5), (ANSWERS, 5)], [OBJECTS, OBJECTS], said)
    data.content[0] = None
    kept = keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    assert [name for name, _ in kept.failed] == ["0.png"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<article") == 4
    assert "Images that failed: 0.png." in page


def test_the_folder(said, tmp_path):
    model, data, errors = run([(ANSWERS, 5)], [OBJECTS], said)
    ticks = []
    keep_errors(model, data, errors, tmp_path / "out", on_progress=lambda name, part: ticks.append(name), on_warning=said.append)
    assert ticks == ["0.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["counts.csv", "errors.json", "index.html"]
    told = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert told["counts"] == {"classification": 1, "localization": 0, "both": 0, "duplicate": 1, "background": 1, "missed": 1}
    assert [row["kind"] for row in told["errors"]] == ["duplicate", "classification", "background", "missed"]
    rows = list(csv.DictReader((tmp_path / "out" / "counts.csv").read_text().splitlines()))
    assert {row["kind"]: int(row["count"]) for row in rows} == told["counts"]
    assert float(rows[0]["ap50_gain"]) == told["ap50_gains"]["classification"]
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<article") == 4
    assert page.count('class="heat"') == 2 + 2 + 1 + 1
    assert "why cat and not dog" in page


def test_top_is_kept_and_the_rest_is_told(said, tmp_path):
    model, data, errors = run([(ANSWERS, 5)], [OBJECTS], said, top=2)
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<article") == 2
    assert "2 of 4 errors have a card" in page
    assert len(json.loads((tmp_path / "out" / "errors.json").read_text())["errors"]) == 4


def test_limit_and_threshold(said):
    assert run([(ANSWERS, 5)] * 3, [OBJECTS] * 3, said, limit=2)[2].images == 2
    low = run([(ANSWERS, 5)], [OBJECTS], said, score_threshold=0.1)[2]
    assert low.counts["background"] == 2
    assert run([(ANSWERS, 5)], [OBJECTS], said, score_threshold=0.95)[2].counts["missed"] == 3


@pytest.mark.parametrize("settings", [{"score_threshold": 1.5}, {"top": 0}, {"limit": 0}])
def test_settings_out_of_range(settings):
    with pytest.raises(WhyboxError, match="must"):
        Search(**settings)


def test_a_method_that_explains_scores_alone_gives_scores(said, tmp_path, monkeypatch):
    """What cannot be asked of it is not, and the card says so."""

    class ScoresAlone(ControlBox):
        targets = frozenset({"score"})

    monkeypatch.setattr("whybox.runs.mistakes.folder.api.make_method", lambda *_, **__: ScoresAlone())
    model, data, errors = run([(ANSWERS, 5)], [OBJECTS], said)
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    assert "control_box explains only the score" in (tmp_path / "out" / "index.html").read_text()


def test_scenes_with_the_shipped_detector(tmp_path, monkeypatch):
    """Each card's maps are those that `explain` gives for the detection and the target."""
    model, data, said = api.load("whybox/scenes"), api.open_data("scenes:variant=crowd:count=2"), []
    errors = find_errors(model, data, Search(top=8), on_warning=said.append)
    assert said == []
    assert errors.ap50 > 0.8
    drawn = []

    def draw(image, views, truth, **words):
        drawn.append((words["name"], views))
        return real(image, views, truth, **words)

    from whybox.report.gallery import make_card as real

    monkeypatch.setattr("whybox.runs.mistakes.folder.make_card", draw)
    keep_errors(model, data, errors, tmp_path / "out", on_warning=said.append)
    assert len(drawn) == min(8, len(errors.mistakes))
    name, views = next((name, views) for name, views in drawn if views[0].side)
    view = views[0]
    image = data[list(data.names).index(name)].image
    passed = api.trace(model, image)
    row = int((passed.detections.boxes - view.box).abs().sum(1).argmin())
    expected = api.explain(model, passed, target=view.side, detections=passed.detections[row]).maps
    assert isinstance(view.maps, HeatMaps)
    assert np.allclose(view.maps.values, expected.values, atol=1e-6)
