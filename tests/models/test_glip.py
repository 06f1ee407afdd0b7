"""The network of docs/glip.md, through plain with texts: held to autograd by hand."""

import pytest
import torch
from torch import nn

import whybox
from contract.pages import DOCS, defined_by
from whybox.errors import WhyboxError

PAGE = DOCS / "glip.md"
TEXTS = ["a bottle", "a banana"]


@pytest.fixture(scope="module")
def page():
    """What the page's blocks define."""
    return defined_by(PAGE)


@pytest.fixture
def picture():
    return torch.rand((3, 64, 96), generator=torch.Generator().manual_seed(3))


PLAIN = {"method": "odam", "smoothing": "none", "layer": "backbone"}


def by_hand(page, picture, result, path, texts=TEXTS, field="scores", read=lambda columns, label: columns[label]):
    """Gradient x input of each detection at the output of a module, by the network's own forward. field: of the
    candidates. read: what is explained, of its columns and the detection's label."""
    network, kept = page.model.network.eval(), []
    handle = network.get_submodule(path).register_forward_hook(lambda part, given, output: kept.append(output))
    output = network(picture[None], **page.ask(texts))
    handle.remove()
    found = page.read(output, texts)[field]
    rows = zip(found[result.detections.source], result.detections.labels.tolist(), strict=True)
    gradients = [torch.autograd.grad(read(columns, label), kept[0], retain_graph=True)[0] for columns, label in rows]
    return [(gradient * kept[0].detach())[0] for gradient in gradients]


def test_maps_are_those_of_autograd(page, picture):
    result = whybox.explain(page.model, picture, text=TEXTS, top=6, score_threshold=0, **PLAIN)
    assert set(result.names) <= set(TEXTS)
    for index, expected in enumerate(by_hand(page, picture, result, "backbone")):
        assert expected.sum(0).max() > 1e-5
        assert torch.allclose(result.maps.native[index], expected.sum(0).relu(), rtol=1e-3, atol=1e-7)


def test_words_are_those_of_autograd(page, picture):
    result = whybox.explain(page.model, picture, text=TEXTS, top=6, score_threshold=0, words=True)
    for index, expected in enumerate(by_hand(page, picture, result, "embed")):
        label = int(result.detections.labels[index])
        places = [place for place, _, _ in page.words_of(TEXTS)[label]]
        assert [word for word, _ in result.words[index]] == TEXTS[label].split()
        assert [weight for _, weight in result.words[index]] == pytest.approx(expected.sum(-1)[places].tolist(), rel=1e-3)


def test_why_this_text_and_not_that_one(page, picture):
    texts = ["a bottle", "a can"]
    drawn = {"boxes": [[20, 20, 50, 50]], "labels": ["a bottle"]}
    result = whybox.explain(page.model, picture, text=texts, target="contrast:a can", detections=drawn, **PLAIN)
    assert result.names == ("a bottle",)
    assert result.notes[0].startswith("best candidate: IoU")
    (expected,) = by_hand(page, picture, result, "backbone", texts, "logits", lambda columns, label: columns[label] - columns[1])
    assert expected.sum(0).max() > 1e-5
    assert torch.allclose(result.maps.native[0], expected.sum(0).relu(), rtol=1e-3, atol=1e-7)


def test_other_texts_are_another_pass(page, picture):
    first, second = (page.model.prompt([text, "a can"]) for text in TEXTS)
    trace = first.trace(picture)
    assert first.answer(trace) is trace
    assert not torch.allclose(second.answer(trace).candidates.scores, trace.candidates.scores, atol=1e-4)
    with pytest.raises(WhyboxError, match="made with other texts"):
        list(second.pullbacks(trace, trace.detections[:1], None, "auto"))
    again = whybox.explain(second, trace, top=1, score_threshold=0)
    assert again.names[0] in ("a banana", "a can")
    assert len(first.predict(torch.stack([picture, picture]))[1]) == len(trace.candidates)
    differentiable = whybox.trace(first, picture, differentiable=True)
    assert whybox.explain(first, differentiable, top=1, score_threshold=0).maps.values.requires_grad


def test_mistakes_are_told_in_one_line(page, picture):
    def load(**options):
        given = {"candidates": page.read, "features": ["backbone", "down"], "size": (64, 96), "texts": page.ask}
        network = page.Glip()
        network.unused = nn.Identity()
        return whybox.load(network, **{**given, **options})

    for options, told in (
        ({"candidates": lambda output: output}, "candidates takes two arguments"),
        ({"classes": ["a"]}, "the texts are the classes: leave classes out"),
        ({"tokens": page.words_of}, "the words of texts need both"),
        ({"tokens": page.words_of, "embeddings": "embedding"}, "unknown layer 'embedding'; did you mean embed"),
    ):
        with pytest.raises(WhyboxError, match=told):
            load(**options)
    with pytest.raises(WhyboxError, match="finds boxes for texts: say which"):
        whybox.explain(load(), picture)
    with pytest.raises(WhyboxError, match=r"a text is empty \(' '\)"):
        whybox.explain(load(), picture, text=" ")
    with pytest.raises(WhyboxError, match=r"texts\(\) must return the network's arguments by name"):
        whybox.explain(load(texts=lambda texts: texts), picture, text=TEXTS)
    with pytest.raises(WhyboxError, match="does not say which words made a box"):
        whybox.explain(load(), picture, text=TEXTS, words=True)
    with pytest.raises(WhyboxError, match="this module did not run"):
        whybox.explain(load(tokens=page.words_of, embeddings="unused"), picture, text=TEXTS, words=True, score_threshold=0)
