"""The door of a local server: foreign pages, wrong tokens and large bodies are turned away before the application is asked."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode

from whybox.web.place import Place

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 32 * 2**20
"""The largest body of a request: a photograph of a good camera as JPEG."""

LONGEST_BODY = 60.0
"""Seconds in which a body has to arrive."""

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
"""Of every answer; one that an answer has itself is kept."""

READS = ("GET", "HEAD")
COOKIE = "whybox_token"


class Guard:
    """An ASGI application in front of another.

    Requests have to name the server as it is named, come from its own page, and bring its token, where it has one: in the
    address once, then in a cookie, or as "Authorization: Bearer TOKEN". Bodies are read up to their limit before the
    application sees them.

    Attributes:
        app: The application.
        place: Where the server listens.
        most_bytes: The largest body.
        longest_body: Seconds in which a body has to arrive.
    """

    def __init__(self, app: App, place: Place, *, most_bytes: int = MOST_BYTES, longest_body: float = LONGEST_BODY) -> None:
        """See the attributes."""
        self.app, self.place = app, place
        self.most_bytes, self.longest_body = most_bytes, longest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = _headers(scope)
        if refusal := self._foreign(scope["method"], headers):
            return await _refuse(send, 403, refusal)
        if self.place.token and not self._admitted(headers):
            return await self._enter(scope, send)
        if scope["method"] in READS:
            return await self.app(scope, receive, _with_headers(send))
        try:
            body = await asyncio.wait_for(_read(receive, headers, self.most_bytes), self.longest_body)
        except _TooLargeError:
            return await _refuse(send, 413, f"too large: at most {self.most_bytes // 2**20} MB are accepted", close=True)
        except TimeoutError:
            return await _refuse(send, 408, "the request did not arrive in time", close=True)
        # None: who asked has gone.
        if body is not None:
            await self.app(scope, _replay(body, receive), _with_headers(send))
        return None

    def _foreign(self, method: str, headers: dict[str, str]) -> str:
        """Why a request is not one of the server's own page; "" where it may be."""
        host = headers.get("host", "")
        if not self.place.answers_to(host):
            return f"this server does not answer to the name {host[:100]!r}"
        origin = headers.get("origin")
        if origin is None and method not in READS:
            return "a request that changes something must say its Origin"
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return "a page of another origin may not ask this server"
        # Pictures and scripts are asked for without an Origin; following a link is harmless.
        site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
        if site not in ("none", "same-origin") and not (mode == "navigate" and method in READS):
            return "a page of another origin may not ask this server"
        return ""

    @property
    def _cookie(self) -> str:
        # Cookies are shared by all ports of a host: two servers would overwrite one another's.
        return f"{COOKIE}_{self.place.port}"

    def _admitted(self, headers: dict[str, str]) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.place.knows(bearer.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return False
        return cookie is not None and self.place.knows(cookie.value)

    async def _enter(self, scope: Scope, send: Send) -> None:
        """Take the token from the address, keep it in a cookie, and go on without it."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = next((value for name, value in query if name == "token"), "")
        if scope["method"] not in READS or not self.place.knows(token):
            return await _refuse(send, 401, "open the address that the server printed, with its token")
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # Two slashes would begin another host's address.
        path = "/" + re.sub(r"^[/\\]+", "", scope.get("raw_path", b"/").decode("latin-1").partition("?")[0])
        there = escape(f"{path}?{rest}" if rest else path)
        # Not a redirection: on one that began at a link elsewhere, browsers do not send a strict cookie.
        head = '<!doctype html><meta charset="utf-8"><title>whybox</title><link rel="icon" href="data:,">'
        page = f'{head}<meta http-equiv="refresh" content="0;url={there}">'
        cookie = f"{self._cookie}={token}; Path=/; HttpOnly; SameSite=Strict"
        await _answer(send, 200, page.encode(), "text/html; charset=utf-8", [("set-cookie", cookie)])
        return None


class _TooLargeError(Exception):
    pass


def _headers(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name; one that comes twice is joined, and then fits nothing."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def _read(receive: Receive, headers: dict[str, str], most: int) -> bytes | None:
    """The whole body; None where the client has gone."""
    told = headers.get("content-length", "0")
    if not told.isascii() or not told.isdigit() or int(told[:20]) > most:
        raise _TooLargeError
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > most:
            raise _TooLargeError
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, and then waits for the client to go."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await send(message)

    return sent


async def _refuse(send: Send, status: int, why: str, *, close: bool = False) -> None:
    more = [("connection", "close")] if close else []
    await _answer(send, status, json.dumps({"error": why}).encode(), "application/json", more)


async def _answer(send: Send, status: int, body: bytes, kind: str, more: Iterable[tuple[str, str]] = ()) -> None:
    headers = [("content-type", kind), ("content-length", str(len(body))), *more]
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    sent = _with_headers(send)
    await sent({"type": "http.response.start", "status": status, "headers": encoded})
    await sent({"type": "http.response.body", "body": body})
