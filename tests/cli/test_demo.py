"""`whybox demo`: a page from nothing, again and again, and nobody's folder is lost."""

import json
import os


def test_the_demo_makes_a_page_and_may_be_repeated(whybox, tmp_path):
    for seed in (11, 12):
        code, out, err = whybox("demo", "--scenes", "1", "--seed", seed)
        assert (code, err) == (0, "")
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
