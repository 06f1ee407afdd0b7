"""Windows of any local head: the same gradient as autograd through the whole network, or the exact route, which says so."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from whybox.methods.gradcam import GradCam
from whybox.methods.gradcam_pp import GradCamPP
from whybox.methods.odam import Odam
from whybox.methods.ssgradcam_pp import SSGradCamPP
from whybox.models.plain._windows import Head
from whybox.models.plain.family import wrap

K = 3
METHODS = [Odam(), GradCam(), GradCamPP(), SSGradCamPP()]


class Net(nn.Module):
    """A stem and features at strides 8 and 16, the second computed from the first (nested) or not; a head for each."""

    def __init__(self, make_head, levels=1, nested=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 8, stride=8)
        self.neck = nn.ModuleList([nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2, padding=1)][:levels])
        self.heads = nn.ModuleList(make_head() for _ in range(levels))
        self.nested = nested
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.stem(x)
        maps = []
        for neck in self.neck:
            maps.append(neck(maps[-1] if self.nested and maps else x))
        return [head(level) for head, level in zip(self.heads, maps, strict=True)]


def read(output):
    boxes, scores = [], []
    for i, level in enumerate(output):
        stride = 8 * 2**i
        values = level[0].flatten(1).T
        rows, columns = torch.meshgrid(*(torch.arange(n) for n in level.shape[2:]), indexing="ij")
        center = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * stride + values[:, :2]
        half = values[:, 2:4].exp() * stride
        boxes.append(torch.cat([center - half, center + half], 1))
        scores.append(values[:, 4:].sigmoid())
    return torch.cat(boxes), torch.cat(scores)


def conv(kernel=3, **options):
    return nn.Conv2d(6, 6, kernel, padding=options.get("dilation", 1) * (kernel // 2), **options)


def out(kernel=1):
    return nn.Conv2d(6, 4 + K, kernel, padding=kernel // 2)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = conv()

    def forward(self, x):
        gate, value = self.inner(x).chunk(2, 1)
        return x + torch.cat([gate.sigmoid() * value, value], 1)


class Branches(nn.Module):
    """Two maps that reach differently far, summed, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.far, self.near, self.in_place = conv(5), conv(), in_place

    def forward(self, x):
        far = self.far(x)
        near = self.near(far + x)
        if self.in_place:
            near += far
            return near
        return near + far.relu()


class Attention(nn.Module):
    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        mixed = (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens
        return x + mixed.transpose(1, 2).reshape(x.shape)


class GlobalGate(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True).sigmoid()


class Function(torch.autograd.Function):
    """Doubles, and claims that it does not."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Custom(nn.Module):
    def forward(self, x):
        return Function.apply(x)


LOCAL = {
    "one layer": lambda: nn.Sequential(out(3)),
    "plain": lambda: nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(inplace=True), out()),
    "BatchNorm and SiLU": lambda: nn.Sequential(conv(bias=False), nn.BatchNorm2d(6), nn.SiLU(inplace=True), out(3)),
    "max pooling": lambda: nn.Sequential(conv(), nn.MaxPool2d(3, stride=1, padding=1), out()),
    "dilated": lambda: nn.Sequential(conv(dilation=2), nn.SiLU(), conv(dilation=3), out()),
    "asymmetric": lambda: nn.Sequential(
        nn.Conv2d(6, 6, (1, 5), padding=(0, 2)), nn.SiLU(), nn.Conv2d(6, 6, (3, 1), padding=(1, 0)), out()
    ),
    "branches": lambda: nn.Sequential(conv(), Branches(False), nn.SiLU(), out()),
    "added in place": lambda: nn.Sequential(conv(), Branches(True), nn.SiLU(), out()),
    "depthwise": lambda: nn.Sequential(conv(5, groups=6), nn.Hardswish(), conv(1), out()),
    "in place at once": lambda: nn.Sequential(nn.SiLU(inplace=True), conv(), out()),
    "residual": lambda: nn.Sequential(Residual(), Residual(), out()),
    "reflected edge": lambda: nn.Sequential(conv(padding_mode="reflect"), nn.Tanh(), out()),
    "zero weights": lambda: nn.Sequential(conv(), nn.ReLU(), zeroed(conv()), out()),
}
FAR = {
    "GroupNorm": lambda: nn.Sequential(conv(), nn.GroupNorm(2, 6), nn.ReLU(), out()),
    "attention": lambda: nn.Sequential(conv(), Attention(), out()),
    "global gate": lambda: nn.Sequential(conv(), GlobalGate(), out()),
    "custom function": lambda: nn.Sequential(conv(), Custom(), out()),
    "wide": lambda: nn.Sequential(conv(31), out()),
}


def zeroed(layer):
    """A convolution that reads nothing but its center, until it is trained."""
    with torch.no_grad():
        layer.weight[:, :, [0, 2]] = 0
    return layer


def build(net, candidates=read, features=None, **options):
    features = features or [f"neck.{i}" for i in range(len(net.neck))]
    options = {"size": (96, 128), "score_threshold": 0.0, "nms_iou": None, "max_detections": 12, **options}
    return wrap(net, candidates, features, **options)


def picture(height=96, width=128):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


def score(trace):
    return trace.candidates.scores[trace.detections.source, trace.detections.labels]


def top(trace):
    return trace.candidates.boxes[trace.detections.source, 1]


def gradients(model, trace, route, target=score, detections=None, layer=None):
    """Gradients on the whole grid and routes, by detection."""
    found, routes = {}, {}
    detections = trace.detections if detections is None else detections
    for pullback in model.pullbacks(trace, detections, layer, route):
        whole = pullback.gradient(target).whole()
        for i, row in enumerate(pullback.rows.tolist()):
            assert row not in found
            found[row], routes[row] = whole.gradient[i], pullback.route
    assert sorted(found) == list(range(len(detections)))
    return [found[i] for i in range(len(found))], [routes[i] for i in range(len(found))]


def assert_agree(model, trace, expected, target=score, detections=None, tolerance=1e-10, layer=None):
    """Route auto takes the expected route and gives what the exact route gives."""
    one, routes = gradients(model, trace, "auto", target, detections, layer)
    other, exact = gradients(model, trace, "exact", target, detections, layer)
    assert set(routes) == {expected}
    assert set(exact) == {"exact"}
    for a, b in zip(one, other, strict=True):
        assert b.any()
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize("head", LOCAL)
@pytest.mark.parametrize("target", [score, top])
def test_windows_equal_the_exact_route(head, target):
    model = build(Net(LOCAL[head]).double())
    assert_agree(model, model.trace(picture().double()), "windows", target)


def test_windows_equal_the_exact_route_in_single_precision():
    model = build(Net(LOCAL["BatchNorm and SiLU"], levels=2))
    assert_agree(model, model.trace(picture()), "windows", tolerance=1e-4)


@pytest.mark.parametrize("head", FAR)
def test_what_is_not_local_takes_the_exact_route(head):
    model = build(Net(FAR[head]).double())
    assert_agree(model, model.trace(picture().double()), "exact")


@pytest.mark.parametrize(
    "head", ["plain", "max pooling", "dilated", "reflected edge", "branches", "added in place", "asymmetric"]
)
@pytest.mark.parametrize("size", [(96, 128), (40, 56), (72, 24)])
def test_every_cell_up_to_the_corners(head, size):
    model = build(Net(LOCAL[head]).double(), size=size, max_detections=200)
    trace = model.trace(picture(*size).double())
    assert len(trace.detections) == len(trace.candidates)
    assert_agree(model, trace, "windows")


MEASURED = {"max pooling", "added in place"}


@pytest.mark.parametrize("head", LOCAL)
def test_a_head_whose_calls_say_how_far_they_reach_is_not_measured(head, monkeypatch):
    def measure(self):
        asked.append(self)
        return radius(self)

    asked, radius = [], Head.radius
    monkeypatch.setattr(Head, "radius", measure)
    model = build(Net(LOCAL[head]).double())
    assert_agree(model, model.trace(picture().double()), "windows")
    assert bool(asked) == (head in MEASURED)


def test_a_map_that_is_raw_and_read_on():
    """Where a raw output is also what another one is computed from, its crops have a margin."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = out(3), nn.Conv2d(4 + K, 4 + K, 3, padding=1)

        def forward(self, x):
            x = self.first(x)
            return x, self.second(x)

    def both(output):
        one, other = output[0]
        return read([one])[0], read([other])[1]

    model = build(Net(Twice).double(), both, max_detections=200)
    trace = model.trace(picture().double())
    for target in (score, top):
        assert_agree(model, trace, "windows", target)


@pytest.mark.filterwarnings("ignore:Warning. Profiler clears events")
def test_a_branch_that_has_no_part_is_left_out():
    """A score's gradient does not go through the branch that gives boxes."""

    class Apart(nn.Module):
        def __init__(self):
            super().__init__()
            self.boxes, self.scores = (nn.Sequential(conv(), nn.Tanh(), nn.Conv2d(6, n, 1)) for n in (4, K))

        def forward(self, x):
            return self.boxes(x), self.scores(x)

    def apart(output):
        boxes, scores = output[0]
        return read([boxes])[0], scores[0].flatten(1).T.sigmoid()

    model = build(Net(Apart).double(), apart)
    trace = model.trace(picture().double())
    (pullback,) = model.pullbacks(trace, trace.detections, None, "auto")
    with torch.profiler.profile() as profile:
        pullback.gradient(score)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::tanh_backward"] == 1
    assert_agree(model, trace, "windows")


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_several_levels(nested, named):
    def with_level(output):
        boxes, scores = read(output)
        return boxes, scores, torch.tensor([0] * 192 + [1] * 48)

    net = Net(LOCAL["plain"], levels=2, nested=nested).double()
    model = build(net, with_level if named else read, max_detections=240)
    trace = model.trace(picture().double())
    assert_agree(model, trace, "windows")
    grids = [tuple(gradient.shape[-2:]) for gradient in gradients(model, trace, "auto")[0]]
    assert [grid == (12, 16) for grid in grids] == (trace.detections.source < 192).tolist()


def test_a_level_that_the_user_names_wrongly_is_taken_at_their_word():
    net = Net(LOCAL["plain"], levels=2, nested=True).double()
    model = build(net, lambda output: (*read(output), torch.zeros(240, dtype=torch.long)), max_detections=240)
    trace = model.trace(picture().double())
    one, routes = gradients(model, trace, "auto")
    other, _ = gradients(model, trace, "exact")
    for a, b, route, source in zip(one, other, routes, trace.detections.source.tolist(), strict=True):
        assert route == ("windows" if source < 192 else "exact")
        torch.testing.assert_close(a, b)


def test_a_layer_by_its_name():
    model = build(Net(LOCAL["plain"], levels=2, nested=True).double(), max_detections=240)
    trace = model.trace(picture().double())
    fine = trace.detections[(trace.detections.source < 192).nonzero()[:, 0]]
    coarse = trace.detections[(trace.detections.source >= 192).nonzero()[:, 0]]
    assert_agree(model, trace, "windows", detections=fine, layer="neck.0")
    assert_agree(model, trace, "exact", detections=coarse, layer="neck.0")
    assert_agree(model, trace, "exact", detections=fine, layer="stem")


def test_one_row_may_be_explained_for_several_classes():
    model = build(Net(LOCAL["plain"]).double())
    trace = model.trace(picture().double())
    rows = torch.arange(len(trace.detections)).repeat(K)
    detections = trace.detections[rows]
    detections.labels[:] = torch.arange(K).repeat_interleave(len(trace.detections))
    assert_agree(model, trace, "windows", detections=detections)


def test_candidates_that_share_numbers_are_told_apart():
    """A candidate for each cell and class: those of a cell share its box; scores share an objectness."""

    def by_class(output):
        boxes, scores = read(output)
        return boxes.repeat_interleave(K, 0), (scores * output[0][0, :1].flatten(1).T.sigmoid()).reshape(-1, 1)

    model = build(Net(LOCAL["plain"]).double(), by_class, max_detections=250)
    trace = model.trace(picture().double())
    cells = trace.detections.source // K
    assert len(cells.unique()) < len(cells)
    for target in (score, top):
        assert_agree(model, trace, "windows", target)


def test_rows_that_depend_on_neighbors_get_wider_windows():
    def smoothed(output):
        return read([nn.functional.avg_pool2d(level, 3, 1, 1) for level in output])

    def peaks(output):
        level = output[0]
        return read([torch.cat([level[:, :4], level[:, 4:] - level[:, 4:].roll(1, 3)], 1)])

    model = build(Net(LOCAL["plain"]).double(), smoothed)
    assert_agree(model, model.trace(picture().double()), "windows")
    model = build(Net(LOCAL["plain"]).double(), peaks, max_detections=150)
    trace = model.trace(picture().double())
    one, other = gradients(model, trace, "auto"), gradients(model, trace, "exact")
    assert {"windows", "exact"} == set(one[1])  # a row at the edge reads from the other edge, too
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b)


def test_scores_normalized_over_all_rows_take_the_exact_route():
    model = build(Net(LOCAL["plain"]).double(), lambda output: (read(output)[0], read(output)[1].softmax(0)))
    assert_agree(model, model.trace(picture().double()), "exact")


def test_an_output_without_cells_takes_the_exact_route():
    class Pooled(Net):
        def forward(self, x):
            return self.heads[0](self.neck[0](self.stem(x)).mean((2, 3), keepdim=True).expand(1, 6, 2, 2) * 1.0)

    model = build(Pooled(lambda: out()).double(), lambda output: read([output]), max_detections=3)
    assert_agree(model, model.trace(picture().double()), "exact")


class Decoding(Net):
    """Decodes in its forward, as many do: grid offsets kept for a size, values set in place, levels joined."""

    grid = None

    def forward(self, x):
        decoded = []
        for level in super().forward(x):
            if self.grid is None or self.grid.shape[1:] != level.shape[2:]:
                rows, columns = torch.meshgrid(*(torch.arange(n) for n in level.shape[2:]), indexing="ij")
                self.grid = torch.stack([columns, rows])
            values = level.permute(0, 2, 3, 1).sigmoid().clone()
            values[..., :2] = (values[..., :2] + self.grid.permute(1, 2, 0)) * 8
            values[..., 2:4] = (values[..., 2:4] * 2) ** 2 * 8
            decoded.append(values.flatten(1, 2))
        return torch.cat(decoded, 1)


def read_decoded(output):
    boxes = torch.zeros(len(output[0]), 4, dtype=output.dtype)
    boxes[:, :2] = output[0, :, :2] - output[0, :, 2:4] / 2
    boxes[:, 2:] = output[0, :, :2] + output[0, :, 2:4] / 2
    return boxes, output[0, :, 4:]


@pytest.mark.parametrize("target", [score, top])
def test_a_network_that_decodes_its_own_output(target):
    model = build(Decoding(LOCAL["plain"], levels=2).double(), read_decoded, max_detections=200)
    assert_agree(model, model.trace(picture().double()), "windows", target)


def test_maps_that_the_network_overwrites_are_not_taken_for_raw_outputs():
    class Overwriting(Net):
        def forward(self, x):
            (level,) = super().forward(x)
            level = level.clone()
            level[:, :2] = level[:, :2].tanh() + torch.linspace(0, 1, level.shape[-1])
            return [level]

    model = build(Overwriting(LOCAL["plain"]).double())
    trace = model.trace(picture().double())
    for target in (score, top):
        one, other = gradients(model, trace, "auto", target)[0], gradients(model, trace, "exact", target)[0]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def replace_layer(net):
    net.heads[0][0] = nn.Sequential(nn.Conv2d(6, 6, 7, padding=3), nn.Tanh()).double()
    return "windows"


def add_hook(net):
    net.heads[0][0].register_forward_hook(lambda part, args, output: output.roll(1, 3) * 2)
    return None


def normalize(net):
    net.heads[0][0].register_forward_hook(lambda part, args, output: output / output.std())
    return "exact"


def train(net):
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return "windows"


def hook_on_the_gradient(net):
    net.heads[0][0].register_forward_hook(lambda part, args, output: output.register_hook(lambda g: g * 2) and None)
    return "exact"


@pytest.mark.parametrize("change", [replace_layer, add_hook, normalize, train, hook_on_the_gradient])
def test_a_head_may_change_between_two_explanations(change):
    net = Net(LOCAL["plain"]).double()
    model = build(net)
    assert_agree(model, model.trace(picture().double()), "windows")
    route = change(net)
    trace = model.trace(picture().double())
    if route is None:
        one, other = gradients(model, trace, "auto")[0], gradients(model, trace, "exact")[0]
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)
    else:
        assert_agree(model, trace, route)


def test_weights_that_change_under_a_trace_are_noticed():
    net = Net(LOCAL["plain"]).double()
    model = build(net)
    trace = model.trace(picture().double())
    with torch.no_grad():
        net.heads[0][0].weight.mul_(1.001)
    assert "windows" not in gradients(model, trace, "auto")[1]


def test_a_receptive_field_is_measured_through_closed_gates_and_zero_weights():
    net = Net(lambda: nn.Sequential(conv(), nn.ReLU(), conv(), out())).double()
    with torch.no_grad():
        net.heads[0][0].bias.fill_(-100)
        net.heads[0][2].weight.zero_()
    model = build(net)
    trace = model.trace(picture().double())
    assert trace.state.head(trace, 0).radius() == 2


def test_gradients_that_the_network_cuts_stay_cut():
    class Cut(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                weight = x[:, :1].sigmoid()
            return x * weight + x.detach() * 0.5

    model = build(Net(lambda: nn.Sequential(conv(), Cut(), out())).double())
    trace = model.trace(picture().double())
    one, other = gradients(model, trace, "auto")[0], gradients(model, trace, "exact")[0]
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_head_takes_the_exact_route():
    net = Net(LOCAL["plain"]).eval()
    net.heads[0] = torch.jit.trace(net.heads[0], torch.rand(1, 6, 12, 16))
    model = build(net)
    assert_agree(model, model.trace(picture()), "exact", tolerance=1e-5)


def test_a_compiled_head_takes_the_exact_route():
    net = Net(LOCAL["plain"]).eval()
    model = build(net)
    expected = model.trace(picture())
    net.heads[0].compile(backend="eager")
    trace = model.trace(picture())
    assert trace.state is None
    assert torch.equal(trace.candidates.scores, expected.candidates.scores)
    assert set(gradients(model, trace, "auto")[1]) == {"exact"}


def test_a_trace_holds_no_graph_and_leaves_no_gradient():
    net = Net(LOCAL["BatchNorm and SiLU"])
    model = build(net)
    trace = model.trace(picture())
    assert not trace.candidates.scores.requires_grad
    assert not any(level.values.requires_grad for level in trace.features)
    assert not any(values.requires_grad for values in trace.state.recording.raw.values())
    gradients(model, trace, "auto")
    assert all(weight.grad is None and weight.requires_grad for weight in net.parameters())


def test_a_differentiable_trace_explains_on_the_same_levels():
    net = Net(LOCAL["plain"], levels=2, nested=True).double()
    model = build(net, max_detections=60)
    trace, live = model.trace(picture().double()), model.trace(picture().double(), differentiable=True)
    for a, b in zip(gradients(model, trace, "auto")[0], gradients(model, live, "auto")[0], strict=True):
        assert b.requires_grad
        torch.testing.assert_close(a, b.detach())


def test_a_function_that_reads_through_numpy_can_still_be_traced():
    def numpy(output):
        boxes, scores = read(output)
        return torch.from_numpy(boxes.numpy()), torch.from_numpy(scores.numpy())

    net = Net(LOCAL["plain"])
    trace = build(net, numpy).trace(picture())
    assert torch.equal(trace.candidates.scores, build(net).trace(picture()).candidates.scores)
    assert trace.state is None


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_gradient_method_draws_the_same_maps_by_both_routes(method):
    model = build(Net(LOCAL["BatchNorm and SiLU"], levels=2).double(), max_detections=40)
    trace = model.trace(picture().double())
    (fast,) = method(model, trace, trace.detections, [score])
    model.pullbacks = lambda *args, pullbacks=model.pullbacks, **options: pullbacks(*args[:3], "exact", **options)
    (exact,) = method(model, trace, trace.detections, [score])
    assert set(fast.routes) == {"windows"}
    assert set(exact.routes) == {"exact"}
    for a, b in zip(fast.native, exact.native, strict=True):
        torch.testing.assert_close(a, b)


PIECES = {
    "conv": lambda: conv(),
    "dilated": lambda: conv(dilation=2),
    "depthwise": lambda: conv(groups=6),
    "wide": lambda: conv(5),
    "point": lambda: conv(1),
    "norm": lambda: nn.BatchNorm2d(6),
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(),
    "pool": lambda: nn.MaxPool2d(3, 1, 1),
    "mean": lambda: nn.AvgPool2d(3, 1, 1),
    "residual": lambda: Residual(),
    "group": lambda: nn.GroupNorm(2, 6),
    "gate": lambda: GlobalGate(),
}


@settings(max_examples=25, deadline=None)
# Two rectifiers in place, one after the other, have no gradient in torch itself.
@given(
    st.lists(st.sampled_from(sorted(PIECES)), max_size=4).filter(lambda names: ("relu", "relu") not in pairwise(names)),
    st.sampled_from([(96, 128), (64, 48), (56, 72)]),
)
def test_any_head_gives_the_same_gradient_by_both_routes(pieces, size):
    model = build(Net(lambda: nn.Sequential(*(PIECES[name]() for name in pieces), out(3))).double(), size=size)
    trace = model.trace(picture(*size).double())
    one, other = gradients(model, trace, "auto"), gradients(model, trace, "exact")
    assert set(one[1]) == ({"exact"} if {"group", "gate"} & set(pieces) else {"windows"})
    for a, b in zip(one[0], other[0], strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max()
