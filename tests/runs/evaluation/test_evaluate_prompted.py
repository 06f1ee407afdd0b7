"""Evaluations of detectors that read text: the data's classes are their texts."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

import whybox
from models.prompted_models import prompted_pair
from whybox.errors import WhyboxError
from whybox.runs.evaluation.evaluate import evaluate
from whybox.runs.evaluation.texts import fill_template
from whybox.truth import Truth

PLAN = {
    "methods": ("odam", "drise:masks=8:candidate_threshold=0", "control_box"),
    "metrics": ("deletion:points=3", "energy_pointing_game"),
    "select": "all",
    "score_threshold": 0.0,
    "top": 2,
}
DATA = "scenes:count=2:size=96x64"


@pytest.fixture(scope="module")
def model():
    net, processor = prompted_pair("owlvit")
    return whybox.load(net, processor=processor, score_threshold=0.0)


def test_methods_and_controls_are_measured_on_texts_of_the_classes(model, tmp_path):
    done = evaluate(model, DATA, out=tmp_path / "run", **PLAN)
    assert len(done.results) == 4
    table = done.table()
    assert all(name in table for name in ("ODAM", "D-RISE", "box"))
    page = (tmp_path / "run" / "index.html").read_text()
    assert "class 0" not in str(done.accuracy)
    assert "“a photo of a" not in page, "its selection is that of a detector"


class Found:
    """Scenes annotated with what the model finds for the texts of the classes."""

    name, problems = "found", ()

    def __init__(self, model):
        self.inner = whybox.open_data(DATA)
        self.classes, self.names = self.inner.classes, self.inner.names
        self.model = model.prompt([fill_template("a photo of a {}", name) for name in self.classes])

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        found = whybox.detect(self.model, sample.image, score_threshold=0)
        # Objects end at the image's edge, and these detections do not.
        inside = found.boxes.clamp(min=0).minimum(torch.tensor([96.0, 64.0, 96.0, 64.0]))
        best = box_iou(inside, found.boxes).diagonal().argmax()
        found = found[best[None]]
        return replace(sample, truth=Truth(found.boxes, found.labels, ("0",), torch.zeros(1, dtype=torch.bool)))


def test_objects_are_matched_by_the_columns_of_their_texts(model, tmp_path):
    plan = PLAN | {"methods": "control_box", "metrics": "energy_pointing_game", "select": "well_detected", "top": None}
    assert len(evaluate(model, Found(model), out=tmp_path / "run", **plan, iou=0.2).results) == 2


def test_texts_that_are_too_long_together_are_told_with_what_is_shorter(tmp_path):
    net, processor = prompted_pair("grounding_dino")
    with pytest.raises(WhyboxError, match=r"the network reads 24: .*; template \{\} makes texts of the class names alone"):
        evaluate(whybox.load(net, processor=processor), DATA, out=tmp_path / "run", **PLAN)


def test_phrases_are_refused(model, tmp_path):
    with pytest.raises(WhyboxError, match="prompts phrase is for image-text models; hf/owlvit finds boxes"):
        evaluate(model, DATA, out=tmp_path / "run", **PLAN, prompts="phrase")
