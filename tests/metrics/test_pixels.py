"""Maps as classifiers of pixels: average precision, IoU and accuracy, counted pixel by pixel in plain Python."""

from dataclasses import replace

import pytest
import torch

from metrics.annotated import SIZE, case_of, random_case, region_pixels, same
from whybox.errors import WhyboxError
from whybox.metrics._pixel_truth import above
from whybox.metrics.mask_iou import MaskIou
from whybox.metrics.pixel_accuracy import PixelAccuracy
from whybox.metrics.pixel_ap import PixelAp, average_precision

METRICS = [PixelAp, MaskIou, PixelAccuracy]
PIXELS = [(y, x) for y in range(SIZE[0]) for x in range(SIZE[1])]


def plain_ap(values, positive):
    """Precision and recall at every threshold, each counted anew; the area is the sum of the steps."""
    total, area, before = sum(positive), 0.0, 0.0
    for threshold in sorted(set(values), reverse=True):
        taken = [own for value, own in zip(values, positive, strict=True) if value >= threshold]
        recall = sum(taken) / total
        area += (recall - before) * sum(taken) / len(taken)
        before = recall
    return area


def plain_cut(values):
    """Which pixels are above the mean."""
    mean = sum(values) / len(values)
    return [value > mean for value in values]


def plain_iou(values, positive):
    pairs = list(zip(plain_cut(values), positive, strict=True))
    return sum(cut and own for cut, own in pairs) / sum(cut or own for cut, own in pairs)


def plain_accuracy(values, positive):
    return sum(cut == own for cut, own in zip(plain_cut(values), positive, strict=True)) / len(values)


PLAIN = {PixelAp: plain_ap, MaskIou: plain_iou, PixelAccuracy: plain_accuracy}


@pytest.mark.parametrize("region", ["box", "mask"])
@pytest.mark.parametrize("kind", METRICS)
def test_values_are_those_counted_pixel_by_pixel(kind, region):
    maps, case = random_case(3)
    # In tenths, so that many values tie.
    maps = maps.mul(10).round() / 10
    expected = []
    for row, values in enumerate(maps.double()):
        own = region_pixels(case, row, region)
        expected.append(PLAIN[kind]([float(values[place]) for place in PIXELS], [place in own for place in PIXELS]))
    same(kind(region=region)(maps, case).values, expected)


def test_a_case_worked_by_hand():
    """The object is the first row of 2x3: values 5 and 1 of it come first and last but one, 5 twice, once outside."""
    masks = torch.tensor([[[True, True, False], [False, False, False]]])
    case = case_of([0.0, 0, 2, 1], [0], masks=masks, size=(2, 3))
    maps = torch.tensor([[[5.0, 1, 5], [3, 0, 1]]])
    # At 5: 1 of 2, recall 1/2. At 3: nothing new. At 1: 2 of 5, recall 1.
    same(PixelAp()(maps, case).values, [0.5 * 1 / 2 + 0.5 * 2 / 5])
    # The mean is 2.5: 5, 5 and 3 are above, one of them the object's.
    same(MaskIou()(maps, case).values, [1 / 4])
    same(PixelAccuracy()(maps, case).values, [3 / 6])
    # Half of the range: 2.5 as well; 0.9 of it: 4.5.
    same(MaskIou(threshold=0.5)(maps, case).values, [1 / 4])
    same(MaskIou(threshold=0.9)(maps, case).values, [1 / 3])
    same(PixelAccuracy(threshold=0.9)(maps, case).values, [4 / 6])


@pytest.mark.parametrize("kind", METRICS)
def test_the_ideal_map_scores_one_and_its_inverse_little(kind):
    _, case = random_case(1)
    ideal = case.truth.masks.float()
    same(kind()(ideal, case).values, [1.0] * 7)
    assert (kind()(1 - ideal, case).values < 0.3).all()
    for scaled in (ideal * 1e-30, ideal * 1e30 - 7):
        same(kind()(scaled, case).values, [1.0] * 7)


@pytest.mark.parametrize("level", [0.0, 0.1, -3.0])
def test_a_constant_map_is_above_its_mean_nowhere(level):
    _, case = random_case(1)
    maps = torch.full((7, *SIZE), level)
    shares = case.truth.masks.float().mean((1, 2)).tolist()
    same(PixelAp()(maps, case).values, shares)
    same(MaskIou()(maps, case).values, [0.0] * 7)
    same(PixelAccuracy()(maps, case).values, [1 - share for share in shares])


@pytest.mark.parametrize("kind", METRICS)
def test_ignored_regions_of_the_same_class_do_not_count(kind):
    """Two objects, and an ignored one beside the first: what a map does there changes nothing, for its class alone."""
    masks = torch.zeros((3, 10, 10), dtype=torch.bool)
    masks[0, :4, :4], masks[1, 6:, 6:], masks[2, :5, 3:9] = True, True, True
    case = case_of([[0, 0, 4, 4], [6, 6, 10, 10], [3, 0, 9, 5]], [0, 1], ignore=[2], masks=masks, size=(10, 10))
    case = replace(case, truth=replace(case.truth, labels=torch.tensor([1, 2, 1])))
    quiet = masks[:2].float()
    loud = quiet.clone()
    # Column 3 is the first object's own: there it counts, ignored or not.
    loud[:, :5, 4:9] = 2.0
    same(kind()(quiet, case).values, [1.0, 1.0])
    values = kind()(loud, case).values
    assert values[0] == pytest.approx(1.0)
    assert values[1] < 1
    wrong = quiet.clone()
    wrong[0, :4, 3] = 0
    assert kind()(wrong, case).values[0] < 1


@pytest.mark.parametrize("kind", METRICS)
def test_an_ignored_box_stands_for_its_mask(kind):
    case = case_of([[0, 0, 4, 4], [4, 0, 9, 4]], [0], ignore=[1], size=(10, 10))
    loud = torch.zeros((1, 10, 10))
    loud[:, :4, :9] = 1.0
    same(kind(region="box")(loud, case).values, [1.0])
    alone = replace(case, truth=case.truth[torch.tensor([0])])
    assert kind(region="box")(loud, alone).values < 1


@pytest.mark.parametrize("kind", METRICS)
def test_what_has_no_answer_is_nan(kind):
    maps, case = random_case(2, ignore=[6])
    masks = case.truth.masks.clone()
    masks[1] = False
    case = replace(case, truth=replace(case.truth, masks=masks), matched=torch.tensor([0, 1, -1, 3, 4, 5, 6]))
    maps[3, 0, 0] = torch.inf
    values = kind()(maps, case).values
    assert values.isnan().tolist() == [False, True, True, True, False, False, True]
    assert kind()(maps[:0], case[[]]).values.shape == (0,)


def test_average_precision_of_many_pixels_is_exact():
    """In float32 the counts of 2**24 pixels and more would stop growing."""
    values = torch.arange(100_000, dtype=torch.float32)
    positive = torch.zeros(100_000, dtype=torch.bool)
    positive[:2] = True
    assert float(average_precision(values, positive)) == pytest.approx(0.5 / 99_999 + 0.5 * 2 / 100_000, rel=1e-12)


def test_a_level_is_of_the_map_from_its_lowest_to_its_highest():
    assert above(torch.tensor([-2.0, 0.0, 1.0, 2.0]), 0.6).tolist() == [False, False, True, True]
    assert not above(torch.full((5,), 0.1), "mean").any()


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "median", True, None, float("nan")])
def test_a_threshold_that_is_none_is_one_line(threshold):
    for kind in (MaskIou, PixelAccuracy):
        with pytest.raises(WhyboxError, match="threshold must be mean, or a number from 0 to 1, got"):
            kind(threshold=threshold)


def test_titles():
    assert [kind().title for kind in METRICS] == ["Pixel AP (mask)", "IoU above mean (mask)", "Pixel accuracy above mean (mask)"]
    assert MaskIou(region="box", threshold=0.5).title == "IoU above 0.5 (box)"
