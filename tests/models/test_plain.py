import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from torchvision.ops import batched_nms, box_convert, box_iou

from whybox.errors import GradientError, UnknownNameError, WhyboxError
from whybox.methods.odam import Odam
from whybox.model import Model
from whybox.models.plain._box_form import doubt_about
from whybox.models.plain._detector import Plain, Preparation, Suppression
from whybox.models.plain.family import matches, wrap
from whybox.types import Candidates, Detections

STRIDES = (8, 16)
CLASSES = ["red", "green", "blue"]


class Head(nn.Module):
    """A YOLO-like network: a stem, a neck of two levels, one head; channels (x, y, w, h, classes) a cell."""

    def __init__(self, inplace=True, around=None):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.SiLU())
        self.neck = nn.ModuleList([nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(8, 6, 3, stride=2, padding=1)])
        self.act = nn.LeakyReLU(inplace=inplace)
        self.tower = nn.Conv2d(6, 6, 3, padding=1)
        self.out = nn.Conv2d(6, 4 + len(CLASSES), 1)
        self.around = around

    def forward(self, x):
        if self.around is None:
            return self.run(x)
        with self.around():
            return self.run(x)

    def run(self, x):
        x = self.stem(x)
        return [self.out(self.act(self.tower(self.act(neck(x))))) for neck in self.neck]


def read(output):
    """Boxes around each cell's center, sides of twice the stride on average; scores by sigmoid."""
    boxes, scores = [], []
    for level, stride in zip(output, STRIDES, strict=True):
        values = level[0].flatten(1).T
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in level.shape[2:]), indexing="ij")
        center = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * stride + values[:, :2]
        half = values[:, 2:4].exp() * stride
        boxes.append(torch.cat([center - half, center + half], 1))
        scores.append(values[:, 4:].sigmoid())
    return torch.cat(boxes), torch.cat(scores)


def read_with_level(output):
    boxes, scores = read(output)
    counts = [level[0, 0].numel() for level in output]
    return boxes, scores, torch.repeat_interleave(torch.arange(2), torch.tensor(counts))


def score(trace):
    return trace.candidates.scores[trace.detections.source, trace.detections.labels]


def right_side(trace):
    return trace.candidates.boxes[trace.detections.source, 2]


def build(module=None, candidates=read, features=("neck.0", "neck.1"), **options):
    options = {"size": (64, 96), "classes": CLASSES, "score_threshold": 0.0, "max_detections": 12, **options}
    return wrap(module if module is not None else Head(), candidates, list(features), **options)


def image(height=70, width=90):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height))


def state(module):
    return (
        [part.training for part in module.modules()],
        [weight.requires_grad for weight in module.parameters()],
        [weight.grad for weight in module.parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        [value.clone() for value in module.state_dict().values()],
    )


def assert_same(before, after):
    assert before[:4] == after[:4]
    assert all(torch.equal(a, b) for a, b in zip(before[4], after[4], strict=True))


def gradients(model, trace, detections, target=score, layer=None, route="auto"):
    """{detection: (gradient on the whole grid, its pullback)}"""
    found = {}
    for pullback in model.pullbacks(trace, detections, layer, route):
        gradient = pullback.gradient(target).whole()
        for i, row in enumerate(pullback.rows.tolist()):
            assert row not in found
            found[row] = gradient.gradient[i], pullback
    return found


def test_it_is_a_model_and_never_claims_a_module():
    model = build()
    assert isinstance(model, Model)
    assert model.gives == {"candidates", "features", "input"}
    assert model.layers == ("neck.0", "neck.1", "input")
    assert not matches(Head())


def test_detections_are_the_candidates_after_suppression():
    trace = build(nms_iou=0.4, score_threshold=0.5).trace(image())
    scores, labels = trace.candidates.scores.max(1)
    kept = batched_nms(trace.candidates.boxes, scores, labels, 0.4)
    kept = kept[scores[kept] > 0.5][:12]
    assert 0 < len(trace.detections) < len(trace.candidates)
    assert torch.equal(trace.detections.source, kept)
    assert torch.equal(trace.detections.labels, labels[kept])
    assert torch.equal(trace.candidates.scores[trace.detections.source, trace.detections.labels], trace.detections.scores)
    limit = torch.tensor([90, 70, 90, 70.0])
    assert torch.equal(trace.detections.boxes, trace.candidates.boxes[kept].clamp(min=0).minimum(limit))


def test_suppression_is_off_without_a_threshold():
    trace = build(nms_iou=None, max_detections=1000).trace(image())
    assert len(trace.detections) == len(trace.candidates)
    assert trace.detections.scores.diff().le(0).all()
    assert box_iou(trace.detections.boxes, trace.detections.boxes).triu(1).max() > 0.5


def test_no_candidate_is_no_detection():
    trace = build(score_threshold=1.0).trace(image())
    assert len(trace.detections) == 0
    assert list(build().pullbacks(trace, trace.detections, None, "auto")) == []
    nothing = build(candidates=lambda output: (output[0].new_zeros(0, 4), output[0].new_zeros(0, 3))).trace(image())
    assert len(nothing.candidates) == len(nothing.detections) == 0


@pytest.mark.parametrize("around", [None, torch.no_grad])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("target", [score, right_side])
@pytest.mark.parametrize("route", ["windows", "exact"])
def test_gradient_equals_the_written_out_one(route, target, inplace, around):
    """A float64 copy of the head, run by hand from a leaf at the neck, differentiated by autograd."""
    module = Head(inplace, around)
    model = build(module, read_with_level)
    trace = model.trace(image())
    found = gradients(model, trace, trace.detections, target, route="exact" if route == "exact" else "fast")
    assert sorted(found) == list(range(len(trace.detections)))
    by_hand = Head(inplace=False).eval()
    with torch.no_grad():
        stem = by_hand.stem(model._input(trace.image, trace.frame)[None])
        leaves = [neck(stem) for neck in by_hand.neck]
    leaves = [leaf.double().requires_grad_() for leaf in leaves]
    by_hand.double()
    boxes, scores = read([by_hand.out(by_hand.act(by_hand.tower(by_hand.act(leaf)))) for leaf in leaves])
    ratio = 90 / trace.frame.resized[1]
    for row, (gradient, pullback) in found.items():
        source, label = int(trace.detections.source[row]), int(trace.detections.labels[row])
        value = scores[source, label] if target is score else boxes[source, 2] * ratio
        expected = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        level = int(trace.candidates.level[source])
        assert (expected[level].any() and expected[1 - level] is None) or not expected[1 - level].any()
        torch.testing.assert_close(gradient, expected[level][0].float(), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(pullback.features, leaves[level][0].detach().float())
        assert pullback.route == route
        assert pullback.stride == STRIDES[level]


def test_a_cell_moved_by_hand_moves_the_score_by_the_gradient():
    """Finite differences at one cell of the features, by a hook that adds to it, in float64."""
    module = Head().double()
    model = build(module, read_with_level)
    trace = model.trace(image().double())
    gradient, _pullback = gradients(model, trace, trace.detections[0])[0]
    place = (gradient.abs() == gradient.abs().max()).nonzero()[0].tolist()
    source, label = trace.detections.source[0], trace.detections.labels[0]
    neck = module.neck[int(trace.candidates.level[source])]
    scores = []
    for step in (-1e-5, 1e-5):

        def nudge(part, args, output, step=step):
            output = output.clone()
            output[0, place[0], place[1], place[2]] += step
            return output

        handle = neck.register_forward_hook(nudge)
        scores.append(model.trace(trace.image).candidates.scores[source, label])
        handle.remove()
    torch.testing.assert_close((scores[1] - scores[0]) / 2e-5, gradient[tuple(place)], rtol=1e-6, atol=0)


def test_the_level_is_found_where_the_function_does_not_say_it():
    module = Head()
    told, found = build(module, read_with_level), build(module, read)
    trace = told.trace(image())
    assert (found.trace(image()).candidates.level == -1).all()
    with_level = gradients(told, trace, trace.detections)
    without = gradients(found, trace, trace.detections)
    assert {int(p.features.shape[-1]) for _, p in with_level.values()} == {12, 6}
    for row in with_level:
        assert torch.equal(with_level[row][0], without[row][0])


def test_one_module_may_give_several_maps():
    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = Head().neck

        def forward(self, x):
            return {f"p{i}": part(x) for i, part in enumerate(self.parts)}

    class Whole(Head):
        def __init__(self):
            super().__init__()
            self.neck = Neck()

        def run(self, x):
            return [self.out(self.act(self.tower(self.act(maps)))) for maps in self.neck(self.stem(x)).values()]

    module = Whole()
    model, apart = build(module, features=["neck"]), build(module, features=["neck.parts.0", "neck.parts.1"])
    trace = model.trace(image())
    assert [level.name for level in trace.features] == ["neck[0]", "neck[1]"]
    one, other = gradients(model, trace, trace.detections), gradients(apart, trace, trace.detections)
    assert all(torch.equal(one[row][0], other[row][0]) for row in one)
    (pullback,) = model.pullbacks(trace, trace.detections, "neck[1]", "exact")
    assert pullback.features.shape[-2:] == (4, 6)
    with pytest.raises(UnknownNameError, match=r"unknown layer 'neck\[2\]'; did you mean"):
        list(model.pullbacks(trace, trace.detections, "neck[2]", "exact"))


@pytest.mark.parametrize(("layer", "grid"), [("stem.0", (8, 12)), ("tower", None), ("input", (64, 96))])
def test_any_module_and_the_input_are_layers(layer, grid):
    model = build()
    trace = model.trace(image())
    found = gradients(model, trace, trace.detections, layer=layer)
    assert len(found) == len(trace.detections)
    for gradient, pullback in found.values():
        assert gradient.any()
        assert gradient.shape == pullback.features.shape
        assert grid is None or gradient.shape[-2:] == grid
        assert pullback.stride == 64 / gradient.shape[-2]


def test_maps_come_out_of_the_whole_loop():
    model = build()
    trace = model.trace(image())
    (maps,) = Odam()(model, trace, trace.detections, [score])
    assert maps.at_image().shape == (len(trace.detections), 70, 90)
    assert maps.at_image().isfinite().all()
    assert set(maps.routes) == {"windows"}
    assert all(native.max() > 0 for native in maps.native)
    assert not torch.equal(maps.at_image()[0], maps.at_image()[1])


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_detection_works_where_the_forward_allows_no_gradient(around):
    plain, wrapped = build(Head()), build(Head(around=around))
    torch.testing.assert_close(plain.trace(image()).detections.boxes, wrapped.trace(image()).detections.boxes)
    (one,), (other,) = plain.predict(image()[None]), wrapped.predict(image()[None])
    assert torch.equal(one.scores, other.scores)
    assert not other.scores.is_inference()


BLOCKED = {
    "inference_mode": (Head(around=torch.inference_mode), read, "runs under torch.inference_mode"),
    "detached output": (Head(), lambda output: [t.detach() for t in read(output)], r"candidates\(\), the function"),
    "no_grad output": (Head(), torch.no_grad()(read), r"candidates\(\), the function"),
    "detached module": (Head(), read, "the module's forward cuts the scores off from neck.0, neck.1"),
}


@pytest.mark.parametrize("case", BLOCKED)
def test_what_blocks_the_gradient_is_named_in_one_line(case):
    module, candidates, text = BLOCKED[case]
    if case == "detached module":
        module.tower.register_forward_hook(lambda part, args, output: output.data)
    before = state(module)
    model = build(module, candidates)
    trace = model.trace(image())
    assert len(trace.detections)
    with pytest.raises(GradientError, match=text) as error:
        list(model.pullbacks(trace, trace.detections, None, "auto"))
    assert "\n" not in str(error.value)
    assert_same(before, state(module))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    model = build()
    trace = model.trace(image())
    expected = gradients(model, trace, trace.detections)
    with mode():
        trace = model.trace(image())
        pullbacks = list(model.pullbacks(trace, trace.detections, None, "auto"))
        values = [pullback.gradient(score).whole().gradient for pullback in pullbacks]
    for pullback, value in zip(pullbacks, values, strict=True):
        for i, row in enumerate(pullback.rows.tolist()):
            assert torch.equal(value[i], expected[row][0])


def test_the_module_is_left_as_it_was():
    module = Head()
    module.train()
    module.stem[1].eval()
    module.tower.weight.requires_grad_(False)
    module.out.bias.grad = torch.ones(7)
    before = state(module)
    before[2][-1] = module.out.bias.grad
    model = build(module)
    trace = model.trace(image())
    gradients(model, trace, trace.detections)
    model.predict(image()[None])
    next(model.pullbacks(trace, trace.detections, None, "auto"))  # a loop left early
    assert before[0] == state(module)[0]
    assert before[1] == state(module)[1]
    assert before[3] == state(module)[3]
    assert all(torch.equal(a, b) for a, b in zip(before[4], state(module)[4], strict=True))
    assert torch.equal(module.out.bias.grad, torch.ones(7))
    assert module.tower.weight.grad is None


def test_the_module_is_left_as_it_was_after_an_exception():
    module = Head().train()
    before = state(module)

    def broken(output):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(module, broken).trace(image())
    with pytest.raises(ZeroDivisionError):
        build(module, broken).predict(image()[None])
    trace = build(module).trace(image())
    with pytest.raises(ZeroDivisionError):
        list(build(module, broken).pullbacks(trace, trace.detections, None, "exact"))
    assert_same(before, state(module))


class Finder(nn.Module):
    """Finds the one red pixel of its input: a detector whose answer is known."""

    def __init__(self):
        super().__init__()
        self.tap = nn.Identity()

    def forward(self, x):
        return self.tap(x)


def find(output):
    red = output[0, 0]
    place = red.flatten().argmax()
    y, x = place // red.shape[1], place % red.shape[1]
    return torch.stack([x, y, x + 1, y + 1])[None].float(), red.flatten()[place][None, None]


@pytest.mark.parametrize("resize", ["letterbox", "corner", "stretch"])
@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (37, 53), (1, 40), (128, 128)])
def test_a_box_lands_on_its_pixels(resize, shape):
    model = wrap(Finder(), find, ["tap"], size=(64, 96), resize=resize, nms_iou=None)
    height, width = shape
    block = (height // 3, max(1, height // 4), width // 2, max(1, width // 5))  # top, height, left, width
    picture = torch.zeros(3, height, width)
    picture[0, block[0] : block[0] + block[1], block[2] : block[2] + block[3]] = 1
    trace = model.trace(picture)
    x, y = ((trace.candidates.boxes[0, :2] + trace.candidates.boxes[0, 2:]) / 2).tolist()
    assert block[2] - 1 <= x <= block[2] + block[3] + 1
    assert block[0] - 1 <= y <= block[0] + block[1] + 1
    for pullback in model.pullbacks(trace, trace.detections, "tap", "auto"):
        assert pullback.gradient(score).gradient.abs().sum() == 1


def test_letterbox_keeps_the_aspect_ratio_and_centers():
    frame = Preparation(size=(640, 640)).frame((100, 200))
    assert (frame.resized, frame.offset) == ((320, 640), (160, 0))
    assert Preparation(size=(640, 640), resize="corner").frame((100, 200)).offset == (0, 0)
    canvas = Preparation(size=(64, 64), pad=0.25).canvas(torch.ones(3, 10, 20), Preparation(size=(64, 64)).frame((10, 20)))
    assert torch.equal(canvas[:, :16], torch.full((3, 16, 64), 0.25))
    assert torch.equal(canvas[:, 16:48], torch.ones(3, 32, 64))


def test_without_a_size_the_image_is_padded_to_a_multiple():
    preparation = Preparation(multiple=32, pad=0.5)
    frame = preparation.frame((33, 64))
    assert frame.network == (64, 64)
    assert frame.resized == (33, 64)
    picture = image(33, 64)
    canvas = preparation.canvas(picture, frame)
    assert torch.equal(canvas[:, :33], picture)
    assert (canvas[:, 33:] == 0.5).all()
    assert Preparation().frame((33, 64)).network == (33, 64)


def test_channels_scale_and_normalization():
    mean, std = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
    picture = image(8, 8)
    preparation = Preparation(bgr=True, scale=255, mean=mean, std=std)
    canvas = preparation.canvas(picture, preparation.frame((8, 8)))
    for channel in range(3):
        torch.testing.assert_close(canvas[channel], (picture[2 - channel] * 255 - mean[channel]) / std[channel])


def test_resizing_is_bilinear():
    preparation = Preparation(size=(12, 20), resize="stretch")
    expected = interpolate(image(8, 9)[None], (12, 20), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(preparation.canvas(image(8, 9), preparation.frame((8, 9))), expected)


def test_predict_equals_trace_one_by_one_and_together():
    pictures = torch.stack([image(70, 90), image(70, 90).flip(2), image(70, 90) * 0.5])
    model = build(read_with_level and Head(), read_with_level)
    together = model.predict(pictures)
    assert list(model._batches._taken.values()) == [True]
    for picture, candidates in zip(pictures, together, strict=True):
        expected = model.trace(picture).candidates
        torch.testing.assert_close(candidates.scores, expected.scores)
        torch.testing.assert_close(candidates.boxes, expected.boxes)
    assert model.predict(pictures[:0]) == []


def test_a_network_that_mixes_its_batch_gets_images_one_by_one():
    class Mixing(Head):
        def forward(self, x):
            return [level[:1] for level in self.run(x)]  # answers for the first image alone

    model = build(Mixing(), read_with_level)
    pictures = torch.stack([image(), image().flip(2)])
    found = model.predict(pictures)
    assert list(model._batches._taken.values()) == [False]
    torch.testing.assert_close(found[1].scores, model.trace(pictures[1]).candidates.scores)


def test_a_dictionary_may_hold_more_of_the_candidates():
    def more(output):
        boxes, scores = read(output)
        return {"boxes": boxes, "scores": scores, "logits": scores.logit(), "raw": {"x": boxes[:, 0]}}

    trace = build(candidates=more).trace(image())
    torch.testing.assert_close(trace.candidates.logits.sigmoid(), trace.candidates.scores)
    assert trace.candidates.raw["x"].shape == (len(trace.candidates),)


def test_scores_of_one_class_may_be_a_vector():
    trace = build(candidates=lambda output: (read(output)[0], read(output)[1][:, 0]), classes=CLASSES[:1]).trace(image())
    assert trace.candidates.scores.shape[1] == 1


def test_a_changed_order_of_candidates_is_followed():
    calls = []

    def restless(output):
        boxes, scores = read(output)
        calls.append(0)
        order = torch.arange(len(boxes)) if len(calls) == 1 else torch.arange(len(boxes)).flip(0)
        return boxes[order], scores[order]

    module = Head()
    model, calm = build(module, restless), build(module, read)
    trace = model.trace(image())
    found, expected = gradients(model, trace, trace.detections), gradients(calm, trace, trace.detections)
    assert all(torch.equal(found[row][0], expected[row][0]) for row in expected)


def test_a_random_network_is_named():
    model = build(candidates=lambda output: (read(output)[0] + 100 * torch.rand(()), read(output)[1] * torch.rand(())))
    trace = model.trace(image())
    with pytest.raises(GradientError, match="two passes over the same image gave different candidates"):
        list(model.pullbacks(trace, trace.detections, None, "exact"))


BAD = {
    "batch axis": (lambda output: tuple(t[None] for t in read(output)), r"without a batch axis, got \(1, 120, 4\)"),
    "lengths": (lambda output: (read(output)[0][1:], read(output)[1]), r"got \(119, 4\) and \(120, 3\)"),
    "one value": (lambda output: read(output)[0], "must return .boxes, scores., .* got Tensor"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_answer_of_the_function_is_one_line(case):
    with pytest.raises(WhyboxError, match=BAD[case][1]) as error:
        build(candidates=BAD[case][0]).trace(image())
    assert "\n" not in str(error.value)


def test_wrong_names_get_suggestions():
    with pytest.raises(UnknownNameError, match=r"unknown layer 'neck\.5'; did you mean neck"):
        build(features=["neck.5"]).trace(image())
    with pytest.raises(UnknownNameError, match="unknown option 'nms_io'; did you mean nms_iou"):
        build(nms_io=0.5)
    with pytest.raises(WhyboxError, match="features must be a list of module paths"):
        Plain(Head(), read, "neck.0")
    model = build()
    trace = model.trace(image())
    with pytest.raises(UnknownNameError, match="unknown route 'windows'"):
        list(model.pullbacks(trace, trace.detections, None, "windows"))


def test_detections_without_a_row_are_an_error():
    model = build()
    trace = model.trace(image())
    lost = Detections(trace.detections.boxes, trace.detections.scores, trace.detections.labels, trace.detections.source * 0 - 1)
    with pytest.raises(WhyboxError, match="need `source`"):
        list(model.pullbacks(trace, lost, None, "auto"))


def test_half_precision_modules_give_float_candidates():
    trace = build(Head().bfloat16(), read_with_level).trace(image())
    assert trace.candidates.boxes.dtype == trace.candidates.scores.dtype == torch.float32


@pytest.mark.parametrize(("count", "classes", "most"), [(1000, 3, 20), (1500, 3, 20), (3000, 40, 100), (6000, 2, 3000)])
def test_suppression_of_the_best_is_suppression_of_all(count, classes, most):
    torch.manual_seed(0)
    corner = torch.rand(count, 2) * 40
    scores = torch.zeros(count, classes)
    scores[torch.arange(count), torch.randint(classes, (count,))] = (torch.randperm(count) + 1) / count  # no ties
    candidates = Candidates(torch.cat([corner, corner + 10 + torch.rand(count, 2)], 1), scores, torch.zeros(count).long())
    best, labels = scores.max(1)
    expected = batched_nms(candidates.boxes, best, labels, 0.5)[:most]
    found = Suppression(score_threshold=0.0, max_detections=most).detections(candidates, (60, 60))
    assert torch.equal(found.source, expected)


def test_suppression_of_nothing():
    empty = build().trace(image()).candidates[:0]
    assert len(Suppression().detections(empty, (10, 10))) == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda boxes, scores: (boxes.tolist(), scores), "boxes must be a torch tensor, got list"),
        (lambda boxes, scores: (boxes.detach().numpy(), scores), "boxes must be a torch tensor, got ndarray"),
        (lambda boxes, scores: (boxes, scores, [0]), "level must be a torch tensor"),
        (lambda boxes, scores: (boxes, scores, torch.zeros(3)), r"level has the shape \(3,\)"),
        (lambda boxes, scores: {"boxes": boxes}, "scores did not come"),
        (lambda boxes, scores: {"boxes": boxes, "scores": scores, "logit": scores}, "did you mean logits"),
        (lambda boxes, scores: {"boxes": boxes, "scores": scores, "logits": scores[:3]}, "logits has the shape"),
        (lambda boxes, scores: {"boxes": boxes, "scores": scores, "raw": {"l": scores[:3]}}, "raw has the shape"),
    ],
)
def test_every_part_of_the_answer_is_checked(answer, message):
    model = build(candidates=lambda output: answer(*read(output)[:2]))
    with pytest.raises(WhyboxError, match=message) as caught:
        model.trace(image())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64}, "size must be"),
        ({"size": (0, 10)}, "size must be"),
        ({"resize": "letter"}, "did you mean letterbox"),
        ({"mean": (0.5,)}, "takes 3 channels"),
        ({"std": (1, 0, 1)}, "std 0"),
    ],
)
def test_impossible_preparations_are_refused(options, message):
    with pytest.raises(WhyboxError, match=message):
        build(**options)


def test_a_level_that_does_not_exist_is_refused():
    model = build(candidates=lambda output: (*read(output)[:2], torch.full((len(read(output)[1]),), 7)))
    with pytest.raises(WhyboxError, match="level runs from 7 to 7, of 2 feature maps"):
        model.trace(image())


def as_centers(output):
    """The boxes as center and size."""
    boxes, scores = read(output)
    return box_convert(boxes, "xyxy", "cxcywh"), scores


def as_corner_and_size(output):
    boxes, scores = read(output)
    return box_convert(boxes, "xyxy", "xywh"), scores


def as_shares(output):
    """The boxes in 0..1, some beyond the edge a little."""
    boxes, scores = read(output)
    return boxes / torch.tensor([96, 64, 96, 64]), scores


@pytest.mark.parametrize(
    ("candidates", "told"),
    [
        (as_centers, r"^net: \d+ of the 100 best boxes of candidates\(\) have x2 < x1 or y2 < y1; they must be xyxy"),
        (as_corner_and_size, r"^net: \d+ of the 100 best boxes of candidates\(\) have x2 < x1 or y2 < y1; they must be xyxy"),
        (as_shares, r"^net: candidates\(\) returned boxes within 0..1 for an input of 96 x 64 pixels; .* multiply x by"),
    ],
)
def test_boxes_in_another_form_are_warned_of_once(candidates, told):
    model = build(candidates=candidates, name="net")
    with pytest.warns(UserWarning, match=told):
        model.trace(image())
    # Warnings are errors here: neither a second image nor the masked ones of a black-box method may give another.
    model.trace(image(50, 60))
    model.predict(image()[None])


@pytest.mark.parametrize("size", [(64, 96), (640, 640), None])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.99])
def test_a_detector_of_pixels_is_never_warned_of(size, threshold):
    for seed in range(5):
        torch.manual_seed(seed)
        model = build(size=size, score_threshold=threshold, **({} if size else {"multiple": 32}))
        for module in model.network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        model.trace(image(90 + seed, 120))


def test_few_odd_boxes_are_not_doubted():
    """Padding rows of zeros, a box in the corner, one in five with its corners swapped; nothing sure; no candidate."""
    canvas, corner = (640, 640), torch.tensor([[0.0, 0, 1, 1]])
    pixels = torch.tensor([[100.0, 100, 300, 200], [50, 60, 80, 90], [5, 5, 9, 9], [30, 30, 90, 90]])
    swapped = torch.tensor([[300.0, 100, 100, 200]])
    one = torch.ones
    assert doubt_about(torch.zeros(300, 4), one(300, 2), canvas, 0.05) == ""
    assert doubt_about(torch.cat([pixels, corner]), one(5, 2), canvas, 0.05) == ""
    assert doubt_about(torch.cat([pixels, swapped]), one(5, 2), canvas, 0.05) == ""
    assert "within 0..1" in doubt_about(corner, one(1, 2), canvas, 0.05)
    assert doubt_about(corner, one(1, 2), (8, 8), 0.05) == ""
    assert doubt_about(swapped, 0.01 * one(1, 2), canvas, 0.05) == ""
    assert doubt_about(torch.zeros(0, 4), torch.zeros(0, 2), canvas, 0.05) == ""
