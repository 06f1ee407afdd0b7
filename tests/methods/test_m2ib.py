"""M2IB against the network's own forward pass with a hook that adds the noise, and on a linear toy that needs one token."""

import pytest
import tiny_clip
import torch
from torch.nn import Identity

import whybox
from models import hf_models
from models.hf_versions import tokens_of
from whybox.attention import AttentionLayer, Text, Transformer, TransformerPass
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.methods.m2ib import M2ib, m2ib_map
from whybox.types import Candidates, Detections, Trace

LAYER = 1
"""Of three: the block that the second implementation puts the noise behind."""


def squeeze(block, inside, run, *, steps=10, batch=10, beta=0.1, seed=0):
    """KL (N,C) after the steps: the loss through `run`, which runs the network and gives cosines, and Adam written out.
    inside: the tokens that get noise."""
    kept = []
    handle = block.register_forward_hook(lambda module, args, output: kept.append(tokens_of(output)))
    run(1)
    handle.remove()
    tokens = kept[0][0][inside].detach()
    alpha = torch.full_like(tokens, 5.0).requires_grad_()
    generator = torch.Generator().manual_seed(seed)
    mean, square = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for step in range(1, steps + 1):
        part = torch.sigmoid(alpha)
        noise = torch.randn((batch, *tokens.shape), generator=generator)

        def mix(module, args, output, part=part, noise=noise):
            changed = tokens_of(output).clone()
            changed[:, inside] = part * tokens + (1 - part) * noise
            return (changed,) if isinstance(output, tuple) else changed

        handle = block.register_forward_hook(mix)
        fit = run(batch).mean()
        handle.remove()
        loss = beta * divergence(part, tokens).mean() - fit
        (slope,) = torch.autograd.grad(loss, alpha)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        change = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        alpha = (alpha - change).detach().requires_grad_()
    return divergence(torch.sigmoid(alpha), tokens).detach()


def divergence(part, tokens):
    """torch's own KL of two normal distributions."""
    normal = torch.distributions.Normal
    return torch.distributions.kl_divergence(normal(part * tokens, 1 - part), normal(torch.zeros_like(tokens), 1.0))


def embed(net, pixel_values):
    return tiny_clip.unit(net.visual_projection(net.vision_model(pixel_values=pixel_values).pooler_output))


def test_the_image_against_the_networks_own_forward_pass():
    net, pixel_values = tiny_clip.network(), tiny_clip.pixels(tiny_clip.image())
    texts = tiny_clip.text_embeddings(*tiny_clip.TEXTS)
    maps = tiny_clip.explain(M2ib(layer=LAYER, seed=4))
    everything = torch.ones(17, dtype=torch.bool)
    for values, text in zip(maps.values, texts, strict=True):
        run = lambda batch, text=text: embed(net, pixel_values.expand(batch, -1, -1, -1)) @ text
        information = squeeze(net.vision_model.encoder.layers[LAYER], everything, run, seed=4)
        torch.testing.assert_close(values, information.sum(1)[1:].reshape(4, 4), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("index", [0, 1])
def test_the_text_against_the_networks_own_forward_pass(index):
    """Causal, projected once, and each text alone without padding, while whybox has both together."""
    net = tiny_clip.network()
    with torch.no_grad():
        image = embed(net, tiny_clip.pixels(tiny_clip.image()))[0]
    model = tiny_clip.model()
    trace = model.trace(tiny_clip.image())
    (maps,) = M2ib(layer=LAYER).explain_text(model, trace, trace.detections, [tiny_clip.SCORE])
    own = tiny_clip.words(tiny_clip.TEXTS[index])

    def run(batch):
        read = net.text_model(input_ids=own["input_ids"].expand(batch, -1)).pooler_output
        return tiny_clip.unit(net.text_projection(read)) @ image

    everything = torch.ones(own["input_ids"].shape[1], dtype=torch.bool)
    information = squeeze(net.text_model.encoder.layers[LAYER], everything, run)
    torch.testing.assert_close(maps.values[index], information.sum(1)[1:-1], rtol=1e-2, atol=1e-2)
    assert maps.texts[index].text == tiny_clip.TEXTS[index]
    assert len(maps.word_values(index)) == len(tiny_clip.TEXTS[index].split())


def test_information_is_the_divergence_of_two_normal_distributions():
    tokens, alpha = torch.randn((3, 4), generator=torch.Generator().manual_seed(0)), torch.linspace(-3, 3, 12).reshape(3, 4)
    torch.testing.assert_close(m2ib_map(tokens, alpha), divergence(alpha.sigmoid(), tokens).sum(1), rtol=1e-4, atol=1e-5)
    normal, part = torch.distributions.Normal, alpha.sigmoid()
    wide = torch.distributions.kl_divergence(normal(part * tokens, (1 - part) * 2), normal(torch.zeros_like(tokens), 2.0))
    torch.testing.assert_close(m2ib_map(tokens, alpha, 4.0), wide.sum(1), rtol=1e-4, atol=1e-5)
    assert m2ib_map(tokens, torch.full_like(alpha, 200.0)).isfinite().all()
    torch.testing.assert_close(m2ib_map(tokens, torch.full_like(alpha, -20.0)), torch.zeros(3), rtol=0, atol=1e-5)


class Linear:
    """A model of six patches whose score is the mean of one patch's channels."""

    name, gives, classes, layers = "linear", frozenset({"transformer", "text"}), ("wanted",), ()
    texts = (Text("wanted", ("wanted",), ((0, 6),)),)
    network = Identity()
    wanted = 4
    """Among the patches; a class token stands before them."""

    def trace(self, image):
        box = torch.tensor([[0.0, 0, 3, 2]])
        candidates = Candidates(box, torch.zeros((1, 1)), torch.zeros(1, dtype=torch.long))
        detections = Detections(box, torch.zeros(1), torch.tensor([0]), torch.tensor([0]))
        return Trace(image, Frame.same((2, 3)), (), candidates, detections)

    def transformer(self, trace):
        keep = AttentionLayer("keep", 1, 1.0, lambda t: (t, t, t), lambda t: 0 * t, lambda t, added: t + added, ())
        tokens = torch.ones((1, 7, 8))
        # Every row's answer is the wanted patch: the mean over its channels.
        read = lambda rows: rows[:, 1 + self.wanted].mean(-1, keepdim=True)
        network = Transformer((keep, keep), lambda image: None, read, (), pooling="mean")

        def answer(embeddings, detections):
            scores = Candidates(trace.candidates.boxes.expand(len(embeddings), 4), embeddings, torch.zeros(len(embeddings)))
            return trace.rows(scores, detections)

        row = torch.zeros(1, dtype=torch.long)
        return TransformerPass(network, (tokens, tokens), row, torch.ones((1, 1)), answer, grid=(2, 3), first=1, stride=1.0)


def test_information_stays_where_it_is_needed():
    model = Linear()
    trace = model.trace(torch.zeros((3, 2, 3)))
    (maps,) = M2ib(batch=4, steps=20)(model, trace, trace.detections, [tiny_clip.SCORE])
    values = maps.values[0].flatten()
    others = torch.arange(6) != model.wanted
    # lam stays above 0.99 for the wanted patch: each of its 8 channels keeps more than 4 nats.
    assert values[model.wanted] > 8 * 4
    assert values[others].max() < 0.1


def test_a_weightier_information_leaves_less_of_it():
    kept = [tiny_clip.explain(M2ib(beta=beta)).values.mean() for beta in (0.01, 0.1, 10.0)]
    assert kept[0] > kept[1] > kept[2]


def test_the_bottleneck_stands_at_the_papers_part_of_the_depth():
    assert [M2ib()._start(depth) for depth in (12, 24, 6, 3, 2, 1)] == [10, 20, 5, 2, 1, 0]
    assert M2ib(layer=9)._start(12) == 10
    with pytest.raises(WhyboxError, match="layer must leave one of the 3 layers behind it: at most 1, got 2"):
        tiny_clip.explain(M2ib(layer=2))


def test_same_seed_same_map_alone_or_beside_others():
    both = tiny_clip.explain(M2ib()).values
    assert torch.equal(both, tiny_clip.explain(M2ib()).values)
    torch.testing.assert_close(both[1:], tiny_clip.explain(M2ib(), texts=tiny_clip.TEXTS[1:]).values, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both, tiny_clip.explain(M2ib(seed=1)).values, rtol=1e-3)


def test_a_longer_padding_changes_no_text():
    words = [
        whybox.explain(tiny_clip.model(texts), tiny_clip.image(), text=list(texts), method="m2ib", words=True).words
        for texts in (tiny_clip.TEXTS, tiny_clip.TEXTS[1:])
    ]
    (word, value), (alone, other) = words[0][1][0], words[1][0][0]
    assert word == alone == "tree"
    assert value == pytest.approx(other, rel=1e-3)


@pytest.mark.parametrize("build", [hf_models.siglip, hf_models.blip_retrieval])
def test_other_families_keep_information_in_patches_and_words(build):
    torch.manual_seed(0)
    model = whybox.load(hf_models.stirred(build()), tokenizer=hf_models.tokenizer())
    result = whybox.explain(model, tiny_clip.image(), text=["a red ball", "tree"], method="m2ib", words=True)
    assert result.maps.values.shape == (2, 4, 4)
    assert (result.maps.values > 0).all()
    assert [[word for word, _ in text] for text in result.words] == [["a", "red", "ball"], ["tree"]]
    assert all(value > 0 for text in result.words for _, value in text)


def test_nothing_is_left_on_the_model_and_callers_modes_do_not_matter():
    model, net = tiny_clip.model(), tiny_clip.network()
    expected = tiny_clip.explain(M2ib()).values
    net.train()
    with torch.inference_mode():
        trace = model.trace(tiny_clip.image())
        (maps,) = M2ib()(model, trace, trace.detections, [tiny_clip.SCORE])
    assert net.training
    net.eval()
    torch.testing.assert_close(maps.values.clone(), expected, rtol=1e-4, atol=1e-4)
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())
    assert not any(part._forward_hooks for part in net.modules())


def test_no_text_gives_no_map():
    model = tiny_clip.model()
    trace = model.trace(tiny_clip.image())
    (maps,) = M2ib()(model, trace, trace.detections[:0], [tiny_clip.SCORE])
    (words,) = M2ib().explain_text(model, trace, trace.detections[:0], [tiny_clip.SCORE])
    assert maps.at_image().shape == (0, 32, 44)
    assert len(words) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"variance": 0.0}, "variance must be more than 0, got 0.0"),
        ({"lr": -1.0}, "lr must be more than 0, got -1.0"),
        ({"layer": -1}, "layer must be a layer's number from 0 on, got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(WhyboxError, match=message):
        M2ib(**options)
