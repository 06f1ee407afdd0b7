"""`whybox predict-trust`, as the shell calls it."""

import json

import numpy as np

from whybox.errors import WhyboxError
from whybox.runs.attention import trust
from whybox.runs.attention.regression import crossed_line


def made_up(run, answers, *, metric, data, out, seed):
    if str(run) == "missing":
        raise WhyboxError("missing: no evaluation")
    agreement, score = np.array([0.1, 0.2, 0.3, 0.5]), np.array([1.0, 2, 2, 4])
    people, objects = ["a", "a", "b", "b"], [0, 1, 0, 1]
    judged = trust.Judged(agreement, score, people, objects, ["odam"] * 4)
    lines = {way: crossed_line(agreement, score, people, objects, draws=20, seed=seed) for way in trust.WAYS}
    about = metric, "Attention, cosine", False
    out.mkdir()
    (out / "table.md").touch()
    return trust.Prediction(about, answers.scale, judged, {"odam": "ODAM"}, {0: "i/0", 1: "i/1"}, lines, 0.15, True, [])


def test_it_prints_lines_means_and_that_nobody_was_asked(whybox, tmp_path, monkeypatch):
    monkeypatch.setattr(trust, "predict_trust", made_up)
    (tmp_path / "a.csv").write_text("person,item,method,score\na,1,odam,2\n")
    code, out, err = whybox("predict-trust", "run", "a.csv", "--out", "t")
    assert (code, err) == (0, "")
    assert "among the maps of one method" in out
    assert "SIMULATED respondents: no person was asked." in out
    assert "figure.png" in out
    code, out, _ = whybox("predict-trust", "run", "a.csv", "--out", "u", "--json")
    assert json.loads(out)["lines"]["all"]["answers"] == 4
    code, _, err = whybox("predict-trust", "run", "a.csv", "--out", "t")
    assert (code, "already exists" in err) == (2, True)
    code, _, err = whybox("predict-trust", "missing", "a.csv", "--out", "v")
    assert (code, err) == (2, "whybox: missing: no evaluation\n")
