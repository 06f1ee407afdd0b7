"""An application of routes whose errors are one line of JSON, behind the guard."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whybox.errors import WhyboxError, reason_of
from whybox.web.guard import MOST_BYTES, Guard
from whybox.web.place import Place

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

log = logging.getLogger("whybox.web")


def need_server() -> None:
    """Refuse to go on where the packages of a local server are not installed.

    Raises:
        WhyboxError: How to install them.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise WhyboxError(f"a local server needs the package {error.name}: pip install 'whybox[viewer]'") from None


def make_app(routes: "Sequence[Route]", place: Place, *, most_bytes: int = MOST_BYTES) -> Guard:
    """An application that can be served.

    A `WhyboxError` of an endpoint is answered with 400 and {"error": its line}; any other exception with 500, a line of its
    kind, and a traceback in the log; the server goes on.

    Args:
        routes: Starlette's routes.
        place: Where it will listen.
        most_bytes: The largest body of a request.
    """
    need_server()
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException

    handlers: Mapping[Any, Any] = {WhyboxError: _told, HTTPException: _http, Exception: _failed}
    return Guard(_Quiet(Starlette(routes=list(routes), exception_handlers=handlers)), place, most_bytes=most_bytes)


class _Quiet:
    """Starlette answers an unexpected exception and then raises it once more, for the server to log; it is logged already."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            if not getattr(error, "_answered", False):
                raise


def served(content: str | bytes, kind: str) -> "Response":
    """An answer with a file of the package.

    Args:
        content: Its text or bytes.
        kind: Its media type, such as "text/css".
    """
    from starlette.responses import Response

    return Response(content, media_type=kind)


async def json_of(request: "Request") -> dict[str, Any]:
    """The JSON object that a request brings.

    Raises:
        WhyboxError: It is none.
    """
    try:
        value = await request.json()
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise WhyboxError("expected a JSON object")
    return value


async def _told(request: "Request", error: Exception) -> "Response":
    return _line(400, reason_of(error))


async def _http(request: "Request", error: Any) -> "Response":
    return _line(error.status_code, str(error.detail))


async def _failed(request: "Request", error: Exception) -> "Response":
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    error._answered = True  # type: ignore[attr-defined]
    return _line(500, reason_of(error))


def _line(status: int, why: str) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse({"error": why}, status_code=status)
