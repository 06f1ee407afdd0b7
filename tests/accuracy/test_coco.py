"""COCO AP: known answers and edge cases."""

import contextlib
import io
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from whybox.accuracy.coco import coco_ap
from whybox.errors import WhyboxError

CLASSES = ("cat", "dog")
TRUTH = {"boxes": np.array([[10, 10, 50, 50], [60, 60, 90, 95]], dtype=np.float32), "labels": np.array([0, 1])}


def found(boxes, scores, labels):
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}


def test_the_truth_itself_scores_one():
    result = coco_ap([found(TRUTH["boxes"].tolist(), [0.9, 0.8], [0, 1])], [TRUTH], CLASSES)
    assert (result.ap, result.ap50, result.ap75, result.recall) == pytest.approx((1, 1, 1, 1))
    assert result.ap50_per_class == pytest.approx({"cat": 1, "dog": 1})
    assert result.images == 1


def test_a_swapped_label_finds_nothing():
    result = coco_ap([found(TRUTH["boxes"].tolist(), [0.9, 0.8], [1, 0])], [TRUTH], CLASSES)
    assert result.ap50 == 0


def test_a_false_alarm_above_the_hit_halves_precision():
    boxes = [[10.0, 10, 50, 50], [100, 100, 140, 140], [60, 60, 90, 95]]
    result = coco_ap([found(boxes, [0.5, 0.9, 0.8], [0, 0, 1])], [TRUTH], CLASSES)
    assert result.ap50_per_class == pytest.approx({"cat": 0.5, "dog": 1})


def test_a_shifted_box_counts_up_to_its_iou():
    # 40x40 moved by 10: IoU 1200 / 2000 = .6, a hit at IoU .50, .55 and .60 of the ten thresholds.
    truth = {"boxes": TRUTH["boxes"][:1], "labels": TRUTH["labels"][:1]}
    result = coco_ap([found([[20.0, 10, 60, 50]], [0.9], [0])], [truth], CLASSES)
    assert (result.ap50, result.ap75, result.ap) == pytest.approx((1, 0, 0.3))
    assert list(result.ap50_per_class) == ["cat"], "a class that does not occur has no AP"


def test_crowd_regions_count_neither_way():
    truth = {**TRUTH, "iscrowd": np.array([False, True])}
    alarms = [[10.0, 10, 50, 50], [61, 61, 70, 70], [71, 71, 80, 80]]
    assert coco_ap([found(alarms, [0.5, 0.9, 0.8], [0, 1, 1])], [truth], CLASSES).ap50 == pytest.approx(1)


def test_nothing_found_and_nothing_to_find():
    nothing = found([], [], [])
    assert coco_ap([nothing], [TRUTH], CLASSES).ap50 == 0
    empty = coco_ap([nothing], [{"boxes": np.zeros((0, 4)), "labels": np.zeros(0, int)}], CLASSES)
    assert np.isnan(empty.ap)
    assert empty.as_dict()["ap"] is None


def test_images_must_be_paired():
    with pytest.raises(WhyboxError, match="1 images with detections but 2 with truth"):
        coco_ap([found([], [], [])], [TRUTH, TRUTH], CLASSES)


def test_the_best_threshold_cuts_off_the_false_alarms():
    boxes = [[10.0, 10, 50, 50], [100, 100, 140, 140], [60, 60, 90, 95], [0, 0, 5, 5]]
    result = coco_ap([found(boxes, [0.9, 0.4, 0.5, 0.3], [0, 0, 1, 1])], [TRUTH], CLASSES)
    assert (result.threshold, result.f1) == pytest.approx((0.5, 1))
    result = coco_ap([found(boxes[:2], [0.9, 0.95], [0, 0])], [TRUTH], CLASSES)
    assert (result.threshold, result.f1) == pytest.approx((0.9, 0.5)), "one hit, one alarm, one miss"


def test_nothing_is_printed(capsys):
    coco_ap([found([[20.0, 10, 60, 50]], [0.9], [0])], [TRUTH], CLASSES)
    assert capsys.readouterr().out == ""


class Speaking(dict):
    """An image's truth that prints when it is read, as another thread would meanwhile."""

    def __getitem__(self, name):
        print(f"reading {name}")
        return super().__getitem__(name)


def test_what_others_print_meanwhile_is_printed(capsys):
    before = sys.stdout
    quiet = coco_ap([found([[10, 10, 50, 50]], [0.9], [0])], [TRUTH], CLASSES)
    capsys.readouterr()
    assert coco_ap([found([[10, 10, 50, 50]], [0.9], [0])], [Speaking(TRUTH)], CLASSES).as_dict() == quiet.as_dict()
    told = capsys.readouterr().out.splitlines()
    assert "reading boxes" in told
    assert all(text.startswith("reading ") for text in told)
    assert sys.stdout is before
    # pycocotools is left as it is, for other callers.
    assert COCO.createIndex.__globals__.get("print", print) is print


SIZES = [[0, 0, 20, 20], [100, 0, 150, 50], [200, 0, 320, 120]]
"""A small, a medium and a large box: 400, 2500 and 14400 pixels."""


def test_sizes_are_judged_apart():
    truth = {"boxes": np.array(SIZES, dtype=float), "labels": np.array([0, 0, 0])}
    result = coco_ap([found([[float(value) for value in box] for box in SIZES[:2]], [0.9, 0.8], [0, 0])], [truth], CLASSES)
    assert (result.ap_small, result.ap_medium, result.ap_large) == pytest.approx((1, 1, 0))
    assert (result.recall_small, result.recall_medium, result.recall_large) == pytest.approx((1, 1, 0))
    assert result.recall == pytest.approx(2 / 3)
    assert set(result.as_dict()) >= {"ap_small", "ap_large", "recall1", "recall10", "recall", "recall_medium"}


def test_the_area_of_the_mask_decides_the_size():
    # A box of 50x50 around a thin object of 300 pixels: small by its mask, medium by its box.
    truth = {"boxes": np.array(SIZES[1:2], dtype=float), "labels": np.array([0])}
    hit = [found([[100.0, 0, 150, 50]], [0.9], [0])]
    by_mask = coco_ap(hit, [{**truth, "area": np.array([300.0])}], CLASSES)
    by_box = coco_ap(hit, [truth], CLASSES)
    assert (by_mask.ap_small, by_box.ap_medium) == pytest.approx((1, 1))
    assert np.isnan([by_mask.ap_medium, by_mask.ap_large, by_box.ap_small, by_box.recall_small]).all()
    assert by_mask.as_dict()["ap_medium"] is None


def test_recall_with_few_detections_an_image():
    # 20 objects all found: the highest alone finds one in twenty, ten find half.
    boxes = [[float(x), 0, x + 10.0, 10] for x in range(0, 400, 20)]
    truth = {"boxes": np.array(boxes), "labels": np.zeros(20, dtype=int)}
    result = coco_ap([found(boxes, np.linspace(0.9, 0.1, 20).tolist(), [0] * 20)], [truth], CLASSES)
    assert (result.recall1, result.recall10, result.recall) == pytest.approx((1 / 20, 1 / 2, 1))


def drawn(seed):
    """Twelve images of up to 14 objects of three classes, some of them crowds, whose masks fill part of their boxes."""
    rng = np.random.default_rng(seed)
    detections, truths = [], []
    for count in rng.integers(0, 15, 12):
        corners = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corners, corners + np.exp(rng.uniform(2.5, 5.5, (count, 2)))], axis=1)
        labels = rng.integers(0, 3, count)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * rng.uniform(0.4, 1, count)
        truths.append({"boxes": boxes, "labels": labels, "iscrowd": rng.random(count) < 0.1, "area": area})
        rows = rng.integers(0, count, 2 * count) if count else np.zeros(0, dtype=int)
        shifted = (
            boxes[rows]
            + rng.normal(0, 0.07, (len(rows), 4)) * (boxes[rows, 2:] - boxes[rows, :2]).max(axis=1, initial=1)[:, None]
        )
        shifted[:, 2:] = np.maximum(shifted[:, 2:], shifted[:, :2] + 1)
        wrong = rng.random(len(rows)) < 0.15
        detections.append({"boxes": shifted, "scores": rng.random(len(rows)), "labels": np.where(wrong, 0, labels[rows])})
    return detections, truths


def annotation_files(detections, truths):
    """The same as COCO's files hold it."""
    annotations, results = [], []
    for image, (found, truth) in enumerate(zip(detections, truths, strict=True), start=7):
        for x1, y1, x2, y2, label, crowd, area in np.column_stack(
            [truth["boxes"], truth["labels"], truth["iscrowd"], truth["area"]]
        ):
            row = {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            annotations.append({**row, "id": len(annotations) + 1, "iscrowd": int(crowd), "area": area})
        for x1, y1, x2, y2, label, score in np.column_stack([found["boxes"], found["labels"], found["scores"]]):
            row = {"image_id": image, "category_id": int(label) + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            results.append({**row, "score": score})
    images = [{"id": image} for image in range(7, 7 + len(truths))]
    return {"images": images, "annotations": annotations, "categories": [{"id": k} for k in (1, 2, 3)], "info": {}}, results


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_twelve_numbers_are_those_of_cocos_files(seed):
    detections, truths = drawn(seed)
    result = coco_ap(detections, truths, ("cat", "dog", "cow"))
    dataset, results = annotation_files(detections, truths)
    with contextlib.redirect_stdout(io.StringIO()):
        table = COCO()
        table.dataset = dataset
        table.createIndex()
        evaluation = COCOeval(table, table.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    by_size = [result.ap_small, result.ap_medium, result.ap_large]
    recalls = [result.recall1, result.recall10, result.recall, result.recall_small, result.recall_medium, result.recall_large]
    assert [result.ap, result.ap50, result.ap75, *by_size, *recalls] == pytest.approx(evaluation.stats.tolist())
    assert 0 < result.ap < result.ap50 < 1
    assert len({result.ap_small, result.ap_medium, result.ap_large}) == 3
    assert result.recall1 < result.recall10 <= result.recall


def test_tensors_with_gradient_are_taken():
    boxes = torch.tensor([[10.0, 10, 50, 50]], requires_grad=True)
    found = {"boxes": boxes, "scores": boxes[:, 0] / 20, "labels": torch.tensor([0])}
    assert coco_ap([found], [TRUTH], CLASSES).ap50_per_class["cat"] == pytest.approx(1)


def test_an_object_without_a_class_name_is_refused():
    """pycocotools would leave it out."""
    truth = {"boxes": TRUTH["boxes"], "labels": np.array([1, 2])}
    with pytest.raises(WhyboxError, match="labels of the truth run from 1 to 2, and there are 2 class names"):
        coco_ap([found(TRUTH["boxes"].tolist(), [0.9, 0.8], [1, 2])], [truth], CLASSES)


def test_small_and_large_are_where_the_areas_say():
    # Boxes of 40x40 = 1600 and 30x35 = 1050 square pixels; the second is not found.
    seen = [found([[10.0, 10, 50, 50]], [0.9], [0])]
    sizes = [("ap_small", "ap_medium", "ap_large")[place] for place in range(3)]
    for areas, expected in (((32**2, 96**2), (None, 0.5, None)), ((1200, 1500), (0, None, 1)), ((1200, 5000), (0, 1, None))):
        result = coco_ap(seen, [TRUTH], CLASSES, areas)
        assert [result.as_dict()[name] for name in sizes] == list(expected)
    assert coco_ap(seen, [TRUTH], CLASSES).as_dict() == coco_ap(seen, [TRUTH], CLASSES, (32**2, 96**2)).as_dict()
    for areas in ((0, 10), (20, 10)):
        with pytest.raises(WhyboxError, match="areas are two limits in square pixels that rise"):
            coco_ap(seen, [TRUTH], CLASSES, areas)
