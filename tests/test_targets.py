import pytest
import torch

from whybox.errors import UnknownNameError, WhyboxError
from whybox.frame import Frame
from whybox.targets import TARGETS, class_index, find_target
from whybox.types import Candidates, Detections, Trace, target_name

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
