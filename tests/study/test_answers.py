"""The file of answers: stored once, in order, by many at once."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from study.made_up import make_study
from whybox.errors import WhyboxError
from whybox.study.answers import CODE, LETTERS, Answers, ConflictError, NotFoundError
from whybox.study.folder import read_consent, read_study
from whybox.study.planning import plan_for
from whybox.study.respondents import simulate
from whybox.study.scored import score_answers


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path / "study", "discrimination", count=3)


@pytest.fixture
def answers(tmp_path):
    with Answers(tmp_path / "answers.sqlite") as opened:
        yield opened


def begin(study, answers):
    return answers.begin(lambda number: plan_for(study, number))


def test_a_person_from_the_first_question_to_the_last(study, answers):
    code = begin(study, answers)
    assert len(code) == CODE
    assert set(code) <= set(LETTERS)
    given = []
    while (place := answers.next_of(code)) is not None:
        assert place.place == len(given)
        assert answers.next_of(f" {code.lower()} ") == answers.next_of(code), "asked again, as after a closed tab"
        given.append({"choice": len(given) % 3, "confidence": 2})
        answers.store(place, given[-1], 1234)
    kept = answers.places(0)
    assert [place.answer for place in kept] == given
    assert all(place.asked_at <= place.answered_at and place.milliseconds == 1234 for place in kept)
    assert [place.asked for place in kept] == plan_for(study, 0)


def test_the_first_time_that_a_question_is_shown_is_kept(study, answers):
    code = begin(study, answers)
    answers.next_of(code)
    first = answers.places(0)[0].asked_at
    answers.next_of(code)
    assert answers.places(0)[0].asked_at == first


def test_an_answer_is_neither_changed_nor_given_ahead(study, answers):
    code = begin(study, answers)
    place = answers.next_of(code)
    answers.store(place, {"choice": 1, "confidence": 2}, 5)
    answers.store(place, {"choice": 1, "confidence": 2}, 9)
    assert answers.places(0)[0].milliseconds == 5, "sent twice, as after a lost reply"
    with pytest.raises(ConflictError, match="question 1 is answered already"):
        answers.store(place, {"choice": 0, "confidence": 2})
    with pytest.raises(ConflictError, match="question 3 has not been asked"):
        answers.store(answers.place_of(code, 2), {"choice": 0, "confidence": 2})
    assert [place.answer is None for place in answers.places(0)] == [False, True, True, True]


def test_codes_and_places_that_are_not_there(study, answers):
    code = begin(study, answers)
    for wrong in ("", "ABC", "' OR 1=1 --"):
        with pytest.raises(NotFoundError, match="nobody has this code"):
            answers.next_of(wrong)
    for place in (-1, 4):
        with pytest.raises(NotFoundError):
            answers.place_of(code, place)


def test_many_at_once_through_two_connections(study, tmp_path):
    file = tmp_path / "answers.sqlite"

    def take_part(opened):
        code = begin(study, opened)
        while (place := opened.next_of(code)) is not None:
            opened.store(place, {"choice": 0, "confidence": 1})
        return code

    with Answers(file) as first, Answers(file) as second, ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(take_part, [first, second] * 6))
        assert len(set(codes)) == 12
        assert [person.number for person in first.people()] == list(range(12))
        assert all(place.answer is not None for person in first.people() for place in first.places(person.number))


def test_an_open_file_is_in_wal_mode(answers, tmp_path):
    other = sqlite3.connect(tmp_path / "answers.sqlite")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


def test_what_is_no_file_of_answers(tmp_path):
    (tmp_path / "bad.sqlite").write_text("nothing of the kind" * 100)
    with pytest.raises(WhyboxError, match="cannot be opened as a file of answers"):
        Answers(tmp_path / "bad.sqlite")
    with pytest.raises(WhyboxError, match="nobody has taken part"):
        Answers(tmp_path / "none.sqlite", read_only=True)


def test_who_counts(study, tmp_path):
    folder = tmp_path / "study"
    simulate(study, folder, 4, careless=0.0)
    simulate(study, folder, 10, careless=1.0, seed=1)
    with Answers(folder / "answers.sqlite") as answers:
        scored = score_answers(study, answers)
        assert (scored.respondents, scored.unfinished, scored.others) == ("simulated", 0, 0)
        # Some follow an instruction by chance: one of 15.
        assert scored.counted + scored.inattentive == 14
        assert scored.inattentive > 6
        assert {row["respondents"] for row in scored.rows} == {"simulated"}
        assert not any(row["question"].startswith("check") for row in scored.rows)
        assert len(scored.rows) == 3 * scored.counted
        # A person who has begun is one, and is not finished.
        code = begin(study, answers)
        with pytest.raises(WhyboxError, match=r"no person finished .*1 not finished"):
            score_answers(study, answers)
        while (place := answers.next_of(code)) is not None:
            answers.store(place, {"choice": 2, "confidence": 5})
        scored = score_answers(study, answers)
        assert (scored.respondents, scored.counted, scored.others) == ("people", 1, 14)
        assert score_answers(study, answers, simulated=True).respondents == "simulated"


def test_the_same_seed_the_same_respondents(study, tmp_path):
    kept = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        simulate(study, tmp_path / name, 3, seed=7)
        with Answers(tmp_path / name / "answers.sqlite") as answers:
            kept.append([place.answer for number in range(3) for place in answers.places(number)])
    assert kept[0] == kept[1]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"count": 0}, "at least one"),
        ({"careless": 2}, "share from 0 to 1"),
        ({"strength": {"odam": 1}}, "a strength for each of odam, gradcam"),
    ],
)
def test_respondents_that_cannot_be(study, tmp_path, options, line):
    with pytest.raises(WhyboxError, match=line):
        simulate(study, tmp_path, **{"count": 1, **options})


def test_a_study_is_read_as_it_was_written(study, tmp_path):
    folder = tmp_path / "study"
    assert read_study(folder) == study
    assert read_consent(folder) == [
        {"kind": "heading", "text": "Hello"},
        {"kind": "paragraph", "text": "Read this, please."},
        {"kind": "item", "text": "You can stop"},
        {"kind": "item", "text": "at any time and go on."},
    ]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda text: "{", "not JSON"),
        (lambda text: "[]", "not a study"),
        (lambda text: text.replace('"schema": 1', '"schema": 9'), "schema 1"),
        (lambda text: text.replace('"per_person"', '"per_peson"'), "misspelled entry"),
        (lambda text: text.replace('"item"', '"itm"'), "misspelled entry"),
        (lambda text: text.replace("discrimination", "discriminate"), "did you mean discrimination"),
        (lambda text: text.replace('.jpg"', '/../../x.jpg"'), "no file name"),
        (lambda text: text.replace('.jpg"', '.png"'), "pictures are not there"),
    ],
)
def test_a_broken_study_is_one_line(study, tmp_path, change, line):
    file = tmp_path / "study" / "study.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(WhyboxError, match=line):
        read_study(tmp_path / "study")


def test_a_folder_without_a_study_or_a_text(study, tmp_path):
    with pytest.raises(WhyboxError, match="whybox study new"):
        read_study(tmp_path)
    (tmp_path / "study" / "consent.md").write_text(" \n")
    with pytest.raises(WhyboxError, match="must agree"):
        read_consent(tmp_path / "study")
