"""Inside `keeping`, maps of one image at one layer share a pass, as clicks in the viewer do."""

import pytest

import whybox
from conformance.conftest import sample
from models.detectors import image
from whybox.ops.kept_pass import KeptPass, keeping


@pytest.mark.parametrize(
    ("family", "makes"), [("torchvision_onestage", "_candidates"), ("torchvision_twostage", "_candidates"), ("plain", "_run")]
)
def test_maps_at_one_layer_share_a_pass_and_are_the_same(family, makes, monkeypatch):
    model, passes = sample(family), []
    trace, other = model.trace(image(1, 64, 96)), model.trace(image(2, 64, 96))
    own = getattr(model, makes)
    monkeypatch.setattr(model, makes, lambda *given, **options: passes.append(1) or own(*given, **options))

    def ask(seen, row, method="input_x_gradient"):
        return whybox.explain(model, seen, method=method, detections=seen.detections[row : row + 1]).maps.native[0]

    alone = [ask(trace, 0), ask(trace, 1), ask(other, 0)]
    assert len(passes) == 3
    with keeping(KeptPass()):
        assert all(map(bool, ((ask(trace, row) == alone[row]).all() for row in (0, 1))))
        assert len(passes) == 4
        # Another image has a pass of its own.
        assert (ask(other, 0) == alone[2]).all()
        assert len(passes) == 5
