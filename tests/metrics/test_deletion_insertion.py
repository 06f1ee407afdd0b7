"""Deletion and insertion on a detector that counts the pixels it can still see, and on the shipped one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.integrate import trapezoid

import whybox
from whybox.data.images import read_image
from whybox.data.scenes import draw_scene
from whybox.errors import UnknownNameError, WhyboxError
from whybox.frame import Frame, resize_maps
from whybox.metrics import deletion, insertion
from whybox.metrics.deletion import Deletion
from whybox.metrics.insertion import Insertion
from whybox.ops.matching import pairwise_iou
from whybox.ops.perturb import batch_of
from whybox.registry import metrics
from whybox.specs import format_spec, parse_spec
from whybox.truth import Metric, MetricInput, Truth
from whybox.types import Candidates, Detections

DOCS = Path(__file__).parents[2] / "docs" / "metrics"
SIDE = 20
# 100 pixels each: one a step, 10 a point; and a last one of 25 pixels, for which it is 10 a point just as well.
BOXES = torch.tensor([[2.0, 3, 12, 13], [8, 9, 18, 19], [1, 1, 6, 6]])
FILLS = ["random", "black", "mean", "blurred"]


class Counter:
    """Finds the objects at BOXES, class 1; the score is the share of an object's pixels that are as in the image."""

    def __init__(self, image, boxes=BOXES):
        self.image, self.boxes = image, boxes
        self.batches = []

    def __call__(self, images):
        self.batches.append(len(images))
        seen = (images == self.image).all(1)
        return [self.candidates(one) for one in seen]

    def candidates(self, seen):
        shares = [seen[y1:y2, x1:x2].float().mean() for x1, y1, x2, y2 in self.boxes.int().tolist()]
        scores = torch.stack([torch.zeros(len(shares)), torch.stack(shares)], 1)
        return Candidates(self.boxes, scores, torch.zeros(len(scores), dtype=torch.long))


def texture(side=SIDE):
    return torch.rand((3, side, side), generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25


def toy(boxes=BOXES, *, matched=None, truth=BOXES, batch=4, seeds=None):
    count = len(boxes)
    labels = torch.ones(count, dtype=torch.long)
    found = Detections(boxes, torch.ones(count), labels, torch.arange(count))
    ones = torch.ones(len(truth), dtype=torch.long)
    objects = Truth(truth, ones, tuple(map(str, range(len(truth)))), torch.zeros(len(truth), dtype=torch.bool))
    rows = torch.arange(count) if matched is None else torch.tensor(matched)
    seeds = torch.arange(count) + 100 if seeds is None else seeds
    image = texture()
    return MetricInput(image, Frame.same((SIDE, SIDE)), found, objects, rows, seeds, Counter(image), batch)


def ideal(boxes=BOXES, side=SIDE):
    """1 in the box, 0 outside, and a little slope so that no two pixels are equal."""
    maps = torch.zeros((len(boxes), side, side))
    for values, (x1, y1, x2, y2) in zip(maps, boxes.int().tolist(), strict=True):
        values[y1:y2, x1:x2] = 1
    return maps + torch.linspace(0, 0.1, side * side).reshape(side, side)


def share_of(counts, total):
    return torch.tensor([min(1.0, count / total) for count in counts])


@pytest.mark.parametrize("fill", FILLS)
def test_the_ideal_map_takes_the_object_away_pixel_by_pixel(fill):
    result = Deletion(fill=fill)(ideal(), toy())
    shown = share_of(range(0, 101, 10), 100)
    torch.testing.assert_close(result.curves[:2], (1 - shown).expand(2, -1))
    torch.testing.assert_close(result.curves[2], 1 - share_of(range(0, 101, 10), 25))
    # Trapezoids: 0.1 * (0.5 + 0.9 + ... + 0.1) = 0.5; 0.1 * (0.5 + 0.6 + 0.2) = 0.13.
    torch.testing.assert_close(result.values, torch.tensor([0.5, 0.5, 0.13]))
    torch.testing.assert_close(result.at, torch.linspace(0, 1, 11))
    gone = Insertion(fill=fill)(ideal(), toy())
    torch.testing.assert_close(gone.curves, 1 - result.curves)
    torch.testing.assert_close(gone.values, torch.tensor([0.5, 0.5, 0.87]))


def test_the_whole_image_is_the_other_extent():
    result = Deletion(extent="image")(ideal(), toy())
    # 400 pixels: 40 a point.
    expected = torch.stack([1 - share_of(range(0, 401, 40), total) for total in (100, 100, 25)])
    torch.testing.assert_close(result.curves, expected)
    inverted = Deletion(extent="image")(-ideal(), toy())
    torch.testing.assert_close(inverted.curves[0, [0, 7, 8, 9, 10]], torch.tensor([1.0, 1.0, 0.8, 0.4, 0.0]))
    shown = Insertion(extent="image", points=3)(ideal(), toy())
    torch.testing.assert_close(shown.curves, torch.tensor([[0.0, 1, 1]] * 3))


@pytest.mark.parametrize("extent", ["box", "image"])
@pytest.mark.parametrize("fill", FILLS)
def test_ideal_beats_random_beats_inverted(fill, extent):
    case = toy()
    chance = torch.rand((3, SIDE, SIDE), generator=torch.Generator().manual_seed(2))
    low, middle, high = (Deletion(fill=fill, extent=extent)(maps, case).values for maps in (ideal(), chance, -ideal()))
    assert (low < middle).all()
    assert (middle < high).all()
    high, middle, low = (Insertion(fill=fill, extent=extent)(maps, case).values for maps in (ideal(), chance, -ideal()))
    assert (low < middle).all()
    assert (middle < high).all()


@pytest.mark.parametrize("flat", [0.0, 0.7])
def test_a_constant_map_gives_the_curve_of_random_pixels(flat):
    boxes = BOXES[1:2].expand(200, -1)
    case = toy(boxes, matched=[1] * 200)
    maps = torch.full((200, SIDE, SIDE), flat)
    result = Deletion(fill="black")(maps, case)
    # From the top left to the bottom right it would not touch this object: 1 everywhere.
    torch.testing.assert_close(result.curves.mean(0), 1 - torch.arange(11) * 10 / 400, atol=0.01, rtol=0)
    assert result.curves[:, -1].std() > 0.02
    torch.testing.assert_close(Insertion()(maps, case).curves.mean(0), torch.arange(11) * 10 / 400, atol=0.01, rtol=0)


def test_seeds_decide_and_nothing_else_does():
    maps = torch.zeros((3, SIDE, SIDE))
    for metric in (Deletion(), Insertion(fill="random"), Insertion(extent="image")):
        first, again = metric(maps, toy()), metric(maps, toy())
        assert torch.equal(first.curves, again.curves)
        assert not torch.equal(first.curves, metric(maps, toy(seeds=torch.arange(3))).curves)


@pytest.mark.parametrize("metric", [Deletion(), Insertion(), Insertion(fill="random", relative=True)], ids=str)
def test_neither_batches_nor_chunks_change_a_bit(metric):
    maps = torch.rand((3, SIDE, SIDE), generator=torch.Generator().manual_seed(3)).round(decimals=1)
    whole = metric(maps, toy())
    for batch in (1, 3, 64):
        assert torch.equal(metric(maps, toy(batch=batch)).curves, whole.curves)
    case = toy()
    for rows in ([0], [1, 2]):
        assert torch.equal(metric(maps[rows], case[rows]).curves, whole.curves[rows])


@pytest.mark.parametrize(
    ("metric", "batches"),
    [
        (Deletion(), [1, 8, 8, 8, 6]),
        (Insertion(), [1, 8, 8, 8, 6]),
        (Insertion(relative=True), [1, 1, 8, 8, 8, 6]),
        (Insertion(first_zero=True), [8, 8, 8, 6]),
        (Insertion(fill="random"), [8, 8, 8, 8, 1]),
        (Deletion(points=3, fill="mean"), [1, 6]),
    ],
    ids=str,
)
def test_what_objects_share_is_looked_at_once(metric, batches):
    case = toy(batch=8)
    metric(ideal(), case)
    assert case.predict.batches == batches


def test_relative_divides_by_the_score_in_the_whole_image():
    case = toy()

    class Doubtful(Counter):
        def candidates(self, seen):
            full = super().candidates(seen)
            return replace(full, scores=full.scores * torch.tensor([[0.5], [0.25], [0.0]]))

    case = replace(case, predict=Doubtful(case.image))
    absolute, relative = Deletion(relative=False)(ideal(), case), Deletion()(ideal(), case)
    torch.testing.assert_close(absolute.values, torch.tensor([0.25, 0.125, 0.0]))
    torch.testing.assert_close(relative.values, torch.tensor([0.5, 0.5, torch.nan]), equal_nan=True)
    assert relative.curves[2].isnan().all()
    shown = Insertion()(ideal(), case).values, Insertion(relative=True)(ideal(), case).values
    torch.testing.assert_close(shown[0], torch.tensor([0.25, 0.125, 0.0]))
    torch.testing.assert_close(shown[1], torch.tensor([0.5, 0.5, torch.nan]), equal_nan=True)


def test_area_rules():
    maps = torch.rand((3, SIDE, SIDE), generator=torch.Generator().manual_seed(4))
    result, mean = Deletion()(maps, toy()), Deletion(auc="mean")(maps, toy())
    torch.testing.assert_close(result.values, torch.from_numpy(trapezoid(result.curves.numpy(), dx=0.1)))
    assert torch.equal(mean.curves, result.curves)
    torch.testing.assert_close(mean.values, result.curves.sum(1) / 11)


def test_a_first_point_of_zero_is_asked_for():
    class Dreamer(Counter):
        def candidates(self, seen):
            full = super().candidates(seen)
            return replace(full, scores=full.scores.clamp(min=0.25))

    case = toy()
    case = replace(case, predict=Dreamer(case.image))
    measured, fixed = Insertion()(ideal(), case), Insertion(first_zero=True)(ideal(), case)
    assert measured.curves[:, 0].tolist() == [0.25] * 3
    assert fixed.curves[:, 0].tolist() == [0.0] * 3
    assert torch.equal(measured.curves[:, 1:], fixed.curves[:, 1:])


def test_truth_is_tracked_where_a_detection_has_one():
    # The detection lies off its object: 10 x 6 of 10 x 14, an IoU of 0.43 with what the detector finds.
    boxes = BOXES[:1] + torch.tensor([0.0, 4, 0, 4])
    assert Deletion(relative=False)(ideal()[:1], toy(boxes)).values.item() == pytest.approx(0.5)
    assert Deletion(relative=False, track="detection")(ideal()[:1], toy(boxes)).values.item() == 0.0
    assert Deletion(relative=False)(ideal()[:1], toy(boxes, matched=[-1])).values.item() == 0.0
    nothing = toy(BOXES[:1], matched=[-1], truth=BOXES[:0])
    assert Deletion()(ideal()[:1], nothing).values.item() == pytest.approx(0.5)


def test_the_class_of_the_truth_is_tracked():
    case = toy()
    wrong = replace(case.detections, labels=torch.zeros(3, dtype=torch.long))
    case = replace(case, detections=wrong)
    torch.testing.assert_close(Deletion()(ideal(), case).values, torch.tensor([0.5, 0.5, 0.13]))
    assert Deletion(track="detection")(ideal(), case).values.isnan().all()


def test_boxes_beyond_the_image_count_what_lies_inside():
    beyond = torch.tensor([[-10.0, 5, 10, 15]])
    case = toy(beyond, truth=beyond)
    case = replace(case, predict=Counter(case.image, torch.tensor([[0.0, 5, 10, 15]])))
    result = Deletion()(ideal(torch.tensor([[0.0, 5, 10, 15]])), case)
    torch.testing.assert_close(result.curves[0], 1 - share_of(range(0, 101, 10), 100))


def test_network_resolution_changes_the_pixels_that_the_network_sees():
    case = toy()
    frame = Frame((SIDE, SIDE), (2 * SIDE, 2 * SIDE), (64, 64))
    wide = resize_maps(case.image, frame.resized)
    case = replace(case, frame=frame, predict=Counter(wide, BOXES * 2))
    result = Deletion(resolution="network")(ideal(), case)
    # 400 pixels of the network: 4 a step. The last object has 100: 1 a step.
    torch.testing.assert_close(result.curves, (1 - share_of(range(0, 101, 10), 100)).expand(3, -1))
    shown = Insertion(resolution="network")(ideal(), case)
    torch.testing.assert_close(shown.values, torch.full((3,), 0.5))


@pytest.mark.parametrize(("resolution", "factor", "plateau"), [("image", 1, 256), ("network", 2, 900)])
def test_a_drawn_box_is_a_random_order_of_its_pixels(resolution, factor, plateau):
    """An object that is seen by the second row of the box's pixels alone, where a bicubic map would overshoot.

    The box has 16x16 pixels. Twice as large it has 30x30 and a rim, whose values are lower.
    """
    count, box = 40, torch.tensor([[2.0, 2, 18, 18]])
    case = toy(box.repeat(count, 1), truth=box, matched=[0] * count)
    frame = Frame((SIDE, SIDE), (factor * SIDE, factor * SIDE), (64, 64))
    image = resize_maps(case.image, frame.resized)
    seen = torch.zeros(frame.resized, dtype=torch.bool)
    first, last = 2 * factor + 1, 18 * factor - 1
    seen[first:last, first:last] = True
    seen[first + 1 : last - 1, first + 1 : last - 1] = False

    def predict(images):
        shares = (images == image).all(1)[:, seen].float().mean(1)
        return [Candidates(box * factor, torch.tensor([[0.0, one]]), torch.zeros(1, dtype=torch.long)) for one in shares]

    case = replace(case, frame=frame, predict=predict)
    drawn = torch.zeros((count, SIDE, SIDE))
    drawn[:, 2:18, 2:18] = 1
    curves = Insertion(resolution=resolution)(drawn, case).curves
    area = (16 * factor) ** 2 // 100 * 100
    expected = share_of(range(0, area + 1, area // 10), plateau)
    error = curves.std(0) / count**0.5
    assert ((curves.mean(0) - expected).abs() <= 4 * error + 1e-6).all()


@pytest.mark.parametrize("metric", [Deletion(), Insertion(), Deletion(resolution="network", extent="image")], ids=str)
def test_no_detection(metric):
    result = metric(torch.zeros((0, SIDE, SIDE)), toy()[[]])
    assert result.values.shape == (0,)
    assert result.curves.shape == (0, 11)


def test_a_map_that_is_not_finite_ranks_nothing_and_spoils_no_other():
    broken = ideal()
    broken[1, 4, 4] = torch.nan
    judged, whole = Deletion()(broken, toy()), Deletion()(ideal(), toy())
    assert judged.values[1].isnan()
    assert judged.curves[1].isnan().all()
    assert torch.equal(judged.values[[0, 2]], whole.values[[0, 2]])


def test_mistakes_are_one_line():
    case = toy()
    with pytest.raises(WhyboxError, match=r"expected .* \(3, 20, 20\), got \(3, 10, 10\)"):
        Insertion()(torch.zeros((3, 10, 10)), case)
    with pytest.raises(WhyboxError, match="needs `predict`"):
        Deletion()(ideal(), replace(case, predict=None))
    with pytest.raises(UnknownNameError, match="unknown fill 'blur'; did you mean blurred"):
        Deletion(fill="blur")
    with pytest.raises(UnknownNameError, match="unknown score 'iou'"):
        Insertion(score="iou")
    with pytest.raises(WhyboxError, match="points must be at least 2, got 1"):
        Deletion(points=1)
    with pytest.raises(WhyboxError, match="most must be at least 1, got 0"):
        Deletion(most=0)
    with pytest.raises(WhyboxError, match=r"floor must be a probability below 1, got 1\.5"):
        Deletion(floor=1.5)


@pytest.mark.parametrize("module", [deletion, insertion], ids=lambda module: module.__name__)
def test_the_papers_options_are_a_word_that_the_page_names(module):
    name = module.__name__.split(".")[-1]
    word = format_spec(name, module.PAPER)
    assert parse_spec(word) == (name, dict(module.PAPER))
    assert word in (DOCS / f"{name}.md").read_text()
    kind = metrics()[name]
    metric = kind(**module.PAPER)
    assert isinstance(metric, Metric)
    assert (metric.legacy_iou, metric.resolution, metric.floor, metric.most) == (True, "network", 0.05, 500)
    assert (metric.extent, metric.points, metric.track, metric.score) == ("box", 11, "truth", "class")
    assert (metric.fill, metric.relative) == (("random", True) if name == "deletion" else ("black", False))


class Matcher:
    """Answers for the whole image: column 0 has the share of its left half that is as in the image, less a half; column 1
    has nothing, column 2 a quarter, others the column's number in hundredths below nothing."""

    def __init__(self, image, columns=3):
        self.image, self.columns = image, columns

    def __call__(self, images):
        seen = (images == self.image).all(1)[:, :, : SIDE // 2].float().mean((1, 2))
        fixed = [0.0, 0.25, *(-k / 100 for k in range(3, self.columns))][: self.columns - 1]
        whole = torch.tensor([[0.0, 0, SIDE, SIDE]])
        return [Candidates(whole, torch.tensor([[share - 0.5, *fixed]]), torch.zeros(1, dtype=torch.long)) for share in seen]


def whole_case(labels=(0,), columns=3):
    """A model that is asked for texts; the object of each is the left half, whose box is no box of the model's."""
    case = toy(BOXES[:1].expand(len(labels), 4), truth=torch.tensor([[0.0, 0, SIDE / 4, SIDE]]), matched=[0] * len(labels))
    labels, image = torch.tensor(labels), torch.tensor([[0.0, 0, SIDE, SIDE]])
    found = Detections(image.expand(len(labels), 4), torch.ones(len(labels)), labels, torch.zeros_like(labels))
    return replace(case, detections=found, predict=Matcher(case.image, columns), whole=True)


def left_first():
    return (torch.arange(SIDE) < SIDE // 2).float().expand(1, SIDE, SIDE)


def test_of_the_whole_image_the_score_is_the_texts_own_cosine():
    """The object's box is not what is tracked: with it, the model's one candidate would lie off it and score 0."""
    falls = Deletion(extent="image", relative=False, points=5)(left_first(), whole_case())
    torch.testing.assert_close(falls.curves, torch.tensor([[0.5, 0, -0.5, -0.5, -0.5]]))
    rises = Insertion(extent="image", points=5)(left_first(), whole_case())
    torch.testing.assert_close(rises.curves, torch.tensor([[-0.5, 0, 0.5, 0.5, 0.5]]))
    assert Deletion.relative is True
    share = Deletion(extent="image", points=5)(left_first(), whole_case())
    # Of a cosine that falls below 0 nothing is left.
    torch.testing.assert_close(share.curves, torch.tensor([[1.0, 0, 0, 0, 0]]))
    assert Deletion()(left_first(), whole_case(labels=(1,))).values.isnan()


def test_a_step_of_the_box_is_a_hundredth_of_the_whole_image():
    box, image = (Deletion(extent=extent, relative=False)(left_first(), whole_case()) for extent in ("box", "image"))
    assert torch.equal(box.curves, image.curves)


def test_half_of_the_image_in_half_per_cents():
    """400 pixels: 2 a step, 20 a point; the left half is all of them."""
    falls = Deletion(**deletion.GRAD_ECLIP | {"score": "class"})(left_first(), whole_case())
    torch.testing.assert_close(falls.curves, torch.linspace(0.5, -0.5, 11)[None])


def test_leading_asks_whether_the_column_is_among_the_highest():
    """0.5 falls in quarters: it leads, ties with the column at 0.25, and is below it."""
    options = {"relative": False, "extent": "half", "points": 5}
    falls = Deletion(score="top1", **options)(left_first(), whole_case())
    torch.testing.assert_close(falls.curves, torch.tensor([[1.0, 0.5, 0, 0, 0]]))
    torch.testing.assert_close(falls.values, torch.tensor([0.25]))
    other = Deletion(score="top1", **options)(left_first(), whole_case(labels=(2,)))
    torch.testing.assert_close(other.curves, 1 - falls.curves)
    rises = Insertion(score="top1", extent="half", points=5)(left_first(), whole_case())
    torch.testing.assert_close(rises.curves, falls.curves.flip(1))


def test_among_five_and_with_too_few_columns():
    """Of eight columns the own one ties with another at 0 and 0.25, and at -0.25 is the lowest."""
    options = {"relative": False, "extent": "half", "points": 5}
    falls = Deletion(score="top5", **options)(left_first(), whole_case(columns=8))
    torch.testing.assert_close(falls.curves, torch.tensor([[1.0, 1, 1, 0, 0]]))
    for columns, score in ((5, "top5"), (1, "top1")):
        few = Deletion(score=score, **options)(left_first(), whole_case(columns=columns))
        assert few.values.isnan().all(), "every column is among the highest"


def test_ranks_are_refused_of_a_detector():
    assert Deletion(score="top1").needs == {"predict", "whole"}
    assert Insertion().needs == {"predict"}
    with pytest.raises(WhyboxError, match="score 'top1' is for whole-image models; use 'class'"):
        Deletion(score="top1")(ideal(), toy())


@pytest.mark.parametrize("module", [deletion, insertion], ids=lambda module: module.__name__)
def test_the_zero_shot_protocol_is_a_word_that_the_page_names(module):
    name = module.__name__.split(".")[-1]
    metric = metrics()[name](**module.GRAD_ECLIP)
    assert (metric.score, metric.extent, metric.points, metric.relative) == ("top1", "half", 11, False)
    assert metric.fill == ("random" if name == "deletion" else "black")
    assert format_spec(name, module.GRAD_ECLIP) in (DOCS / f"{name}.md").read_text()


def test_titles_and_ranges_follow_the_options():
    assert Deletion().title == "Deletion"
    assert Insertion(fill="blurred", extent="image", legacy_iou=True).title == "Insertion (blurred, image, legacy_iou true)"
    assert Deletion().range == (0.0, float("inf"))
    assert Insertion().range == (-1.0, 1.0)
    assert Insertion(score="top1").range == Insertion(score="iou_x_probability").range == (0.0, 1.0)
    assert Insertion().higher_is_better
    assert not Deletion().higher_is_better


@pytest.fixture(scope="module")
def street():
    """The shipped detector on a scene, the detections that match an annotation, as a case."""
    model = whybox.load("whybox/scenes")
    scene = draw_scene(3, seed=1)
    trace = whybox.trace(model, scene.image)
    found = trace.detections[trace.detections.scores > 0.5]
    # Columns of the detector: the background comes first.
    truth_boxes, labels = torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels) + 1
    iou = pairwise_iou(found.boxes, truth_boxes) * (found.labels[:, None] == labels)
    keep = iou.amax(1) > 0.6
    truth = Truth(truth_boxes, labels, tuple(map(str, range(len(labels)))), torch.zeros(len(labels), dtype=torch.bool))
    seeds = torch.arange(int(keep.sum()))
    return MetricInput(trace.image, trace.frame, found[keep], truth, iou.argmax(1)[keep], seeds, model.predict, 8)


def blobs(case):
    """Gaussians of half the sides of the detections' boxes."""
    size = case.frame.image
    x, y = torch.arange(size[1]) + 0.5, torch.arange(size[0]) + 0.5
    middle = (case.detections.boxes[:, :2] + case.detections.boxes[:, 2:]) / 2
    sides = (case.detections.boxes[:, 2:] - case.detections.boxes[:, :2]) / 2
    across = (-0.5 * ((x - middle[:, :1]) / sides[:, :1]) ** 2).exp()
    down = (-0.5 * ((y - middle[:, 1:]) / sides[:, 1:]) ** 2).exp()
    return down[:, :, None] * across[:, None, :]


@pytest.mark.parametrize("options", [{}, {"fill": "blurred", "extent": "image", "score": "iou_x_probability"}], ids=str)
def test_a_blob_on_the_object_beats_one_around_it(street, options):
    case = street[[0, 1, 2]]
    maps = blobs(case)
    assert (Deletion(**options)(maps, case).values < Deletion(**options)(-maps, case).values).all()
    assert (Insertion(**options)(maps, case).values > Insertion(**options)(-maps, case).values).all()


def test_the_clean_image_is_tracked_with_the_detections_own_score(street):
    case = street[[0, 1, 2]]
    start = Deletion(relative=False, track="detection", points=2)(blobs(case), case).curves[:, 0]
    assert (start >= case.detections.scores - 1e-5).all()
    paper = Deletion(**deletion.PAPER, points=2)(blobs(case), case).curves[:, 0]
    assert paper.tolist() == [1.0] * 3


def test_an_image_resized_before_is_the_image_that_the_network_resizes():
    model = whybox.load("whybox/scenes")
    image = read_image(draw_scene(5, seed=1, size=(480, 360)).image)
    frame = model.trace(image).frame
    assert frame.resized == (240, 320)
    (before,) = model.predict(resize_maps(image, frame.resized)[None])
    (after,) = model.predict(image[None])
    torch.testing.assert_close(before.scores, after.scores, atol=1e-4, rtol=1e-3)
    ratio = torch.tensor([1.5, 1.5, 1.5, 1.5])
    torch.testing.assert_close(before.boxes * ratio, after.boxes, atol=0.05, rtol=1e-3)


def test_a_processor_takes_few_large_images_at_once():
    cpu = torch.device("cpu")
    assert [batch_of(8, size, cpu) for size in ((64, 96), (320, 480), (800, 1333))] == [8, 2, 1]
    assert batch_of(8, (800, 1333), torch.device("cuda")) == 8
