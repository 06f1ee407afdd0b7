"""Every registered gradient method, also one from outside, gives the same maps by windows as by the whole layer."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import pytest
import torch

import whybox
from models.detectors import detector, image
from whybox import registry
from whybox.data.scenes import draw_scene
from whybox.errors import WhyboxError
from whybox.ops.maps import GradientMethod

EXACT_WINDOWS = ("retinanet_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn")
METHODS = sorted(
    name for name, method in registry.methods().items() if issubclass(method, GradientMethod) and method().layer is None
)


@cache
def model(name):
    return whybox.load(detector(name))


@cache
def chosen(name):
    trace = whybox.trace(model(name), image())
    return trace, whybox.detect(model(name), trace, score_threshold=-1.0, top=6)


def maps_by(name, route, method, target="score"):
    trace, found = chosen(name)
    return whybox.explain(model(name), trace, detections=found, method=method, route=route, target=target).maps


def agree(one, other):
    for a, b in zip(one.native, other.native, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


@pytest.mark.parametrize("name", EXACT_WINDOWS)
@pytest.mark.parametrize("method", METHODS)
def test_windows_give_the_maps_of_the_exact_route(name, method):
    """Both signs of the logit: with random weights the positive part of one of them may be nothing."""
    pairs = [[maps_by(name, route, method, target) for route in ("auto", "exact")] for target in ("logit", "against")]
    assert any(values.any() for _, exact in pairs for values in exact.native)
    for windows, exact in pairs:
        assert set(windows.routes) == {"windows"}
        assert set(exact.routes) == {"exact"}
        agree(windows, exact)


@dataclass(frozen=True)
class LayerCam(GradientMethod):
    """LayerCAM as somebody outside may write it."""

    layer: str | None = None
    route: str = "auto"

    name: ClassVar[str] = "layercam"
    needs: ClassVar[frozenset[str]] = frozenset({"features"})
    source: ClassVar[str] = "Jiang et al.: LayerCAM, IEEE TIP 2021, eqs. 5 and 6"

    def draw(self, gradient, detections, stride):
        return gradient.under((gradient.gradient.relu() * gradient.activation()).sum(1).relu())


class Forgets(LayerCam):
    """It gives maps without their place."""

    name: ClassVar[str] = "forgets"

    def draw(self, gradient, detections, stride):
        return super().draw(gradient, detections, stride).values


class Misplaces(LayerCam):
    """It says that its windows are the whole grid."""

    name: ClassVar[str] = "misplaces"

    def draw(self, gradient, detections, stride):
        return gradient.on_grid(super().draw(gradient, detections, stride).values)


@pytest.mark.parametrize("name", EXACT_WINDOWS)
def test_a_method_from_outside_gets_its_maps_placed(name):
    trace, found = chosen(name)
    by = {
        route: whybox.explain(model(name), trace, detections=found, method=LayerCam(route=route)).maps
        for route in ("auto", "exact")
    }
    assert set(by["auto"].routes) == {"windows"}
    agree(by["auto"], by["exact"])


def test_a_method_from_outside_peaks_on_the_object():
    scenes, scene = whybox.load("whybox/scenes"), draw_scene(0, seed=99)
    result = whybox.explain(scenes, scene.image, method=LayerCam(route="fast"), score_threshold=0.6, top=4)
    assert len(result) == 4
    for values, (x1, y1, x2, y2) in zip(result.maps.at_image(), result.detections.boxes.tolist(), strict=True):
        row, column = divmod(int(values.argmax()), values.shape[1])
        assert x1 - 8 <= column <= x2 + 8
        assert y1 - 8 <= row <= y2 + 8


@pytest.mark.parametrize("name", EXACT_WINDOWS)
@pytest.mark.parametrize(
    ("method", "message"),
    [(Forgets(), "draw must return maps with their place"), (Misplaces(), "under\\(\\) takes maps of the gradient's extent")],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_method_that_forgets_the_place_is_refused(name, method, message):
    trace, found = chosen(name)
    with pytest.raises(WhyboxError, match=message):
        whybox.explain(model(name), trace, detections=found, method=method)


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
@pytest.mark.parametrize("method", METHODS)
def test_frozen_statistics_serve_only_methods_that_allow_them(name, method):
    """On a level so large that windows are taken by default: Grad-CAM and its kin take the exact route there."""
    net = model(name)
    trace = whybox.trace(net, image())
    source = (trace.candidates.level == 0).nonzero()[:2, 0]
    labels = torch.ones(len(source), dtype=torch.long)
    kept = whybox.Detections(trace.candidates.boxes[source], trace.candidates.scores[source, labels], labels, source)
    kind = registry.methods()[method]
    maps = whybox.explain(net, trace, detections=kept, method=method).maps
    expected = "frozen" if kind().frozen_allowed else "exact"
    assert set(maps.routes) == {expected}
    fast = whybox.explain(net, trace, detections=kept, method=method, route="fast").maps
    assert set(fast.routes) == {"frozen"}
    if kind().frozen_allowed:
        exact = whybox.explain(net, trace, detections=kept, method=method, route="exact").maps
        for one, other in zip(fast.native, exact.native, strict=True):
            cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), 0)
            assert cosine > 0.98 or not (one.any() or other.any())


def test_weights_from_the_whole_grid_take_no_frozen_statistics():
    assert not registry.methods()["odam"](smoothing="global").frozen_allowed
    assert registry.methods()["odam"]().frozen_allowed
    assert not registry.methods()["ssgradcam_pp"]().frozen_allowed
