"""The tables, tests and plans of each design, from scored answers."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from whybox.ops.corrections import holm
from whybox.report.study import StudyCell, StudyColumn, StudyPlan, StudyTable, StudyTest
from whybox.study.design import CONFIDENCES, Row
from whybox.study.designs.better_detector import NEITHER
from whybox.study.folder import Study
from whybox.study.sampling import SIZES
from whybox.study.scored import Scored
from whybox.study.statistics import (
    ALPHA,
    Tested,
    chi_square_of_counts,
    chi_square_of_table,
    crossed_means,
    detectable,
    friedman,
    paired_t,
    power_of_chi_square,
    power_of_t,
    smallest,
    wilcoxon,
)

Floats = NDArray[np.float64]
INTERVAL = "In brackets or small: 95 % interval of a bootstrap over people and over objects."


@dataclass(frozen=True)
class Compared:
    """What is said of the answers.

    Attributes:
        tables: The tables.
        tests: The tests, corrected.
        plans: How many people a next study needs.
    """

    tables: list[StudyTable]
    tests: list[StudyTest]
    plans: list[StudyPlan]


def compare(study: Study, scored: Scored) -> Compared:
    """Compare the conditions of a study.

    Args:
        study: The study.
        scored: Its answers.

    Returns:
        Tables, tests and plans.
    """
    kinds: Mapping[str, Callable[[Study, Scored], Compared]] = {
        "trust_ranking": _ranks,
        "better_detector": _choices,
        "attention": _looks,
    }
    compared = kinds.get(study.design.name, _right_or_wrong)(study, scored)
    return replace(compared, tests=corrected(compared.tests))


def corrected(tests: Sequence[StudyTest]) -> list[StudyTest]:
    """Correct p-values by Holm's procedure, each family of tests by itself.

    Args:
        tests: The tests.

    Returns:
        The tests with `corrected`.
    """
    done = list(tests)
    for family in dict.fromkeys(test.family for test in tests):
        places = [i for i, test in enumerate(tests) if test.family == family]
        for i, p in zip(places, holm([tests[i].p for i in places]), strict=True):
            done[i] = replace(tests[i], corrected=float(p))
    return done


# ---- trust ranking -------------------------------------------------------------------------------------------------


def _ranks(study: Study, scored: Scored) -> Compared:
    """Table 4 of the ODAM paper: shares of ranks and the average rank."""
    names, rows = study.conditions, scored.rows
    places = range(1, len(names) + 1)
    columns = [*(StudyColumn(f"rank {place}, %", 1, share=True) for place in places), StudyColumn("average rank", 2)]
    table = []
    for name in names:
        own = [row for row in rows if row["condition"] == name]
        values = [[100.0 * (row["rank"] == place) for place in places] + [row["rank"]] for row in own]
        table.append((name, [*_cells(values, own), StudyCell(len(own))]))
    columns.append(StudyColumn("answers", 0, drawn=False))
    note = f"Of all answers; 1 is the most trusted map. {INTERVAL}"
    tables = [StudyTable("ranks", "Ranks", columns, table, note), *_by_size(rows, names, "rank", "average rank", 1.0)]
    counts = [[sum(row["condition"] == name and row["rank"] == place for row in rows) for place in places] for name in names]
    means = _means_of_people(rows, names, "rank")
    # Of two methods it is the sign test, and the tests of pairs below say more.
    several = [_told(friedman(means), "average ranks of all methods", "people", "all")] if len(names) > 2 else []
    tests = [
        _told(chi_square_of_table(counts), "ranks of all methods", "answers", "all"),
        *several,
        *_pairs(means, names, "average rank"),
    ]
    return Compared(tables, tests, _plans(means, names, "average rank"))


# ---- better detector -----------------------------------------------------------------------------------------------


def _choices(study: Study, scored: Scored) -> Compared:
    """How often each model is chosen."""
    names, rows = (*study.conditions, NEITHER), scored.rows
    first, second = study.conditions
    cells = _cells([[100.0 * (row["chosen"] == name) for name in names] for row in rows], rows)
    counts = [sum(row["chosen"] == name for row in rows) for name in names]
    table = [(name, [cell, StudyCell(count)]) for name, cell, count in zip(names, cells, counts, strict=True)]
    columns = [StudyColumn("chosen, %", 1), StudyColumn("answers", 0, drawn=False)]
    tables = [StudyTable("choices", "Choices", columns, table, f"Of all answers. {INTERVAL}")]
    by_person = _choices_of_people(rows, (first, second))
    decided = [row for row in rows if row["chosen"] != NEITHER]
    at_first = sum(row["chosen"] == row["first"] for row in decided)
    what = f"{first} or {second}"
    tests = [
        _told(chi_square_of_counts(counts[:2]), f"{what}, of those who decided", "answers", "chosen"),
        _told(wilcoxon(by_person[:, 0], by_person[:, 1]), f"{what}, shares of each person", "people", "chosen, Wilcoxon"),
        _told(paired_t(by_person[:, 0], by_person[:, 1]), f"{what}, shares of each person", "people", "chosen, t"),
        _told(chi_square_of_counts([at_first, len(decided) - at_first]), "the first shown or the second", "answers", "place"),
    ]
    plans = [_plan(what, tests[2].effect, scored.counted, 1), _plan_answers(what, tests[0].effect, len(decided) / scored.counted)]
    return Compared(tables, tests, plans)


def _choices_of_people(rows: Sequence[Row], names: tuple[str, str]) -> Floats:
    """(people, 2): the share of each person's answers that chose each model."""
    people = sorted({row["person"] for row in rows})
    shares = [
        [np.mean([row["chosen"] == name for row in rows if row["person"] == person]) for name in names] for person in people
    ]
    return np.asarray(shares, np.float64).reshape(-1, 2)


# ---- discrimination, forward simulation ----------------------------------------------------------------------------


def _right_or_wrong(study: Study, scored: Scored) -> Compared:
    """Table 5 of the ODAM paper: shares of confidences, average confidence, accuracy."""
    names, rows = study.conditions, scored.rows
    steps = range(1, CONFIDENCES + 1)
    columns = [StudyColumn(f"confidence {step}, %", 1, share=True) for step in steps]
    columns += [StudyColumn("average confidence", 2), StudyColumn("right, %", 1), StudyColumn("chance, %", 1, drawn=False)]
    columns.append(StudyColumn("answers", 0, drawn=False))
    table = []
    for name in names:
        own = [row for row in rows if row["condition"] == name]
        values = [[100.0 * (row["confidence"] == step) for step in steps] for row in own]
        values = [[*shares, row["confidence"], 100.0 * row["correct"]] for shares, row in zip(values, own, strict=True)]
        chance = 100 * float(np.mean([row["chance"] for row in own])) if own else math.nan
        table.append((name, [*_cells(values, own, len(columns) - 2), StudyCell(chance), StudyCell(len(own))]))
    tables = [StudyTable("answers", "Confidence and accuracy", columns, table, f"Of all answers. {INTERVAL}")]
    tables += _by_size(rows, names, "correct", "right, %", 100.0)
    right = [[sum(row["condition"] == name and row["correct"] == value for row in rows) for value in (1, 0)] for name in names]
    sure = [[sum(row["condition"] == name and row["confidence"] == step for row in rows) for step in steps] for name in names]
    accuracy, confidence = (_means_of_people(rows, names, key) for key in ("correct", "confidence"))
    luck = _means_of_people(rows, names, "chance")
    tests = [
        _told(chi_square_of_table(right), "right answers of all conditions", "answers", "all right"),
        _told(chi_square_of_table(sure), "confidences of all conditions", "answers", "all confidence"),
        *(
            _told(paired_t(accuracy[:, i], luck[:, i]), f"{name}: right answers or chance", "people", "chance")
            for i, name in enumerate(names)
        ),
        *_pairs(accuracy, names, "right answers"),
        *_pairs(confidence, names, "confidence"),
    ]
    return Compared(tables, tests, _plans(accuracy, names, "right answers"))


# ---- attention -----------------------------------------------------------------------------------------------------


def _looks(study: Study, scored: Scored) -> Compared:
    """How long people looked, and how much of it at the object; a description, of which nothing is tested."""
    columns = [StudyColumn("seconds", 1, drawn=False), StudyColumn("uncovered, s", 1, drawn=False)]
    columns += [
        StudyColumn("inside the box, %", 1),
        StudyColumn("area of the box, %", 1),
        StudyColumn("recordings", 0, drawn=False),
    ]
    rows = scored.rows
    values = [[row["seconds"], row["uncovered_seconds"], 100 * row["inside"], 100 * row["box_area"]] for row in rows]
    table = [(name, [*_cells(values, rows), StudyCell(len(rows))]) for name in study.conditions]
    note = f"Of all recordings; inside the box is the share of the uncovered time, and by chance it is the box's area. {INTERVAL}"
    return Compared([StudyTable("looks", "Looks", columns, table, note)], [], [])


# ---- what they share -----------------------------------------------------------------------------------------------


def _cells(values: Sequence[Sequence[float]], rows: Sequence[Row], columns: int = 0) -> list[StudyCell]:
    """Means of columns with intervals over people and items; of no rows, as many undefined ones as there are `columns`."""
    if not rows:
        return [StudyCell(math.nan)] * columns
    found = crossed_means(values, [row["person"] for row in rows], [row["item"] for row in rows])
    return [StudyCell(*estimate) for estimate in found]


def _by_size(rows: Sequence[Row], names: Sequence[str], key: str, title: str, scale: float) -> list[StudyTable]:
    """A number for small, medium and large objects; none where all have one size."""
    sizes = [size for size in SIZES if any(row["size"] == size for row in rows)]
    if len(sizes) < 2:
        return []
    table = []
    for name in names:
        cells = []
        for size in sizes:
            own = [row for row in rows if row["condition"] == name and row["size"] == size]
            cells += _cells([[scale * row[key]] for row in own], own, 1)
        table.append((name, cells))
    columns = [StudyColumn(f"{size} objects", 2 if scale == 1 else 1) for size in sizes]
    return [StudyTable("sizes", f"By size of the object: {title}", columns, table, INTERVAL)]


def _means_of_people(rows: Sequence[Row], names: Sequence[str], key: str) -> Floats:
    """(people, conditions): a person's mean; NaN where a person did not meet the condition."""
    people = {person: i for i, person in enumerate(sorted({row["person"] for row in rows}))}
    place = {name: i for i, name in enumerate(names)}
    sums, counts = np.zeros((2, len(people), len(names)))
    for row in rows:
        sums[people[row["person"]], place[row["condition"]]] += row[key]
        counts[people[row["person"]], place[row["condition"]]] += 1
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _pairs(means: Floats, names: Sequence[str], what: str) -> list[StudyTest]:
    """Wilcoxon and t tests of every pair of conditions over people."""
    kinds: Sequence[tuple[str, Callable[[Floats, Floats], Tested]]] = (("Wilcoxon", wilcoxon), ("t", paired_t))
    return [
        _told(test(means[:, i], means[:, j]), f"{names[i]} or {names[j]}: {what}", "people", f"{what}, {kind}")
        for kind, test in kinds
        for i, j in combinations(range(len(names)), 2)
    ]


def _told(test: Tested, question: str, unit: str, family: str) -> StudyTest:
    numbers = (test.statistic, test.freedom, test.p, test.p, test.effect)
    return StudyTest(question, test.name, *numbers, test.measure, test.count, unit, family, test.note)


def _plans(means: Floats, names: Sequence[str], what: str) -> list[StudyPlan]:
    """For every pair of conditions, the people that a t test needs."""
    pairs = list(combinations(range(len(names)), 2))
    tests = [paired_t(means[:, i], means[:, j]) for i, j in pairs]
    return [
        _plan(f"{names[i]} or {names[j]}: {what}", test.effect, test.count, len(pairs))
        for (i, j), test in zip(pairs, tests, strict=True)
    ]


def _plan(question: str, effect: float, people: int, comparisons: int) -> StudyPlan:
    needed = [_people(effect, alpha) for alpha in (ALPHA, ALPHA / comparisons)]
    return StudyPlan(question, effect, "Cohen's d", needed[0], needed[1], detectable(people))


def _people(effect: float, alpha: float) -> int | None:
    return None if math.isnan(effect) else smallest(lambda people: power_of_t(effect, people, alpha))


def _plan_answers(question: str, effect: float, answers_each: float) -> StudyPlan:
    """People for a chi-square test of two counts: as many as give the answers that it needs."""
    answers = None if math.isnan(effect) else smallest(lambda count: power_of_chi_square(effect, count))
    people = None if answers is None or not answers_each else math.ceil(answers / answers_each)
    return StudyPlan(f"{question}, of those who decided", effect, "Cohen's w", people, people, math.nan)
