"""Errors are one line of JSON, and the server goes on."""

import sys

import pytest

from whybox.errors import WhyboxError
from whybox.web.app import need_server


def test_errors_are_one_line(client, caplog):
    asking = client()
    refused = asking.get("/refuse")
    assert (refused.status_code, refused.json()) == (400, {"error": "no such image;"})
    failed = asking.get("/fail")
    assert (failed.status_code, failed.json()) == (500, {"error": "RuntimeError: out of"})
    assert "GET /fail failed" in caplog.text
    assert asking.get("/gone").json() == {"error": "Not Found"}
    assert asking.get("/echo").status_code == 405
    assert asking.get("/").text == "the page"


@pytest.mark.parametrize("path", ["/../etc/passwd", "/..%2f..%2fetc/passwd", "/%00", "/echo/../../x", "//etc/passwd"])
def test_paths_lead_nowhere(client, path):
    assert client().get(path).status_code == 404


@pytest.mark.parametrize("text", ["", "[]", "{", "1", '"a"', "[" * 100_000, "\udcff".encode("utf-8", "surrogatepass")])
def test_what_is_no_object_is_refused(client, text):
    asking = client()
    assert asking.post("/object", content=text).json() == {"error": "expected a JSON object"}
    assert asking.post("/object", content='{"a": 1}').json() == {"a": 1}


def test_a_missing_package_is_said_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(WhyboxError, match=r"^a local server needs the package uvicorn: pip install 'whybox\[viewer\]'$"):
        need_server()
