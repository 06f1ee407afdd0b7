"""What the viewer answers is what the library gives."""

import copy
import json
import re

import pytest
import torch

import whybox
from report.test_page import Parts, decode
from viewer.asking import Asking, desk_of
from whybox.drift import changes_of
from whybox.report.overlay import at_size
from whybox.viewer.desk import FLOOR
from whybox.web.uploads import FORMATS


def shown(maps, encoded):
    """The map of an explanation on the cells of an encoded one."""
    return at_size(maps, (encoded["h"], encoded["w"]))[0]


def test_the_page_holds_no_script_and_no_style_of_its_own(asking):
    page = asking.get("/").text
    assert [text for _, text in Parts(page).scripts] == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=", page)
    assert "makeView" in asking.get("/live.js").text
    assert "#rail" in asking.get("/live.css").text
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page + asking.get("/live.js").text + asking.get("/live.css").text)


def test_detections_are_those_of_the_library(asking, detector, pictures):
    status, photo = asking.ask("detect")
    expected = whybox.detect(detector, pictures[0], score_threshold=FLOOR, top=300)
    assert status == 200
    assert (photo["width"], photo["height"], photo["name"]) == (320, 240, "0.png")
    assert torch.allclose(torch.tensor([row["box"] for row in photo["detections"]]), expected.boxes)
    assert torch.allclose(torch.tensor([row["score"] for row in photo["detections"]]), expected.scores)
    assert {"score", "x1", "combined", "l"} <= set(photo["targets"])
    assert photo["classes"] == ["person", "car", "tree", "house", "ball", "dog"]
    assert asking.get(f"/{photo['picture']}").headers["content-type"] == "image/jpeg"


def test_the_slider_ends_at_a_models_own_threshold(detector):
    strict = copy.copy(detector)
    strict.network = copy.deepcopy(detector.network)
    strict.network.score_thresh = 0.5
    assert [model["floor"] for model in desk_of({"one": detector, "strict": strict}).start()["models"]] == [FLOOR, 0.5]


@pytest.mark.parametrize("settings", [{"target": "score"}, {"target": "contrast:dog"}, {"method": "gradcam", "layer": "fpn"}])
def test_maps_are_those_of_the_library(asking, detector, pictures, settings):
    question = {"method": "odam", "target": "x1", **settings}
    status, layer = asking.ask("map", rows=[1, 0], **question)
    assert status == 200
    found = whybox.detect(detector, pictures[0], score_threshold=FLOOR, top=300)
    expected = whybox.explain(detector, pictures[0], detections=found[[1, 0]], **question)
    for i, encoded in enumerate(layer["maps"]):
        values = shown(expected.maps[i], encoded)
        assert torch.allclose(decode(encoded), values, atol=0.51 / 255 * float(values.max() - values.min()))
        assert encoded["raw"] == pytest.approx([float(expected.maps.native[i].min()), float(expected.maps.native[i].max())])


def test_one_pass_serves_all_questions(detector, pictures, worker, monkeypatch):
    passes = []
    trace = type(detector).trace
    monkeypatch.setattr(type(detector), "trace", lambda *given, **options: passes.append(1) or trace(*given, **options))
    asking = Asking(desk_of({"scenes": detector}, *pictures), worker)
    asking.ask("detect")
    for target in ("score", "y2"):
        asking.ask("map", method="odam", target=target, rows=[0])
    asking.ask("missed", box=[10, 10, 60, 60])
    assert len(passes) == 1
    assert asking.desk.traces.bytes > 1_000_000


def test_a_box_that_was_not_found(asking, detector, pictures):
    drawn = {"box": [200, 10, 260, 60], "label": "dog"}
    status, told = asking.ask("missed", threshold=0.3, **drawn)
    expected = whybox.explain(detector, pictures[0], detections={"boxes": [drawn["box"]], "labels": ["dog"]})
    assert (status, told["found"]["note"], told["found"]["name"]) == (200, expected.notes[0], "dog")
    assert told["rival"] in expected.notes[0]
    status, layer = asking.ask("map", method="odam", target="against", drawn=[told["found"]["drawn"]])
    against = whybox.explain(detector, pictures[0], target="against", detections={"boxes": [drawn["box"]], "labels": ["dog"]})
    assert layer["maps"][0]["raw"] == pytest.approx([float(against.maps.native[0].min()), float(against.maps.native[0].max())])
    assert layer["notes"] == [against.notes[0]]


def test_texts_their_maps_and_their_words(asking, pictures):
    texts = ["a red car", "a dog"]
    status, waiting = asking.ask("detect", model="clip")
    assert (status, waiting["waits"], waiting["detections"]) == (200, True, [])
    _, photo = asking.ask("detect", model="clip", texts=texts)
    _, layer = asking.ask("map", model="clip", texts=texts, method="grad_eclip", target="score", rows=[1])
    model = asking.desk.models["clip"]
    expected = whybox.explain(model, pictures[0], text=texts, words=True)
    assert [row["name"] for row in photo["detections"]] == texts
    assert [row["score"] for row in photo["detections"]] == pytest.approx(expected.detections.scores.tolist(), rel=1e-4)
    words = [piece for piece in layer["texts"][0] if "weight" in piece]
    assert [word["text"] for word in words] == [word for word, _ in expected.words[1]]
    values = torch.tensor([word["weight"] for word in words])
    assert torch.allclose(values, torch.tensor([value for _, value in expected.words[1]]), rtol=1e-3, atol=1e-5)
    offered = {one["name"]: one["targets"] for one in asking.get("/api/start").json()["models"]}["clip"]
    assert [offered[name]["label"] for name in ("score", "against")] == ["Text score", "Against the text"]
    assert offered["against"]["meaning"] == "Brighter: what lowers the logit of the text."
    # Other texts, without another pass over the image.
    before = len(asking.desk.traces)
    _, other = asking.ask("detect", model="clip", texts=["a house"])
    assert ([row["name"] for row in other["detections"]], len(asking.desk.traces)) == (["a house"], before)


def test_a_model_beside_itself(detector, pictures, worker):
    asking = Asking(desk_of({"scenes": detector, "again": detector}, *pictures), worker)
    status, told = asking.ask("compare", other="again", method="odam", target="score", threshold=0.5)
    assert status == 200
    assert len(told["pairs"]) == len(told["layer"]["maps"]) > 1
    for pair in told["pairs"]:
        assert pair["first"] is not None
        assert (pair["iou"], pair["correlation"]) == (pytest.approx(1), pytest.approx(1))


def test_the_largest_change_of_an_image_is_that_of_whybox_drift(detector, pictures, worker):
    after = whybox.load("whybox/scenes")
    with torch.no_grad():
        # The class "tree", which is in the first picture alone, is no longer found.
        after.network.head.classification_head.cls_logits.bias[3] = -20
    asking = Asking(desk_of({"scenes": detector, "after": after}, *pictures), worker)
    question = {"other": "after", "method": "odam", "target": "score", "threshold": 0.5}
    explained = [whybox.explain(model, pictures[0], score_threshold=0.5) for model in (detector, after)]
    expected = changes_of("", *explained)[0][1]
    status, told = asking.ask("change", **question)
    assert (status, told["size"]) == (200, pytest.approx(expected.size, abs=1e-4))
    assert expected.kind == "lost"
    assert asking.ask("change", **{**question, "image": "1"})[1]["size"] < 1
    # A walk over a folder pushes out nothing that somebody looks at.
    assert len(asking.desk.traces) == 0


def test_what_is_taken_away(asking, detector, pictures):
    layers = [["gradcam", "score", None], ["odam", "x1", None]]
    _, numbers = asking.ask("export", kind="json", layers=layers, rows=[0, 2])
    assert (numbers["content"]["method"], numbers["content"]["target"]) == ("odam", "x1")
    assert len(numbers["content"]["detections"]) == 2
    _, page = asking.ask("export", kind="page", layers=layers, rows=[0, 2])
    (photo,) = Parts(page["content"]).photos()
    assert [(layer["method"], layer["target"]) for layer in photo["layers"]] == [("gradcam", "score"), ("odam", "x1")]
    assert len(photo["detections"]) == 2


def test_a_picture_that_is_sent_is_asked_about_as_any_other(asking, detector, pictures, tmp_path):
    pictures[1].save(tmp_path / "sent.png")
    answer = asking.post("/api/upload?name=..%5c..%2fetc/pass%0awd.png", content=(tmp_path / "sent.png").read_bytes()).json()
    assert answer["name"] == "passwd.png"
    _, photo = asking.ask("detect", image=answer["image"])
    expected = whybox.detect(detector, pictures[1], score_threshold=FLOOR, top=300)
    assert [row["score"] for row in photo["detections"]] == pytest.approx(expected.scores.tolist())
    assert asking.get(f"/thumb/{answer['image']}").status_code == 200
    refused = asking.post("/api/upload?name=a.png", content=b"no picture")
    assert (refused.status_code, refused.json()["error"]) == (400, f"not a picture that can be read ({', '.join(FORMATS)})")


def test_what_the_page_offers(asking):
    start = asking.get("/api/start").json()
    scenes, clip = start["models"]
    methods = {method["name"]: method for method in scenes["methods"]}
    assert methods["drise"]["slow"]
    assert methods["drise"]["targets"] == ["score"]
    assert methods["odam"]["layers"]
    assert (scenes["whole_image"], clip["takes_text"], clip["method"]) == (False, True, "grad_eclip")
    assert "x1" not in clip["targets"]
    assert "text" in clip["targets"]["score"]["meaning"]
    assert start["names"] == ["0.png", "1.png"]
    assert json.dumps(start)
