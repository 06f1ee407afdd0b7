"""The table of fine-tuned arms, from folders of scores to Markdown."""

import sys

import pytest
from benchmarks import clip_regions

from runs.clip_scores.test_compare import scored

DATA = "scenes:count=3:size=96x64"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("arms")
    for seed in range(5):
        scored(seed, data=DATA, out=root / f"run{seed}")
    return root


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["clip_regions", *(str(word) for word in words)])
    clip_regions.main()


def test_means_and_differences_of_arms(folders, monkeypatch, capsys, tmp_path):
    arms = [f"regions={folders}/run1,{folders}/run2", f"global={folders}/run3,{folders}/run4"]
    words = [word for arm in arms for word in ("--arm", arm)]
    call(monkeypatch, *words, "--baseline", "global", "--out", tmp_path / "table.md")
    printed = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == printed
    lines = printed.splitlines()
    assert lines[4].startswith("| arm | seeds | boxes top-1 | boxes top-5 | boxes macro | masks top-1 |")
    assert [line.split(" | ")[:2] for line in lines[6:8]] == [["| regions", "2"], ["| global", "2"]]
    assert "**regions - global**, in points, 2 seeds" in lines
    rows = [line.split(" | ") for line in lines if line.startswith("| T2I R@1 ")]
    assert " to " in rows[0][2]
    assert " to " in rows[0][3]


def test_a_folder_as_the_baseline_of_all_arms(folders, monkeypatch, capsys):
    call(monkeypatch, "--arm", f"a={folders}/run1,{folders}/run2", "--arm", f"b={folders}/run3", "--baseline", folders / "run0")
    printed = capsys.readouterr().out
    assert f"**a - {folders}/run0**, in points, 2 seeds" in printed
    assert f"**b - {folders}/run0**, in points, 1 seed\n" in printed


def test_other_templates_are_told(folders, monkeypatch, capsys, tmp_path):
    scored(1, data=DATA, templates=["a {}"], tasks=["regions"], out=tmp_path / "other")
    call(monkeypatch, "--arm", f"a={tmp_path}/other", "--baseline", folders / "run0")
    printed = capsys.readouterr().out
    assert "Some runs have other templates: “a {}”. Differences are of these, too." in printed
    heads, line = (row for row in printed.splitlines() if row.startswith(("| measure", "| boxes top-1")))
    assert heads.count("|") == line.count("|")


@pytest.mark.parametrize(
    ("arm", "message"), [("regions", "expected NAME=DIR1,DIR2,DIR3"), ("a=nowhere", "nowhere"), ("a=,", "expected NAME=DIR1")]
)
def test_mistakes_are_one_line(folders, monkeypatch, arm, message):
    with pytest.raises(SystemExit, match=message):
        call(monkeypatch, "--arm", arm, "--baseline", folders / "run0")
