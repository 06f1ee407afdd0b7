"""Start and stop a server."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from whybox.errors import WhyboxError
from whybox.files import one_line
from whybox.web.app import need_server
from whybox.web.place import Place

MOST_AT_ONCE = 200
"""Further connections are told that the server is busy."""

AppAt = Callable[[Place], Any]
"""Makes the application for a place whose port is known."""


def listen(place: Place, *, other_port: bool = False) -> tuple[socket.socket, Place]:
    """Take a port.

    Args:
        place: Where.
        other_port: Whether any free port will do where this one is taken.

    Returns:
        The socket, and the place with the port that was taken.

    Raises:
        WhyboxError: The port is taken, or the host is not this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        server = socket.socket(family, socket.SOCK_STREAM)
        try:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
            server.listen(128)
        except OSError:
            server.close()
            raise
    except OSError as error:
        if other_port and place.port:
            return listen(replace(place, port=0))
        raise WhyboxError(f"cannot listen on {place.host}, port {place.port}: {one_line(error)}; choose another --port") from None
    return server, replace(place, port=server.getsockname()[1])


def serve(app_at: AppAt, place: Place, *, other_port: bool = False, say: Callable[[str], None] = print) -> None:
    """Serve until Ctrl+C.

    Args:
        app_at: Makes the application.
        place: Where to listen.
        other_port: Whether any free port will do where this one is taken.
        say: Called with the address, once connections are accepted.

    Raises:
        WhyboxError: A package is missing, or the port is taken.
    """
    need_server()
    listening, place = listen(place, other_port=other_port)
    with listening:
        server = _server(app_at(place), lambda: say(place.url))
        # How a server is stopped, and no error.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])


@contextmanager
def serving(app_at: AppAt, place: Place | None = None) -> Iterator[str]:
    """Serve in a thread, while the block runs.

    Args:
        app_at: Makes the application.
        place: Where to listen; None: a free port on loopback.

    Yields:
        The address, with the token.
    """
    need_server()
    listening, place = listen(place or Place(port=0))
    started = threading.Event()
    with listening:
        server = _server(app_at(place), started.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            if not started.wait(20):
                raise WhyboxError(f"no server came up at {place.url}")
            yield place.url
        finally:
            server.should_exit = True
            thread.join(20)


def _server(app: Any, on_start: Callable[[], None]) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_start()

    # No log of requests: addresses hold the token. What a proxy says of who asked is not believed.
    quiet: dict[str, Any] = {"log_level": "error", "access_log": False, "server_header": False, "proxy_headers": False}
    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            limit_concurrency=MOST_AT_ONCE,
            timeout_graceful_shutdown=2,
            **quiet,
        )
    )
