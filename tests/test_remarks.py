"""What is said beside maps: contrasts with themselves, words without weight, and what a model itself leaves out."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import whybox
from conformance.conftest import sample
from models.detectors import image
from models.prompted_models import SHAPE, TEXTS, prompted_pair
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.network_state import exclusive
from whybox.remarks import joined, remarks_on_zeros
from whybox.selection import choose
from whybox.types import Candidates, Detections, FeatureMap, HeatMaps, Trace

WITH_A_THRESHOLD = ["torchvision_onestage", "torchvision_twostage", "ultralytics", "plain", "hf_detection", "hf_prompted"]
BOXES = {"boxes": [[5.0, 5.0, 30.0, 30.0]] * 2, "labels": [0, 1]}


@pytest.fixture(scope="module")
def owl():
    net, processor = prompted_pair("owlvit")
    return whybox.load(net, processor=processor)


@pytest.fixture(scope="module")
def picture():
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1))


def test_a_contrast_of_the_only_text_is_refused(owl, picture):
    with pytest.raises(WhyboxError, match="the model has no other text, and a contrast of one with itself is 0"):
        whybox.explain(owl, picture, text=TEXTS[0], target=f"contrast:{TEXTS[0]}", words=True)


def test_a_contrast_with_a_detections_own_text_is_told(owl, picture):
    result = whybox.explain(owl, picture, text=TEXTS, target=f"contrast:{TEXTS[0]}", detections=BOXES, words=True)
    own, other = result.notes
    assert own.endswith(f"a contrast of {TEXTS[0]} with itself is 0")
    assert f"no word has a weight for contrast:{TEXTS[0]}" in own
    assert not float(result.maps.native[0].abs().max())
    assert "itself" not in other
    assert "no word" not in other


def test_words_without_weight_are_told(owl, picture):
    """OWL-ViT's boxes do not depend on the texts."""
    result = whybox.explain(owl, picture, text=TEXTS, target="x1", detections=BOXES, words=True)
    assert all(note.startswith("no word has a weight for x1; ") for note in result.notes)


def test_notes_are_joined_row_by_row():
    assert joined(["a", ""], [], ["b", "c"]) == ["a; b", "c"]
    assert joined([], []) == []


@pytest.mark.parametrize(("dtype", "told"), [(torch.float16, True), (torch.bfloat16, False), (torch.float32, False)])
def test_a_map_that_float16_may_have_rounded_to_zero_is_told(dtype, told):
    frame, boxes, zeros = Frame((8, 8), (8, 8), (8, 8)), torch.zeros(1, 4), torch.zeros(1, dtype=torch.long)
    found = Detections(boxes, torch.zeros(1), zeros, zeros)
    features = (FeatureMap(torch.zeros(1, 2, 2, dtype=dtype), 4.0, "level"),)
    trace = Trace(torch.zeros(3, 8, 8), frame, features, Candidates(boxes, torch.zeros(1, 1), zeros), found)
    maps = HeatMaps((torch.zeros(2, 2), torch.ones(2, 2)), frame, "score", "odam", {}, ("exact", "exact"))
    notes = remarks_on_zeros(maps, trace)
    assert [bool(note) for note in notes] == ([True, False] if told else [])


def test_a_configuration_without_names_of_outputs_is_told():
    network = torch.nn.Linear(1, 1)
    network.config = SimpleNamespace(return_dict=False)
    with pytest.raises(WhyboxError, match=r"return_dict=False.*config.return_dict = True"), exclusive(network):
        _ = ().pooler_output
    network.config.return_dict = True
    with pytest.raises(AttributeError), exclusive(network):
        _ = ().pooler_output


def with_threshold(family, floor):
    """A copy of a family's small detector with a threshold of its own."""
    model = copy.copy(sample(family))
    if family.startswith("torchvision"):
        model.network = copy.deepcopy(model.network)
        getattr(model.network, "roi_heads", model.network).score_thresh = floor
    elif hasattr(model, "suppression"):
        model.suppression = replace(model.suppression, score_threshold=floor)
    else:
        model.score_threshold = floor
    return model


@pytest.mark.parametrize("family", WITH_A_THRESHOLD)
def test_what_a_model_itself_leaves_out_is_told_where_more_was_asked_for(family):
    picture = image(1, 64, 96)
    scores = sample(family).trace(picture).candidates.scores[:, sample(family).first_column :]
    floor = float(scores.amax(1).median())
    model = with_threshold(family, floor)
    assert model.score_threshold == floor
    found, notes = choose(model.trace(picture), None, model, 0.0, 10**6)
    assert len(found)
    assert set(notes) == {f"there may be more: {model.name} itself gives nothing under a score of {floor:g}"}
    assert not any(choose(model.trace(picture), None, model, floor, 10**6)[1])
    assert not any(choose(model.trace(picture), None, model, 0.0, 1)[1])


@pytest.mark.parametrize("family", [*WITH_A_THRESHOLD, "hf_instances", "guide_tiny"])
@pytest.mark.parametrize("floor", [0.02, 0.3])
def test_a_model_with_a_rule_leaves_out_what_the_rule_does_not_get(family, floor):
    """Hugging Face's families give the rule scores down to .05, whatever their own threshold."""
    model = with_threshold(family, floor)
    wrapped = whybox.with_nms(model, "greedy")
    # The guide's family says nothing of a threshold.
    expected = 0.05 if family == "guide_tiny" else min(floor, 0.05) if family.startswith("hf_") else floor
    assert wrapped.score_threshold == wrapped.unsuppressed_threshold == expected
    assert (model.unsuppressed(model.trace(image(1, 64, 96))).scores >= expected).all()
    assert whybox.with_nms(model, "soft").score_threshold == 0
