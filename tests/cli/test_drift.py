"""`whybox drift`, from the words on the line to the page."""

import json


def test_two_models_over_a_folder(whybox, network, pictures):
    words = ("drift", "--data", ".", "--before", network, "--out", "out", "--score-threshold", "0", "--top", "2")
    (pictures / "bad.jpg").unlink()
    code, out, err = whybox(*words)
    assert (code, err) == (0, "")
    assert (pictures / "out" / "index.html").resolve().as_uri() in out
    told = json.loads((pictures / "out" / "drift.json").read_text())
    assert told["models"] == [f"{network}, before", f"{network}, after"]
    assert (told["images"], told["counts"]["lost"], told["counts"]["new"]) == (2, 0, 0)
    assert whybox(*words)[2] == "whybox: out: already exists and is not empty; nothing was overwritten, choose another\n"


def test_a_bad_image_is_named_and_the_others_are_compared(whybox, network, pictures):
    code, out, err = whybox("drift", "--data", ".", "--before", network, "--out", "out", "--score-threshold", "0", "--json")
    assert (code, err) == (1, "whybox: bad.jpg: not an image that can be read\n")
    assert json.loads(out)["failed"] == [{"image": "bad.jpg", "error": "bad.jpg: not an image that can be read"}]
