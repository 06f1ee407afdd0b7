"""Which questions a person gets, in which order, and how each is shown."""

import numpy as np

from whybox.study.design import Asked, Question
from whybox.study.folder import Study


def plan_for(study: Study, number: int) -> list[Asked]:
    """The questions of one person: a function of the study and the person's number alone.

    Person after person takes the next questions of the list, and begins it again at its end, so that all are asked equally often.
    Where one condition is shown, a question has the next condition in every round, and neighbors in the list have different ones
    (a Latin square): a person meets all conditions equally often, to within one, or two where the list begins again.

    Args:
        study: The study.
        number: Of the person, from 0.

    Returns:
        The questions in their order, attention checks among them, never as the first.
    """
    rng = np.random.default_rng([study.seed, number])
    count = len(study.questions)
    taken = range(number * study.per_person, (number + 1) * study.per_person)
    asked = [_asked(study, study.questions[i % count], i % count + i // count, rng) for i in taken]
    asked = [asked[i] for i in rng.permutation(len(asked))]
    # From the back, so that the places before them stay valid; evenly spread, and each moved by chance inside its part.
    for i in reversed(range(len(study.checks))):
        low, high = ((i + part) * len(asked) // len(study.checks) for part in (0, 1))
        asked.insert(int(rng.integers(low, max(high, low + 1))) + 1, _asked(study, study.checks[i], i, rng))
    return asked


def _asked(study: Study, question: Question, turn: int, rng: np.random.Generator) -> Asked:
    if not study.design.side_by_side:
        return Asked(question.key, study.conditions[turn % len(study.conditions)])
    return Asked(question.key, "", tuple(study.conditions[i] for i in rng.permutation(len(study.conditions))))
