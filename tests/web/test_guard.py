"""Who is turned away: foreign names and pages, wrong tokens, large and slow bodies; and what every answer says."""

import asyncio

import pytest

from whybox.errors import WhyboxError
from whybox.web.guard import HEADERS, Guard
from whybox.web.place import Place, choose_place

TOKEN = "abcdefghijklmnop"
OPEN = Place("10.0.0.7", 8765, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:9000", "[::1]:8765", "localhost"])
def test_loopback_is_asked_by_its_own_names(client, host):
    assert client().get("/", headers={"host": host, "origin": f"http://{host}"}).text == "the page"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "10.0.0.7:8765", "localhost."])
def test_a_name_that_leads_here_from_elsewhere_is_refused(client, host):
    answer = client().get("/", headers={"host": host})
    assert answer.status_code == 403
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("host", "fits"), [("10.0.0.7", True), ("192.168.1.2:8765", True), ("evil.example", False), ("[fe80::1]:8765", True)]
)
def test_a_server_for_others_answers_to_addresses_and_not_to_names(host, fits):
    assert OPEN.answers_to(host) is fits


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8766", "http://127.0.0.1:8765.evil.example"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_origin_is_refused(client, method, origin):
    assert client().request(method, "/echo", headers={"origin": origin}).status_code == 403


def test_what_changes_something_must_say_its_origin(client):
    asking = client()
    del asking.headers["origin"]
    assert asking.get("/").status_code == 200
    assert asking.post("/echo", content=b"x").status_code == 403


@pytest.mark.parametrize(("mode", "status"), [("no-cors", 403), ("cors", 403), ("navigate", 200)])
def test_a_picture_on_a_foreign_page_is_refused_and_a_link_is_not(client, mode, status):
    asking = client()
    del asking.headers["origin"]
    assert asking.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}).status_code == status


def test_every_answer_has_the_headers(client):
    asking = client()
    answers = [asking.get(path) for path in ("/", "/refuse", "/fail", "/gone")]
    answers += [asking.get("/", headers={"host": "evil.example"}), asking.post("/echo", content=b"x")]
    for answer in answers:
        for name in set(HEADERS) - {"cache-control"}:
            assert answer.headers[name] == HEADERS[name]
    assert [answer.headers["cache-control"] for answer in answers] == ["max-age=60", *["no-store"] * 5]
    assert "unsafe" not in HEADERS["content-security-policy"]


def test_the_token_is_asked_for(client):
    asking = client(OPEN)
    for path in ("/", "/?token=", "/?token=wrong", f"/?token={TOKEN}x", "/?other=1", "/?token=%c3%a9"):
        assert asking.get(path).status_code == 401
    assert asking.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert asking.get("/", headers={"cookie": "whybox_token_8765=wrong"}).status_code == 401
    assert asking.get("/", headers={"cookie": 'whybox_token_8765="\\'}).status_code == 401
    assert asking.post(f"/echo?token={TOKEN}", content=b"x").status_code == 401
    assert asking.get("/", headers={"authorization": f"Bearer {TOKEN}"}).text == "the page"


def test_the_token_is_taken_from_the_address_once(client):
    asking = client(OPEN)
    entered = asking.get(f"/object?a=%3C1&token={TOKEN}")
    assert 'content="0;url=/object?a=%3C1"' in entered.text
    assert TOKEN not in entered.text
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert asking.get("/").text == "the page"
    assert asking.post("/echo", content=b"abc").json() == {"bytes": 3}


def test_the_entrance_leads_to_this_server_alone(client):
    for path in ("//evil.example", "/%5Cevil.example", "/\\evil.example"):
        scope = {"type": "http", "method": "GET", "raw_path": path.encode(), "path": path, "headers": [(b"host", b"10.0.0.7")]}
        sent = exchange(Guard(None, OPEN), scope | {"query_string": f"token={TOKEN}".encode()}, [])
        assert b"url=/%5Cevil.example" in sent[1]["body"] or b"url=/evil.example" in sent[1]["body"]


def test_a_server_for_others_has_a_token():
    with pytest.raises(WhyboxError, match="needs a token"):
        Place("0.0.0.0")
    with pytest.raises(WhyboxError, match="between 0 and 65535"):
        Place(port=70000)
    chosen = choose_place("0.0.0.0")
    assert len(chosen.token) >= 32
    assert chosen.url.endswith(f":8765/?token={chosen.token}")
    assert choose_place() == Place()
    assert Place("::1", 90).url == "http://[::1]:90/"


def test_a_body_is_limited_whether_or_not_it_says_its_length(client):
    asking = client(most_bytes=1000)
    assert asking.post("/echo", content=b"x" * 1000).json() == {"bytes": 1000}
    assert asking.post("/echo", content=b"x" * 1001).status_code == 413
    assert asking.post("/echo", content=iter([b"x" * 600] * 2)).status_code == 413
    assert asking.post("/echo", content=iter([b"x" * 500] * 2)).json() == {"bytes": 1000}


def exchange(app, scope, messages):
    """What an application sends, given what the client sends; afterwards the client is silent."""
    sent, left = [], list(messages)

    async def receive():
        if left:
            return left.pop(0)
        return await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent


POST = {
    "type": "http",
    "method": "POST",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [(b"host", b"localhost"), (b"origin", b"http://localhost")],
}


async def never(scope, receive, send):
    raise AssertionError("the application was asked")


def test_a_body_that_does_not_end_is_given_up():
    part = {"type": "http.request", "body": b"x", "more_body": True}
    sent = exchange(Guard(never, Place(), longest_body=0.01), POST, [part])
    assert sent[0]["status"] == 408


def test_a_client_that_goes_away_is_not_served():
    part = {"type": "http.request", "body": b"x", "more_body": True}
    assert exchange(Guard(never, Place()), POST, [part, {"type": "http.disconnect"}]) == []


def test_a_header_that_comes_twice_fits_nothing():
    twice = POST | {"headers": [*POST["headers"], (b"host", b"localhost")]}
    assert exchange(Guard(never, Place()), twice, [])[0]["status"] == 403


def test_sockets_of_another_kind_are_closed():
    assert exchange(Guard(never, Place()), {"type": "websocket"}, [])[0]["type"] == "websocket.close"
