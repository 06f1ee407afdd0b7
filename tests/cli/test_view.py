"""`whybox view`: what is refused before a model is loaded, and how the models are called."""

import sys

import pytest

from whybox.cli.view import _pairs, _titles
from whybox.errors import WhyboxError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gone.png"], "gone.png: no such file"),
        (["one.png", "--port", "70000"], "the port must lie between 0 and 65535, got 70000"),
        (
            ["one.png", "--model", "a", "--model", "b", "--weights", "1", "--weights", "2", "--weights", "3"],
            "2 models and 3 weights",
        ),
    ],
)
def test_mistakes_are_one_line(whybox, pictures, words, told):
    code, out, err = whybox("view", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"whybox: {told}")


def test_a_missing_package_is_named_with_its_extra(whybox, pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    code, _, err = whybox("view", "one.png")
    assert (code, err) == (2, "whybox: a local server needs the package starlette: pip install 'whybox[viewer]'\n")


def test_models_and_weights_in_pairs():
    assert _pairs(["a"], ["default"]) == [("a", "default")]
    assert _pairs(["a"], ["x.pt", "y.pt"]) == [("a", "x.pt"), ("a", "y.pt")]
    assert _pairs(["a", "b"], ["default"]) == [("a", "default"), ("b", "default")]
    with pytest.raises(WhyboxError):
        _pairs(["a", "b"], ["1", "2", "3"])


def test_every_model_has_a_name_of_its_own_and_no_path():
    names = _titles(
        [("a", "default"), ("a", "old/x.pt"), ("a", "new/x.pt"), ("/home/me/net.py:build", "default"), ("a", "default")]
    )
    assert names == ["a", "a (x.pt)", "a (x.pt) #2", "net.py:build", "a #2"]


def test_it_serves_until_it_is_stopped(whybox, network, pictures, monkeypatch):
    import uvicorn

    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: self.config.app and (_ for _ in ()).throw(KeyboardInterrupt))
    assert whybox("view", "one.png", "--model", network, "--port", "0") == (0, "", "")
