"""Simulated respondents: random answers from a seed, stored as people's are, and named as simulated wherever they appear."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from whybox.errors import WhyboxError
from whybox.progress import OnProgress, no_progress
from whybox.study.answers import SIMULATED, Answers
from whybox.study.folder import ANSWERS, Study
from whybox.study.planning import plan_for

SPREAD = 0.4
"""Standard deviation of a strength between respondents."""
STEP = 0.8
"""From one condition's default strength to the next."""
CARELESS = 0.05
"""The default share of respondents who do not read instructions."""


def default_strength(study: Study) -> dict[str, float]:
    """Strengths that say nothing of the conditions: the first is the strongest, because it comes first.

    Args:
        study: The study.

    Returns:
        By condition.
    """
    return {name: STEP * (len(study.conditions) - 1 - i) for i, name in enumerate(study.conditions)}


def simulate(
    study: Study,
    folder: Path,
    count: int,
    *,
    strength: Mapping[str, float] | None = None,
    careless: float = CARELESS,
    seed: int = 0,
    on_progress: OnProgress = no_progress,
) -> list[str]:
    """Answer a study by chance; nobody is asked, and nothing is learned of the maps. It tests a study from end to end.

    Args:
        study: The study.
        folder: Its folder.
        count: Number of respondents.
        strength: By condition, 0 for one that tells nothing; None: `default_strength`.
        careless: The share of respondents who do not follow the instructions of attention checks.
        seed: Of their answers.
        on_progress: Called after each respondent.

    Returns:
        Their codes.

    Raises:
        WhyboxError: A strength is of no condition, or a number is out of range.
    """
    if count < 1 or not 0 <= careless <= 1:
        raise WhyboxError(f"expected at least one respondent and a share from 0 to 1, got {count} and {careless}")
    told = default_strength(study) if strength is None else dict(strength)
    if set(told) != set(study.conditions):
        raise WhyboxError(f"expected a strength for each of {', '.join(study.conditions)}, got {', '.join(told) or 'none'}")
    codes = []
    with Answers(folder / ANSWERS) as answers:
        for _ in range(count):
            codes.append(answers.begin(lambda number: plan_for(study, number), respondents=SIMULATED))
            _answer(study, answers, codes[-1], told, careless, np.random.default_rng([seed, len(codes)]))
            on_progress(codes[-1], 1)
    return codes


def _answer(
    study: Study, answers: Answers, code: str, strength: Mapping[str, float], careless: float, rng: np.random.Generator
) -> None:
    own = {name: value + float(rng.normal(0, SPREAD)) for name, value in strength.items()}
    reads = rng.random() >= careless
    while (place := answers.next_of(code)) is not None:
        question = study.by_key[place.asked.question]
        if question.instruction and reads:
            answer = dict(question.expected)
        else:
            answer = study.design.answer_at_random(question, place.asked, own, rng)
        answers.store(place, study.design.check(question, place.asked, answer), int(1000 * rng.lognormal(2, 0.5)))
