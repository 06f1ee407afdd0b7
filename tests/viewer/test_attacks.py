"""What is asked wrongly, or by the wrong one, is refused in one line, and the server stays."""

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from PIL import Image

from viewer.asking import Asking, Shown, desk_of
from whybox.viewer.view import viewing
from whybox.web.place import Place

MAP = {"method": "odam", "target": "score", "rows": [0]}


@pytest.mark.parametrize("image", ["../../etc/passwd", "/etc/passwd", "-1", "99", "١", "0x0", "uNothing", "", "1e3", "9" * 5000])
def test_no_image_but_those_that_were_named(asking, image):
    status, told = asking.ask("detect", image=image)
    assert status == 400
    assert "\n" not in told["error"]


@pytest.mark.parametrize(
    "path", ["/thumb/99", "/photo/..%2f..%2fetc%2fpasswd", "/thumb/%2e%2e", "/photo/u1", "/live.py", "/../x"]
)
def test_paths_lead_to_nothing_else(asking, path):
    answer = asking.get(path)
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"model": "other"}, "there is no model 'other'"),
        ({"image": 3}, "image: '3' is not what was expected"),
        ({"rows": [5000]}, "there is no detection 5000"),
        ({"rows": [-1]}, "rows: "),
        ({"rows": [True]}, "rows: "),
        ({"rows": [0] * 1000}, "rows: "),
        ({"method": "odamm"}, "unknown method 'odamm'"),
        ({"method": "rise"}, "is for models that predict for the whole image"),
        ({"target": "contrast:unicorn"}, "unknown class 'unicorn'"),
        ({"layer": "nowhere"}, "unknown layer 'nowhere'"),
        ({"layer": ["a"]}, "layer: "),
        ({"texts": ["x" * 5000]}, "texts: "),
        ({"drawn": [{"box": [0, 0, 1], "label": 1}]}, "drawn: "),
        ({"drawn": [{"box": [0, 0, 9, 9], "label": 99}]}, "label 99"),
        ({"surprise": 1}, "nothing is known of 'surprise'"),
    ],
)
def test_a_wrong_question_is_one_line(asking, question, words):
    _, told = asking.ask("map", **{**MAP, **question})
    assert words in told["error"]
    assert "\n" not in told["error"]


BOXES = ["[NaN, 0, 1, 1]", "[1e999, 0, 1, 1]", "[0, 0, 0, 0]", "[9, 9, 1, 1]", '["a", 0, 1, 1]', "7", "[-9, -9, -1, -1]"]


@pytest.mark.parametrize("box", BOXES)
def test_a_box_that_is_none(asking, box):
    answer = asking.post("/api/missed", content=f'{{"image": "0", "model": "scenes", "box": {box}}}')
    assert "\n" not in json.loads(answer.text.splitlines()[-1])["error"]


def test_strangers_are_turned_away(detector, pictures, worker):
    asking = Asking(desk_of({"scenes": detector}, *pictures), worker)
    assert asking.get("/", headers={"host": "evil.example"}).status_code == 403
    assert asking.post("/api/detect", headers={"origin": "http://evil.example"}).status_code == 403
    guarded = Asking(asking.desk, worker, Place("10.0.0.7", 8765, "x" * 32))
    for path in ("/", "/live.js", "/api/start", "/thumb/0", "/?token=wrong"):
        assert guarded.get(path).status_code == 401
    assert guarded.get(f"/?token={'x' * 32}").status_code == 200
    assert guarded.get("/api/start").status_code == 200


def test_a_model_that_raises_is_one_line(detector, pictures, worker, monkeypatch, caplog):
    asking = Asking(desk_of({"scenes": detector}, *pictures), worker)

    def fail(*given, **options):
        raise RuntimeError("the kernel\nhas burnt out")

    with monkeypatch.context() as broken:
        broken.setattr(type(detector), "trace", fail)
        assert asking.ask("detect") == (500, {"error": "RuntimeError: the kernel"})
        broken.setattr(type(detector), "trace", lambda *given, **options: exit())
        assert asking.ask("detect")[0] == 500
    assert asking.ask("detect")[0] == 200
    assert "failed" in caplog.text


def get(address, method, path, body=None):
    asked = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    asked.request(method, path, None if body is None else json.dumps(body), {"origin": address.rstrip("/")})
    answer = asked.getresponse()
    text = answer.read()
    asked.close()
    return answer.status, text


def test_fifty_at_once(detector, pictures):
    small = Image.new("RGB", (96, 64), "green")
    with viewing({"scenes": detector}, Shown(small, pictures[0])) as address:
        ask = lambda i: get(address, "POST", "/api/detect", {"image": str(i % 2), "model": "scenes"})
        read = lambda i: get(address, "GET", f"/thumb/{i % 2}")
        with ThreadPoolExecutor(50) as pool:
            asked = [pool.submit(read if i % 3 else ask, i) for i in range(50)]
            assert {each.result()[0] for each in asked} == {200}


def leave(address, question):
    """Ask, wait until the work has begun, and go away."""
    where = urlsplit(address)
    body = json.dumps(question)
    head = ["POST /api/map HTTP/1.1", f"host: {where.netloc}", f"origin: {address.rstrip('/')}", f"content-length: {len(body)}"]
    with socket.create_connection((where.hostname, where.port), timeout=30) as leaving:
        leaving.sendall("\r\n".join([*head, "", body]).encode())
        told = b""
        while told.count(b'"progress"') < 2:
            told += leaving.recv(4000)
            assert b'"error"' not in told


def test_who_goes_away_is_not_worked_for(detector):
    # Were all masks drawn, the next question would have to wait for minutes.
    question = {"image": "0", "model": "scenes", "method": "drise:masks=100000", "target": "score"}
    with viewing({"scenes": detector}, Shown(Image.new("RGB", (96, 64), "green"))) as address:
        leave(address, {**question, "drawn": [{"box": [10, 10, 50, 50], "label": 1}]})
        assert get(address, "POST", "/api/detect", {"image": "0", "model": "scenes"})[0] == 200
