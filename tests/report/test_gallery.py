"""The page of mistakes: cuts, boxes and maps where they belong, nothing fetched, safe with any name."""

import json
import math
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from report.test_page import HOSTILE, Parts
from whybox.frame import Frame
from whybox.report import gallery
from whybox.report.gallery import WIDTH, Tally, View, close_up, make_card, write_gallery
from whybox.types import Detections, HeatMaps

SIZE = (90, 120)
TALLIES = [Tally("background", "there is no object", 3, 0.02), Tally("missed", "not found", 0, math.nan)]


def spot(row, column, value=1.0):
    """A map of the image's size with one bright cell of 10 x 10 pixels."""
    values = torch.zeros(9, 12)
    values[row, column] = value
    return HeatMaps((values,), Frame.same(SIZE), "score", "odam")


def card(views=None, truth=(40, 30, 80, 60), **fields):
    views = [View("why cat", spot(4, 6), torch.tensor([45.0, 30, 80, 60]))] if views is None else views
    image = torch.full((3, *SIZE), 0.5)
    words = {"kind": "background", "title": "cat", "sentence": "Nothing is here.", "name": "a.jpg", "classes": ("cat",)}
    return make_card(image, views, None if truth is None else torch.tensor(truth).float(), **{**words, **fields})


def pixels(url):
    return np.asarray(Image.open(BytesIO(b64decode(url.split(",")[1]))).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    ("boxes", "part"),
    [
        ([(40, 30, 80, 60)], (30, 22.5, 90, 67.5)),
        ([(0, 0, 40, 30)], (0, 0, 60, 45)),
        ([(100, 80, 120, 90)], (90, 67.5, 120, 90)),
        ([(60, 45, 61, 46)], (48.5, 36.5, 72.5, 54.5)),
        ([(0, 0, 120, 90)], (0, 0, 120, 90)),
        ([(-50, -50, 500, 500)], (0, 0, 120, 90)),
        ([(10, 40, 20, 50), (70, 40, 80, 50)], (0, 5.625, 105, 84.375)),
        ([], (0, 0, 120, 90)),
    ],
)
def test_the_cut_holds_all_boxes_and_stays_in_the_image(boxes, part):
    """One and a half times the boxes' extent, 4:3, at least a fifth of the width, moved inside."""
    assert close_up(boxes, SIZE) == pytest.approx(part)
    left, top, right, bottom = close_up(boxes, SIZE)
    assert 0 <= left < right <= 120
    assert 0 <= top < bottom <= 90


def test_boxes_and_the_marked_edge_are_given_in_the_cut():
    made = card([View("edge", spot(4, 6), torch.tensor([45.0, 30, 80, 60]), "x2")])
    assert (made.width, made.height) == (60, 45)
    assert made.truth == (10, 7.5, 50, 37.5)
    assert made.pictures[0].box == (15, 7.5, 50, 37.5)
    assert made.pictures[0].edge == (50, 7.5, 50, 37.5)


def test_the_map_is_bright_where_its_spot_is():
    made = card()
    plain, heat = pixels(made.plain), pixels(made.pictures[0].heat)
    assert plain.shape == heat.shape == (300, WIDTH, 3)
    changed = np.abs(heat - plain).sum(2)
    row, column = np.unravel_index(changed.argmax(), changed.shape)
    # The spot's middle is at (65, 45) in the image: 35 of 60 across the cut, 22.5 of 45 down.
    assert (column / WIDTH, row / 300) == pytest.approx((35 / 60, 0.5), abs=0.06)
    assert changed[:60, :60].max() < 20


def test_a_peak_outside_the_cut_is_told(tmp_path):
    box = torch.tensor([45.0, 30, 80, 60])
    assert not card().pictures[0].peak_outside
    assert card([View("why", spot(0, 0), box)]).pictures[0].peak_outside
    assert card([View("why", spot(0, 0, -1.0), box)]).pictures[0].peak_outside
    assert not card([View("why", spot(0, 0, 0.0), box)]).pictures[0].peak_outside
    page = write_gallery([card([View("why", spot(0, 0), box)])], TALLIES, title="t", facts="f", folder=tmp_path)
    assert "peak outside this crop" in page


def test_a_card_without_map_or_truth(tmp_path):
    page = write_gallery([card([View("no candidate")])], TALLIES, title="t", facts="f", folder=tmp_path)
    assert '<img class="heat"' not in page
    assert page.count('<rect class="truth"') == 1
    assert '<rect class="truth"' not in write_gallery([card(truth=None)], TALLIES, title="t", facts="f", folder=tmp_path)


def test_large_and_odd_images_stay_small():
    large = make_card(
        torch.zeros(3, 600, 3000), [], torch.tensor([0.0, 0, 3000, 600]), kind="missed", title="", sentence="", name=""
    )
    assert pixels(large.plain).shape[1] == WIDTH
    tiny = make_card(torch.zeros(3, 2, 2), [], torch.tensor([0.0, 0, 1, 1]), kind="missed", title="", sentence="", name="")
    assert min(pixels(tiny.plain).shape[:2]) >= 1


def test_counts_gains_and_filters(tmp_path):
    page = write_gallery([card(), card(classes=("cat", "dog"))], TALLIES, title="3 errors", facts="model", folder=tmp_path)
    assert "<output>3</output>" in page
    assert "<output>+2.0</output>" in page
    assert page.count("<output>+") == 1
    assert re.findall(r'name="kind" value="(\w*)"( disabled)?', page) == [("", ""), ("background", ""), ("missed", " disabled")]
    assert re.findall(r'data-classes="([^"]*)"', page) == [" 0 ", " 0 1 "]
    assert re.findall(r'<option value="(\d*)">(\w+)', page) == [("", "all"), ("0", "cat"), ("1", "dog")]


def test_nothing_is_fetched(tmp_path):
    page = write_gallery([card(), card()], TALLIES, title="t", facts="f", folder=tmp_path, remarks=["one"])
    for tag, name, value in Parts(page).attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith("data:"), (tag, name, value[:60])
    assert all(start == "data:" for start in re.findall(r"url\((.{5})", page))
    assert not re.search(r"@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\(|https?://", page)
    assert "default-src 'none'; img-src data:;" in page


def test_hostile_names_stay_text(tmp_path):
    hostile = card([View(HOSTILE, spot(4, 6))], title=HOSTILE, sentence=HOSTILE, note=HOSTILE, name=HOSTILE, classes=(HOSTILE,))
    page = write_gallery(
        [hostile], [Tally("background", HOSTILE, 1, 0.0)], title=HOSTILE, facts=HOSTILE, folder=tmp_path, remarks=[HOSTILE]
    )
    parts = Parts(page)
    assert parts.tags.count("script") == 1
    assert not any(value.startswith("x") for tag, name, value in parts.attributes if (tag, name) == ("img", "src"))
    assert not any(name.startswith("on") for _, name, _ in parts.attributes)


def test_no_errors_at_all(tmp_path):
    page = write_gallery([], [Tally("background", "", 0, 0.0)], title="0 errors", facts="f", folder=tmp_path)
    assert "No error to show." in page
    assert "</html>" in page


def test_masks_keypoints_and_turned_boxes_are_drawn_as_paths(tmp_path):
    one = Detections(torch.tensor([[45.0, 30, 80, 60]]), torch.ones(1), torch.zeros(1).long(), torch.zeros(1).long())
    mask = torch.zeros(1, *SIZE, dtype=torch.bool)
    mask[0, 30:50, 50:70] = True
    corners = torch.tensor([[[60.0, 30], [80, 45], [60, 60], [45, 45]]])
    left, top, *_ = close_up([(45, 30, 80, 60)], SIZE)

    def picture(**shape):
        views = [View("why cat", spot(4, 6), one.boxes[0], shape=replace(one, **shape))]
        return card(views, truth=None).pictures[0]

    turned = picture(corners=corners)
    assert turned.box is None
    numbers = [float(number) for number in re.findall(r"[\d.]+", turned.lines)]
    assert numbers == pytest.approx([side for x, y in [*corners[0].tolist(), [60, 30]] for side in (x - left, y - top)], abs=0.06)
    masked = picture(masks=mask)
    assert masked.box is not None
    assert masked.lines.count("M") == 1
    points = picture(keypoints=torch.tensor([[[50.0, 40, 1], [60, 45, 1]]]))
    assert points.dots == f"M{50 - left:.1f} {40 - top:.1f}h0M{60 - left:.1f} {45 - top:.1f}h0"
    assert points.lines == picture().dots == ""
    cards = [card([View("a", None, one.boxes[0], shape=replace(one, corners=corners))])]
    page = write_gallery(cards, TALLIES, title="t", facts="f", folder=tmp_path)
    assert '<path class="found" d="M' in page
    assert '<rect class="found"' not in page


def test_many_cards_lie_beside_the_page_and_are_known_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_IN_FILE", 9)
    hostile = card(title=HOSTILE, sentence=HOSTILE, note=HOSTILE, name=HOSTILE, classes=(HOSTILE, "cat"))
    cards = [card(name=f"{i}.jpg") for i in range(9)]
    assert "one file" in write_gallery(cards, TALLIES, title="t", facts="f", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    page = Parts(write_gallery([*cards, hostile], TALLIES, title="t", facts="f", folder=tmp_path))
    known = json.loads(dict(page.scripts)["index"])["cards"]
    assert (len(known), known[3]) == (10, ["background", [1], "cat Nothing is here.   3.jpg"])
    assert page.tags.count("li") == 0
    assert sorted(path.name for path in (tmp_path / "cards").iterdir()) == ["cards-0.js", "cards-1.js"]
    text = (tmp_path / "cards" / "cards-1.js").read_text()
    assert text.startswith('whyboxParts("cards-1",[')
    last = json.loads(text[text.index("[") : text.rindex("]") + 1])[1]
    parts = Parts(last)
    assert parts.tags.count("li") == 1
    assert not {"script", "img"} & {
        tag for tag, name, value in parts.attributes if value.startswith("x") or name.startswith("on")
    }
    assert "script" not in parts.tags
