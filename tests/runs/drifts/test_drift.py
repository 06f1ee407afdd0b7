"""What two models see differently, image by image, and the page about it."""

import json

import pytest
import torch

import whybox
from whybox.data.scenes import draw_scene
from whybox.errors import ImageError
from whybox.runs.drifts.drift import PAGE, find_drift


class Pictures:
    names = ("first.png", "bad.png", "second.png")

    def source(self, index):
        if index == 1:
            raise ImageError("bad.png: not an image that can be read")
        return draw_scene(index, seed=1).image


@pytest.fixture(scope="module")
def models():
    before, after = whybox.load("whybox/scenes"), whybox.load("whybox/scenes")
    with torch.no_grad():
        # The class "dog" is no longer found.
        after.network.head.classification_head.cls_logits.bias[6] = -20
    return {"old": before, "new": after}


def test_the_largest_changes_come_first(models, tmp_path):
    warned = []
    found = find_drift(models, Pictures(), tmp_path / "out", on_warning=warned.append, top=5, limit=3)
    assert warned == ["bad.png: not an image that can be read"]
    assert (found.images, [name for name, _ in found.failed]) == (2, ["bad.png"])
    sizes = [change.size for change in found.changes]
    assert sizes == sorted(sizes, reverse=True)
    assert {change.name for change in found.changes if change.kind == "lost"} == {"dog"}
    kept = [change for change in found.changes if change.kind == "kept"]
    assert kept
    assert all(change.correlation == pytest.approx(1, abs=1e-4) for change in kept if change.name != "dog")
    told = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert told["counts"] == found.counts
    assert len(told["changes"]) == len(found.changes)
    page = (tmp_path / "out" / PAGE).read_text()
    assert page.count('<li class="card') == 5
    assert "kind of change" in page
    assert "AP<sub>" not in page


def test_a_model_that_has_not_changed(models, tmp_path):
    found = find_drift({"a": models["old"], "b": models["old"]}, Pictures(), tmp_path / "out", limit=1, score_threshold=0.6)
    assert set(found.counts.values()) == {0, len(found.changes)}
    assert found.correlation == pytest.approx(1)
    assert max(change.size for change in found.changes) < 1e-5
