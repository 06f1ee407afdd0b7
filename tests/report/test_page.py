"""The page as text: whole, fetching nothing, safe with any name, and true to the maps."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from report.made_up import FRAME, made_up_detections, made_up_maps
from whybox.attention import Text, TokenMaps
from whybox.report.overlay import at_size
from whybox.report.page import LONGEST_MAP, Layer, Photo, make_sheet, map_on_image, write_page
from whybox.report.wording import words_of
from whybox.types import Detections, HeatMaps

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\u2028'\""


class Parts(HTMLParser):
    """Scripts by kind, all attributes, and all tags."""

    def __init__(self, page):
        super().__init__()
        self.scripts, self.attributes, self.tags, self.inside = [], [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "script":
            self.inside = (dict(attrs).get("class") or dict(attrs).get("id") or "", [])

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append((self.inside[0], "".join(self.inside[1])))
            self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.inside[1].append(data)

    def photos(self):
        return [json.loads(text) for kind, text in self.scripts if kind == "photo"]


def decode(stored):
    """A stored map -> (h,w), as the page's script does it."""
    left, top, wide, high = stored["part"]
    steps = np.zeros((stored["h"], stored["w"]))
    steps[top : top + high, left : left + wide] = np.frombuffer(b64decode(stored["data"]), np.uint8).reshape(high, wide)
    return torch.from_numpy(stored["low"] + steps / 255 * (stored["high"] - stored["low"])).float()


def test_nothing_is_fetched(photo):
    page = write_page([photo(), photo()])
    parts = Parts(page)
    for tag, name, value in parts.attributes:
        if name in ("src", "href", "srcset", "data", "action"):
            assert value == "" or value.startswith(("data:", "#")), (tag, name, value[:60])
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\(", page)
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))
    assert "default-src 'none'; img-src data:;" in page


def test_every_detection_with_its_numbers(photo):
    (stored,) = Parts(write_page([photo(notes=["", "it is hidden", ""])])).photos()
    rows = stored["detections"]
    assert [row["name"] for row in rows] == ["cat", "dog", "cat"]
    assert [row["note"] for row in rows] == ["", "it is hidden", ""]
    assert np.allclose([row["box"] for row in rows], made_up_detections(3).boxes)
    assert np.allclose([row["score"] for row in rows], [0.9, 0.65, 0.4])
    assert (stored["width"], stored["height"]) == (120, 90)


def test_only_the_combinations_that_are_there(photo):
    both = photo(targets=("score", "x1"))
    layers = [*both.layers, Layer("gradcam", "score", made_up_maps(3, method="gradcam"))]
    (stored,) = Parts(write_page([replace(both, layers=layers)])).photos()
    assert [(one["method"], one["target"]) for one in stored["layers"]] == [
        ("odam", "score"),
        ("odam", "x1"),
        ("gradcam", "score"),
    ]
    assert stored["layers"][1]["words"]["side"] == "left"
    assert stored["layers"][0]["options"] == "sigma 0.1"
    assert stored["layers"][0]["seconds"] == 0.5


def test_the_words_of_each_detections_text(photo):
    texts = [Text("a red ball", ("a", "red", "ball"), ((0, 1), (2, 5), (6, 10)))] * 2
    tokens = TokenMaps((torch.tensor([1.0, 2.0, -1.0]), torch.zeros(3)), tuple(texts), "input_x_gradient")
    layer = replace(photo(count=2, targets=("score",)).layers[0], tokens=tokens)
    (stored,) = Parts(write_page([photo(count=2, layers=[layer, replace(layer, target="x1", tokens=None)])])).photos()
    pieces, silent = stored["layers"][0]["texts"]
    assert "".join(piece["text"] for piece in pieces) == "a red ball"
    assert [piece["share"] for piece in pieces if "weight" in piece] == [0.25, 0.5, -0.25]
    assert [piece["share"] for piece in silent if "weight" in piece] == [0, 0, 0]
    assert stored["layers"][1]["texts"] == []


def test_stored_maps_are_the_maps_on_the_image(photo):
    shown = photo()
    (stored,) = Parts(write_page([shown])).photos()
    for layer, kept in zip(shown.layers, stored["layers"], strict=True):
        for i, one in enumerate(kept["maps"]):
            expected = at_size(layer.maps[i], (one["h"], one["w"]))[0]
            assert torch.allclose(decode(one), expected, atol=0.51 / 255 * float(expected.max() - expected.min()))
            assert one["low"] == pytest.approx(float(expected.min()))
            assert one["raw"] == pytest.approx([float(layer.maps.native[i].min()), float(layer.maps.native[i].max())])
            assert (one["grid"], one["route"]) == ([16, 24], "exact")
        assert kept["high"] == max(one["high"] for one in kept["maps"])
        assert not kept["signed"]


def test_only_the_part_of_a_map_that_is_not_lowest_is_stored():
    values = torch.zeros(16, 24)
    values[6:9, 10:12] = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    maps = HeatMaps((values,), FRAME, "score", "odam")
    stored = one_map(maps)
    assert len(b64decode(stored["data"])) < 40 < stored["w"] * stored["h"]
    assert torch.allclose(decode(stored), map_on_image(maps), atol=6 / 255)


def one_map(maps):
    photo = Photo("a", torch.zeros(3, 90, 120), made_up_detections(1), ["cat"], [Layer("odam", "score", maps)])
    return json.loads(make_sheet(photo).body)["layers"][0]["maps"][0]


@pytest.mark.parametrize("values", [torch.zeros(16, 24), torch.full((16, 24), 7.0), torch.full((16, 24), float("nan"))])
def test_maps_without_contrast(values):
    stored = one_map(HeatMaps((values,), FRAME, "score", "odam"))
    assert stored["low"] == stored["high"]
    assert stored["data"] == ""


def test_maps_with_both_signs_say_so():
    values = torch.linspace(-1, 1, 16 * 24).reshape(16, 24)
    layer = Layer("input_x_gradient", "score", HeatMaps((values,), FRAME, "score", "input_x_gradient"))
    photo = Photo("a", torch.zeros(3, 90, 120), made_up_detections(1), ["cat"], [layer])
    assert json.loads(make_sheet(photo).body)["layers"][0]["signed"]


def test_fine_maps_are_averaged_not_sampled():
    values = torch.zeros(640, 960)
    values[::2] = 1  # lines that a coarser sampling would catch or miss
    frame = replace(FRAME, image=(600, 800), resized=(600, 800), network=(640, 960))
    small = map_on_image(HeatMaps((values,), frame, "score", "input_x_gradient"))
    assert max(small.shape) <= LONGEST_MAP
    assert small.min() > 0.3
    assert small.max() < 0.7


def test_coarse_maps_keep_about_their_own_cells(photo):
    assert map_on_image(photo().layers[0].maps[0]).shape == (15, 20)


def test_any_name_is_only_text(photo):
    page = write_page([photo(names=(HOSTILE, HOSTILE), name=HOSTILE, model=HOSTILE, notes=[HOSTILE] * 3), photo()])
    parts = Parts(page)
    assert len(parts.scripts) == 5
    assert "alert(1)" not in parts.scripts[-1][1]
    assert not [name for _, name, _ in parts.attributes if name.startswith("on")]
    first = parts.photos()[0]
    assert first["name"] == first["model"] == HOSTILE
    assert {row["name"] for row in first["detections"]} == {row["note"] for row in first["detections"]} == {HOSTILE}


def test_hostile_target_names_and_contrasts(photo):
    assert words_of("contrast:bed").question == "Why {name} and not bed?"
    (stored,) = Parts(write_page([photo(targets=(HOSTILE, "contrast:bed"))])).photos()
    assert [one["target"] for one in stored["layers"]] == [HOSTILE, "contrast:bed"]


def test_no_detection_is_a_page_too(photo):
    (stored,) = Parts(write_page([photo(count=0)])).photos()
    assert stored["detections"] == []
    assert all(layer["maps"] == [] for layer in stored["layers"])


def test_several_images_have_a_chooser_and_one_has_none(photo):
    page = write_page([photo(name=f"{i}.jpg") for i in range(3)], remark="2 more are elsewhere")
    assert len(Parts(page).photos()) == 3
    images = json.loads(dict(Parts(page).scripts)["images"])["images"]
    assert [name for name, _ in images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert "2 more are elsewhere" in page
    assert 'id="film"' not in write_page([photo()])
    with pytest.raises(ValueError, match="at least one"):
        write_page([])


def test_numbers_that_are_not_finite(photo):
    found = made_up_detections(1)
    broken = Detections(found.boxes * float("nan"), found.scores * float("inf"), found.labels, found.source)
    (stored,) = Parts(write_page([photo(count=1, detections=broken, seconds={"trace": float("nan")})])).photos()
    assert stored["detections"][0]["score"] is None
    assert stored["detections"][0]["box"] == [0, 0, 0, 0]
    assert stored["seconds"] == {"trace": None}


def test_the_photograph_is_shrunk_and_boxes_stay_in_image_pixels(photo):
    image = torch.rand(3, 1000, 2800)
    frame = replace(FRAME, image=(1000, 2800), resized=(34, 96), network=(64, 96))
    layer = Layer("odam", "score", replace(made_up_maps(3), frame=frame))
    (stored,) = Parts(write_page([photo(image=image, layers=[layer])])).photos()
    picture = Image.open(BytesIO(b64decode(stored["picture"].split(",")[1])))
    assert picture.size == (1400, 500)
    assert (stored["width"], stored["height"]) == (2800, 1000)
    assert np.allclose(stored["detections"][0]["box"], made_up_detections(3).boxes[0])


def test_thirty_detections_and_six_targets_stay_below_five_megabytes():
    frame = replace(FRAME, image=(1000, 1400), resized=(800, 1120), network=(800, 1120))
    y, x = torch.linspace(-1, 1, 1000)[:, None], torch.linspace(-1, 1, 1400)
    image = torch.stack([(x * 9).sin() * y.cos(), x * y, (x * y * 40).cos()]) / 2 + 0.5
    sizes = [(100, 140), (50, 70), (25, 35)]
    native = tuple(torch.rand(sizes[i % 3]) for i in range(30))
    found = made_up_detections(30)
    layers = [Layer("odam", target, HeatMaps(native, frame, target, "odam")) for target in ("score", "x1", "y1", "x2", "y2", "b")]
    page = write_page([Photo("a.jpg", image, found, ["cat"] * 30, layers)])
    assert len(page) < 5e6


def test_what_does_not_fit_together_is_refused(photo):
    with pytest.raises(ValueError, match="as many names"):
        photo(names=("cat", "dog"), notes=["one"])
    with pytest.raises(ValueError, match="2 maps for 3 detections"):
        photo(layers=[Layer("odam", "score", made_up_maps(2))])
