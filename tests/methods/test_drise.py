"""D-RISE on detectors whose answers are known."""

from dataclasses import replace

import pytest
import torch

from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.methods.drise import DRise, draw_masks, drise_weights, objectness_of
from whybox.targets import BoxSide, ClassScore
from whybox.types import Candidates, Detections, Trace

SIZE = (48, 64)
OBJECT = (8, 16, 24, 36)
"""(top, left, bottom, right) of the patch that the seeing detector looks at."""


class Seeing:
    """A black box with one candidate, whose score is the mean brightness of a patch."""

    name, gives, classes, layers = "seeing", frozenset({"candidates"}), ("patch", "other"), ()

    def __init__(self):
        self.images = []

    def predict(self, images):
        self.images.append(images)
        top, left, bottom, right = OBJECT
        box = torch.tensor([[left, top, right, bottom]], dtype=torch.float32)
        bright = images[:, :, top:bottom, left:right].mean((1, 2, 3))
        return [
            Candidates(
                box,
                torch.tensor([[float(value), 0.0]]),
                torch.zeros(1, dtype=torch.long),
                factors={"objectness": value[None]},
            )
            for value in bright
        ]


def traced(model, image=None):
    image = torch.ones((3, *SIZE)) if image is None else image
    (candidates,) = model.predict(image[None])
    detections = Detections(candidates.boxes, candidates.scores[:, 0], torch.tensor([0]), torch.tensor([0]))
    return Trace(image, Frame.same(SIZE), (), candidates, detections)


def explain(method, model=None, image=None):
    model = model or Seeing()
    trace = traced(model, image)
    return method(model, trace, trace.detections, [ClassScore()])[0]


def test_the_map_is_highest_on_what_the_detector_looks_at():
    maps = explain(DRise(masks=400, grid=8))
    top, left, bottom, right = OBJECT
    values = maps.normalized().at_image()[0]
    row, column = divmod(int(values.argmax()), SIZE[1])
    assert top <= row < bottom
    assert left <= column < right
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    assert values[~outside].mean() > 1.5 * values[outside].mean()
    assert maps.options["masks_used"] == 400


def test_same_seed_same_map_whatever_the_batch():
    maps = [explain(DRise(masks=60, grid=4, batch=batch)).values for batch in (1, 7, 60)]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(maps[0], maps[2], rtol=1e-5, atol=1e-5)
    assert torch.equal(maps[1], explain(DRise(masks=60, grid=4, batch=7)).values)
    assert not torch.allclose(maps[0], explain(DRise(masks=60, grid=4, seed=1)).values)


def test_the_map_is_the_weighted_sum_of_the_masks():
    model = Seeing()
    image = torch.rand((3, *SIZE), generator=torch.Generator().manual_seed(2)).clamp(min=0.1)
    maps = explain(DRise(masks=5, grid=4, batch=2, candidate_threshold=0.0), model, image)
    masked = torch.cat(model.images[1:])
    masks = (masked / image)[:, 0]
    top, left, bottom, right = OBJECT
    # IoU and cosine are 1: the weight is the objectness, the brightness of the patch.
    weights = masked[:, :, top:bottom, left:right].mean((1, 2, 3))
    torch.testing.assert_close(maps.values[0], (weights[:, None, None] * masks).sum(0), rtol=1e-4, atol=1e-5)


def test_masks_are_shared_by_detections_and_targets():
    model = Seeing()
    trace = traced(model)
    model.images.clear()
    both = trace.detections[[0, 0]]
    maps = DRise(masks=10, grid=4, batch=5)(model, trace, both, [ClassScore(), ClassScore()])
    assert [len(one) for one in maps] == [2, 2]
    assert [len(images) for images in model.images] == [5, 5]


def test_masks_show_a_cell_with_the_given_probability():
    for probability, canvas in ((0.5, None), (0.2, None), (0.5, 100)):
        method = DRise(masks=300, grid=6, probability=probability, canvas=canvas, batch=50)
        masks = torch.cat(list(method._batches(SIZE, torch.device("cpu"))))
        assert masks.shape == (300, *SIZE)
        assert 0 <= masks.min() <= masks.max() <= 1
        assert abs(float(masks.mean()) - probability) < 0.02
        assert (masks.mean(0) - probability).abs().max() < 0.12


def test_a_mask_is_a_cut_of_a_stretched_grid():
    grid = torch.tensor([[[0.0, 1], [1, 0]]])
    whole = draw_masks(grid, torch.zeros((1, 2)), (6, 9), (6, 9), (1, 1))
    # Bilinear with half-pixel centers: pixel i of 6 stands at (i + 0.5) / 3 - 0.5 cells.
    down = (torch.arange(6) + 0.5).div(3).sub(0.5).clamp(0, 1)
    across = (torch.arange(9) + 0.5).div(4.5).sub(0.5).clamp(0, 1)
    expected = down[:, None] * (1 - across) + (1 - down[:, None]) * across
    torch.testing.assert_close(whole[0], expected)
    cut = draw_masks(grid, torch.tensor([[0.5, 0.99]]), (3, 5), (6, 9), (2, 3))
    torch.testing.assert_close(cut[0], expected[1:4, 2:7])


def test_weights_by_hand():
    candidates = Candidates(
        torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10], [-10, 0, 10, 25]]),
        torch.tensor([[0.8, 0.0], [0.6, 0.8], [0.02, 0.0]]),
        torch.zeros(3, dtype=torch.long),
        factors={"objectness": torch.tensor([0.5, 0.9, 1.0])},
    )
    box, label, probabilities = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]), torch.tensor([[3.0, 0]])

    def weight(**options):
        return drise_weights(candidates, box, label, probabilities, size=(10, 40), **options).item()

    # Candidate 0: 1 * 1 * 0.5. Candidate 1: 0.5 * 0.6 * 0.9. Candidate 2, clipped to the image: 1 * 1 * 1.
    assert weight() == pytest.approx(1.0)
    assert weight(candidate_threshold=0.05) == pytest.approx(0.5)
    assert weight(candidate_threshold=0.05, objectness=False) == pytest.approx(1.0)
    assert weight(candidate_threshold=0.81) == 0.0
    other = drise_weights(candidates[[1]], box, label, probabilities, size=(40, 40))
    assert other.item() == pytest.approx(0.27)


def test_weights_take_the_box_of_the_class():
    candidates = Candidates(
        torch.tensor([[[0.0, 0, 10, 10], [0, 0, 20, 10]]]), torch.tensor([[0.0, 1.0]]), torch.zeros(1, dtype=torch.long)
    )
    boxes, labels = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]]), torch.tensor([0, 1])
    weights = drise_weights(candidates, boxes, labels, torch.tensor([[0.0, 1], [0, 1]]), size=(40, 40))
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5]))


def test_objectness_is_what_no_class_owns():
    scores, level = torch.rand((3, 2)), torch.zeros(3, dtype=torch.long)

    def of(**factors):
        return objectness_of(Candidates(torch.rand((3, 4)), scores, level, factors=factors)).tolist()

    assert of() == [1, 1, 1]
    assert of(**{"class": scores}) == [1, 1, 1]
    assert of(**{"class": scores, "centerness": torch.tensor([1.0, 0.5, 0])}) == [1, 0.5, 0]
    assert of(objectness=torch.tensor([0.0, 0.5, 1]), quality=torch.zeros(3)) == [0, 0.5, 1]


def test_stops_when_the_maps_have_settled():
    long = explain(DRise(masks=2000, grid=4, batch=64))
    early = explain(DRise(masks=2000, grid=4, batch=64, stop_when_settled=0.01, check_every=100))
    used = early.options["masks_used"]
    assert used in range(200, 2000, 100)
    assert torch.corrcoef(torch.stack([long.values.flatten(), early.values.flatten()]))[0, 1] > 0.9
    never = explain(DRise(masks=300, grid=4, batch=64, stop_when_settled=0.0, check_every=100))
    assert never.options["masks_used"] == 300


def test_progress_is_called_and_not_recorded():
    calls = []
    maps = explain(DRise(masks=10, grid=4, batch=4, progress=lambda done, total: calls.append((done, total))))
    assert calls == [(4, 10), (8, 10), (10, 10)]
    assert "progress" not in maps.options
    assert maps.options["seed"] == 0


def test_an_unknown_candidate_counts_as_certain_of_its_class():
    model = Seeing()
    trace = traced(model)
    drawn = Detections(trace.detections.boxes, torch.ones(1), torch.tensor([0]), torch.tensor([-1]))
    (maps,) = DRise(masks=5, grid=4)(model, trace, drawn, [ClassScore()])
    torch.testing.assert_close(maps.values, explain(DRise(masks=5, grid=4)).values)


def test_no_detection_costs_no_forward_pass():
    model = Seeing()
    trace = traced(model)
    model.images.clear()
    (maps,) = DRise()(model, trace, trace.detections[:0], [ClassScore()])
    assert model.images == []
    assert maps.at_image().shape == (0, *SIZE)


def test_only_the_score_has_a_similarity():
    model = Seeing()
    trace = traced(model)
    with pytest.raises(WhyboxError, match="drise explains a detection as a whole, not 'x1' alone; use target 'score'"):
        DRise(masks=5)(model, trace, trace.detections, [ClassScore(), BoxSide("x1")])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "masks must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"probability": 1.0}, "probability must lie between 0 and 1, got 1.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(WhyboxError, match=message):
        DRise(**options)


def test_a_canvas_smaller_than_the_image_is_refused():
    with pytest.raises(WhyboxError, match="canvas must be at least the image's longer side, 64, got 32"):
        explain(DRise(masks=5, canvas=32))


def test_it_is_told_where_candidates_give_no_factors():
    model = Seeing()
    trace = traced(model)
    assert DRise().remark(trace) == ""
    bare = replace(trace, candidates=replace(trace.candidates, factors={}))
    assert DRise().remark(bare) == "the candidates give no factors of their scores, so drise counts the objectness as 1"
    assert DRise(objectness=False).remark(bare) == ""
