"""Paired differences and intervals held to plain loops, numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from runs.small_clip import make_clip
from whybox.accuracy.retrieval import retrieve
from whybox.errors import WhyboxError
from whybox.runs.clip_scores.compare import compare_scores, difference_table
from whybox.runs.clip_scores.intervals import bootstrap_groups
from whybox.runs.clip_scores.score import score_clip
from whybox.runs.clip_scores.tasks import unpack
from whybox.runs.statistics import bootstrap_mean

DATA = "scenes:count=5:size=96x64"


def scored(seed, **options):
    model = make_clip()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return score_clip(model, options.pop("data", DATA), **options)


@pytest.fixture(scope="module")
def runs():
    return [scored(seed) for seed in range(6)]


def test_the_mean_over_groups_and_its_interval():
    rng = np.random.default_rng(0)
    images, groups = rng.integers(0, 15, 200), rng.integers(0, 4, 200)
    values = (rng.random(200) < 0.2 + 0.2 * groups).astype(float)
    found = bootstrap_groups(values, images, groups, draws=4000)
    assert found.mean == pytest.approx(np.mean([values[groups == group].mean() for group in range(4)]))
    drawn = []
    for _ in range(4000):
        rows = np.concatenate([np.flatnonzero(images == image) for image in rng.integers(0, 15, 15)])
        drawn.append(np.mean([values[rows][groups[rows] == group].mean() for group in set(groups[rows])]))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.012)
    assert found.error == pytest.approx(np.std(drawn), rel=0.08)


def test_one_group_is_the_plain_bootstrap():
    rng = np.random.default_rng(1)
    values, images = rng.random(60), rng.integers(0, 20, 60)
    found, plain = bootstrap_groups(values, images, np.zeros(60)), bootstrap_mean(values, images)
    assert found[:3] == pytest.approx(plain)
    assert np.isnan(bootstrap_groups([0.5], ["a"], [""]).low)
    assert np.isnan(bootstrap_groups([], [], []).mean)


def test_the_difference_of_two_runs_is_that_of_their_means(runs):
    found = compare_scores(runs[1], runs[0])
    mine, theirs = (run.values() for run in runs[1::-1])
    assert found.keys() == mine.keys()
    for key, difference in found.items():
        ones, others = mine[key].mean().mean, theirs[key].mean().mean
        assert (difference.ones, difference.others) == ((pytest.approx(ones),), (pytest.approx(others),))
        assert difference.mean == pytest.approx(ones - others)
        assert difference.low <= difference.mean + 1e-9
        assert np.isnan(difference.seeds_low)
    gains = mine["boxes_top1"].values - theirs["boxes_top1"].values
    plain = bootstrap_mean(gains, mine["boxes_top1"].images)
    assert (found["boxes_top1"].low, found["boxes_top1"].high) == pytest.approx(plain[1:])


def test_a_run_does_not_differ_from_itself(runs):
    assert {(each.mean, each.low, each.high) for each in compare_scores(runs[0], runs[0]).values()} == {(0, 0, 0)}


@pytest.mark.parametrize("others", [slice(3, 6), slice(3, 4)])
def test_seeds_are_paired_one_by_one_or_with_a_single_run(runs, others):
    found = compare_scores(runs[:3], runs[others])
    for key in ("masks_top1", "boxes_macro_top1", "t2i_r1"):
        ones = [run.values()[key].mean().mean for run in runs[:3]]
        theirs = [run.values()[key].mean().mean for run in runs[others]]
        gains = np.subtract(ones, theirs)
        low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
        assert found[key].mean == pytest.approx(gains.mean())
        assert (found[key].seeds_low, found[key].seeds_high) == pytest.approx((low, high))
        assert found[key].seeds_detectable == pytest.approx((4.3027 + 1.0607) * stats.sem(gains), rel=1e-3)
        assert found[key].ones == pytest.approx(ones)


def test_one_run_against_several_is_their_negative(runs):
    there, back = compare_scores(runs[0], runs[3:6])["boxes_top1"], compare_scores(runs[3:6], runs[0])["boxes_top1"]
    assert (there.mean, there.low, there.seeds_low) == pytest.approx((-back.mean, -back.high, -back.seeds_high))


def test_retrieval_is_compared_among_the_images_of_both(runs):
    short = scored(1, limit=3)
    found = compare_scores(short, runs[0])["t2i_r1"]
    assert found.images == 3
    records = runs[0].folder.of("retrieval", short.images)
    images = np.concatenate([unpack(record["embedding"], 1) for record in records])
    texts = np.concatenate([unpack(record["texts"], len(record["captions"])) for record in records])
    named = [text for record in records for text in record["captions"]]
    belongs = [[text in record["captions"] for text in named] for record in records]
    assert found.others == (pytest.approx(retrieve(images @ texts.T, belongs).recalls()["t2i_r1"]),)


def test_what_only_one_run_has_is_left_out(runs):
    found = compare_scores(scored(1, tasks=["regions"]), runs[0])
    assert {key.split("_")[0] for key in found} == {"boxes", "masks"}


def test_the_table(runs):
    columns, rows = difference_table(compare_scores(runs[1], runs[0]))
    assert columns[:4] == ["measure", "%", "against", "difference"]
    assert [len(row) for row in rows] == [len(columns)] * len(rows)
    assert rows[0][0] == "boxes: top-1"
    assert rows[0][3][0] in "+-"


def test_what_cannot_be_compared_is_one_line(runs):
    with pytest.raises(WhyboxError, match="3 runs cannot be paired with 2"):
        compare_scores(runs[:3], runs[:2])
    with pytest.raises(WhyboxError, match="scored different data: they differ in annotations"):
        compare_scores(scored(1, data=f"{DATA}:seed=3", tasks=["regions"], limit=1), runs[0])
    with pytest.raises(WhyboxError, match="differ in captions per image"):
        compare_scores(scored(1, captions_per_image=1, tasks=["retrieval"], limit=1), runs[0])
    with pytest.raises(WhyboxError, match="share no image of a task"):
        compare_scores(scored(1, tasks=["regions"], limit=1), scored(2, tasks=["retrieval"], limit=1))
