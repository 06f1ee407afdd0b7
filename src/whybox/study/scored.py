"""Scored answers: one row per rated condition of an answer, of those who finished and passed the attention checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whybox.errors import WhyboxError
from whybox.study.answers import PEOPLE, SIMULATED, Answers, Person, Place
from whybox.study.design import Row
from whybox.study.folder import Study


@dataclass(frozen=True)
class Scored:
    """The answers that count, and who is left out.

    Attributes:
        respondents: "people" or "simulated"; never both.
        rows: One per rated condition of each answer to a question that is no attention check.
        counted: How many took part, finished and passed.
        unfinished: How many stopped before the end.
        inattentive: How many finished, but failed too many attention checks.
        others: How many of the other kind of respondents are in the file, and not here.
    """

    respondents: str
    rows: Sequence[Row]
    counted: int
    unfinished: int
    inattentive: int
    others: int

    @property
    def simulated(self) -> bool:
        """Whether nobody was asked."""
        return self.respondents == SIMULATED


def score_answers(study: Study, answers: Answers, *, simulated: bool | None = None) -> Scored:
    """Score the answers of a study.

    Args:
        study: The study.
        answers: Its answers.
        simulated: Whether of simulated respondents; None: of people, and of simulated ones where no people took part.

    Returns:
        The scored answers.

    Raises:
        WhyboxError: Nobody of that kind finished and passed, or an answer is of a question that the study does not have.
    """
    people = answers.people()
    if simulated is None:
        simulated = not any(person.respondents == PEOPLE for person in people)
    wanted = SIMULATED if simulated else PEOPLE
    rows: list[Row] = []
    counted = unfinished = inattentive = 0
    for person in people:
        if person.respondents != wanted:
            continue
        places = answers.places(person.number)
        if any(place.answer is None for place in places):
            unfinished += 1
        elif _failures(study, places) > study.failures_allowed:
            inattentive += 1
        else:
            counted += 1
            rows += [row for place in places for row in _rows(study, person, place)]
    if not counted:
        who = "simulated respondent" if simulated else "person"
        left = f"{unfinished} not finished, {inattentive} failed"
        hint = "" if simulated else "; of simulated respondents: --simulated"
        raise WhyboxError(f"no {who} finished and passed the attention checks ({left}){hint}")
    others = sum(person.respondents != wanted for person in people)
    return Scored(wanted, rows, counted, unfinished, inattentive, others)


def _failures(study: Study, places: Sequence[Place]) -> int:
    checks = {question.key: question for question in study.checks}
    asked = [(checks[place.asked.question], place) for place in places if place.asked.question in checks]
    return sum(not study.design.follows(question, place.answer or {}) for question, place in asked)


def _rows(study: Study, person: Person, place: Place) -> list[Row]:
    question = study.by_key.get(place.asked.question)
    if question is None or place.answer is None:
        raise WhyboxError(f"there is an answer to {place.asked.question}, which study.json does not have")
    if question.instruction:
        return []
    about: dict[str, Any] = {"respondents": person.respondents, "person": f"{person.respondents}-{person.number}"}
    about |= {"question": question.key, "item": question.item, "image": question.image, "class": question.label}
    about |= {"size": question.size, "place": place.place + 1}
    times = {"asked_at": place.asked_at, "answered_at": place.answered_at, "milliseconds": place.milliseconds}
    return [{**about, **row, **times} for row in study.design.score(question, place.asked, place.answer)]
