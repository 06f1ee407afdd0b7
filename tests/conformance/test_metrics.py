"""What every metric promises, tried on every registered one.

A new metric needs an entry in TRIALS, and then all tests of this file run on it. Where good maps of objects are what the
metric looks for, the entry is `of_the_map`, with the metric's options if it needs any to work on a picture this small.
"""

from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from whybox import registry
from whybox.attention import Text, TokenMaps
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.metric_choice import make_metric, metric_sets
from whybox.truth import Metric, MetricInput, MetricResult, Truth
from whybox.types import Candidates, Detections

SIZE = HEIGHT, WIDTH = (48, 64)
CENTERS = torch.tensor([[14.0, 15.0], [44.0, 13.0], [38.0, 35.0]])
RADII = torch.tensor([10.0, 8.0, 9.0])
LABELS = torch.tensor([1, 2, 1])
OWN = torch.arange(3).repeat(4)
"""The disc of each of twelve detections: a random map may hit by chance, four of each hardly differ by it."""
ROWS, COLUMNS = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
DISTANCES = ((COLUMNS - CENTERS[:, 0, None, None]) ** 2 + (ROWS - CENTERS[:, 1, None, None]) ** 2).sqrt()
DISCS = RADII[:, None, None] > DISTANCES
IMAGE = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
KNOWN_NEEDS = {"box", "mask", "fixations", "predict", "redraw", "randomized", "whole", "words"}
WEIGHTS = {"a": 0.01, "small": 0.05, "red": 0.15, "ball": 0.3, "here": -0.02}
TEXT = Text(" ".join(WEIGHTS), tuple(WEIGHTS), ((0, 1), (2, 7), (8, 11), (12, 16), (17, 21)))


class Trial(NamedTuple):
    """A metric, and what it should rank: (maps, case), the best first."""

    metric: Metric
    ranking: list[tuple[Tensor, MetricInput]]


def noise(seed: int) -> Tensor:
    return torch.rand((len(OWN), *SIZE), generator=torch.Generator().manual_seed(seed))


def ideal() -> Tensor:
    """A disc on the object, highest in its middle, nothing elsewhere."""
    return (DISCS * (2 - DISTANCES / 20))[OWN]


def predict(images: Tensor) -> list[Candidates]:
    """A detector that sees three discs, each as surely as the share of its pixels that are those of IMAGE."""
    boxes = torch.cat([CENTERS - RADII[:, None], CENTERS + RADII[:, None]], 1)
    found = []
    for image in images:
        seen = (image == IMAGE).all(0)
        scores = torch.zeros((3, 4))
        scores[torch.arange(3), LABELS] = (DISCS & seen).sum((1, 2)) / DISCS.sum((1, 2)) * 0.9
        found.append(Candidates(boxes, scores, torch.zeros(3, dtype=torch.long)))
    return found


def case(**changes: object) -> MetricInput:
    """Three discs with everything that can be annotated, a fourth that is ignored, twelve detections of the three, and what
    a model can be asked."""
    boxes = torch.cat([CENTERS - RADII[:, None], CENTERS + RADII[:, None]], 1)
    detections = Detections(boxes[OWN], torch.full((len(OWN),), 0.9), LABELS[OWN], OWN)
    looks = [torch.cat([center + shift, torch.tensor([0.3])])[None] for center in CENTERS for shift in (-2.0, 0.0, 2.0)]
    truth = Truth(
        torch.cat([boxes, torch.tensor([[0.0, 28.0, 20.0, 48.0]])]),
        torch.cat([LABELS, torch.tensor([3])]),
        ("a", "b", "c", "crowd"),
        torch.tensor([False, False, False, True]),
        # The crowd's own pixels: a metric that takes row -1 for an object finds some there.
        torch.cat([DISCS, ((ROWS > 28) & (COLUMNS < 20))[None]]),
        fixations=(*(torch.cat(looks[i : i + 3]) for i in (0, 3, 6)), None),
    )
    one = MetricInput(IMAGE, Frame.same(SIZE), detections, truth, OWN, torch.arange(5, 5 + len(OWN)), predict, batch=4)
    one = replace(one, redraw=lambda image: ideal(), randomized=lambda: iter([("head", noise(8)), ("stem", noise(9))]))
    return replace(one, **changes)


def of_the_map(**options: object) -> Callable[[type], Trial]:
    """The ideal map of an object, a random map, and the ideal map upside down."""
    maps = (ideal(), noise(10), ideal().amax() - ideal())
    return lambda metric: Trial(metric(**options), [(one, case()) for one in maps])


def stays(**options: object) -> Callable[[type], Trial]:
    """Maps that a changed image changes little, more, and altogether."""
    redrawn = (ideal() + noise(3) * 0.01, ideal() + noise(3), noise(3))
    return lambda metric: Trial(metric(**options), [(ideal(), case(redraw=lambda _, new=new: new)) for new in redrawn])


def changes(**options: object) -> Callable[[type], Trial]:
    """Maps that change altogether, a part, and not at all while the weights are replaced."""
    stages = ([noise(3), noise(4)], [ideal() + noise(3), noise(4)], [ideal(), ideal()])
    return lambda metric: Trial(
        metric(**options),
        [(ideal(), case(randomized=lambda new=new: iter(zip(("head", "stem"), new, strict=True)))) for new in stages],
    )


def score_texts(texts: Sequence[str]) -> Tensor:
    """A model for which every word of a text counts for itself."""
    return torch.tensor([sum(WEIGHTS[word] for word in text.split()) for text in texts])


def with_words(values: Tensor) -> MetricInput:
    """The case with maps of words, values (N,5) of the same text for every detection."""
    words = TokenMaps(tuple(values), (TEXT,) * len(values), "made up")
    return case(whole=True, words=words, score_texts=score_texts)


def of_the_words(**options: object) -> Callable[[type], Trial]:
    """The words' own weights, random ones, and the weights upside down."""
    weights = torch.tensor(list(WEIGHTS.values())).expand(len(OWN), -1)
    chance = torch.rand(weights.shape, generator=torch.Generator().manual_seed(12))
    return lambda metric: Trial(metric(**options), [(noise(1), with_words(values)) for values in (weights, chance, -weights)])


TRIALS: dict[str, Callable[[type], Trial]] = {
    "attention_auc": of_the_map(),
    "attention_correlation": of_the_map(sigma_pixels=4.0),
    "attention_cosine": of_the_map(sigma_pixels=4.0),
    "attention_distance": of_the_map(sigma_pixels=4.0),
    "attention_divergence": of_the_map(sigma_pixels=4.0),
    "attention_nss": of_the_map(),
    "compactness": of_the_map(),
    "deletion": of_the_map(),
    "energy_pointing_game": of_the_map(),
    "insertion": of_the_map(),
    "leakage": of_the_map(),
    "mask_iou": of_the_map(),
    "odi": of_the_map(),
    "pixel_accuracy": of_the_map(),
    "pixel_ap": of_the_map(),
    "pointing_game": of_the_map(),
    "randomization": changes(),
    "sparseness": of_the_map(),
    "stability": stays(),
    "text_deletion": of_the_words(),
    "text_insertion": of_the_words(),
    "vea": of_the_map(),
}


def trial(name: str) -> Trial:
    """The metric's trial; a metric without one fails by name."""
    assert name in TRIALS, f"the metric {name!r} has no entry in TRIALS of tests/conformance/test_metrics.py"
    return TRIALS[name](registry.metrics()[name])


def check_form(metric: Metric, measured: MetricResult, count: int) -> None:
    """Shapes, and values inside the metric's range or NaN."""
    values = measured.values
    low, high = metric.range
    assert values.shape == (count,)
    assert values.is_floating_point()
    assert bool(((values >= low) & (values <= high) | values.isnan()).all()), (values, metric.range)
    if measured.curves is not None:
        assert measured.at is not None
        assert measured.curves.shape == (count, len(measured.at))


@pytest.fixture(params=sorted(registry.metrics()))
def name(request):
    return request.param


@pytest.fixture
def tried(name):
    return trial(name)


def names_of(kind: str) -> list[str]:
    """The metrics with an option `region`, those that draw no map anew, those that look at annotations alone, or those that
    look at the image's maps."""
    made = {name: metric() for name, metric in registry.metrics().items()}
    chosen = {
        "of regions": lambda metric: "region" in {option.name for option in fields(metric)},
        "not redrawn": lambda metric: not metric.needs & {"redraw", "randomized"},
        "of annotations": lambda metric: metric.needs <= {"box", "mask", "fixations"} and metric.needs,
        "of images": lambda metric: "words" not in metric.needs,
    }
    return sorted(name for name, metric in made.items() if chosen[kind](metric))


def test_it_says_what_it_is(name, tried):
    metric, kind = tried.metric, registry.metrics()[name]
    assert isinstance(metric, Metric)
    assert is_dataclass(metric)
    assert kind.name == name
    assert len(kind.source) > 10
    assert metric.title
    assert isinstance(metric.higher_is_better, bool)
    assert metric.range[0] < metric.range[1]
    assert metric.needs <= KNOWN_NEEDS
    assert kind() == kind(), "options have defaults, and equal options make equal metrics"
    for option in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(metric, option.name, None)


def test_it_stands_in_its_group_and_in_the_sets_that_it_names(name):
    metric = registry.metrics()[name]
    assert name in {spec.split(":")[0] for spec in metric_sets()[metric.group]}
    for words in (words for settings in metric.sets.values() for words in settings):
        assert make_metric(f"{name}:{words}".rstrip(":")).name == name


def test_it_has_its_page(name):
    assert (Path(__file__).parents[2] / "docs" / "metrics" / f"{name}.md").is_file()


def test_it_needs_nothing_that_it_does_not_name(tried):
    """Everything else is taken out of the case."""
    maps, whole = tried.ranking[0]
    truth = whole.truth
    for need in {"mask", "fixations"} - tried.metric.needs:
        truth = replace(truth, **({"masks": None} if need == "mask" else {"fixations": ()}))
    unasked = {"predict", "redraw", "randomized"} - tried.metric.needs
    unasked |= set() if "words" in tried.metric.needs else {"words", "score_texts"}
    bare = replace(whole, truth=truth, **dict.fromkeys(unasked))
    torch.testing.assert_close(tried.metric(maps, bare).values, tried.metric(maps, whole).values, equal_nan=True)


def test_the_best_beats_the_middle_beats_the_worst(tried):
    means = []
    for maps, one in tried.ranking:
        measured = tried.metric(maps, one)
        check_form(tried.metric, measured, len(OWN))
        assert measured.values.isfinite().all()
        means.append(measured.values.mean().item())
    if not tried.metric.higher_is_better:
        means.reverse()
    assert means[0] > means[-1]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize("region", ["box", "mask"])
@pytest.mark.parametrize("name", names_of("of regions"), indirect=True)
def test_a_metric_of_regions_takes_boxes_and_masks(tried, region):
    metric = replace(tried.metric, region=region)
    assert region in metric.title
    assert metric.needs == {"box", region}
    (best, whole), _, (worst, _) = tried.ranking
    good, bad = (metric(maps, whole).values.mean() for maps in (best, worst))
    assert (good > bad) == metric.higher_is_better


def test_no_detection_gives_no_value(tried):
    _, whole = tried.ranking[0]
    none = torch.zeros((0, *SIZE))
    drawn = {"redraw": lambda image: none, "randomized": lambda: iter([("head", none), ("stem", none)])}
    check_form(tried.metric, tried.metric(none, replace(whole[[]], **drawn)), 0)


@pytest.mark.parametrize("level", [0.0, 0.4, -1.0])
def test_a_constant_map_is_no_accident(tried, level):
    _, whole = tried.ranking[0]
    check_form(tried.metric, tried.metric(torch.full((len(OWN), *SIZE), level), whole), len(OWN))


def test_the_same_maps_have_the_same_values_and_stay_what_they_are(tried):
    maps, whole = tried.ranking[1]
    before = maps.clone()
    first, again = tried.metric(maps, whole), tried.metric(maps, whole)
    assert torch.equal(first.values, again.values)
    assert torch.equal(maps, before)


def test_the_scale_of_a_map_says_nothing(tried):
    for maps, whole in tried.ranking[:2]:
        values = [tried.metric(scaled, whole).values for scaled in (maps, maps * 64)]
        torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", names_of("not redrawn"), indirect=True)
def test_a_detection_is_judged_alike_in_any_company(tried):
    maps, whole = tried.ranking[1]
    together = tried.metric(maps, whole).values
    for rows in ([7, 0, 2], [1]):
        torch.testing.assert_close(tried.metric(maps[rows], whole[rows]).values, together[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", names_of("of annotations"), indirect=True)
def test_what_is_compared_with_an_annotation_is_nan_without_one(tried):
    """-1 stands for no object, 3 is the ignored one."""
    maps, whole = tried.ranking[1]
    expected = tried.metric(maps, whole).values
    matched = torch.cat([torch.tensor([-1, 1, 3]), OWN[3:]])
    values = tried.metric(maps, replace(whole, matched=matched)).values
    assert values.isnan().tolist() == [True, False, True] + [False] * 9
    torch.testing.assert_close(values[3:], expected[3:])


@pytest.mark.parametrize("name", names_of("of images"), indirect=True)
def test_a_map_that_is_not_a_number_is_never_good(tried):
    """NaN, or refused."""
    maps, whole = tried.ranking[0]
    maps = maps.clone()
    maps[1, 5, 5] = torch.nan
    try:
        values = tried.metric(maps, whole).values
    except WhyboxError:
        return
    assert values.isnan().nonzero().tolist() == [[1]]


def test_no_trial_is_for_nobody():
    assert set(TRIALS) <= set(registry.metrics())


def test_a_metric_without_a_trial_fails_by_name():
    with pytest.raises(AssertionError, match="the metric 'novel' has no entry in TRIALS"):
        trial("novel")
