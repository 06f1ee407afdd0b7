"""`whybox models`, `methods` and `targets`: what is known, and what each needs."""

import json

from whybox import registry


def test_methods_tell_needs_options_and_source(whybox):
    code, out, _ = whybox("methods", "--json")
    told = json.loads(out)
    assert code == 0
    assert told.keys() == registry.methods().keys()
    assert told["odam"]["needs"] == ["features"]
    assert told["odam"]["options"]["smoothing"] == "none"
    assert "ICLR 2023" in told["odam"]["source"]


def test_without_a_terminal_a_list_is_a_line_each(whybox):
    _, out, _ = whybox("methods")
    assert [line.split("\t")[0] for line in out.splitlines()] == list(registry.methods())


def test_models_tell_names_and_families(whybox):
    told = json.loads(whybox("models", "--json")[1])
    assert {"whybox/scenes", "torchvision/..."} <= told["names"].keys()
    assert told["families"].keys() == registry.models().keys()
    assert all(told["families"].values())


def test_targets(whybox):
    assert json.loads(whybox("targets", "--json")[1]) == dict(registry.targets())
    assert "score\t" in whybox("targets")[1]
