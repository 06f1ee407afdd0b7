"""The stand-in shows what the family does by itself; the package's own networks, where it is installed, that the detections are
those of `predict`."""

import copy
import os
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import whybox
from models.small_yolo import OBB, BaseModel, Classify, Detect, Pose, Segment, YOLOEDetect
from whybox.errors import GradientError, UnknownNameError, WeightsError, WhyboxError
from whybox.models.plain import _recorded
from whybox.models.ultralytics._letterbox import Letterbox, input_size
from whybox.models.ultralytics._turned import around_turned, corners_of, overlaps_better
from whybox.targets import MaskLogit

# Else the package looks for a connection when it is imported.
os.environ.setdefault("YOLO_OFFLINE", "true")
needs_package = pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
DETECTORS = ["yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n"]
TWO_BRANCHES = ["yolov10n", "yolo26n"]
TEXTS = ["a bottle", "a can", "a red ball"]


def picture(height=75, width=106):
    """(3,H,W) waves in whole 255ths, as an image file has them."""
    rows, columns = torch.meshgrid(torch.arange(height) / 9, torch.arange(width) / 7, indexing="ij")
    waves = [(rows + shift).sin() * (columns - shift).cos() for shift in range(3)]
    return (torch.stack(waves) * 120 + 128).floor() / 255


# The stand-in.


def test_it_is_wrapped_by_its_class_with_its_own_settings():
    network = BaseModel()
    model = whybox.load(network)
    assert model.network is network
    assert model.layers == ("model.1", "model.2", "input")
    assert model.classes == ["cat", "dog", "bird"]
    assert model.name == "ultralytics/small.yaml"
    assert model.trace(picture()).frame.network == (96, 128)
    assert whybox.load(network, size=(64, 96), rect=False).trace(picture()).frame.network == (64, 96)
    assert whybox.load(BaseModel(names=("0", "1"))).classes is None
    assert whybox.load(network, classes=["a", "b", "c"]).classes == ["a", "b", "c"]


def test_the_network_inside_yolo_is_taken_and_yolo_left_alone():
    class YOLO(nn.Module):
        __module__ = "ultralytics.engine.model"

        def train(self, mode=True):
            raise AssertionError("this starts a training")

        eval = train

    wrapper, network = YOLO(), BaseModel()
    wrapper.model = network
    model = whybox.load(wrapper)
    whybox.explain(model, picture())
    assert model.network is network
    wrapper.model = None
    del wrapper.model
    wrapper.model = "yolo.onnx"
    with pytest.raises(WhyboxError, match=r"YOLO\('yolo\.onnx'\) runs an exported file, which has no gradients"):
        whybox.load(wrapper)


def test_other_heads_are_refused():
    with pytest.raises(WhyboxError, match="is no detector: its head is Classify"):
        whybox.load(BaseModel(head=Classify))


def test_a_head_that_reads_prompts_needs_them():
    network = BaseModel(head=YOLOEDetect)
    with pytest.raises(WhyboxError, match=r"has no classes yet: call set_classes\(\['a bottle', 'a can'\]\) of its YOLOE"):
        whybox.load(network)
    network.pe = torch.zeros(1, 3, 8)
    assert whybox.load(network).classes == ["cat", "dog", "bird"]
    network.model[-1].lrpc = nn.ModuleList()
    with pytest.raises(WhyboxError, match="without prompts is not supported: load the one that reads texts"):
        whybox.load(network)


def test_options_of_predict_are_told_by_their_names_here():
    for given, meant in {"imgsz": "size", "conf": "score_threshold", "iou": "nms_iou", "max_det": "max_detections"}.items():
        with pytest.raises(WhyboxError, match=f"ultralytics' {given} is {meant}= here"):
            whybox.load(BaseModel(), **{given: 1})


def test_a_layer_that_no_score_is_computed_from_is_told_with_those_before_it():
    model = whybox.load(BaseModel(), score_threshold=0)
    with pytest.raises(GradientError, match=r"are not computed from what model\.3 returns.*such as model\.1, model\.2"):
        whybox.explain(model, picture(), layer="model.3", score_threshold=0, top=1)
    # A layer of the model is a module, too: it is suggested once.
    with pytest.raises(UnknownNameError, match=r"did you mean model\.3 or model\.2 or model\.1\?"):
        whybox.explain(model, picture(), layer="model.9", score_threshold=0, top=1)


def test_an_old_release_is_refused():
    network = BaseModel()
    network.model[-1].__class__ = type("Detect", (nn.Module,), {"__module__": "ultralytics.nn.modules.head"})
    with pytest.raises(WhyboxError, match=r"too old: its heads are read from 8\.4 on"):
        whybox.load(network)


def test_the_branch_that_is_read():
    one, two = BaseModel(), BaseModel(end2end=True)
    assert whybox.load(two).one_to_one
    assert not whybox.load(two, end2end=False).one_to_one
    with pytest.raises(WhyboxError, match="end2end=True: this network has no one-to-one branch"):
        whybox.load(one, end2end=True)
    scores = [whybox.load(two, end2end=branch).trace(picture()).candidates.scores for branch in (None, True, False)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0], scores[2])
    two.model[-1].end2end = False
    assert torch.equal(whybox.load(two, end2end=True).trace(picture()).candidates.scores, scores[0])


def test_without_duplicate_removal_a_candidate_may_stand_for_two_classes():
    model = whybox.load(BaseModel(end2end=True), score_threshold=0.3, max_detections=250)
    trace = model.trace(picture())
    found = trace.detections
    assert len(found.source.unique()) < len(found)
    assert torch.equal(found.scores, found.scores.sort(descending=True).values)
    assert torch.equal(trace.candidates.scores[found.source, found.labels], found.scores)
    wanted = trace.candidates.scores.flatten().sort(descending=True).values
    assert torch.equal(found.scores, wanted[wanted > 0.3][: min(250, len(trace.candidates))])


def test_the_heads_grid_is_left_as_it_was_and_does_not_stand_in_the_way():
    network = BaseModel().eval()
    with torch.inference_mode():
        network(torch.zeros(1, 3, 96, 128))
    head = network.model[-1]
    kept = head.shape, head.anchors, head.strides
    model = whybox.load(network)
    trace = model.trace(picture())
    model.predict(torch.stack([picture(), picture()]))
    for route in ("windows", "exact"):
        result = whybox.explain(model, trace, method="odam", route="exact" if route == "exact" else "auto")
        assert set(result.maps.routes) == {route}
        assert result.maps.values.any()
    assert all(one is other for one, other in zip(kept, (head.shape, head.anchors, head.strides), strict=True))
    fresh = BaseModel()
    before = set(vars(fresh.model[-1]))
    whybox.explain(whybox.load(fresh), picture())
    assert set(vars(fresh.model[-1])) <= before | {"shape"}
    assert fresh.model[-1].shape is None


@pytest.mark.parametrize("route", ["auto", "exact"])
def test_a_branch_that_the_network_cuts_off_is_explained_all_the_same(route):
    network = BaseModel(end2end=True)
    connected = whybox.explain(whybox.load(network), picture(), route=route, score_threshold=0.4)
    network.model[-1].detaches = True
    model = whybox.load(network)
    cut = whybox.explain(model, picture(), route=route, score_threshold=0.4)
    assert set(cut.maps.routes) == set(connected.maps.routes) == {"windows" if route == "auto" else "exact"}
    assert torch.equal(cut.maps.values, connected.maps.values)
    assert cut.maps.values.any()
    assert not network.model[-1]._forward_pre_hooks
    assert not network.model[-1]._forward_hooks


def assert_windows_are_exact(network, target="score"):
    model = whybox.load(network)
    trace = model.trace(picture().double())
    found = model.unsuppressed(trace)
    levels = trace.candidates.level[found.source]
    chosen = found[torch.cat([(levels == level).nonzero()[:5, 0] for level in (1, 0)])]
    exact, fast = (whybox.explain(model, trace, target=target, route=route, detections=chosen) for route in ("exact", "auto"))
    assert set(fast.maps.routes) == {"windows"}
    assert len(set(fast.maps.layers)) == 2
    assert exact.maps.values.any()
    torch.testing.assert_close(fast.maps.values, exact.maps.values, rtol=1e-8, atol=1e-8 * float(exact.maps.values.max()))


@pytest.mark.parametrize(
    ("head", "target"), [(Detect, "score"), (Detect, "l"), (Segment, "x2"), (Pose, "keypoint:0:x"), (OBB, "corner:0:x")]
)
@pytest.mark.parametrize("second", [False, True])
def test_detections_are_read_from_their_own_cells(head, target, second, monkeypatch):
    monkeypatch.setattr(_recorded, "find_readings", None)  # the general way fails
    assert_windows_are_exact(BaseModel(end2end=second, head=head).double(), target)


def test_a_level_without_detections(monkeypatch):
    monkeypatch.setattr(_recorded, "find_readings", None)
    model = whybox.load(BaseModel())
    trace = model.trace(picture())
    fine = trace.detections[trace.candidates.level[trace.detections.source] == 0]
    result = whybox.explain(model, trace, detections=fine[[0, 0, 1]])
    assert set(result.maps.routes) == {"windows"}
    assert torch.equal(result.maps.values[0], result.maps.values[1])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    network = BaseModel()
    expected = whybox.explain(whybox.load(network), picture(), score_threshold=0.3)
    with mode():
        result = whybox.explain(whybox.load(network), picture(), score_threshold=0.3)
    assert set(result.maps.routes) == {"windows"}
    assert torch.equal(result.maps.values, expected.maps.values)


class RemadeGrid(Detect):
    """Makes its grid from its input in every pass."""

    def _inference(self, raw):
        self.shape = None
        return super()._inference(raw)


class MixedScores(Detect):
    """A score depends on all cells of the pass."""

    def _inference(self, raw):
        return super()._inference({**raw, "scores": raw["scores"] - raw["scores"].mean(2, keepdim=True)})


def test_a_head_that_decodes_few_cells_otherwise_is_read_the_general_way():
    assert_windows_are_exact(BaseModel(head=RemadeGrid).double())
    mixed = whybox.explain(whybox.load(BaseModel(head=MixedScores)), picture(), score_threshold=0.3)
    assert set(mixed.maps.routes) == {"exact"}


@pytest.mark.parametrize("target", ["l", "score", "logit", "x2"])
def test_targets(target):
    result = whybox.explain(whybox.load(BaseModel()), picture(), target=target)
    assert result.maps.values.any()


@pytest.mark.parametrize(
    ("image", "rect", "resized", "canvas", "offset"),
    [
        ((480, 640), True, (480, 640), (480, 640), (0, 0)),
        ((480, 640), False, (480, 640), (640, 640), (80, 0)),
        ((427, 640), True, (427, 640), (448, 640), (10, 0)),
        ((1000, 333), True, (640, 213), (640, 224), (0, 5)),
        ((2, 3000), True, (1, 640), (32, 640), (15, 0)),
    ],
)
def test_the_letterbox(image, rect, resized, canvas, offset):
    frame = Letterbox((640, 640), rect=rect).frame(image)
    assert (frame.resized, frame.network, frame.offset) == (resized, canvas, offset)


def test_input_sizes():
    assert input_size(600, 32) == (608, 608)
    assert input_size([640], 32) == (640, 640)
    assert input_size((320, 630), 32) == (320, 640)
    for wrong in ((1, 2, 3), 0, (64.5, 64), "64"):
        with pytest.raises(WhyboxError, match="size must be one number of pixels or"):
            input_size(wrong, 32)


def test_files_that_cannot_be_opened(tmp_path):
    if find_spec("ultralytics") is None:
        with pytest.raises(WhyboxError, match=r"needs the package ultralytics: pip install 'whybox\[ultralytics\]'"):
            whybox.load("ultralytics/yolo11n.pt")
        return
    with pytest.raises(WeightsError, match=r"there is no file .*yolo11n\.pt"):
        whybox.load(f"ultralytics/{tmp_path}/yolo11n.pt")
    with pytest.raises(WhyboxError, match=r"expected FILE\.pt or FILE\.yaml"):
        whybox.load("ultralytics/yolo11n.onnx")
    (tmp_path / "broken.pt").write_bytes(b"no pickle")
    with pytest.raises(WhyboxError, match=r"broken\.pt could not be opened"):
        whybox.load(f"ultralytics/{tmp_path}/broken.pt")


# The package's own networks.


def yolo(name):
    """A `YOLO` with random weights that spread, so that some of its detections pass."""
    from ultralytics import YOLO

    torch.manual_seed(0)
    built = YOLO(f"{name}.yaml")
    head = built.model.model[-1]
    with torch.no_grad():
        for layer in built.model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.3, 0.8)
                layer.weight.uniform_(0.8, 1.8)
        for branch in ("cv2", "cv3", "one2one_cv2", "one2one_cv3"):
            for part in getattr(head, branch, None) or ():
                boxes = branch.endswith("cv2")
                part[-1].bias.normal_(2.0 if boxes and head.reg_max == 1 else 0.0 if boxes else -1.0, 0.5)
                if not boxes:
                    part[-1].weight.normal_(0, 0.15)
        for part in head.cv4 if name.endswith("world") or name.startswith("yoloe") else ():
            part.bias.fill_(-2.0)
            part.logit_scale.fill_(2.5)
    if name.startswith("yoloe"):
        with torch.inference_mode():  # as `set_classes` runs the text encoder, which is not in the package
            built.model.set_classes(TEXTS, torch.randn(1, len(TEXTS), head.embed))
    return built


def transformer():
    """An `RTDETR` with random weights that spread."""
    from ultralytics import RTDETR

    torch.manual_seed(0)
    built = RTDETR("yolov8n-rtdetr.yaml")
    with torch.no_grad():
        for layer in built.model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.3, 0.8)
                layer.weight.uniform_(0.8, 1.8)
        last = built.model.model[-1].dec_score_head[-1]
        last.weight.normal_(0, 0.1)
        last.bias.fill_(-2.0)
    return built


def predicted(built, image, part="boxes", **options):
    """What `predict` gives for an image (3,H,W), which it takes as an array in the order blue, green, red."""
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1].copy()
    results = built.predict(pixels, **{"imgsz": 128, "verbose": False, **options})[0]
    return getattr(results, part)


def assert_same(found, boxes, xyxy=None, within=0.02):
    """Fusing rounds, which may change the order of near ties: compared by class and place."""
    assert len(found) == len(boxes) > 0
    torch.testing.assert_close(found.scores, boxes.conf, rtol=0, atol=1e-5)
    ours = torch.cat([found.boxes, 1000 * found.labels[:, None], 1000 * found.scores[:, None]], 1)
    theirs = torch.cat([boxes.xyxy if xyxy is None else xyxy, 1000 * boxes.cls[:, None], 1000 * boxes.conf[:, None]], 1)
    distance = (ours[:, None] - theirs).abs().amax(2)
    assert distance.amin(0).max() < within
    assert distance.amin(1).max() < within


@needs_package
@pytest.mark.parametrize("name", [*DETECTORS, "yolo11n-pose", "yolov8n-world", "yoloe-11n"])
def test_detections_are_those_of_predict(name):
    built = yolo(name)
    for image, options in ((picture(), {}), (picture(96, 128), {}), (picture(140, 60), {"rect": False})):
        assert_same(whybox.load(built, size=128, **options).trace(image).detections, predicted(built, image, **options))
    options = {"score_threshold": 0.28, "nms_iou": 0.4, "max_detections": 9}
    found = whybox.load(built, size=128, **options).trace(picture()).detections
    assert_same(found, predicted(built, picture(), conf=0.28, iou=0.4, max_det=9))


def with_masks(name):
    """A network whose masks are neither empty nor full."""
    built = yolo(name)
    head = built.model.model[-1]
    with torch.no_grad():
        for branch in ("cv5",) if name.startswith("yoloe") else ("cv4", "one2one_cv4"):
            for part in getattr(head, branch, None) or ():
                part[-1].weight.normal_(0, 0.3)
    return built


@needs_package
def test_yoloe_is_explained_for_the_classes_that_were_set():
    model = whybox.load(yolo("yoloe-11n"), size=128)
    assert model.classes == TEXTS
    trace = whybox.trace(model, picture())
    auto, exact = (whybox.explain(model, trace, route=route, top=3, target="logit") for route in ("auto", "exact"))
    assert set(auto.maps.routes) == {"windows"}
    for one, other in zip(auto.maps.native, exact.maps.native, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))
    rival = next(text for text in TEXTS if text != auto.names[0])
    contrast = whybox.explain(model, trace, target=f"contrast:{rival}", detections=auto.detections[:1])
    assert contrast.maps.native[0].max() > 0


@needs_package
def test_results_of_predict_are_explained():
    built, image = yolo("yolo11n"), picture()
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1].copy()
    # One: of two boxes of one class that are cut off at the same edges, the surer one is taken.
    results = built.predict(pixels, imgsz=128, verbose=False, max_det=1)
    result = whybox.explain(whybox.load(built, size=128), image, detections=results)
    assert_same(result.detections, results[0].boxes)


@needs_package
@pytest.mark.parametrize(("name", "options"), [("yolo11n-seg", {}), ("yolo26n-seg", {"end2end": True}), ("yoloe-11n-seg", {})])
def test_masks_are_those_of_predict(name, options):
    """In an image that is padded, but not resized: then a mask of the canvas is one of the image."""
    built, image = with_masks(name), picture(72, 128)
    theirs = predicted(built, image, part="__dict__", **({"nms": False} if options else {}))
    boxes, masks = theirs["boxes"], theirs["masks"].data[:, 12:84].bool()
    model = whybox.load(built, size=128, **options)
    found = whybox.detect(model, image, score_threshold=0.25, top=300)
    # `predict` drops boxes whose mask is empty.
    assert 0 < len(boxes) <= len(found)
    assert found.masks.shape[1:] == (72, 128)
    ours = torch.cat([found.boxes, 1000 * found.scores[:, None]], 1)
    distance = (ours[:, None] - torch.cat([boxes.xyxy, 1000 * boxes.conf[:, None]], 1)).abs().amax(2)
    assert distance.amin(0).max() < 0.02
    same = (found.masks[distance.argmin(0)] == masks).float().mean((1, 2))
    assert same.min() > 0.999  # the fused copy rounds otherwise
    assert 0.01 < masks.float().mean() < 0.9


@needs_package
@pytest.mark.parametrize("name", ["yolo11n-seg", "yolo26n-seg"])
def test_mask_targets_are_autograd_by_hand(name):
    built, image = with_masks(name), picture(96, 128)
    model = whybox.load(built, size=128)
    trace = whybox.trace(model, image)
    found = trace.detections[[0, -1]]
    network, kept = copy.deepcopy(built.model).eval(), {}
    for path in model.features:
        network.get_submodule(path).register_forward_hook(lambda part, given, output, path=path: kept.update({path: output}))
    (_, prototypes), raw = network(image[None])
    raw = raw.get("one2many", raw)
    for pullback in model.branch_pullbacks("mask", trace, found, None, "auto"):
        values, gradients = MaskLogit()(pullback.trace), pullback.gradient(MaskLogit()).whole().gradient
        assert pullback.route == "exact"
        for row, value, ours in zip(pullback.rows.tolist(), values, gradients, strict=True):
            source = int(found.source[row])
            logits = torch.einsum("p,phw->hw", raw["mask_coefficient"][0, :, source], prototypes[0])
            x1, y1, x2, y2 = trace.candidates.boxes[source] / 4
            rows, columns = torch.arange(24)[:, None] + 0.5, torch.arange(32) + 0.5
            inside = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2) & (logits > 0)
            expected = logits[inside].mean() if inside.any() else None
            if expected is not None:
                assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
                theirs = torch.autograd.grad(expected, kept[pullback.layer], retain_graph=True)[0][0]
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))


@needs_package
@pytest.mark.parametrize("name", ["yolo11n-pose", "yolo26n-pose"])
def test_keypoints_are_those_of_predict_and_explained_by_windows(name):
    built, image = yolo(name), picture(72, 128)
    theirs = predicted(built, image, part="__dict__")
    model = whybox.load(built, size=128)
    trace = whybox.trace(model, image)
    found = whybox.detect(model, trace, score_threshold=0.25, top=300)
    assert found.keypoints.shape == (len(theirs["boxes"]), 17, 3)
    sets = [
        torch.cat([boxes, 1000 * scores[:, None]], 1)
        for boxes, scores in ((found.boxes, found.scores), (theirs["boxes"].xyxy, theirs["boxes"].conf))
    ]
    nearest = (sets[0][:, None] - sets[1]).abs().amax(2).argmin(0)
    ours, points = found.keypoints[nearest], theirs["keypoints"]
    torch.testing.assert_close(ours[..., 2], points.conf, rtol=0, atol=1e-4)
    # Those of predict are clipped to the image, and some releases set those with low scores to 0.
    places, told = ours[..., :2].clamp(min=0).minimum(torch.tensor([128.0, 72.0])), points.conf > 0.51
    assert told.any()
    torch.testing.assert_close(places[told], points.xy[told], rtol=0, atol=0.02)
    for target in ("keypoint:left_wrist", "keypoint:nose:y"):
        few = {"target": target, "score_threshold": float(found.scores[:4].min())}
        auto, exact = (whybox.explain(model, trace, route=route, **few) for route in ("auto", "exact"))
        assert set(auto.maps.routes) == {"windows"}
        assert exact.maps.values.any()
        torch.testing.assert_close(auto.maps.values, exact.maps.values, rtol=1e-3, atol=1e-5 * float(exact.maps.values.max()))


@needs_package
@pytest.mark.parametrize("name", TWO_BRANCHES)
def test_detections_of_the_one_to_one_branch_are_those_of_predict(name):
    built = yolo(name)
    model = whybox.load(built, size=128, end2end=True, score_threshold=0.28)
    assert_same(model.trace(picture()).detections, predicted(built, picture(), nms=False, conf=0.28))


@needs_package
@pytest.mark.parametrize("name", ["yolo11n-obb", "yolo26n-obb"])
def test_detections_of_turned_boxes_are_those_of_predict_and_the_boxes_lie_around_them(name):
    built = yolo(name)
    for options, theirs in (({}, {}), ({"nms_iou": 0.3}, {"iou": 0.3})):
        found = whybox.load(built, size=128, **options).trace(picture()).detections
        boxes = predicted(built, picture(), part="obb", **theirs)
        limit = torch.tensor([106, 75, 106, 75])
        # Sides are rounded to whole pixels by the letterbox, each by itself, which turned boxes follow in another way.
        assert_same(found, boxes, boxes.xyxy.clamp(min=0).minimum(limit), within=0.2)
    model = whybox.load(built, size=128)
    trace = model.trace(picture())
    found, boxes = whybox.detect(model, picture(72, 128), top=300), predicted(built, picture(72, 128), part="obb", conf=0.3)
    nearest = (found.corners[:, None] - boxes.xyxyxyxy).abs().amax((2, 3)).amin(0)
    assert nearest.max() < 0.02
    for target in ("angle", "corner:0:x"):
        few = {"target": target, "score_threshold": 0.32}
        auto, exact = (whybox.explain(model, trace, route=route, **few) for route in ("auto", "exact"))
        assert set(auto.maps.routes) == {"windows"}
        scale = float(exact.maps.values.abs().max())
        torch.testing.assert_close(auto.maps.values, exact.maps.values, rtol=1e-3, atol=1e-5 * scale)


def test_the_box_around_a_turned_one():
    boxes = torch.tensor([[50.0, 40.0, 20.0, 10.0]]).repeat(3, 1)
    around = around_turned(boxes, torch.tensor([0.0, torch.pi / 2, torch.pi / 4]))
    half = 15 / 2**0.5
    wanted = torch.tensor([[40.0, 35, 60, 45], [45, 30, 55, 50], [50 - half, 40 - half, 50 + half, 40 + half]])
    torch.testing.assert_close(around, wanted)


def test_the_corners_of_a_turned_box_are_those_of_the_box_around_it_where_it_is_upright():
    boxes = torch.tensor([[50.0, 40.0, 20.0, 10.0]])
    upright, turned = corners_of(boxes, torch.tensor([0.0])), corners_of(boxes, torch.tensor([torch.pi / 2]))
    assert upright[0].tolist() == [[60, 45], [60, 35], [40, 35], [40, 45]]
    torch.testing.assert_close(turned[0], torch.tensor([[45.0, 50], [55, 50], [55, 30], [45, 30]]))


def test_turned_boxes_overlap_as_far_as_their_angles_agree():
    """An upright and a turned long box cross; that of the same angle covers it, and one far away does not."""
    center = torch.tensor([[50.0, 50.0], [50.0, 50.0], [51.0, 50.0], [90.0, 50.0]])
    sides = torch.tensor([[40.0, 6.0]]).repeat(4, 1)
    angle = torch.tensor([0.0, torch.pi / 2, 0.0, 0.0])
    assert overlaps_better(center, sides, angle, 0.5).tolist() == [False, False, True, False]


@needs_package
def test_detections_of_rt_detr_are_those_of_predict():
    built = transformer()
    model = whybox.load(built, size=96)
    trace = model.trace(picture())
    assert_same(trace.detections, predicted(built, picture(), imgsz=96))
    with torch.inference_mode():
        built.model.eval()(torch.zeros(1, 3, 96, 96))
    kept = built.model.model[-1].anchors
    few = whybox.explain(model, trace, score_threshold=float(trace.detections.scores[2]) - 1e-6)
    assert set(few.maps.routes) == {"exact"}
    assert few.maps.values.flatten(1).any(1).all()
    assert built.model.model[-1].anchors is kept


@needs_package
@pytest.mark.parametrize("name", [*DETECTORS, "yolov8n-world"])
def test_windows_are_autograd(name):
    model = whybox.load(yolo(name), size=128)
    trace = model.trace(picture())
    auto, exact = (whybox.explain(model, trace, route=route, score_threshold=0.3) for route in ("auto", "exact"))
    assert set(auto.maps.routes) == {"windows"}
    assert exact.maps.values.any()
    torch.testing.assert_close(auto.maps.values, exact.maps.values, rtol=1e-3, atol=1e-5 * float(exact.maps.values.max()))


@needs_package
def test_the_exact_route_is_autograd_by_hand():
    built = yolo("yolo11n")
    model = whybox.load(built, size=128)
    trace = model.trace(picture(96, 128))
    detection = trace.detections[:1]
    network, kept = copy.deepcopy(built.model).eval(), {}
    for path in model.features:
        network.get_submodule(path).register_forward_hook(lambda part, given, output, path=path: kept.update({path: output}))
    score = network(picture(96, 128)[None])[0][0, 4 + int(detection.labels[0]), int(detection.source[0])]
    path = model.features[int(trace.candidates.level[detection.source[0]])]
    gradient = torch.autograd.grad(score, kept[path])[0][0]
    pullback = next(model.pullbacks(trace, detection, None, "exact"))
    ours = pullback.gradient(lambda passed: passed.candidates.scores[passed.detections.source, passed.detections.labels])
    torch.testing.assert_close(ours.whole().gradient[0], gradient, rtol=1e-4, atol=1e-7)


@needs_package
@pytest.mark.parametrize("name", ["yolo11n", "yolo26n"])
def test_a_fused_network_gives_the_same_maps(name):
    built = yolo(name)
    fused = copy.deepcopy(built.model).fuse(verbose=False)
    one, other = (whybox.explain(whybox.load(net, size=128), picture(), score_threshold=0.3) for net in (built.model, fused))
    assert len(one) == len(other) > 0
    torch.testing.assert_close(one.maps.values, other.maps.values, rtol=1e-3, atol=1e-4 * float(one.maps.values.max()))


@needs_package
def test_it_predicts_as_before():
    built = yolo("yolo11n")
    built.model.train()
    needs = [weight.requires_grad for weight in built.model.parameters()]
    before = predicted(built, picture()).data
    state = {name: value.clone() for name, value in built.model.state_dict().items()}
    whybox.explain(whybox.load(built, size=128), picture(), method="gradcam")
    assert built.model.training
    assert [weight.requires_grad for weight in built.model.parameters()] == needs
    assert all(torch.equal(value, state[name]) for name, value in built.model.state_dict().items())
    built.predictor = None
    assert torch.equal(predicted(built, picture()).data, before)


@needs_package
def test_a_file_of_weights(tmp_path):
    built = yolo("yolov8n")
    built.save(tmp_path / "mine.pt")
    model = whybox.load(f"ultralytics/{tmp_path}/mine.pt", size=128)
    assert model.name == f"ultralytics/{tmp_path}/mine.pt"
    ours, theirs = (loaded.trace(picture()).detections for loaded in (model, whybox.load(built, size=128)))
    # The file holds half precision.
    torch.testing.assert_close(ours.scores[:5], theirs.scores[:5], rtol=0, atol=1e-2)
    plan = whybox.load("ultralytics/yolov8n.yaml", weights=None, size=64, classes=[f"class {i}" for i in range(80)])
    assert plan.classes[1] == "class 1"
    assert plan.trace(picture()).frame.network == (64, 64)
