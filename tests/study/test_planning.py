"""Who is asked what: seeded, balanced over people, conditions and objects."""

from collections import Counter

import numpy as np
import pytest

from study.made_up import make_study
from whybox.study.design import Candidate
from whybox.study.planning import plan_for
from whybox.study.sampling import balanced, size_bounds, size_of


def test_the_same_person_gets_the_same_plan(tmp_path):
    study = make_study(tmp_path, "trust_ranking", checks=2)
    assert plan_for(study, 5) == plan_for(study, 5)
    assert plan_for(study, 5) != plan_for(study, 6)


@pytest.mark.parametrize("per_person", [2, 4, 6])
def test_conditions_and_objects_are_asked_equally_often(tmp_path, per_person):
    study = make_study(tmp_path, "discrimination", per_person=per_person, checks=0)
    # As many people as give each object each condition twice.
    people = 6 * 3 * 2 // per_person
    plans = [plan_for(study, number) for number in range(people)]
    pairs = Counter((asked.question, asked.condition) for plan in plans for asked in plan)
    assert set(pairs.values()) == {2}
    assert len(pairs) == 18
    for plan in plans:
        assert len({asked.question for asked in plan}) == per_person
        each = Counter(asked.condition for asked in plan)
        # One more where the person's questions begin the list again.
        assert max(each.values()) - min(each[name] for name in study.conditions) <= (2 if per_person == 4 else 1)


@pytest.mark.parametrize("checks", [1, 2, 6])
def test_checks_are_spread_and_never_first(tmp_path, checks):
    study = make_study(tmp_path, "trust_ranking", checks=checks)
    seen = set()
    for number in range(40):
        plan = plan_for(study, number)
        places = [i for i, asked in enumerate(plan) if asked.question.startswith("check")]
        assert len(plan) == 6 + checks
        assert len(places) == checks
        assert places[0] > 0
        seen.add(tuple(places))
    assert len(seen) > 1 or checks == 6


def test_maps_come_in_every_order(tmp_path):
    study = make_study(tmp_path, "trust_ranking", checks=0)
    orders = Counter(asked.order for number in range(60) for asked in plan_for(study, number))
    assert len(orders) == 6
    assert min(orders.values()) > 30


def candidate(i, label, area, kind=""):
    return Candidate(f"{i}.png", "object 0", label, area, (0,), kind)


def test_objects_are_balanced_by_class_then_by_size_and_kind():
    rng = np.random.default_rng(0)
    many = [candidate(i, "cat", 0.01 * (i % 30 + 1), "right" if i % 5 else "wrong") for i in range(90)]
    few = [candidate(100 + i, "dog", 0.3) for i in range(5)]
    bounds = size_bounds([one.area for one in many])
    drawn = balanced([*many, *few], 20, bounds, rng)
    assert Counter(one.label for one in drawn) == {"cat": 15, "dog": 5}
    cats = Counter((size_of(one.area, bounds), one.kind) for one in drawn if one.label == "cat")
    assert len(cats) == 6
    assert max(cats.values()) - min(cats.values()) <= 1
    # Any beginning is balanced, too: people get parts of it.
    assert Counter(one.label for one in drawn[:10]) == {"cat": 5, "dog": 5}
    assert balanced(few, 20, bounds, rng) != few[:4]
    assert len(balanced(few, 20, bounds, rng)) == 5
    assert balanced([*many, *few], 20, bounds, np.random.default_rng(1)) == balanced(
        [*many, *few], 20, bounds, np.random.default_rng(1)
    )
