"""What a rule decided, pair by pair: by hand, and against the rule itself on scenes."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torchvision.ops import box_iou

import whybox
from models import small_yolo
from whybox.decide import decisions_of
from whybox.decisions import Decisions
from whybox.duplicates import Removal, make_rule, map_vectors, remove_duplicates
from whybox.errors import WhyboxError
from whybox.rule import Vectors
from whybox.suppression.greedy import Greedy
from whybox.types import Detections
from whybox.verdicts import judge, own_rule, suppressor

NEAR, FAR = (0, 0, 10, 10), (40, 0, 50, 10)
# In this order: kept; overlaps it (IoU 0.67) and looks elsewhere; overlaps it and looks at the same; overlaps it little (0.25)
# and looks at the same; another class; alone; under the threshold.
BOXES = [NEAR, (2, 0, 12, 10), (1, 0, 11, 10), (6, 0, 16, 10), NEAR, FAR, (41, 0, 51, 10)]
SCORES = [0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.2]
LABELS = [0, 0, 0, 0, 1, 0, 0]
MAPS = [[1.0, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [1, 0.1, 0.1], [1, 0, 0], [0, 0, 1], [0, 0, 1]]


def decide(rule, top=100, classes=(), threshold=0.3):
    rule = make_rule(rule)
    found = Detections(torch.tensor(BOXES).float(), torch.tensor(SCORES), torch.tensor(LABELS), torch.arange(7))
    values = torch.tensor(MAPS)
    vectors = Vectors(lambda rows: values[rows]) if rule.needs else None
    result = rule(found.boxes, found.scores, found.labels, vectors)
    chosen = found[result.rows]
    kept = Detections(chosen.boxes, result.scores, chosen.labels, chosen.source)
    model = SimpleNamespace(rule=rule, name="by hand", classes=("cat", "dog"))
    trace = SimpleNamespace(image=torch.zeros(3, 20, 60))
    return decisions_of(model, trace, Removal(found, result, kept, vectors), "a.jpg", threshold, top, classes)


def told(decisions):
    return [(pair.kept, pair.other, pair.outcome, pair.differs) for pair in decisions.pairs]


def test_odam_by_hand():
    decisions = decide("odam")
    assert decisions.kept.tolist() == [0, 1, 4, 5]
    assert told(decisions) == [(0, 1, "kept", True), (0, 3, "removed", True), (0, 2, "removed", False)]
    first, little, much = decisions.pairs
    assert first.why == "IoU 0.67 > 0.50, but cosine of the maps 0.00 < 0.20: not a duplicate"
    assert (little.iou, much.iou) == (pytest.approx(0.25), pytest.approx(9 / 11))
    assert little.similarity == pytest.approx(1 / math.sqrt(1.02))
    assert (decisions.greedy_iou, decisions.greedy_kept) == (0.5, 4)


def test_greedy_differs_nowhere():
    decisions = decide("greedy")
    assert told(decisions) == [(0, 1, "removed", False), (0, 2, "removed", False)]
    assert decisions.greedy_kept == len(decisions.kept) == 4
    assert all(math.isnan(pair.similarity) for pair in decisions.pairs)


def test_soft_tells_of_scores_that_fell_under_the_threshold():
    decisions = decide("soft:sigma=0.3")
    assert decisions.kept.tolist() == [0, 4, 5, 3]
    assert decisions.scores.tolist() == sorted(decisions.scores.tolist(), reverse=True)
    fell = [pair for pair in decisions.pairs if pair.outcome != "kept"]
    assert [(pair.kept, pair.other, pair.outcome) for pair in fell] == [(0, 1, "lowered"), (0, 2, "lowered")]
    # By the first box exp(-0.667^2 / 0.3) = 0.227, and by the fourth, which is kept before it, exp(-0.429^2 / 0.3) = 0.542.
    assert fell[0].why == (
        "IoU 0.67 multiplies its score by 0.23; all together, it fell from 0.80 to 0.099, under the threshold 0.3"
    )


def test_threshold_classes_and_top_say_what_is_told_of():
    assert 6 in [pair.other for pair in decide("odam", threshold=0.1).pairs]
    assert decide("odam", classes=[1]).kept.tolist() == [4]
    assert decide("odam", classes=[1]).pairs == ()
    assert decide("odam", top=1).kept.tolist() == [0]
    assert told(decide("odam", top=1)) == [(0, 3, "removed", True), (0, 2, "removed", False)]


def test_as_plain_data():
    decisions = decide("odam")
    data = json.loads(json.dumps(decisions.to_dict(), allow_nan=False))
    assert data["rule"] == "odam:iou_threshold=0.5:high=0.8:low=0.2"
    assert [row["source"] for row in data["detections"]] == [0, 1, 4, 5]
    pair = data["pairs"][0]
    assert (pair["outcome"], pair["kept"], pair["source"], pair["name"]) == ("kept", 0, 1, "cat")
    assert (pair["greedy_removes"], pair["map_cosine"]) == (True, None)
    assert repr(decisions) == "<ODAM-NMS: 4 detections kept; pairs: 1 kept, 2 removed>"
    assert decisions.detections.source.tolist() == [0, 1, 4, 5]


@pytest.fixture(scope="module")
def scene():
    return whybox.load("whybox/scenes"), whybox.open_data("scenes:variant=crowd:count=1")[0].image


@pytest.fixture(scope="module")
def decided(scene):
    return whybox.explain_nms(*scene, "odam:high=0.7", pairs=10)


def test_scenes_agree_with_the_rule(scene, decided):
    model, image = scene
    assert isinstance(decided, Decisions)
    found = whybox.detect(model, image, nms="odam:high=0.7")
    assert torch.equal(decided.detections.boxes, found.boxes)
    trace = whybox.trace(model, image)
    removal = remove_duplicates(model, trace, make_rule("odam:high=0.7"), 0.3)
    lost = [pair for pair in decided.pairs if pair.outcome == "removed"]
    assert {pair.other: pair.kept for pair in lost} == {row: by for row, by in enumerate(removal.result.by.tolist()) if by >= 0}
    iou = box_iou(decided.found.boxes, decided.found.boxes)
    kept = set(decided.kept.tolist())
    for pair in decided.pairs:
        assert pair.iou == pytest.approx(float(iou[pair.kept, pair.other]), abs=1e-5)
        assert pair.kept in kept
        assert (pair.other in kept) == (pair.outcome == "kept")
    assert any(pair.outcome == "kept" for pair in decided.pairs)


def test_maps_are_drawn_of_the_first_pairs_alone(scene, decided):
    model, image = scene
    shown = decided.pairs[:10]
    assert decided.map_rows.tolist() == sorted({row for pair in shown for row in (pair.kept, pair.other)})
    assert len(decided.maps) == len(decided.map_rows)
    assert decided.cosines == pytest.approx([pair.similarity for pair in shown], abs=2e-3)
    vectors = map_vectors(model, whybox.trace(model, image), decided.found[[shown[0].kept, shown[0].other]])
    assert decided.cosines[0] == pytest.approx(float(torch.cosine_similarity(*vectors, dim=0)), abs=2e-3)


def test_a_trace_a_model_with_a_rule_and_no_maps(scene, decided):
    model, image = scene
    crowds = whybox.with_nms(model, "odam:high=0.7")
    again = whybox.explain_nms(crowds, whybox.trace(crowds, image), pairs=0)
    assert again.pairs == decided.pairs
    assert (again.maps, again.cosines) == (None, ())


def test_the_folder(decided, tmp_path):
    page = decided.save(tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    assert page.stat().st_size < 1_000_000
    data = json.loads((tmp_path / "out" / "decisions.json").read_text())
    assert len(data["images"][0]["pairs"]) == len(decided.pairs)
    with pytest.raises(WhyboxError, match="already exists"):
        decided.save(tmp_path / "out")


def test_nothing_found(scene):
    model, image = scene
    empty = whybox.explain_nms(model, image, score_threshold=1.0)
    assert (len(empty.kept), empty.pairs) == (0, ())
    assert empty.sheet().name == "image"


def test_the_rule_of_a_model(scene):
    model, _ = scene
    assert own_rule(model) == Greedy(model.network.nms_thresh)
    assert own_rule(whybox.with_nms(model, "soft")) == make_rule("soft")


def test_two_detections_and_a_removed_candidate_judged(scene):
    model, image = scene
    crowds = whybox.with_nms(model, "odam")
    trace = whybox.trace(crowds, image)
    full = whybox.explain_nms(model, image, "odam", pairs=0, score_threshold=0.05)
    both = next(pair for pair in full.pairs if pair.outcome == "kept")
    judged = judge(crowds, trace, full.found[[both.kept]], full.found[[both.other]])
    assert (judged.outcome, judged.iou, judged.why) == ("kept", pytest.approx(both.iou), both.why)
    lost = [pair for pair in full.pairs if pair.outcome == "removed"][:5]
    for pair in lost:
        row, removed = suppressor(crowds, trace, full.found[[pair.other]])
        assert torch.equal(trace.detections.boxes[row], full.found.boxes[pair.kept])
        assert removed.why == pair.why
    # By another model's rule nothing is known of it; one that lowers scores removes nothing at once.
    assert suppressor(whybox.with_nms(model, "soft"), trace, full.found[[lost[0].other]]) is None


@pytest.mark.parametrize(
    ("head", "part"), [(small_yolo.Segment, "masks"), (small_yolo.Pose, "keypoints"), (small_yolo.OBB, "corners")]
)
def test_what_the_page_shows_comes_with_its_shape(head, part):
    image = torch.rand((3, 96, 128), generator=torch.Generator().manual_seed(0))
    model = whybox.load(small_yolo.BaseModel(head=head))
    decisions = whybox.explain_nms(model, image, "greedy", pairs=3, score_threshold=0.3)
    assert len(decisions.page_rows) > 1
    expected = getattr(model.complete(model.trace(image), decisions.found[decisions.page_rows]), part)
    assert torch.equal(getattr(decisions.shapes, part), expected)
    assert {"masks": "outlines", "keypoints": "points"}.get(part, part) in json.loads(decisions.sheet().body)["boxes"][0]
