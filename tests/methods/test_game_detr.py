"""GAME on detection transformers, held to the paper's rules written down again over transformers' own output_attentions."""

import copy

import pytest
import torch

import whybox
from models.hf.test_detection import CONFIGS, assert_same, image, model_of, network, score, state
from models.hf_versions import needs, with_attention
from whybox.errors import GradientError, WhyboxError
from whybox.methods.game import Game, normalize_relevance, weigh_attention

transformers = pytest.importorskip("transformers")

DENSE = ["detr", "table_transformer", "conditional_detr", "dab_detr", "yolos"]
TOP = slice(0, 3)


def deeper(name):
    """The family's small network with several encoder layers, where the carrying of relevance begins to matter."""
    torch.manual_seed(0)
    config = CONFIGS[name]()
    config.encoder_layers = 3
    net = transformers.AutoModelForObjectDetection.from_config(config)
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    return net if name == "dab_detr" else net.double()


def left_side(trace):
    return trace.candidates.boxes[trace.detections.source, 0]


def answer_with_attentions(model, trace):
    """What transformers itself gives when asked for attentions, with eager attention, on a copy of the network."""
    net = with_attention(copy.deepcopy(model.network).eval(), "eager")
    inputs, _ = model._inputs(trace.image[None])
    pixels = inputs.pop("pixel_values").requires_grad_()
    return net(pixel_values=pixels, **inputs, output_attentions=True, return_dict=True)


def averaged(attention, value):
    """A-bar of equation 5, head by head; what follows is multiplied in double precision, DAB-DETR's too."""
    (gradient,) = torch.autograd.grad(value, attention, retain_graph=True)
    heads = [(g * a).clamp(min=0) for g, a in zip(gradient[0], attention[0].detach(), strict=True)]
    return (sum(heads) / len(heads)).double()


def row_normalized(relevance):
    """Equations 8 and 9, row by row."""
    rows = []
    for i, row in enumerate(relevance):
        unit = torch.zeros_like(row)
        unit[i] = 1
        carried = row - unit
        rows.append(carried / carried.sum() + unit if carried.sum() > 0 else unit)
    return torch.stack(rows)


def expected_maps(output, value, query, grid, start=0):
    """The paper's walk through encoder and decoder for one value of one query."""
    if "encoder_attentions" not in output:
        relevance = torch.eye(output.attentions[0].shape[-1], dtype=torch.double)
        for attention in output.attentions[start:]:
            relevance = relevance + averaged(attention, value) @ relevance
        queries = output.logits.shape[1]
        return relevance[len(relevance) - queries + query][1 : 1 + grid[0] * grid[1]].reshape(grid)
    image_part = torch.eye(grid[0] * grid[1], dtype=torch.double)
    for attention in output.encoder_attentions[start:]:
        image_part = image_part + averaged(attention, value) @ image_part
    query_part = torch.eye(output.logits.shape[1], dtype=torch.double)
    both = torch.zeros(len(query_part), len(image_part), dtype=torch.double)
    for own, cross in zip(output.decoder_attentions, output.cross_attentions, strict=True):
        weighed = averaged(own, value)
        query_part, both = query_part + weighed @ query_part, both + weighed @ both
        both = both + row_normalized(query_part).T @ averaged(cross, value) @ row_normalized(image_part)
    return both[query].reshape(grid)


@pytest.fixture(scope="module")
def traced():
    """Each family's deeper network, with its trace."""
    made = {}
    for name in DENSE:
        model = model_of(name, deeper(name))
        made[name] = model, model.trace(image().double() if name != "dab_detr" else image())
    return made


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", DENSE)
def test_maps_equal_the_papers_rules_over_the_librarys_attentions(traced, name, start):
    model, trace = traced[name]
    chosen = trace.detections[TOP]
    maps = Game(start_layer=start)(model, trace, chosen, [score, left_side])
    output = answer_with_attentions(model, trace)
    boxes = output.pred_boxes[0]
    logits = output.logits[0]
    scores = logits.softmax(-1) if model.family.rule == "best" else logits.sigmoid()
    for i, (query, label) in enumerate(zip(chosen.source.tolist(), chosen.labels.tolist(), strict=True)):
        sides = (boxes[query, 0] - 0.5 * boxes[query, 2]) * trace.frame.image[1]
        for found, value in zip(maps, (scores[query, label], sides), strict=True):
            grid = trace.features[0].grid
            expected = expected_maps(output, value, query, grid, start)
            assert found.native[i].shape == grid
            torch.testing.assert_close(found.native[i].double(), expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_a_value_with_tiny_gradients_keeps_its_map(traced):
    """In single precision, where what is carried is far below the last digit of the ones of I."""
    model, trace = traced["detr"]
    single = model_of("detr", copy.deepcopy(model.network).float())
    faint = single.trace(image())
    output = answer_with_attentions(model, trace)
    (found,) = Game()(single, faint, faint.detections[TOP], [lambda live: 1e-7 * score(live)])
    for i, (query, label) in enumerate(zip(faint.detections.source[TOP], faint.detections.labels[TOP], strict=True)):
        expected = expected_maps(output, 1e-7 * output.logits[0, query].softmax(-1)[label], query, trace.features[0].grid)
        torch.testing.assert_close(found.native[i].double(), expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("name", DENSE)
def test_attention_is_what_the_library_gives_and_in_the_graph(traced, name):
    model, trace = traced[name]
    live, shown = model.attentions(trace, trace.detections[TOP])
    output = answer_with_attentions(model, trace)
    if name == "yolos":
        expected = list(output.attentions)
    else:
        pairs = zip(output.decoder_attentions, output.cross_attentions, strict=True)
        expected = [*output.encoder_attentions, *(one for pair in pairs for one in pair)]
    assert len(shown) == len(expected)
    for one, other in zip(shown, expected, strict=True):
        torch.testing.assert_close(one.probabilities, other)
        torch.testing.assert_close(one.probabilities.sum(-1), torch.ones_like(one.probabilities[..., 0]))
    torch.testing.assert_close(live.candidates.scores[[0, 1, 2], live.detections.labels], trace.detections.scores[TOP])
    for one in shown:
        assert torch.autograd.grad(score(live)[0], one.probabilities, retain_graph=True)[0].any()


@pytest.mark.parametrize("name", DENSE)
def test_nothing_is_left_on_the_model(name):
    net = network(name).train()
    model = model_of(name, net)
    trace = model.trace(image())
    before, kernels = state(net), [part.config._attn_implementation for part in net.modules() if hasattr(part, "config")]
    Game()(model, trace, trace.detections[TOP], [score])
    assert_same(before, state(net))

    def fail(part, args, output):
        raise ZeroDivisionError

    head = net.class_embed if name == "dab_detr" else net.class_labels_classifier
    handle = head.register_forward_hook(fail)
    with pytest.raises(ZeroDivisionError):
        model.attentions(trace, trace.detections[TOP])
    handle.remove()
    assert_same(before, state(net))
    assert [part.config._attn_implementation for part in net.modules() if hasattr(part, "config")] == kernels


def test_through_the_public_door():
    model = model_of("detr", network("detr"))
    result = whybox.explain(model, image(), method="game", target="score", top=3, score_threshold=0.0)
    assert result.maps.at_image().shape == (3, 50, 77)
    assert len(torch.unique(result.maps.normalized().at_image(), dim=0)) == 3
    assert result.maps.options == {"start_layer": 0}
    empty = whybox.explain(model, image(), method="game", detections=whybox.Detections.empty())
    assert empty.maps.at_image().shape == (0, 50, 77)


@pytest.mark.parametrize("name", ["deformable_detr", "rt_detr", pytest.param("lw_detr", marks=needs("lw_detr"))])
def test_deformable_attention_is_refused_in_one_line(name):
    model = model_of(name)
    with pytest.raises(WhyboxError, match=r"'game' needs attention, which hf/\w+ does not give; what works with it: "):
        whybox.explain(model, image(), method="game")
    trace = model.trace(image())
    with pytest.raises(WhyboxError, match="deformable attention"):
        model.attentions(trace, trace.detections[TOP])


def test_a_layer_that_is_not_there_and_a_value_outside_the_graph_are_refused(traced):
    model, trace = traced["detr"]
    with pytest.raises(WhyboxError, match=r"start_layer must be from 0 to 2, .* for 3 layers; got 3"):
        Game(start_layer=3)(model, trace, trace.detections[TOP], [score])
    with pytest.raises(GradientError):
        Game()(model, trace, trace.detections[TOP], [lambda live: score(live).detach()])


def test_a_row_that_nothing_was_carried_to_stays_itself():
    carried = torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    assert torch.equal(normalize_relevance(carried), torch.tensor([[1.0, 0.0], [0.75, 1.25]]))


def test_only_positive_products_count_and_heads_are_averaged():
    probabilities = torch.tensor([[[0.25, 0.75]], [[0.5, 0.5]]])
    gradient = torch.tensor([[[4.0, -1.0]], [[2.0, 2.0]]])
    assert torch.equal(weigh_attention(probabilities, gradient), torch.tensor([[1.0, 0.5]]))
