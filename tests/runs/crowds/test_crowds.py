"""Candidates of annotated images, rules compared on them, and weights fitted to them."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import whybox
from whybox.duplicates import make_rule
from whybox.errors import WhyboxError
from whybox.runs.crowds.candidates import ImageCandidates, collect_candidates
from whybox.runs.crowds.comparison import by_class, choose, compare, merit, settings_of
from whybox.runs.crowds.fitting import collect_pairs, fit_logistic, fit_rule, weighted_auroc

DATA = "scenes:variant=crowd:count=4:seed=11"


def fail(line):
    raise AssertionError(line)


@pytest.fixture(scope="module")
def crowds():
    """Candidates of the shipped detector on a few crowds, with maps."""
    return list(collect_candidates(whybox.load("whybox/scenes"), whybox.open_data(DATA), maps=True, most=150, on_warning=fail))


def by_hand(**changes):
    """Two people side by side, each found twice, a region that does not count, and a dog."""
    given = {
        "name": "a",
        "boxes": torch.tensor(
            [[0.0, 0, 10, 20], [6, 0, 16, 20], [1, 0, 11, 20], [6, 1, 16, 21], [80, 80, 90, 90], [0, 0, 10, 20]]
        ),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
        "labels": torch.tensor([1, 1, 1, 1, 1, 2]),
        "maps": None,
        "embeddings": None,
        "truth": torch.tensor([[0.0, 0, 10, 20], [6, 0, 16, 20], [70, 70, 100, 100]]),
        "columns": torch.tensor([1, 1, 1]),
        "ignore": torch.tensor([False, False, True]),
        "size": (100, 100),
    }
    return ImageCandidates(**{**given, **changes})


def test_owners_and_what_is_excused():
    case = by_hand()
    assert case.owners().tolist() == [0, 1, 0, 1, -1, -1]
    assert case.excused().tolist() == [False, False, False, False, True, False]
    nothing = by_hand(truth=torch.zeros(0, 4), columns=torch.zeros(0, dtype=torch.long), ignore=torch.zeros(0, dtype=torch.bool))
    assert nothing.owners().tolist() == [-1] * 6
    assert not nothing.excused().any()


def test_pairs_are_of_first_candidates():
    """Box 0 with its twin 2 and its neighbor 1, box 1 with its twin 3: nothing else is decided."""
    pairs = collect_pairs([by_hand()], maps=False)
    assert pairs.same.tolist() == [1, 0, 1]
    assert pairs.scores == pytest.approx([0.7, 0.8, 0.6])
    assert pairs.features[:, 0] == pytest.approx([9 / 11, 0.25, 19 / 21])
    assert pairs.features[1, 2:5] == pytest.approx([np.log(0.9), np.log(0.8), 0.25 * np.log(0.8)])


def test_each_class_of_an_image_is_a_unit():
    case = by_hand()
    units = list(by_class(case, case.apply(make_rule("greedy", iou_threshold=0.3))))
    assert [len(found["boxes"]) for found, _ in units] == [3, 1]
    assert [len(truth["boxes"]) for _, truth in units] == [3, 0]


def test_candidates_are_those_before_suppression(crowds):
    model, data = whybox.load("whybox/scenes"), whybox.open_data(DATA)
    assert [case.name for case in crowds] == list(data.names)
    trace = whybox.trace(model, data[0].image)
    found = model.unsuppressed(trace)
    best = found.scores.argsort(descending=True, stable=True)[:150]
    assert torch.equal(crowds[0].boxes, found.boxes[best])
    kept = whybox.detect(model, trace, nms="odam", score_threshold=float(crowds[0].scores.min()), top=1000)
    rows = crowds[0].apply(make_rule("odam")).rows
    assert torch.equal(crowds[0].boxes[rows], kept.boxes)


def test_a_sweep_takes_the_best_setting(crowds):
    rules = settings_of("greedy")
    chosen = choose(crowds, rules)
    samples = compare(crowds, rules, [str(rule) for rule in rules], draws=2).samples
    values = [merit(sample.measures()) for sample in samples]
    assert rules[int(np.argmax(values))] == chosen
    assert len(set(settings_of("odam"))) == 4 * 5 * 4


@pytest.mark.parametrize("maps", [False, True])
def test_a_fitted_rule_beats_the_best_threshold_on_its_own_images(crowds, maps):
    fitted = fit_rule(crowds, maps=maps)
    assert fitted.rule.needs == ({"maps"} if maps else frozenset())
    assert 0.5 < fitted.iou_auroc <= fitted.auroc + 0.01 < 1.02
    assert fitted.pairs > fitted.neighbors > 20
    table = compare(crowds, [choose(crowds, settings_of("greedy")), fitted.rule], ["greedy", "fitted"], draws=50)
    assert table.differences[1]["crowded_recall"].value >= 0
    assert merit(table.samples[1].measures()) > merit(table.samples[0].measures())
    assert merit(table.samples[1].measures()) == pytest.approx(fitted.merit)
    header, rows = table.table()
    assert len(header) == len(rows[0]) == len(rows[1]) == 6
    assert [rule["title"] for rule in table.as_dict()["rules"]] == ["greedy", "fitted"]
    # A final score is the probability that a box is right: on these images they add up to the right ones.
    total = sum(float(case.apply(fitted.rule).scores.sum()) for case in crowds)
    right = sum(len(case.truth) for case in crowds) * table.samples[1].measures().recall
    assert total == pytest.approx(right, rel=0.05)


def test_nothing_to_fit_is_one_line():
    lonely = by_hand(truth=torch.zeros(0, 4), columns=torch.zeros(0, dtype=torch.long), ignore=torch.zeros(0, dtype=torch.bool))
    with pytest.raises(WhyboxError, match="in none of 1 images a candidate found an object"):
        fit_rule([lonely])
    one = by_hand(truth=torch.tensor([[0.0, 0, 10, 20]]), columns=torch.tensor([1]), ignore=torch.tensor([False]))
    with pytest.raises(WhyboxError, match="none of 1 images has two overlapping objects of one class that are both found"):
        fit_rule([one])


def test_nothing_to_compare_on_is_one_line():
    with pytest.raises(WhyboxError, match="no image to compare rules on"):
        compare([], settings_of("greedy")[:2], ["a", "b"])


def test_an_image_that_cannot_be_read_is_left_out():
    class Broken:
        name, classes, names, problems = "broken", ("person",), ("a",), ()

        def __len__(self):
            return 1

        def __getitem__(self, row):
            raise OSError("no such picture")

    told = []
    assert not list(collect_candidates(whybox.load("whybox/scenes"), Broken(), maps=False, on_warning=told.append))
    assert told == ["image 0: OSError: no such picture"]


def test_models_of_whole_images_are_refused():
    with pytest.raises(WhyboxError, match="there are no boxes to suppress"):
        next(collect_candidates(whybox.load("whybox/scenes-clip"), whybox.open_data(DATA), maps=False, on_warning=fail))


def test_logistic_regression_is_the_minimum():
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(3, [1, 20, 0.1], (300, 3)), np.ones((300, 1))], 1)
    targets = (generator.uniform(size=300) < 1 / (1 + np.exp(-(x[:, 0] - 3) * 2))).astype(float)
    weights = generator.uniform(0.1, 2, 300)

    def loss(w):
        margin = x @ w
        spread = x[:, :-1].std(0)
        mean = x[:, :-1].mean(0)
        standard = np.append(w[:-1] * spread, w[-1] + w[:-1] @ mean)
        rows = weights / weights.sum() * 300
        return (rows * (np.logaddexp(0, margin) - targets * margin)).sum() + 0.005 * (standard**2).sum()

    found = np.array(fit_logistic(x, targets, weights))
    assert minimize(loss, found, method="BFGS").fun >= loss(found) - 1e-6


def test_separable_data_has_finite_weights():
    x = np.stack([np.arange(10.0), np.ones(10)], 1)
    assert np.isfinite(fit_logistic(x, (np.arange(10) > 4).astype(float), np.ones(10))).all()


def test_auroc_of_weighted_pairs_by_hand():
    values, positive, weights = np.array([0.2, 0.5, 0.5, 0.9]), np.array([0.0, 1, 0, 1]), np.array([1.0, 2, 3, 1])
    pairs = [
        (weights[i] * weights[j], 1.0 if values[i] > values[j] else 0.5 if values[i] == values[j] else 0.0)
        for i in (1, 3)
        for j in (0, 2)
    ]
    expected = sum(weight * won for weight, won in pairs) / sum(weight for weight, _ in pairs)
    assert weighted_auroc(values, positive, weights) == pytest.approx(expected)
