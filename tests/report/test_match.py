"""The page about texts: whole, fetching nothing, safe with any text, and true to maps and weights."""

import json
import re
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch

from report.made_up_match import CROPPED, TEXTS, made_up_asked, made_up_match, made_up_tokens, read_text
from report.test_page import HOSTILE, Parts
from whybox.attention import Text, TokenMaps
from whybox.frame import Frame
from whybox.report.match import Asked, write_match
from whybox.report.page import LONGEST_MAP
from whybox.report.texts import alone, distinct_words
from whybox.types import HeatMaps


def body(match):
    return next(json.loads(text) for kind, text in Parts(write_match(match)).scripts if kind == "match")


def weighed(text):
    return [piece for piece in text["pieces"] if "weight" in piece]


def decode(stored):
    steps = np.frombuffer(b64decode(stored["data"]), np.uint8).reshape(stored["h"], stored["w"])
    return torch.from_numpy(stored["low"] + steps / 255 * (stored["high"] - stored["low"])).float()


def test_nothing_is_fetched():
    page = write_match(made_up_match())
    for tag, name, value in Parts(page).attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value == "" or value.startswith(("data:", "#")), (tag, name, value[:60])
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\(|https?://", page)
    assert "default-src 'none'; img-src data:;" in page


def test_every_text_with_its_numbers():
    match = made_up_match(notes=("", "longer than the context"))
    told = body(match)
    assert (told["score"], told["method"], told["model"]) == ("cosine", "grad_eclip", "toy")
    assert [one["name"] for one in told["texts"]] == list(TEXTS)
    assert [one["score"] for one in told["texts"]] == pytest.approx([0.3, 0.1])
    assert [one["peak"] for one in told["texts"]] == [float(values.max()) for values in match.asked.maps.native]
    assert [one["note"] for one in told["texts"]] == ["", "longer than the context"]
    assert told["options"] == [["heads", "native"], ["layers", "1"]]
    assert (told["width"], told["height"], told["network"]) == (120, 90, [48, 48])


def test_words_have_the_sum_of_their_tokens_and_a_share_of_all():
    match = made_up_match()
    first = weighed(body(match)["texts"][0])
    values = dict(zip(match.texts[0].spans, match.tokens.values[0].tolist(), strict=True))
    assert [word["text"] for word in first] == ["a", "red", "ball,", "left", "of", "a", "tree"]
    assert first[2]["weight"] == pytest.approx(values[6, 10] + values[10, 11])
    assert first[2]["tokens"] == [["ball", values[6, 10]], [",", values[10, 11]]]
    assert sum(word["share"] for word in first) == pytest.approx(1)
    assert first[1]["share"] == pytest.approx(values[2, 5] / sum(values.values()))


def test_each_word_finds_itself_asked_alone():
    told = body(made_up_match())
    assert [row["name"] for row in told["words"]] == ["a", "red", "ball", "left", "of", "tree", "dog"]
    for text in told["texts"]:
        for word in weighed(text):
            assert told["words"][word["alone"]]["name"] == word["text"].strip(",")


@pytest.mark.parametrize(
    "text",
    [
        "a  red\tball,\n left ",
        "狗和球",
        "“quoted” -- words…",
        "ball balls ball",
        "naïve café 🐕 dog",
        read_text("a very long text that goes on", cut="that goes on"),
        read_text("the start is what was cut here", cut="the start is"),
        Text("balloons rise", ("ball",), ((0, 4),), "oons rise"),
    ],
)
def test_the_pieces_are_the_text(text):
    match = made_up_match([text, "a dog"])
    pieces = body(match)["texts"][0]["pieces"]
    read = match.texts[0]
    assert "".join(piece["text"] for piece in pieces) == read.text
    assert tuple(piece["text"] for piece in pieces if "weight" in piece) == read.words
    assert tuple(read.text[start:end] for start, end in read.word_spans()) == read.words


@pytest.mark.parametrize(("text", "cut"), [("a red ball on the grass", "the grass"), ("on the grass a red ball", "on the grass")])
def test_what_was_cut_is_marked(text, cut):
    pieces = body(made_up_match([read_text(text, cut), "a dog"]))["texts"][0]["pieces"]
    assert [piece["text"] for piece in pieces if "cut" in piece] == [cut]
    assert not any(piece["text"] in cut.split() for piece in pieces if "weight" in piece)


def test_a_cut_that_is_repeated_in_the_text_is_the_last():
    pieces = body(made_up_match([read_text("dog dog dog", cut="dog")]))["texts"][0]["pieces"]
    assert [sorted(piece.keys() - {"text"}) for piece in pieces if piece["text"] == "dog"][-1] == ["cut"]


def test_words_are_asked_without_what_stands_around_them():
    assert [alone(word) for word in ("tree,", "(red", "don't", "--", "“quoted”", "!?", "U.S.A.")] == [
        "tree",
        "red",
        "don't",
        "--",
        "quoted",
        "!?",
        "U.S.A",
    ]
    assert distinct_words([read_text("a dog, a dog."), read_text("a cat")]) == ["a", "dog", "cat"]


def test_stored_maps_are_the_raw_maps():
    match = made_up_match()
    told = body(match)
    rows = [(told["texts"], match.asked), (told["words"], match.words)]
    for stored, asked in rows:
        for row, native in zip(stored, asked.maps.native, strict=True):
            spread = float(native.max() - native.min())
            assert torch.allclose(decode(row["map"]), native, atol=0.51 / 255 * spread)
            assert (row["map"]["low"], row["map"]["high"]) == (float(native.min()), float(native.max()))
    assert told["high"] == max(float(native.max()) for native in match.asked.maps.native), "the texts make the common scale"


def test_fine_maps_are_averaged():
    asked = made_up_asked(TEXTS, grid=(500, 300))
    stored = body(made_up_match(asked=asked))["texts"][0]["map"]
    assert (stored["h"], stored["grid"]) == (LONGEST_MAP, [500, 300])
    assert decode(stored).mean() == pytest.approx(float(asked.maps.native[0].mean()), rel=0.02)


@pytest.mark.parametrize("values", [torch.zeros(6, 6), torch.full((6, 6), 7.0), torch.full((6, 6), float("nan"))])
def test_maps_without_contrast(values):
    asked = Asked(["a dog"], torch.tensor([float("nan")]), HeatMaps((values,), CROPPED, "score", "grad_eclip"))
    (text,) = body(made_up_match(["a dog"], asked=asked))["texts"]
    assert text["map"]["low"] == text["map"]["high"]
    assert set(b64decode(text["map"]["data"])) == {0}
    assert text["score"] is None


def test_weights_that_are_zero_or_not_finite():
    texts = [read_text(text) for text in TEXTS]
    values = (torch.zeros(len(texts[0].tokens)), torch.full((2,), float("nan")))
    told = body(made_up_match(tokens=TokenMaps(values, tuple(texts), "grad_eclip")))
    assert {word["share"] for text in told["texts"] for word in weighed(text)} == {0}
    assert weighed(told["texts"][1])[0]["tokens"] == [["a", None]]


def test_weights_and_maps_of_both_signs():
    texts = [read_text("a dog")]
    tokens = TokenMaps((torch.tensor([1.0, -3.0]),), tuple(texts), "grad_eclip")
    asked = Asked(["a dog"], torch.ones(1), HeatMaps((torch.tensor([[-1.0, 2.0]]),), CROPPED, "score", "smoothgrad"))
    told = body(made_up_match(texts, tokens=tokens, asked=asked))
    assert [word["share"] for word in weighed(told["texts"][0])] == [0.25, -0.75]
    assert told["signed"]


@pytest.mark.parametrize(
    ("frame", "area"),
    [
        (CROPPED, [8 / 64, 0, 48 / 64, 1]),
        (Frame.same((90, 120)), [0, 0, 1, 1]),
        (Frame((90, 120), (45, 60), (60, 60)), [0, 0, 1, 60 / 45]),
        (Frame((90, 120), (45, 60), (60, 80), (5, 10)), [-10 / 60, -5 / 45, 80 / 60, 60 / 45]),
    ],
)
def test_where_the_map_lies_on_the_image(frame, area):
    asked = made_up_asked(TEXTS, frame=frame)
    assert body(made_up_match(asked=asked))["area"] == pytest.approx(area)
    stretched = replace(asked, maps=replace(asked.maps, crop_padding=False))
    assert body(made_up_match(asked=stretched))["area"] == [0, 0, 1, 1]


def test_the_area_is_where_maps_have_values():
    ones = HeatMaps((torch.ones(6, 6),), CROPPED, "score", "grad_eclip")
    x, y, w, h = body(made_up_match(["a dog"], asked=Asked(["a dog"], torch.ones(1), ones)))["area"]
    expected = torch.zeros(90, 120)
    expected[round(y * 90) : round((y + h) * 90), round(x * 120) : round((x + w) * 120)] = 1
    assert torch.equal((ones.at_image()[0] > 0.5).float(), expected)


@pytest.mark.parametrize(
    ("explained", "own", "told"),
    [
        ([0.2, 0.1], [0.3, 0.1], [[0.2, 0.3], None]),
        ([0.2], [0.3], [[0.2, 0.3], None]),
        ([float("nan"), 0.1], [0.3, 0.2], [None, [0.1, 0.2]]),
        (None, None, [None, None]),
    ],
)
def test_the_explained_score_is_told_where_it_is_another(explained, own, told):
    options = {} if explained is None else {"explained_score": explained, "own_score": own}
    stored = body(made_up_match(asked=made_up_asked(TEXTS, **options)))
    assert [text["explained"] for text in stored["texts"]] == told
    assert stored["options"] == [["heads", "native"], ["layers", "1"]]


def test_a_method_without_maps_of_words():
    told = body(made_up_match(tokens=None, words=None))
    assert [text["pieces"] for text in told["texts"]] == [[{"text": text}] for text in TEXTS]
    assert told["words"] == []


def test_classes_of_a_classifier():
    told = body(made_up_match(texts=(), asked=made_up_asked(["cat", "dog"]), tokens=None, words=None))
    assert told["score"] == "probability"
    assert [text["pieces"] for text in told["texts"]] == [[{"text": "cat"}], [{"text": "dog"}]]


def test_any_text_is_only_text():
    page = write_match(
        made_up_match([read_text(HOSTILE), "{{ 7 * 7 }}{% raw %}"], name=HOSTILE, model=HOSTILE, notes=[HOSTILE] * 2)
    )
    parts = Parts(page)
    assert [kind for kind, _ in parts.scripts] == ["page", "match", ""]
    assert "alert(1)" not in parts.scripts[-1][1]
    assert not [name for _, name, _ in parts.attributes if name.startswith("on")]
    told = json.loads(parts.scripts[1][1])
    assert told["name"] == told["model"] == told["texts"][0]["name"] == HOSTILE
    assert told["texts"][1]["name"] == "{{ 7 * 7 }}{% raw %}"


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="2 names do not fit"):
        Asked(TEXTS, torch.ones(3), made_up_asked(TEXTS).maps)
    with pytest.raises(ValueError, match="2 texts or classes need as many"):
        made_up_match(notes=["one"])
    with pytest.raises(ValueError, match="2 texts or classes need as many"):
        made_up_match(tokens=made_up_tokens([read_text("a dog")]))
    with pytest.raises(ValueError, match="at least one text"):
        made_up_match(texts=(), asked=made_up_asked([]), tokens=None)
