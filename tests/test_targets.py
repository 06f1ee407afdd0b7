import pytest
import torch

from whybox.errors import UnknownNameError, WhyboxError
from whybox.frame import Frame
from whybox.targets import MASKS, TARGETS, Corner, Keypoint, class_index, find_target
from whybox.types import Candidates, Detections, MaskLogits, Trace, target_name

SCORES = torch.tensor([[0.1, 0.7], [0.6, 0.2], [0.3, 0.4]])
BOXES = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]])


def trace(**parts):
    level = torch.zeros(3, dtype=torch.long)
    parts = {"logits": SCORES.logit(), "raw": {"l": torch.tensor([1.0, 2.0, 3.0])}} | parts
    candidates = Candidates(BOXES, SCORES, level, **parts)
    found = Detections(BOXES[[2, 0]], torch.tensor([0.4, 0.7]), torch.tensor([1, 1]), torch.tensor([2, 0]))
    return Trace(torch.zeros(3, 16, 16), Frame.same((16, 16)), (), candidates, found)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("score", [0.4, 0.7]),
        ("logit", SCORES.logit()[[2, 0], 1].tolist()),
        ("against", (-SCORES.logit()[[2, 0], 1]).tolist()),
        ("x1", [8.0, 0.0]),
        ("y1", [9.0, 1.0]),
        ("x2", [10.0, 2.0]),
        ("y2", [11.0, 3.0]),
        ("l", [3.0, 1.0]),
        ("contrast:0", (SCORES.logit()[[2, 0], 1] - SCORES.logit()[[2, 0], 0]).tolist()),
    ],
)
def test_each_target_reads_its_detections_own_value(name, expected):
    target = find_target(name, None, ("l",))
    assert target_name(target) == name
    assert target(trace()).tolist() == pytest.approx(expected)


def test_contrast_takes_a_class_by_name():
    target = find_target("contrast:cat", ["cat", "dog"])
    assert target.other == 0


def test_a_callable_is_taken_as_it_is():
    def area(passed):
        return passed.candidates.boxes[:, 2]

    assert find_target(area, None) is area
    assert target_name(area) == "area"


def test_mistakes_name_what_would_work():
    with pytest.raises(UnknownNameError, match="did you mean score"):
        find_target("scor", None)
    with pytest.raises(UnknownNameError, match="combined"):
        find_target("width", None)
    with pytest.raises(UnknownNameError, match="did you mean dog"):
        class_index("dgo", ["cat", "dog"])
    with pytest.raises(UnknownNameError, match="number"):
        class_index("dog", None)
    with pytest.raises(WhyboxError, match="logits"):
        TARGETS["logit"][0](trace(logits=None))
    with pytest.raises(WhyboxError, match="columns 0 to 1"):
        find_target("contrast:7", None)(trace())


def masked(logits, boxes=None):
    """Three candidates of one mask each."""
    return trace(masks=MaskLogits(logits.expand(3, *logits.shape), boxes=boxes))


def test_cells_of_a_mask():
    """A square of 3 by 3 cells: its middle is inside, the others and the ring around them are its edge."""
    logits = torch.full((7, 7), -4.0)
    logits[2:5, 2:5] = 1.0
    logits[3, 3] = 10.0
    values = {name: float(target(masked(logits))[0]) for name, (target, _) in MASKS.items()}
    assert values == pytest.approx({"mask": 2.0, "mask:inside": 10.0, "mask:edge": (8 - 16 * 4) / 24})


def test_a_mask_that_is_empty_full_or_cut_at_its_box():
    empty = torch.full((4, 4), -2.0)
    empty[1, 2] = -1.0
    full = torch.full((4, 4), 3.0)
    for name, (target, _) in MASKS.items():
        assert float(target(masked(full))[0]) == 3.0, name
    assert float(MASKS["mask"][0](masked(empty))[0]) == -1.0
    # Of the cells, those in the box alone.
    logits = torch.tensor([[5.0, 1.0, 1.0], [9.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    boxes = torch.tensor([[0.0, 0.0, 2.0, 1.0]]).expand(3, 4)
    assert float(MASKS["mask"][0](masked(logits, boxes))[0]) == 3.0
    nowhere = torch.tensor([[8.0, 8.0, 9.0, 9.0]]).expand(3, 4)
    assert float(MASKS["mask"][0](masked(logits, nowhere))[0]) == 9.0


def test_weights_of_prototypes_are_masks():
    prototypes, weights = torch.rand(2, 4, 5), torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, -1.0]])
    masks = MaskLogits(weights, prototypes)
    assert torch.allclose(masks.logits()[1], 2 * prototypes[1])
    assert torch.allclose(masks[[2]].logits()[0], prototypes[0] - prototypes[1])
    with pytest.raises(ValueError, match=r"must be \(M, P\), the prototypes' weights"):
        MaskLogits(torch.zeros(3, 4, 5), prototypes)


def test_keypoints_and_corners_are_their_own_candidates():
    points, corners = torch.rand(3, 4, 3), torch.rand(3, 4, 2)
    passed = trace(keypoints=points, corners=corners)
    assert torch.equal(Keypoint(1, "eye")(passed), points[[2, 0], 1, 2])
    assert torch.equal(Keypoint(3, "ear", "y")(passed), points[[2, 0], 3, 1])
    assert torch.equal(Corner(2, "x")(passed), corners[[2, 0], 2, 0])
    for target in (Keypoint(1, "eye"), Corner(0, "y"), MASKS["mask"][0]):
        with pytest.raises(WhyboxError, match="this model gives none, or this method draws its maps without"):
            target(trace())
