"""Models that take texts, through the public verbs: a prompted detector of a few lines, and how texts are given."""

import json

import pytest
import torch
from torch import nn

import whybox
from whybox.errors import WhyboxError
from whybox.explanation import Explanation
from whybox.model import PromptedModel
from whybox.models.plain._detector import Plain
from whybox.prompting import prompted, texts_for_each


class Grid(nn.Module):
    """A cell of 8 pixels is a candidate: its box and a vector of eight numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.neck = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.head = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images):
        return self.head(self.neck(images).relu())


class Finder(Plain):
    """A detector whose class columns are computed from texts."""

    kind = "prompted detector"

    def __init__(self, network, texts=()):
        self.vectors = torch.stack([torch.randn(8, generator=torch.Generator().manual_seed(len(t))) for t in texts or [""]])
        options = {"size": (64, 96), "name": "finder", "score_threshold": 0.4}
        super().__init__(network, self.candidates, ["neck"], classes=list(texts), **options)

    def candidates(self, output):
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(12.0), indexing="ij")
        corner = torch.stack([columns, rows], -1).reshape(-1, 2) * 8 + output[0, :2].flatten(1).T
        return torch.cat([corner, corner + 24], 1), (output[0].flatten(1).T @ self.vectors.T).sigmoid()

    def prompt(self, texts):
        return Finder(self.network, texts)

    def answer(self, trace):
        return self.trace(trace.image)


TEXTS = ["a red ball", "a tree"]


@pytest.fixture
def finder():
    return whybox.load(Finder(Grid()))


@pytest.fixture
def picture():
    return torch.rand((3, 80, 120), generator=torch.Generator().manual_seed(3))


def test_a_prompted_detector_says_what_it_is(finder):
    assert isinstance(finder, PromptedModel)
    assert (finder.takes_text, finder.whole_image, finder.default_method, finder.default_target) == (True, False, "odam", "score")
    assert repr(finder.prompt(TEXTS)) == "<finder: prompted detector, 2 texts, cpu>"


def test_a_prompted_detector_explains_boxes_for_texts(finder, picture):
    result = whybox.explain(finder, picture, text=TEXTS, top=4)
    assert set(result.names) <= set(TEXTS)
    assert len(result) == 4, "boxes, the best, and not one per text"
    assert not result.whole_image
    assert (result.maps.method, result.maps.target) == ("odam", "score")
    assert result.maps.values.any()
    assert result.detections.boxes.unique(dim=0).shape[0] > 1
    assert (whybox.explain(finder, picture, text=TEXTS, score_threshold=0.55).detections.scores >= 0.55).all()
    side = whybox.explain(finder, picture, text="a tree", target="combined", top=1)
    assert side.names == ("a tree",)


def test_its_detections_are_those_that_are_explained(finder, picture):
    detections = whybox.detect(finder, picture, text=TEXTS, top=4)
    assert torch.equal(detections.scores, whybox.explain(finder, picture, text=TEXTS, top=4).detections.scores)
    assert torch.equal(whybox.detect(finder.prompt(TEXTS), picture, top=4).boxes, detections.boxes)


def test_a_trace_of_older_texts_is_answered_with_newer_ones(finder, picture):
    trace = whybox.trace(finder.prompt(["a dog"]), picture)
    later, alone = (whybox.explain(finder, source, text=TEXTS, top=3) for source in (trace, picture))
    assert later.names == alone.names
    assert torch.equal(later.maps.values, alone.maps.values)


def test_a_drawn_box_may_have_a_text_as_its_label(finder, picture):
    drawn = {"boxes": [[10, 10, 40, 40]], "labels": ["a tree"]}
    result = whybox.explain(finder, picture, text=TEXTS, detections=drawn)
    assert result.names == ("a tree",)
    assert result.notes[0].startswith("best candidate")


def test_it_is_saved_with_the_page_of_boxes(finder, picture, tmp_path):
    kept = whybox.explain(finder, picture, text=TEXTS, top=3)
    read = Explanation.load(kept.save(tmp_path / "out"))
    assert json.dumps(read.to_dict()) == json.dumps(kept.to_dict())
    assert (read.whole_image, read.texts, read.classes) == (False, (), TEXTS)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Hover over a box" in page
    assert "What speaks for" not in page


def test_it_needs_texts_and_has_no_maps_of_words(finder, picture):
    for verb in (whybox.explain, whybox.detect):
        with pytest.raises(WhyboxError, match="finder finds boxes for texts: say which, text="):
            verb(finder, picture)
    with pytest.raises(WhyboxError, match="finder does not say which words made a box"):
        whybox.explain(finder, picture, text=TEXTS, words=True)


def test_a_run_over_images_asks_for_texts(finder, picture, tmp_path):
    from whybox.runs.explaining.images import Question, detect_image, explain_images

    question = Question(texts=tuple(TEXTS), top=2)
    outcome = explain_images(finder, [("a.png", picture), ("b.png", picture.flip(-1))], question, tmp_path / "out")
    assert outcome.failed == ()
    assert [len(kept.explanations[0]["detections"]) for kept in outcome.kept] == [2, 2]
    assert {row["name"] for kept in outcome.kept for row in kept.explanations[0]["detections"]} <= set(TEXTS)
    assert len(detect_image(finder, picture, question)) == 2


def test_texts_of_several_images_are_the_same_or_a_list_each():
    assert texts_for_each(None, 2) == [None, None]
    assert texts_for_each("a", 2) == ["a", "a"]
    assert texts_for_each(["a", "b"], 2) == [["a", "b"]] * 2
    assert texts_for_each(["a", "b", "c"], 2) == [["a", "b", "c"]] * 2
    assert texts_for_each([["a"], ["b", "c"]], 2) == [["a"], ["b", "c"]]


@pytest.mark.parametrize("text", [["a", ["b"]], [["a"]], [["a"], ["b"], ["c"]]])
def test_what_is_ambiguous_is_refused_with_both_spellings(text):
    with pytest.raises(WhyboxError, match=r"text=\['a', 'b'\] asks every image .* text=\[\['a'\], \['b', 'c'\]\]") as caught:
        texts_for_each(text, 2)
    assert "\n" not in str(caught.value)


def test_a_detector_reads_no_text():
    with pytest.raises(WhyboxError, match="reads no text"):
        prompted(whybox.load("whybox/scenes"), "a dog")
