"""The server of a study: what a browser is told, what is refused, and that a confirmed answer survives a kill."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from study.made_up import make_study
from whybox.study.answers import Answers
from whybox.study.designs import DESIGNS
from whybox.study.server import StudyServer
from whybox.web.place import Place

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def client(tmp_path):
    """A browser in front of the server of a study: makes both for a design."""
    opened = []

    def make(name="discrimination", place=None, **settings):
        folder = tmp_path / "study"
        study = make_study(folder, name, **settings)
        opened.append(Answers(folder / "answers.sqlite"))
        place = place or Place()
        base = f"http://{place.host}:{place.port}"
        made = TestClient(StudyServer(study, folder, opened[0]).app(place), base_url=base, follow_redirects=False)
        made.headers["origin"] = base
        made.answers, made.study = opened[0], study
        return made

    yield make
    for answers in opened:
        answers.close()


def post(client, path, **body):
    return client.post(f"/api/{path}", json=body)


def any_answer(question):
    if question["form"] == "rank":
        return {"ranks": list(range(1, len(question["options"]) + 1))}
    if question["form"] == "uncover":
        return {"samples": [[0, 0.1, 0.2], [300, None, None]], "end": 900}
    return {"choice": 0, "confidence": 3} if question["confidence"] else {"choice": 0}


@pytest.mark.parametrize("name", list(DESIGNS))
def test_a_whole_study(client, name):
    client = client(name, count=3)
    assert client.get("/api/study").json()["consent"][0] == {"kind": "heading", "text": "Hello"}
    told = post(client, "begin", agreed=True).json()
    code, asked = told["code"], 0
    while not told["done"]:
        question = told["question"]
        assert (question["place"], question["count"]) == (asked, 4)
        assert not client.study.design.compares or not any(name in json.dumps(question) for name in client.study.conditions)
        for file in [question["picture"], question.get("sharp"), *(option.get("picture") for option in question["options"])]:
            if file:
                assert client.get(f"/picture/{file}").headers["content-type"] == "image/jpeg"
        given = any_answer(question)
        told = post(client, "answer", code=code, place=asked, answer=given, milliseconds=700).json()
        assert told["stored"] == asked
        assert client.answers.places(0)[asked].answer == given
        asked += 1
    assert asked == 4
    assert post(client, "next", code=code).json() == {"done": True}


def test_pages_come_from_the_server_alone(client):
    client = client()
    page = client.get("/")
    assert page.status_code == 200
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")
    assert "style=" not in page.text
    script = "text/javascript"
    for path, kind in (("/study.css", "text/css"), ("/document.css", "text/css"), ("/study.js", script), ("/lens.js", script)):
        assert f'"{path}"' in page.text
        assert client.get(path).headers["content-type"].startswith(kind)


@pytest.mark.parametrize("path", ["../study.json", "..%2fstudy.json", "%2e%2e/answers.sqlite", "study.json", "x.jpg", ""])
def test_no_file_but_the_pictures_is_served(client, path):
    assert client().get(f"/picture/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/study.json", "/answers.sqlite", "/consent.md", "/pictures/", "/api/answers"])
def test_neither_the_study_nor_the_answers_are_served(client, path):
    assert client().get(path).status_code == 404


def test_who_does_not_agree_is_not_asked(client):
    client = client()
    for agreed in (False, None, "yes", 1):
        answer = post(client, "begin", agreed=agreed)
        assert (answer.status_code, "agree" in answer.json()["error"]) == (400, True)
    assert client.answers.people() == []


@pytest.mark.parametrize(
    ("change", "status", "line"),
    [
        ({"code": "ABC"}, 404, "nobody has this code"),
        ({"code": 7}, 400, "code must be a text"),
        ({"place": "0"}, 400, "place must be a whole number"),
        ({"place": True}, 400, "place must be a whole number"),
        ({"place": 99}, 404, "no question 100"),
        ({"place": 2}, 409, "has not been asked yet"),
        ({"answer": {"choice": 9}}, 400, "choice must be"),
        ({"answer": None}, 400, "choice must be"),
    ],
)
def test_a_wrong_answer_is_one_line_and_stores_nothing(client, change, status, line):
    client = client()
    code = post(client, "begin", agreed=True).json()["code"]
    good = {"code": code, "place": 0, "answer": {"choice": 0, "confidence": 1}, "milliseconds": 5}
    answer = post(client, "answer", **{**good, **change})
    assert answer.status_code == status
    assert line in answer.json()["error"]
    assert all(place.answer is None for place in client.answers.places(0))
    assert post(client, "answer", **good).status_code == 200
    assert post(client, "answer", **good).json()["stored"] == 0, "the same answer again"
    assert post(client, "answer", **{**good, "answer": {"choice": 1, "confidence": 1}}).status_code == 409


@pytest.mark.parametrize("milliseconds", [-5, 10**12, "7", None, 1.5])
def test_a_time_that_cannot_be_is_not_known(client, milliseconds):
    client = client()
    code = post(client, "begin", agreed=True).json()["code"]
    post(client, "answer", code=code, place=0, answer={"choice": 0, "confidence": 1}, milliseconds=milliseconds)
    assert client.answers.places(0)[0].milliseconds == -1


def test_foreign_pages_large_bodies_and_strangers_are_turned_away(client):
    client = client()
    assert client.post("/api/begin", json={"agreed": True}, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    assert client.post("/api/begin", content=b"x" * 300_000).status_code == 413
    assert client.post("/api/begin", content=b"{").json() == {"error": "expected a JSON object"}
    assert client.answers.people() == []


def test_a_host_that_others_reach_needs_the_token(client):
    client = client(place=Place("study.example", 8765, "x" * 20))
    assert client.get("/api/study").status_code == 401
    assert client.get("/api/study", headers={"authorization": f"Bearer {'x' * 20}"}).status_code == 200


SERVE = """
import sys
from pathlib import Path
from whybox.study.answers import Answers
from whybox.study.folder import read_study
from whybox.study.server import StudyServer
from whybox.web.place import Place
from whybox.web.serving import serve
folder = Path(sys.argv[1])
server = StudyServer(read_study(folder), folder, Answers(folder / "answers.sqlite"))
serve(server.app, Place(port=0), say=lambda address: print(address, flush=True))
"""


def ask(port, path, body):
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"origin": f"http://127.0.0.1:{port}", "content-type": "application/json"}
        link.request("POST", f"/api/{path}", json.dumps(body), headers)
        return json.loads(link.getresponse().read())
    finally:
        link.close()


def random_answer(name):
    if name == "trust_ranking":
        return {"ranks": random.sample([1, 2, 3], 3)}
    return {"samples": [[16 * i, random.random(), random.random()] for i in range(300)], "end": 5000}


@pytest.mark.parametrize("name", ["trust_ranking", "attention"])
def test_a_kill_at_a_random_moment_loses_no_confirmed_answer(tmp_path, name):
    folder = tmp_path / "study"
    make_study(folder, name, count=60)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    confirmed = {}

    def take_part(port):
        try:
            told = ask(port, "begin", {"agreed": True})
            code = told["code"]
            confirmed[code] = {}
            while not told["done"]:
                given, place = random_answer(name), told["question"]["place"]
                told = ask(port, "answer", {"code": code, "place": place, "answer": given})
                confirmed[code][told["stored"]] = given
        except (OSError, ValueError, http.client.HTTPException):
            return

    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        port = int(server.stdout.readline().rstrip("/\n").rpartition(":")[2])
        people = [threading.Thread(target=take_part, args=(port,)) for _ in range(4)]
        for person in people:
            person.start()
        wanted, end = random.randint(3, 40), time.monotonic() + 20
        while sum(len(given) for given in list(confirmed.values())) < wanted and time.monotonic() < end:
            time.sleep(random.uniform(0, 0.01))
        server.send_signal(signal.SIGKILL)
        for person in people:
            person.join()
    assert sum(map(len, confirmed.values())) > 0
    with Answers(folder / "answers.sqlite") as answers:
        numbers = {person.code: person.number for person in answers.people()}
        for code, given in confirmed.items():
            kept = {place.place: place.answer for place in answers.places(numbers[code]) if place.answer is not None}
            assert {place: kept.get(place) for place in given} == given
            # At most the answer whose confirmation did not arrive; and the person goes on after it.
            assert len(kept) - len(given) in (0, 1)
            assert answers.next_of(code).place == len(kept)


def test_a_study_is_served_without_loading_torch():
    code = "import whybox.study.server, whybox.study.folder, sys; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"
