"""New studies from a small detector with random weights, on pictures annotated with what it finds."""

import json

import pytest
import torch
from PIL import Image

from runs.small import Broken, make_model, write_annotated
from whybox import api
from whybox.errors import WhyboxError
from whybox.study.answers import Answers
from whybox.study.designs import DESIGNS
from whybox.study.folder import CONSENT, PICTURES, STUDY, read_consent, read_study
from whybox.study.making import IMAGE_ALONE, Recipe, make_study
from whybox.study.planning import plan_for

METHODS = ("control_box", "control_blob")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return api.open_data(write_annotated(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def model():
    return make_model()


def new(name, data, model, out, methods=METHODS, **settings):
    design = DESIGNS[name]
    recipe = Recipe(**{"count": 4, "limit": 2, "score_threshold": 0.0, "seed": 2, **settings})
    models = {"old": model, "new": model} if design.compares == "models" else {"old": model}
    chosen = {"models": methods[:1], "methods": methods}.get(design.compares, ())
    return make_study(design, data, models, chosen, out, recipe)


@pytest.mark.parametrize("name", list(DESIGNS))
def test_a_folder_that_can_be_served(data, model, tmp_path, name):
    study = new(name, data, model, tmp_path / "study")
    assert read_study(tmp_path / "study") == study
    assert read_consent(tmp_path / "study")[0]["text"] == "About this study"
    assert "There are 6 questions" in (tmp_path / "study" / CONSENT).read_text()
    assert len(study.questions) == study.per_person == 4
    assert {path.name for path in (tmp_path / "study" / PICTURES).iterdir()} == study.pictures
    with Image.open(tmp_path / "study" / PICTURES / min(study.pictures)) as picture:
        assert picture.size == (96, 64)
    for question in study.questions:
        assert set(question.pictures) == set(study.conditions)
        assert bool(question.picture) == (study.design.with_image or study.design.blur > 0)
    told = {"better_detector": ("old", "new"), "attention": ("lens",), "forward_simulation": (*METHODS, IMAGE_ALONE)}
    assert study.conditions == told.get(name, METHODS)
    # Every person's plan can be shown.
    with Answers(tmp_path / "answers.sqlite") as answers:
        place = answers.next_of(answers.begin(lambda number: plan_for(study, number)))
        assert study.design.form(study.by_key[place.asked.question], place.asked)["picture" if name == "attention" else "options"]


def test_the_same_seed_makes_the_same_study(data, model, tmp_path):
    once, again = (new("discrimination", data, model, tmp_path / name, limit=1, count=2) for name in "01")
    assert once == again
    files = [{path.name: path.read_bytes() for path in (tmp_path / name / PICTURES).iterdir()} for name in ("0", "1")]
    assert files[0] == files[1]


def test_the_objects_of_another_study(data, model, tmp_path):
    once = new("attention", data, model, tmp_path / "once", count=2)
    items = {question.item for question in once.questions}
    again = new("trust_ranking", data, model, tmp_path / "again", seed=5, items=items)
    assert {question.item for question in again.questions} == items
    with pytest.raises(WhyboxError, match="no object of the other study was found here"):
        new("trust_ranking", data, model, tmp_path / "none", items={"elsewhere.png object 0"})


def test_a_discrimination_question_has_the_box_of_its_object(data, model, tmp_path):
    study = new("discrimination", data, model, tmp_path / "study")
    for question in study.questions:
        index = list(data.names).index(question.image)
        found = api.detect(model, data[index].image, score_threshold=0.0)
        x1, y1, x2, y2 = question.choices[question.right]
        boxes = [[96 * x1, 64 * y1, 96 * x2, 64 * y2]]
        distance = (found.boxes.clamp(min=0) - torch.tensor(boxes)).abs().amax(1)
        assert float(distance.min()) < 0.6 or max(x2, y2) == 1
        assert 2 <= len(question.choices) <= 6


def test_names_of_pictures_do_not_tell_the_method(data, model, tmp_path):
    study = new("trust_ranking", data, model, tmp_path / "study", count=1, limit=1)
    assert not any(method in name for name in study.pictures for method in ("control", "box", "blob"))


def test_images_that_cannot_be_read_are_left_out_and_told(data, model, tmp_path):
    lines = []
    design, recipe = DESIGNS["trust_ranking"], Recipe(count=20, score_threshold=0.0)
    broken = Broken.__new__(Broken)
    broken.inner, broken.bad, broken.classes, broken.names, broken.name = data, (1,), data.classes, data.names, "broken"
    study = make_study(design, broken, {"old": model}, METHODS, tmp_path / "study", recipe, on_warning=lines.append)
    assert data.names[1] not in {question.image for question in study.questions}
    assert lines[0].startswith(f"{data.names[1]}: left out")
    assert lines[-1] == f"{len(study.questions)} objects were found, 20 were asked for"


@pytest.mark.parametrize(
    ("name", "methods", "settings", "line"),
    [
        ("trust_ranking", ("odam",), {}, "give at least two"),
        ("trust_ranking", ("odam", "gradcan"), {}, "did you mean gradcam"),
        ("trust_ranking", METHODS, {"score_threshold": 2.0}, "no object in 2 images"),
        ("trust_ranking", METHODS, {"count": 0}, "count must be a whole number from 1"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_no_folder(data, model, tmp_path, name, methods, settings, line):
    with pytest.raises(WhyboxError, match=line):
        new(name, data, model, tmp_path / "study", methods, **settings)
    assert not (tmp_path / "study").exists()


def test_models_that_do_not_fit(data, model, tmp_path):
    with pytest.raises(WhyboxError, match="needs 2 models, got 1"):
        make_study(DESIGNS["better_detector"], data, {"old": model}, ["odam"], tmp_path / "study", Recipe())
    with pytest.raises(WhyboxError, match="give one method, got 2"):
        make_study(DESIGNS["better_detector"], data, {"a": model, "b": model}, METHODS, tmp_path / "study", Recipe())


def test_the_file_says_what_it_was_made_from(data, model, tmp_path):
    new("trust_ranking", data, model, tmp_path / "study", count=1, limit=1)
    facts = json.loads((tmp_path / "study" / STUDY).read_text())["facts"]
    assert facts["data"] == data.name
    assert facts["methods"] == list(METHODS)
    assert set(facts["versions"]) >= {"whybox", "torch"}
