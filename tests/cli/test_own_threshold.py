"""Where a model itself leaves out scores that were asked for, the commands that measure and compare tell it."""

import pytest

from runs.small import ARGUMENTS, make_network, write_annotated
from whybox import zoo
from whybox.data.scenes import CLASSES

TOLD = "itself gives nothing under a score of 0.001: a function in a file"
CHEAP = ("--limit", "1", "--out", "out")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """The words for data, and for a detector with a threshold of its own under which it has no candidate."""
    folder = tmp_path_factory.mktemp("ground")
    arguments = ARGUMENTS | {"score_thresh": 0.001}
    zoo.save(make_network(), {"network": "compact_fcos", "arguments": arguments, "classes": list(CLASSES)}, folder / "net")
    return ("--data", write_annotated(folder), "--model", str(folder / "net"))


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--methods", "control_box", "--metrics", "leakage", "--select", "all", "--top", "1"),
        ("errors", "--top", "1"),
        ("study", "new", "trust-ranking", "--methods", "control_box,control_blob", "--count", "1"),
        ("reproduce", "odam-table3", "--masks", "2", "--top", "1"),
    ],
    ids=lambda words: words[0],
)
def test_the_models_own_threshold_is_told(whybox, ground, words):
    code, _, err = whybox(*words, *ground, *CHEAP, "--score-threshold", "0.0005")
    assert code == 0
    assert err.count(TOLD) == 1


def test_a_model_that_leaves_out_nothing_is_not_told(whybox, ground):
    words = ("evaluate", "--methods", "control_box", "--metrics", "leakage", "--select", "all", "--top", "1")
    assert TOLD not in whybox(*words, *ground, *CHEAP, "--score-threshold", "0.001")[2]
