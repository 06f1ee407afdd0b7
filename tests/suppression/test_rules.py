"""Rules of duplicate removal: each held to a plain loop, to torchvision, and to cases by hand."""

import pytest
import torch
from torch.nn.functional import normalize
from torchvision.ops import batched_nms, box_iou

import whybox
from suppression.fits import any_rule
from whybox import registry
from whybox.duplicates import make_rule
from whybox.errors import WhyboxError
from whybox.suppression.greedy import greedy_rows
from whybox.suppression.odam import has_neighbor
from whybox.types import Frame, HeatMaps


def crowd(count, seed=0, classes=2, clusters=8, size=12):
    """Candidates in clusters, with maps that look at the cluster's object: boxes, scores, labels, maps."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator)
    middle = draw(clusters, 2) * 100
    mine = torch.randint(clusters, (count,), generator=generator)
    center = middle[mine] + draw(count, 2) * 12 - 6
    extent = 15 + draw(count, 2) * 20
    boxes = torch.cat([center - extent / 2, center + extent / 2], 1)
    patterns = draw(clusters, size, size) * (draw(clusters, size, size) > 0.6)
    maps = patterns[mine] + 0.4 * draw(count, size, size) * (draw(count, size, size) > 0.5)
    return boxes, draw(count), torch.randint(classes, (count,), generator=generator), maps


def plain_odam(boxes, scores, labels, maps, iou_threshold, high, low):
    """The paper's algorithm 1, one pair after the other; a map of zeros leaves the decision to the IoU."""
    vectors = normalize(maps.flatten(1).double(), dim=1)
    kept = []
    for q in scores.argsort(descending=True, stable=True).tolist():
        for p in kept:
            if labels[p] != labels[q]:
                continue
            overlap = float(box_iou(boxes[p, None], boxes[q, None]))
            cosine = float(vectors[p] @ vectors[q])
            if not (maps[p].any() and maps[q].any()):
                duplicate = overlap > iou_threshold
            else:
                duplicate = cosine >= low if overlap > iou_threshold else cosine >= high
            if duplicate:
                break
        else:
            kept.append(q)
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("iou_threshold", "high", "low"), [(0.5, 0.8, 0.2), (0.6, 0.7, 0.3), (0.4, 0.5, 0.5), (0.5, 1.0, 0.0)])
def test_odam_is_the_papers_algorithm(seed, iou_threshold, high, low):
    boxes, scores, labels, maps = crowd(80, seed)
    maps[::9] = 0
    options = {"iou_threshold": iou_threshold, "high": high, "low": low}
    kept = whybox.nms(boxes, scores, labels, rule="odam", maps=maps, **options)
    assert kept.tolist() == plain_odam(boxes, scores, labels, maps, **options)
    assert 0 < len(kept) < 80


def test_odam_decides_by_maps_and_not_by_boxes_alone():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [0, 1, 10, 11], [30, 0, 40, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    left, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    maps = torch.stack([left, right, left, left])
    # The second overlaps the first but looks elsewhere; the last lies elsewhere but looks at the same.
    assert whybox.nms(boxes, scores, rule="odam", maps=maps).tolist() == [0, 1]
    assert whybox.nms(boxes, scores, rule="greedy").tolist() == [0, 3]


@pytest.mark.parametrize("seed", range(3))
def test_odam_without_maps_or_with_thresholds_out_of_reach_is_greedy(seed):
    boxes, scores, labels, maps = crowd(300, seed)
    expected = batched_nms(boxes, scores, labels, 0.5).tolist()
    assert whybox.nms(boxes, scores, labels, rule="odam", maps=torch.zeros_like(maps)).tolist() == expected
    assert whybox.nms(boxes, scores, labels, rule="odam", maps=maps, high=1.5, low=0.0).tolist() == expected
    assert whybox.nms(boxes, scores, labels, rule="greedy").tolist() == expected


@pytest.mark.parametrize("name", ["greedy", "soft", "soft:decay=linear", "feature", "odam"])
def test_the_order_of_the_input_does_not_matter(name):
    boxes, scores, labels, maps = crowd(200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    given = {"maps": maps, "embeddings": maps.flatten(1)}
    kept = whybox.nms(boxes, scores, labels, rule=name, **given)
    moved = whybox.nms(boxes[order], scores[order], labels[order], rule=name, **{k: v[order] for k, v in given.items()})
    if make_rule(name).rescores:
        assert torch.allclose(kept[1], moved[1])
        kept, moved = kept[0], moved[0]
    assert order[moved].tolist() == kept.tolist()


def plain_soft(boxes, scores, labels, decay, sigma, iou_threshold, min_score):
    """Soft-NMS by the book: the best of what is left is kept, and lowers the others of its class."""
    scores, left, kept = scores.tolist(), list(range(len(boxes))), []
    left = [i for i in left if scores[i] > min_score]
    while left:
        best = max(left, key=lambda i: scores[i])
        kept.append((best, scores[best]))
        left.remove(best)
        for i in left:
            if labels[i] != labels[best]:
                continue
            overlap = float(box_iou(boxes[best, None], boxes[i, None]))
            if decay == "gaussian":
                scores[i] *= 2.718281828459045 ** -(overlap**2 / sigma)
            elif overlap > iou_threshold:
                scores[i] *= 1 - overlap
        left = [i for i in left if scores[i] > min_score]
    return kept


@pytest.mark.parametrize("decay", ["gaussian", "linear"])
@pytest.mark.parametrize("seed", range(3))
def test_soft_is_a_plain_loop(decay, seed):
    boxes, scores, labels, _ = crowd(80, seed)
    options = {"decay": decay, "sigma": 0.4, "iou_threshold": 0.35, "min_score": 0.05}
    rows, final = whybox.nms(boxes, scores, labels, rule="soft", **options)
    expected = plain_soft(boxes, scores, labels, **options)
    assert rows.tolist() == [row for row, _ in expected]
    assert torch.allclose(final, torch.tensor([score for _, score in expected]), rtol=1e-4)
    assert (final.diff() <= 0).all()
    assert len(rows) < 80


def test_soft_returns_the_undecayed_scores_where_asked():
    boxes, scores, labels, _ = crowd(80)
    rows, original = whybox.nms(boxes, scores, labels, rule="soft:returned=original")
    decayed_rows, decayed = whybox.nms(boxes, scores, labels, rule="soft")
    assert rows.tolist() == decayed_rows.tolist()
    assert torch.equal(original, scores[rows])
    assert (decayed <= original).all()
    assert (decayed < original).any()


def test_feature_compares_embeddings_where_boxes_overlap_a_little():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.5], [4, 0, 14, 10], [4, 0, 14, 10.1], [8.5, 0, 18.5, 10]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    embeddings = torch.tensor([[0.0, 0], [5, 5], [0, 0.9], [3, 3], [0, 0]])
    # Of the first: the second overlaps by .95, always a duplicate; the third by .43 and close by, a duplicate; the fourth far.
    # The last overlaps the first by .08, and the fourth by .38, but its embedding is far from that one's.
    assert whybox.nms(boxes, scores, rule="feature", embeddings=embeddings).tolist() == [0, 3, 4]


@pytest.mark.parametrize("decay", ["linear", "gaussian"])
def test_soft_keeps_two_boxes_without_area(decay):
    """Their IoU is 0 divided by 0."""
    scores = torch.tensor([0.9, 0.8])
    rows, final = whybox.nms(torch.zeros(2, 4), scores, torch.zeros(2).long(), rule="soft", decay=decay)
    assert rows.tolist() == [0, 1]
    assert final.tolist() == scores.tolist()


def test_images_of_a_batch_and_classes_are_kept_apart():
    boxes, scores, labels, maps = crowd(120)
    batch = torch.arange(120) % 3
    for name in ("greedy", "odam"):
        kept = whybox.nms(boxes, scores, labels, rule=name, maps=maps, batch=batch)
        alone = []
        for image in range(3):
            rows = (batch == image).nonzero()[:, 0]
            alone += rows[whybox.nms(boxes[rows], scores[rows], labels[rows], rule=name, maps=maps[rows])].tolist()
        assert sorted(kept.tolist()) == sorted(alone)
    together = whybox.nms(boxes, scores, rule="greedy")
    assert len(together) < len(whybox.nms(boxes, scores, labels, rule="greedy"))


def test_why_a_box_was_removed():
    boxes, scores, labels, maps = crowd(80)
    rule = make_rule("odam")
    groups = labels
    vectors = whybox.duplicates._given(rule, maps, None, boxes)
    result = rule(boxes, scores, groups, vectors)
    units = normalize(maps.flatten(1), dim=1)
    removed = (result.by >= 0).nonzero()[:, 0]
    assert sorted([*removed.tolist(), *result.rows.tolist()]) == list(range(80))
    assert result.iou[result.rows].isnan().all()
    for row in removed.tolist():
        by = int(result.by[row])
        assert by in result.rows.tolist()
        assert labels[by] == labels[row]
        assert scores[by] >= scores[row]
        assert float(result.iou[row]) == pytest.approx(float(box_iou(boxes[row, None], boxes[by, None])))
        assert float(result.similarity[row]) == pytest.approx(float(units[row] @ units[by]), abs=1e-5)


def test_ten_thousand_and_none():
    boxes, scores, labels, maps = crowd(10_000, clusters=900)
    kept = whybox.nms(boxes, scores, labels, rule="odam", maps=maps, high=1.5, low=0)
    assert kept.tolist() == batched_nms(boxes, scores, labels, 0.5).tolist()
    for name in registry.rules():
        none = whybox.nms(boxes[:0], scores[:0], labels[:0], rule=any_rule(name), maps=maps[:0], embeddings=maps[:0].flatten(1))
        for part in none if isinstance(none, tuple) else (none,):
            assert part.shape == (0,)


def test_greedy_stops_early_with_the_same_result():
    boxes, scores, labels, _ = crowd(5000, clusters=400)
    assert torch.equal(greedy_rows(boxes, scores, labels, 0.4, 50), batched_nms(boxes, scores, labels, 0.4)[:50])


def test_maps_of_several_grids_and_tiny_values():
    boxes, scores, labels, maps = crowd(40)
    frame = Frame.same((96, 96))
    fine = torch.nn.functional.interpolate(maps[:, None], scale_factor=2, mode="nearest")[:, 0]
    mixed = HeatMaps(tuple(fine[i] if i % 2 else maps[i] for i in range(40)), frame, "logit", "odam")
    expected = whybox.nms(boxes, scores, labels, maps=mixed.values)
    assert whybox.nms(boxes, scores, labels, maps=mixed).tolist() == expected.tolist()
    # Squares of such values are zero in float32.
    assert whybox.nms(boxes, scores, labels, maps=maps * 1e-30).tolist() == whybox.nms(boxes, scores, labels, maps=maps).tolist()


def test_boxes_with_a_neighbor():
    boxes = torch.tensor([[0.0, 0, 10, 10], [18, 0, 28, 10], [60, 0, 70, 10], [0, 60, 10, 70]])
    groups = torch.zeros(4, dtype=torch.long)
    assert has_neighbor(boxes, groups).tolist() == [True, True, False, False]
    assert has_neighbor(boxes, groups, grow=0).tolist() == [False] * 4
    assert has_neighbor(boxes, torch.tensor([0, 1, 0, 0])).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("told", "change"),
    [
        (r"boxes hold NaN or infinity, first in row 1", {"boxes": torch.tensor([[0.0, 0, 1, 1], [0, torch.nan, 1, 1]])}),
        (r"scores hold NaN or infinity, first in row 0", {"scores": torch.tensor([torch.nan, 0.5])}),
        (r"boxes must be \(N, 4\) and scores \(N,\) of as many boxes, got \(2, 3\)", {"boxes": torch.zeros(2, 3)}),
        (r"labels must be 2 whole numbers, one per box, got \(3,\)", {"labels": [1, 2, 3]}),
        (r"labels must be 2 whole numbers, one per box, got \(2,\) torch.float32", {"labels": [1.0, 2.0]}),
        (r"rule 'odam' compares maps: pass maps=, one per box", {"maps": None}),
        (r"maps must be one per box, 2 in all, got \(3, 4, 4\)", {"maps": torch.zeros(3, 4, 4)}),
        (r"maps hold NaN or infinity, first in row 1", {"maps": torch.tensor([[[1.0]], [[torch.inf]]])}),
        (r"rule 'feature' compares embeddings: pass embeddings=", {"rule": "feature"}),
        (r"unknown rule 'oadm'; did you mean odam", {"rule": "oadm"}),
        (r"rule 'odam' has no option 'hgih'; did you mean high", {"hgih": 0.5}),
        (r"rule 'odam': 0 <= low <= high and high > 0 are needed, got low 0.9 and high 0.8", {"low": 0.9}),
        (r"rule 'odam': iou_threshold must lie between 0 and 1, got 50", {"iou_threshold": 50}),
        (r"rule 'odam': high must be a number, got 'x'", {"high": "x"}),
        (r"rule 'odam': high is given twice", {"rule": "odam:high=0.9", "high": 0.8}),
        (r"rule 'soft': sigma must be greater than 0, got 0", {"rule": "soft", "sigma": 0}),
        (r"rule must be a name \(feature, fitted, fitted_odam, greedy, odam, soft\) or a rule object, got 3", {"rule": 3}),
    ],
)
def test_mistakes_are_one_line(told, change):
    given = {
        "boxes": torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 2]]),
        "scores": torch.tensor([0.5, 0.6]),
        "maps": torch.ones(2, 4, 4),
    }
    with pytest.raises(WhyboxError, match=told) as caught:
        whybox.nms(**{**given, **change})
    assert "\n" not in str(caught.value)
