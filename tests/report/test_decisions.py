"""The page of decisions: whole, fetching nothing, safe with any name, and true to the numbers and maps."""

import json
import re
from dataclasses import replace

import pytest
import torch

from report.made_up import made_up_detections, made_up_maps
from report.test_page import HOSTILE, Parts, decode
from whybox.report.decisions import LONGEST_MAP, Crowd, make_crowd_sheet, write_decisions
from whybox.report.page import map_on_image
from whybox.rule import Decision

PAIRS = (
    Decision(0, 3, "kept", 0.62, 0.08, True, "IoU 0.62 > 0.50, but cosine of the maps 0.08 < 0.20: not a duplicate"),
    Decision(0, 2, "removed", 0.7, float("nan"), True, "a map is zero everywhere"),
)


def made_up_crowd(**fields):
    image = torch.rand((3, 90, 120), generator=torch.Generator().manual_seed(1))
    given = {"name": "street.jpg", "image": image, "model": "toy", "title": "ODAM-NMS", "compared": "cosine of the maps"}
    given |= {"settings": [("iou_threshold", "0.5"), ("low", "0.2")], "found": made_up_detections(6), "names": ["cat"] * 6}
    given |= {"kept": [0, 3], "scores": [0.9, 0.6], "pairs": PAIRS, "pair_count": 5, "differ_count": 1}
    given |= {"map_rows": [0, 2, 3], "maps": made_up_maps(3, "logit"), "cosines": [0.08, float("nan")]}
    return Crowd(**given | fields)


def body(crowd):
    return Parts(write_decisions([make_crowd_sheet(crowd)])).photos()[0]


def test_nothing_is_fetched():
    page = write_decisions([make_crowd_sheet(made_up_crowd())] * 2, remark="one")
    for tag, name, value in Parts(page).attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value == "" or value.startswith(("data:", "#")), (tag, name, value[:60])
    without_namespace = page.replace('"http://www.w3.org/2000/svg"', "")
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\(|https?://", without_namespace)
    assert "default-src 'none'; img-src data:;" in page
    assert page.count('class="photo"') == 2


def test_kept_boxes_come_first_and_others_only_where_a_pair_is_about_them():
    crowd = made_up_crowd()
    told = body(crowd)
    assert told["kept"] == 2
    assert [box["box"] for box in told["boxes"]] == crowd.found.boxes[[0, 3, 2]].tolist()
    assert [box["map"] for box in told["boxes"]] == [0, 2, 1]
    assert [(pair["kept"], pair["other"], pair["outcome"]) for pair in told["pairs"]] == [(0, 1, "kept"), (0, 2, "removed")]


def test_the_numbers_that_decided():
    told = body(made_up_crowd())
    first, second = told["pairs"]
    assert (first["iou"], first["similarity"], first["cosine"], first["differs"]) == (0.62, 0.08, 0.08, True)
    assert (second["similarity"], second["cosine"], second["differs"]) == (None, None, False)
    assert first["why"] == PAIRS[0].why
    assert told["settings"] == [["iou_threshold", "0.5"], ["low", "0.2"]]
    assert (told["rule"], told["pair_count"], told["differ_count"]) == ("ODAM-NMS", 5, 1)


def test_maps_are_the_maps():
    crowd = made_up_crowd()
    told = body(crowd)
    for index, stored in enumerate(told["maps"]):
        drawn = map_on_image(crowd.maps[index], LONGEST_MAP)
        assert torch.allclose(decode(stored), drawn, atol=0.51 / 255 * float(drawn.max() - drawn.min()))
    assert told["high"] == max(stored["high"] for stored in told["maps"])


def test_lowered_scores_are_told_and_rounding_is_not():
    found = made_up_detections(6)
    told = body(made_up_crowd(scores=[0.2, float(found.scores[3]) - 0.0001]))
    assert [box["lowered"] for box in told["boxes"]] == [0.2, None, None]


def test_a_crowd_without_maps_and_without_boxes():
    plain = body(made_up_crowd(maps=None, map_rows=[], cosines=[]))
    assert (plain["maps"], plain["boxes"][0]["map"], plain["pairs"][0]["cosine"]) == ([], None, None)
    empty = body(
        made_up_crowd(
            found=made_up_detections(0), names=[], kept=[], scores=[], pairs=[], maps=None, map_rows=[], cosines=[], pair_count=0
        )
    )
    assert (empty["kept"], empty["boxes"], empty["pairs"]) == (0, [], [])


def test_any_name_is_only_text():
    crowd = made_up_crowd(name=HOSTILE, model=HOSTILE, names=[HOSTILE] * 6, title=HOSTILE)
    page = write_decisions([make_crowd_sheet(crowd)] * 2, remark=HOSTILE)
    parts = Parts(page)
    assert [kind for kind, _ in parts.scripts] == ["page", "photo", "photo", ""]
    assert not [name for _, name, _ in parts.attributes if name.startswith("on")]
    assert json.loads(parts.scripts[1][1])["boxes"][0]["name"] == HOSTILE


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="as many names"):
        made_up_crowd(names=["cat"])
    with pytest.raises(ValueError, match="as many rows"):
        made_up_crowd(map_rows=[0])
    with pytest.raises(ValueError, match="at least one image"):
        write_decisions([])


def test_shapes_are_stored_for_what_is_shown():
    crowd = made_up_crowd()
    shapes = replace(crowd.found[crowd.rows], corners=torch.arange(24.0).reshape(3, 4, 2), keypoints=torch.zeros(3, 17, 3))
    told = body(replace(crowd, shapes=shapes))
    assert [box["corners"] for box in told["boxes"]] == shapes.corners.tolist()
    assert (len(told["boxes"][0]["points"]), len(told["limbs"])) == (17, 16)
    assert (body(crowd)["limbs"], "corners" in body(crowd)["boxes"][0]) == ([], False)
    with pytest.raises(ValueError, match="3 candidates on the page need as many shapes, got 6"):
        replace(crowd, shapes=crowd.found)
