"""`whybox demo`: a page from nothing, again and again, and nobody's folder is lost."""

import json
import os
import sys

from whybox.data.scenes import draw_scene
from whybox.explanation import Explanation
from whybox.runs.explaining.demo import texts_of


def test_the_demo_makes_a_page_and_may_be_repeated(whybox, tmp_path):
    for seed in (11, 12):
        code, out, err = whybox("demo", "--scenes", "1", "--seed", seed)
        assert (code, [line for line in err.splitlines() if line.startswith("whybox:")]) == (0, [])
        assert (tmp_path / "whybox-demo" / "index.html").resolve().as_uri() in out
        assert json.loads((tmp_path / "whybox-demo" / "demo.json").read_text())["seed"] == seed
    assert os.listdir(tmp_path) == ["whybox-demo"]
    page = (tmp_path / "whybox-demo" / "index.html").read_text()
    assert '"target":"combined"' in page
    assert '"method":"gradcam"' in page


def test_a_folder_that_is_no_demos_is_kept(whybox, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    code, _, err = whybox("demo", "--out", "mine")
    assert code == 2
    assert "nothing was overwritten" in err
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_the_demo_asks_the_first_scene_for_texts(whybox, tmp_path):
    code, out, _ = whybox("demo", "--scenes", "1", "--out", "out")
    assert code == 0
    assert (tmp_path / "out" / "match" / "index.html").resolve().as_uri() in out
    read = Explanation.load(tmp_path / "out" / "match")
    assert list(read.names) == texts_of(draw_scene(0, seed=11))
    assert read.single_words is not None
    told = json.loads(whybox("demo", "--scenes", "1", "--out", "out", "--json")[1])
    assert told["match"] == os.path.join("out", "match", "index.html")


def test_without_transformers_the_demo_goes_on(whybox, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    code, out, err = whybox("demo", "--scenes", "1", "--out", "out")
    assert code == 0
    assert err == "whybox: no page for texts: whybox/scenes-clip needs the package transformers: pip install 'whybox[hf]'\n"
    assert "page for texts" not in out
    assert sorted(os.listdir(tmp_path / "out")) == ["demo.json", "index.html", "mixed-1.png", "results"]


def test_a_scene_is_asked_for_what_it_holds_and_what_it_does_not():
    scene = draw_scene(0, seed=11)
    assert texts_of(scene) == [
        "a white car and two people in a meadow",
        "a white car",
        "a person in white",
        "a person in purple",
        "a tree",
    ]
    assert "tree" not in scene.names
