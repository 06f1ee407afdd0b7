"""`whybox explain` and `whybox detect`, from the words on the line to the files and the exit code."""

import json
import os

import pytest

from whybox.cli.options import read_boxes, read_list, read_options
from whybox.errors import WhyboxError
from whybox.explanation import Explanation

ALL = ("--score-threshold", "0")


def test_one_image_one_folder(whybox, network, pictures):
    code, out, err = whybox("explain", "one.png", "--model", network, "--out", "out", *ALL, "--top", "2")
    assert (code, err) == (0, "")
    assert "one.png: 2 detections, 2 maps in" in out
    assert (pictures / "out" / "index.html").resolve().as_uri() in out
    read = Explanation.load(pictures / "out")
    assert (len(read), read.name, read.maps.target) == (2, "one.png", "score")


def test_a_model_that_a_function_in_a_file_makes(whybox, network, pictures):
    (pictures / "own_net.py").write_text(f"import whybox\ndef build():\n    return whybox.load({network!r})\n")
    found = [whybox("detect", "one.png", "--model", name, *ALL, "--json") for name in ("own_net.py:build", network)]
    assert found[0] == found[1]
    code, _, err = whybox("explain", "one.png", "--model", "own_net.py:biuld", "--out", "out")
    assert (code, err) == (2, "whybox: unknown function in own_net.py 'biuld'; did you mean build?\n")


def test_json_is_all_that_is_printed(whybox, network, pictures):
    code, out, err = whybox("explain", "one.png", "--model", network, "--out", "out", *ALL, "--top", "2", "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert (told["folder"], told["failed"]) == ("out", [])
    (image,) = told["images"]
    (explained,) = image["explanations"]
    manifest = json.loads((pictures / "out" / "manifest.json").read_text())
    assert explained["detections"][0]["map"] == manifest["detections"][0]["map"]


def test_every_method_with_every_target(whybox, network, pictures):
    words = ("--method", "odam,gradcam", "--target", "score, x1", "--option", "smoothing=gaussian", "--top", "1")
    code, _, err = whybox("explain", "one.png", "--model", network, "--out", "out", *ALL, *words)
    assert (code, err) == (0, "")
    assert sorted(os.listdir(pictures / "out")) == ["gradcam-score", "gradcam-x1", "index.html", "odam-score", "odam-x1"]
    assert Explanation.load(pictures / "out" / "odam-x1").maps.options["smoothing"] == "gaussian"
    assert "smoothing" not in Explanation.load(pictures / "out" / "gradcam-x1").maps.options


def test_a_bad_image_among_good_ones(whybox, network, pictures):
    names = ("one.png", "bad.jpg", "gone.png", "two.png")
    code, out, err = whybox("explain", *names, "--model", network, "--out", "out", *ALL, "--top", "1")
    assert code == 1
    assert err.splitlines() == ["whybox: bad.jpg: not an image that can be read", "whybox: gone.png: no such file"]
    assert sorted(os.listdir(pictures / "out")) == ["index.html", "one", "two"]
    assert "one.png: 1 detection," in out
    page = (pictures / "out" / "index.html").read_text()
    assert page.count('class="photo"') == 2
    assert "Not explained: bad.jpg, gone.png." in page


def test_only_bad_images_leave_no_folder(whybox, network, pictures):
    for names in (("bad.jpg",), ("bad.jpg", "gone.png")):
        code, out, err = whybox("explain", *names, "--model", network, "--out", "out")
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == len(names)
        assert not (pictures / "out").exists()


def test_images_of_one_name_do_not_mix(whybox, network, pictures):
    (pictures / "b").mkdir()
    os.link(pictures / "two.png", pictures / "b" / "one.png")
    code, _, _ = whybox("explain", "one.png", "b/one.png", "--model", network, "--out", "out", *ALL, "--top", "1")
    assert code == 0
    assert sorted(os.listdir(pictures / "out")) == ["index.html", "one", "one-2"]


def test_no_detection_is_a_result(whybox, network, pictures):
    code, out, err = whybox("explain", "one.png", "--model", network, "--out", "out", "--score-threshold", "1")
    assert (code, err) == (0, "")
    assert "one.png: no detection" in out
    assert len(Explanation.load(pictures / "out")) == 0


def test_a_box_that_the_user_draws(whybox, network, pictures):
    words = ("--box", "10,10,60,50", "--label", "dog", "--box", "0,0,30,30", "--label", "cat")
    code, out, _ = whybox("explain", "one.png", "--model", network, "--out", "out", *words)
    assert code == 0
    read = Explanation.load(pictures / "out")
    assert read.names == ("dog", "cat")
    assert all("best candidate" in note for note in read.notes)
    assert "best candidate" in out


def test_a_class_is_filtered_before_the_best_are_taken(whybox, network, pictures):
    everything = json.loads(whybox("detect", "one.png", "--model", network, *ALL, "--json")[1])["images"][0]["detections"]
    names = {row["name"] for row in everything}
    assert len(names) > 1
    for name in names:
        told = json.loads(whybox("detect", "one.png", "--model", network, *ALL, "--class", name, "--top", "1", "--json")[1])
        expected = max((row for row in everything if row["name"] == name), key=lambda row: row["score"])
        assert told["images"][0]["detections"] == [expected]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--method", "odma"), "unknown method 'odma'; did you mean odam?"),
        (("--target", "sorce"), "unknown target 'sorce'; did you mean score?"),
        (("--class", "dgo"), "unknown class 'dgo'; did you mean dog?"),
        (("--model", "nowhere"), "unknown model 'nowhere'"),
        (("--option", "sgima=3"), "has no option 'sgima'"),
        (("--option", "sigma"), "expected key=value"),
        (("--box", "1,2,3"), "expected four numbers"),
        (("--box", "500,500,600,600"), "lies outside the image"),
        (("--box", "1,1,5,5", "--class", "cat"), "class filter is for the model's own detections"),
        (("--box", "1,1,5,5", "--label", "cat", "--label", "dog"), "1 drawn boxes and 2 labels"),
        (("--score-threshold", "3"), "between 0 and 1"),
        (("--top", "0"), "at least 1"),
        (("--target", ","), "expected comma-separated names"),
        (("--text", "a dog"), "reads no text"),
        (("--weights", "gone.safetensors"), "whybox: "),
    ],
)
def test_a_mistake_is_one_line(whybox, network, pictures, words, line):
    model = () if "--model" in words else ("--model", network)
    code, out, err = whybox("explain", "one.png", *model, "--out", "out", *ALL, *words)
    assert (code, out) == (2, "")
    assert line in err
    assert err.count("\n") == 1
    assert not (pictures / "out").exists()


def test_an_existing_folder_is_refused_before_any_work(whybox, pictures):
    (pictures / "out").mkdir()
    (pictures / "out" / "mine.txt").write_text("mine")
    code, _, err = whybox("explain", "one.png", "--model", "never/loaded", "--out", "out")
    assert (code, err.count("\n")) == (2, 1)
    assert "nothing was overwritten" in err
    assert os.listdir(pictures / "out") == ["mine.txt"]


def test_a_folder_that_cannot_be_made(whybox, pictures):
    code, _, err = whybox("explain", "one.png", "--model", "never/loaded", "--out", "one.png/out")
    assert (code, err.count("\n")) == (2, 1)
    assert "not a folder" in err


def test_a_disk_that_fills_up_keeps_whole_images_only(whybox, network, pictures, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("whybox.saved.png_bytes", full)
    code, _, err = whybox("explain", "one.png", "two.png", "--model", network, "--out", "out", *ALL)
    assert (code, err.count("\n")) == (2, 1)
    assert "No space left on device" in err
    assert not (pictures / "out").exists()


def test_the_folder_has_a_name_of_its_own_by_default(whybox, network, pictures):
    for expected in ("whybox-one", "whybox-one-2"):
        assert whybox("explain", "one.png", "--model", network)[0] == 0
        assert (pictures / expected / "index.html").is_file()


def test_detect_tells_boxes_and_goes_on_after_a_bad_image(whybox, network, pictures):
    code, out, err = whybox("detect", "bad.jpg", "one.png", "--model", network, *ALL, "--top", "1")
    assert code == 1
    assert "one.png: 1 detection\n" in out
    assert err == "whybox: bad.jpg: not an image that can be read\n"
    assert whybox("detect", "bad.jpg", "--model", network)[0] == 2


def test_texts_are_read():
    assert read_list("a, b,,a ") == ("a", "b")
    assert read_boxes(["1,2.5,3,4"]) == ((1, 2.5, 3, 4),)
    told = read_options(["a=1", "b=2.5", "c=true", "d=None", "e-f=x=y"])
    assert told == {"a": 1, "b": 2.5, "c": True, "d": None, "e_f": "x=y"}
    with pytest.raises(WhyboxError, match="four numbers"):
        read_boxes(["a,b,c,d"])


def test_detect_tells_why_boxes_were_removed(whybox, network, pictures):
    words = ("detect", "one.png", "bad.jpg", "two.png", "--model", network, *ALL, "--nms", "greedy:iou_threshold=0.3")
    code, out, err = whybox(*words, "--json")
    assert code == 1
    assert "bad.jpg" in err
    told = json.loads(out)
    assert [row["error"] for row in told["failed"]]
    first = told["images"][0]
    assert (first["image"], first["rule"]) == ("one.png", "greedy:iou_threshold=0.3")
    assert {pair["outcome"] for pair in first["pairs"]} == {"removed"}
    assert all(pair["iou"] > 0.3 and pair["kept"] < len(first["detections"]) for pair in first["pairs"])
    code, out, err = whybox(*words, "--out", "out")
    assert code == 1
    assert out.splitlines()[-1] == f"page: {(pictures / 'out' / 'index.html').resolve().as_uri()}"
    kept = json.loads((pictures / "out" / "decisions.json").read_text())["images"]
    assert [row["detections"] for row in kept] == [row["detections"] for row in told["images"]]
    assert kept[0]["pairs"][0]["map_cosine"] is not None
    assert "Not read: bad.jpg." in (pictures / "out" / "index.html").read_text()


def test_a_page_of_decisions_needs_a_rule(whybox, network, pictures):
    code, out, err = whybox("detect", "one.png", "--model", network, "--out", "out")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "name one, such as --nms odam" in err
    assert not (pictures / "out").exists()
