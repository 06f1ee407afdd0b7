"""Which detections are explained: supervision's as they come, and the model's own."""

import numpy as np
import pytest
import torch

import whybox
from whybox.data.scenes import draw_scene
from whybox.errors import WhyboxError

sv = pytest.importorskip("supervision")


@pytest.fixture(scope="module")
def model():
    return whybox.load("whybox/scenes")


@pytest.fixture(scope="module")
def result(model):
    return whybox.explain(model, draw_scene(3, seed=1).image)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervisions_detections_come_back_as_they_went_out(model, result):
    again = whybox.explain(model, result.image, detections=result.to_supervision())
    assert torch.equal(again.detections.source, result.detections.source)
    assert again.names == result.names
    assert torch.equal(again.maps.values, result.maps.values)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_class_names_of_the_model_come_before_numbers(model, result):
    boxes = result.detections.boxes[:1].numpy()
    name = result.names[0]
    named = sv.Detections(boxes, class_id=np.array([0]), data={"class_name": np.array([name])})
    assert whybox.explain(model, result.image, detections=named).names == (name,)
    strange = sv.Detections(boxes, class_id=np.array([2]), data={"class_name": np.array(["unicorn"])})
    assert whybox.explain(model, result.image, detections=strange).detections.labels.tolist() == [2]
    bare = whybox.explain(model, result.image, detections=sv.Detections(boxes))
    assert bare.detections.source[0] == result.detections.source[0]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_none_and_several_images(model, result):
    assert len(whybox.explain(model, result.image, detections=sv.Detections.empty())) == 0
    each = whybox.explain(model, [result.image] * 2, detections=[result[:1].to_supervision(), result[1:2].to_supervision()])
    assert [one.names for one in each] == [result.names[:1], result.names[1:2]]


def test_what_is_no_detections_is_told(model, result):
    with pytest.raises(WhyboxError, match=r"detections must be Detections, a mapping with boxes and labels, .*got int"):
        whybox.explain(model, result.image, detections=3)
