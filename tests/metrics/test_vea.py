"""VEA against pycocotools' IoU of masks and scipy's trapezoid."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from scipy.integrate import trapezoid

from metrics.annotated import case_of, random_case, same
from whybox.errors import UnknownNameError
from whybox.metrics.vea import THRESHOLDS, Vea, area_under, vea_curve


def coco_iou(one, other):
    one, other = (coco_mask.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in (one, other))
    return coco_mask.iou([one], [other], [0])[0, 0]


def test_the_curve_is_cocos_iou_of_the_map_above_each_threshold():
    maps, case = random_case()
    masks = case.truth.masks
    measured = Vea()(maps, case)
    for n, values in enumerate(maps):
        unit = (values - values.min()) / (values.max() - values.min())
        expected = [coco_iou(unit > threshold, masks[n]) for threshold in THRESHOLDS]
        same(measured.curves[n], expected)
        same(measured.values[n, None], [trapezoid(expected, dx=0.1) / 0.8])
        same(Vea(auc="mean")(maps, case).values[n, None], [np.mean(expected)])
    assert measured.at.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])


def test_a_box_as_the_region():
    case = case_of([[2, 1, 6.5, 4]], [0], size=(10, 12))
    maps = torch.zeros((1, 10, 12))
    maps[0, 1:4, 2:7] = 7.0
    same(Vea(region="box")(maps, case).values, [1])
    maps[0, 1:4, 2:7] = torch.tensor([7.0, 7, 7, 3, 0])
    # 3/7 = .43: the fourth column of three pixels counts up to T = .4, three columns of five from .5 on.
    same(Vea(region="box")(maps, case).curves[0], [12 / 15] * 4 + [9 / 15] * 5)


@pytest.mark.parametrize("area", ["trapezoid", "mean"])
def test_a_perfect_map_scores_one_and_a_flat_one_nothing(area):
    _, case = random_case()
    perfect = case.truth.masks * 1e-3 + 5
    assert Vea(auc=area)(perfect, case).values.tolist() == [1] * 7, "exactly: the range ends there"
    same(Vea(auc=area)(torch.full((7, 40, 50), 0.3), case).values, [0] * 7)


def test_the_threshold_itself_is_not_above():
    maps = torch.tensor([[[1.0, 0.5, 0.0]]])
    curve = vea_curve(maps, torch.tensor([[[True, True, False]]]))[0]
    same(curve, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.5])
    same(area_under(curve[None]), [(0.1 * 3 + 0.1 * 0.75 + 0.1 * 0.5 * 4) / 0.8])


def test_what_is_not_defined_is_nan():
    maps, case = random_case(ignore=[2])
    maps[0, 3, 3] = torch.nan
    case.truth.masks[1] = False
    measured = Vea()(maps, case)
    assert measured.values.isnan().tolist() == [True, True, True, False, False, False, False]
    assert measured.curves[:3].isnan().all()


def test_a_mistaken_option_is_named():
    with pytest.raises(UnknownNameError, match="unknown region 'masks'; did you mean mask"):
        Vea(region="masks")
    with pytest.raises(UnknownNameError, match="unknown auc 'sum'"):
        Vea(auc="sum")
