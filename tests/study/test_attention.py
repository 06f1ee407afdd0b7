"""The design of recordings: which objects it asks about, what a recording is scored by, and the file that is made of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from study.made_up import make_study
from whybox.study.answers import Answers
from whybox.study.design import Asked, Seen
from whybox.study.designs import find_design
from whybox.study.folder import PICTURES, read_study
from whybox.study.making import Recipe
from whybox.study.making import make_study as new_study
from whybox.study.planning import plan_for
from whybox.study.recordings import recordings
from whybox.study.scored import score_answers
from whybox.truth import Sample, Truth

LENS = Asked("q0", "lens")


def seen(matched=()):
    boxes = torch.tensor([[10.0, 5, 40, 25], [0, 0, 5, 5], [90, 40, 120, 60], [-9, -9, -1, -1]])
    ignore = torch.tensor([False, True, False, False])
    truth = Truth(boxes, torch.tensor([0, 1, 1, 0]), ("7", "8", "9", "10"), ignore)
    return Seen("a.png", torch.zeros(3, 50, 100), truth, ("cat", "", "dog", "cat"), (), (), (), (), matched)


def test_annotated_objects_are_asked_about():
    cat, dog = find_design("attention").candidates(seen(), np.random.default_rng(0))
    assert (cat.item, cat.label, cat.area) == ("object 0", "cat", pytest.approx(0.12))
    assert cat.details == {"annotation_id": "7", "size": [100, 50], "box": [0.1, 0.1, 0.4, 0.5]}
    # What lies outside the image, or does not count, is left out.
    assert (dog.item, dog.details["box"]) == ("object 2", [0.9, 0.8, 1, 1])


def test_with_models_what_all_of_them_found():
    found = find_design("attention").candidates(seen([torch.tensor([2, -1, 0]), torch.tensor([2])]), np.random.default_rng(0))
    assert [candidate.item for candidate in found] == ["object 2"]


class OnePicture:
    name, classes, names, problems = "one", ("cat",), ("a.png",), ()

    def __len__(self):
        return 1

    def __getitem__(self, index):
        box = torch.tensor([[100.0, 50, 300, 150]])
        picture = Image.effect_noise((1000, 500), 90).convert("RGB")
        return Sample("a.png", picture, Truth(box, torch.zeros(1, dtype=torch.long), ("1",), torch.zeros(1, dtype=torch.bool)))


def test_no_model_is_needed_and_the_picture_is_blurred(tmp_path):
    study = new_study(find_design("attention:blur=0.02"), OnePicture(), {}, (), tmp_path / "study", Recipe(1))
    assert read_study(tmp_path / "study") == study
    (question,) = study.questions
    files = (question.pictures["lens"], question.picture)
    sharp, blurred = (Image.open(tmp_path / "study" / PICTURES / file).convert("L") for file in files)
    assert sharp.size == blurred.size == (720, 360)
    assert np.std(blurred) < 0.2 * np.std(sharp)


def test_a_recording_by_hand(tmp_path):
    study = make_study(tmp_path, "attention")
    # The box is 0 to 0.4 and 0.1 to 0.9.
    samples = [[0, 0.2, 0.5], [1000, 0.6, 0.5], [1500, None, None], [4000, 0.1, 0.95]]
    (row,) = study.design.score(study.questions[0], LENS, {"samples": samples, "end": 4500})
    assert json.loads(row.pop("samples")) == samples
    assert row == {
        "condition": "lens",
        "seconds": 4.5,
        "uncovered_seconds": 2,
        "inside": 0.5,
        "box_area": pytest.approx(0.32),
    }


def test_an_instruction_is_followed_by_the_longest_look(tmp_path):
    study = make_study(tmp_path, "attention")
    for _, expected in (study.design.instruct(study.questions[0], 1, np.random.default_rng(seed)) for seed in range(6)):
        check = replace(study.checks[0], expected=expected)
        (_, x, y) = expected["samples"][0]
        on_the_way = [[0, 0.9, 0.9], [50, 0.1, 0.9], [99, 0.9, 0.1], [150, x + 0.1, y - 0.1]]
        assert study.design.follows(check, {"samples": on_the_way, "end": 900})
        assert not study.design.follows(check, {"samples": [[0, 1 - x, y], [500, x, y]], "end": 900})


def test_stronger_respondents_look_at_the_object_more(tmp_path):
    study = make_study(tmp_path, "attention")
    shares = []
    for strength in (0.0, 3.0):
        rng, rows = np.random.default_rng(0), []
        for _ in range(60):
            answer = study.design.answer_at_random(study.questions[0], LENS, {"lens": strength}, rng)
            rows += study.design.score(study.questions[0], LENS, answer)
        shares.append(np.mean([row["inside"] for row in rows]))
    # Without strength, as large as the box.
    assert shares == pytest.approx([0.32, 1 - np.exp(-3) * (1 - 0.32)], abs=0.06)


def test_a_file_in_pixels_of_the_image(tmp_path):
    study = make_study(tmp_path, "attention:kind=bubbles:radius=0.1:seconds=5", count=1, checks=0)
    with Answers(tmp_path / "answers.sqlite") as answers:
        place = answers.next_of(answers.begin(lambda number: plan_for(study, number)))
        answers.store(place, {"samples": [[3, 0.25, 0.5], [700, None, None]], "end": 1200}, 2000)
        (line,) = recordings(study, score_answers(study, answers)).splitlines()
    assert json.loads(line) == {
        "format": "whybox-pointer/1",
        "kind": "click",
        "participant": "people-0",
        "respondents": "people",
        "image": "0.png",
        "annotation_id": "1",
        "shown": [0, 0, 60, 40],
        "radius": 6,
        "samples": [[3, 15, 20], [700, None, None]],
        "end": 1200,
        "blur": 2.4,
        "limit": 5,
    }


def test_other_designs_record_nothing(tmp_path):
    study = make_study(tmp_path, "trust_ranking")
    assert recordings(study, None) == ""


def test_options_stand_in_the_study(tmp_path):
    study = make_study(tmp_path, "attention:kind=bubbles:box=false:seconds=7")
    assert read_study(tmp_path).design == study.design
    form = study.design.form(study.questions[0], Asked("q0", "bubbles"))
    assert (form["follows"], form["seconds"], form["box"]) == (False, 7, None)
    assert form["ask"] == "Look for what makes this a cat."
    assert ("time for a picture", "7 s") in study.design.facts
