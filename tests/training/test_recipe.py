"""Recipes: the rate over the steps, and what makes no sense."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from whybox.errors import WhyboxError
from whybox.training.recipe import Recipe, fabric_precision


def test_the_rate_warms_up_and_falls():
    recipe = Recipe(1000, lr=1.0, warmup=100)
    rates = [recipe.rate(step) for step in range(1000)]
    assert rates[0] == 0.01
    assert max(rates) == rates[99] == 1
    assert rates[-1] < 0.011
    assert rates[100:] == sorted(rates[100:], reverse=True)


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch": 0}, {"precision": "float16"}, {"accumulate": 0}])
def test_recipes_that_make_no_sense(change):
    with pytest.raises(WhyboxError):
        replace(Recipe(6), **change)


def test_precisions_by_their_names_and_by_fabrics():
    assert [fabric_precision(name) for name in ("float32", "bfloat16", "16-mixed")] == ["32-true", "bf16-mixed", "16-mixed"]
    with pytest.raises(
        WhyboxError, match=r"precision must be float32, bfloat16 or one of Fabric's names \(32-true, .*\), got 'int4'"
    ):
        fabric_precision("int4")


def test_a_batch_is_shared_out_without_a_rest():
    recipe = Recipe(6, batch=12, accumulate=2)
    assert [recipe.part(SimpleNamespace(world_size=count)) for count in (1, 2, 3)] == [6, 3, 2]
    with pytest.raises(
        WhyboxError, match="a batch of 12 cannot be divided among 4 processes with accumulate 2; choose a multiple of 8"
    ):
        recipe.part(SimpleNamespace(world_size=4))
