"""A server on a real port."""

import http.client
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from web.small_app import ROUTES
from whybox.errors import WhyboxError
from whybox.web.app import make_app
from whybox.web.place import Place
from whybox.web.serving import listen, serving

LOCAL = (b"host: localhost", b"origin: http://localhost")


def get(address, path="/", **headers):
    asked = http.client.HTTPConnection(urlsplit(address).netloc, timeout=10)
    asked.request("GET", path, headers=headers)
    answer = asked.getresponse()
    body = answer.read()
    asked.close()
    return answer, body


def test_a_port_is_served_and_given_back():
    before = threading.active_count()
    with serving(lambda place: make_app(ROUTES, place)) as address:
        port = urlsplit(address).port
        with ThreadPoolExecutor(10) as pool:
            assert {body for _, body in pool.map(lambda _: get(address), range(50))} == {b"the page"}
        answer, _ = get(address)
        assert answer.headers["server"] is None
        # One that leaves in the middle of its request harms nobody.
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(
                b"POST /echo HTTP/1.1\r\nhost: localhost\r\norigin: http://localhost\r\ncontent-length: 99\r\n\r\nabc"
            )
        assert get(address)[1] == b"the page"
        with pytest.raises(WhyboxError, match=f"cannot listen on 127.0.0.1, port {port}: .*another --port"):
            listen(Place(port=port))
        other, place = listen(Place(port=port), other_port=True)
        other.close()
        assert place.port != port
    assert threading.active_count() <= before
    listen(Place(port=port))[0].close()


def test_a_host_that_is_not_here():
    with pytest.raises(WhyboxError, match=r"cannot listen on nowhere\.invalid"):
        listen(Place("nowhere.invalid", 80, "x" * 16))
