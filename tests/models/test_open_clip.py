import pytest
import torch

import whybox
from models.open_clip_models import KINDS, network, tokenizer
from whybox.ops.hooks import frozen
from whybox.ops.transformer import read_embedding, run_layers

PROMPTS = ["a red ball", "Two blue cubes, left of the Tree!", "x"]


def load(kind, **options):
    module = network(kind) if isinstance(kind, str) else kind
    return whybox.load(module, tokenizer=tokenizer(), **options)


def picture(height=64, width=64, seed=3):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def away(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_taken_apart_the_image_tower_answers_as_its_own_forward_pass(kind):
    net, model = network(kind), load(kind)
    pixels = torch.randn(2, 3, 64, 64)
    vision = model.encoders.vision
    with torch.no_grad(), frozen(net):
        tokens, mask = vision.embed(pixels)
        last = run_layers(vision.layers, tokens, mask)
        ours = read_embedding(vision, last, torch.zeros(2, dtype=torch.long))
        theirs = net.encode_image(pixels, normalize=False)
    assert away(ours, theirs) < 1e-5
    assert away(ours[0], theirs[1]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_taken_apart_the_text_tower_answers_as_its_own_forward_pass(kind):
    net, model = network(kind), load(kind)
    ids = tokenizer()(PROMPTS)
    theirs = net.encode_text(ids, normalize=False).detach()
    for padded in (False, True):
        batch = model.encoders.tokenize(PROMPTS, padded)
        with torch.no_grad():
            tokens, mask = model.encoders.text.embed(batch.inputs)
            last = run_layers(model.encoders.text.layers, tokens, mask)
            ours = read_embedding(model.encoders.text, last, batch.row)
            assert away(ours, theirs) < 1e-5
            assert away(model.encoders.embed_text(batch.inputs), theirs) < 1e-6
        assert batch.words.shape == tokens.shape[:2]
