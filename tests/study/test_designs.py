"""Each design: what an answer is, what is refused, how it is scored, and that the page is told nothing that it must not know."""

import json

import numpy as np
import pytest

from study.made_up import BOXES, METHODS, make_study
from whybox.errors import WhyboxError
from whybox.study.design import Asked
from whybox.study.designs import DESIGNS, find_design
from whybox.study.planning import plan_for


@pytest.fixture(params=list(DESIGNS))
def study(request, tmp_path):
    return make_study(tmp_path, request.param)


def one(study):
    question = study.questions[1]
    asked = next(asked for asked in plan_for(study, 0) if asked.question == question.key)
    return question, asked


def test_the_form_tells_neither_conditions_nor_the_right_answer(study):
    question, asked = one(study)
    told = json.dumps(study.design.form(question, asked))
    assert "right" not in told
    if not study.design.compares:
        return
    assert not any(condition in told for condition in study.conditions)
    assert told.count('"label"') == study.design.options(question) + (study.design.name == "better_detector")


def test_an_instruction_and_a_simulated_answer_are_answers(study):
    question, asked = one(study)
    rng = np.random.default_rng(0)
    for _ in range(20):
        instruction, expected = study.design.instruct(question, study.design.options(question), rng)
        assert instruction.startswith("Do not")
        assert study.design.check(question, asked, expected) == expected
        answer = study.design.answer_at_random(question, asked, dict.fromkeys(study.conditions, 1.0), rng)
        assert study.design.check(question, asked, json.loads(json.dumps(answer))) == answer


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        1,
        "A",
        {},
        {"choice": -1},
        {"choice": 99},
        {"choice": True},
        {"choice": 1.0},
        {"ranks": "123"},
        {"ranks": [1, 1, 2]},
        {"ranks": [1, 2]},
        {"ranks": [True, 2, 3]},
        {"ranks": [None, 2, 3]},
        {"choice": 3, "confidence": 1},
        {"samples": [[0, 0.5, 0.5]], "end": True},
        {"samples": [[0, None, None]], "end": 9},
        {"samples": [[9, 0.5, 0.5], [8, 0.5, 0.5]], "end": 9},
        {"samples": [[0, 0.5, 1]], "end": 9},
        {"samples": [[0, 0.5, float("nan")]], "end": 9},
        {"samples": [[0, None, 0.5]], "end": 9},
        {"samples": [[0, 0.5, 0.5]] * 10_001, "end": 9},
        {"samples": [[5, 0.5, 0.5]], "end": 4},
        {"samples": [[0, 0.5, 0.5]], "end": 12_001},
    ],
)
def test_what_is_no_answer_is_refused_in_one_line(study, answer):
    question, asked = one(study)
    with pytest.raises(WhyboxError, match="must be"):
        study.design.check(question, asked, answer)


@pytest.mark.parametrize("name", ["discrimination", "forward_simulation"])
@pytest.mark.parametrize("confidence", [0, 6, "5", None])
def test_a_confidence_is_one_of_five(tmp_path, name, confidence):
    study = make_study(tmp_path, name)
    with pytest.raises(WhyboxError, match="confidence must be a whole number from 1 to 5"):
        study.design.check(study.questions[0], Asked("q0", "odam"), {"choice": 0, "confidence": confidence})


def test_ranks_go_to_the_methods_that_were_shown(tmp_path):
    study = make_study(tmp_path, "trust_ranking")
    asked = Asked("q0", "", METHODS[::-1])
    rows = study.design.score(study.questions[0], asked, {"ranks": [3, 1, 2]})
    assert {row["condition"]: row["rank"] for row in rows} == {"drise:masks=500": 3, "gradcam": 1, "odam": 2}


def test_the_chosen_detector(tmp_path):
    study = make_study(tmp_path, "better_detector")
    chosen = [study.design.score(study.questions[0], Asked("q0", "", ("new", "old")), {"choice": i})[0] for i in range(3)]
    assert [row["chosen"] for row in chosen] == ["new", "old", "no difference"]
    assert {row["first"] for row in chosen} == {"new"}


def test_a_choice_is_right_or_wrong(tmp_path):
    study = make_study(tmp_path, "discrimination")
    (row,) = study.design.score(study.questions[2], Asked("q2", "odam"), {"choice": 2, "confidence": 4})
    assert row == {
        "condition": "odam",
        "chosen": "box 3",
        "right": "box 3",
        "correct": 1,
        "confidence": 4,
        "chance": 1 / len(BOXES),
    }
    (row,) = study.design.score(study.questions[2], Asked("q2", "odam"), {"choice": 0, "confidence": 4})
    assert row["correct"] == 0


def test_names_of_designs():
    assert find_design("trust-ranking").name == "trust_ranking"
    with pytest.raises(WhyboxError, match="did you mean trust_ranking"):
        find_design("trust_rank")
