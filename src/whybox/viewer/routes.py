"""The viewer's routes: the page, pictures, and questions that the models answer one after the other."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from whybox.errors import WhyboxError, reason_of
from whybox.files import strict_json
from whybox.report.live import live_page, live_script, live_style
from whybox.viewer.asked import Ask, read_ask
from whybox.viewer.desk import Desk
from whybox.viewer.jobs import Cancelled, Job, Worker
from whybox.web.app import json_of, log, make_app, served
from whybox.web.guard import Guard
from whybox.web.place import Place

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

QUICK = 0.25
"""Seconds in which a job is answered by its result alone; later it tells first how far it is."""
TICK = 0.2
NDJSON = "application/x-ndjson"

Answer = Callable[[Ask, Job], dict[str, Any]]


def viewer_app(desk: Desk, worker: Worker, place: Place) -> Guard:
    """The viewer as an application.

    Args:
        desk: Answers the questions.
        worker: The thread of the models.
        place: Where it will listen.
    """
    return make_app(routes_of(desk, worker), place)


def routes_of(desk: Desk, worker: Worker) -> "list[Route]":
    """The routes; see `viewer_app`."""
    from starlette.routing import Route

    page, style, script = live_page(), live_style(), live_script()
    start = json.dumps(desk.start())
    answers: dict[str, Answer] = {
        "detect": desk.detect,
        "map": desk.draw,
        "missed": desk.miss,
        "compare": desk.compare,
        "change": desk.change,
        "export": desk.take,
    }
    return [
        Route("/", lambda request: served(page, "text/html")),
        Route("/live.css", lambda request: served(style, "text/css")),
        Route("/live.js", lambda request: served(script, "text/javascript")),
        Route("/api/start", lambda request: served(start, "application/json")),
        Route("/thumb/{image}", partial(_picture, desk.images.thumb)),
        Route("/photo/{image}", partial(_picture, desk.images.photo)),
        Route("/api/upload", _upload(desk), methods=["POST"]),
        *(Route(f"/api/{name}", _question(worker, answer), methods=["POST"]) for name, answer in answers.items()),
    ]


async def _picture(read: Callable[[str], bytes], request: "Request") -> "Response":
    try:
        # In asyncio's threads, beside the models: they are waited for at the end, and Starlette's own are not.
        content = await asyncio.to_thread(read, request.path_params["image"])
    except WhyboxError as error:
        from starlette.exceptions import HTTPException

        raise HTTPException(404, reason_of(error)) from None
    answer = served(content, "image/jpeg")
    # What an id shows does not change while the server runs; nobody on the way may keep it.
    answer.headers["cache-control"] = "private, max-age=600"
    return answer


def _upload(desk: Desk) -> Any:
    async def upload(request: "Request") -> "Response":
        name = request.query_params.get("name", "")
        data = await request.body()
        image = await asyncio.to_thread(desk.images.add, data, name)
        return served(json.dumps({"image": image, "name": desk.images.source(image)[0]}), "application/json")

    return upload


def _question(worker: Worker, answer: Answer) -> Any:
    """An endpoint: the result at once where it is quick, else lines of JSON, how far it is and at last the result. Where the
    client goes away, the job is cancelled."""

    async def endpoint(request: "Request") -> "Response":
        ask = read_ask(await json_of(request))
        job = worker.submit(lambda job: answer(ask, job))
        done = asyncio.wrap_future(job.future)
        # Where the client has gone, nobody else looks at how the job ended.
        done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        try:
            await asyncio.wait({done}, timeout=QUICK)
        except asyncio.CancelledError:
            job.cancel()
            raise
        if done.done():
            return served(_line(done.result()), "application/json")
        from starlette.responses import StreamingResponse

        return StreamingResponse(_lines(request, job, done), media_type=NDJSON)

    return endpoint


async def _lines(request: "Request", job: Job, done: "asyncio.Future[Any]") -> AsyncIterator[str]:
    try:
        # Asked here, too: not every release of Starlette and uvicorn ends a stream whose client has gone.
        while not done.done() and not await request.is_disconnected():
            yield _line({"progress": job.share}) + "\n"
            await asyncio.wait({done}, timeout=TICK)
        if done.done():
            yield _last(done) + "\n"
    finally:
        # Also where nobody reads on.
        job.cancel()


def _last(done: "asyncio.Future[Any]") -> str:
    """The result, or the error in one line: the status was sent long ago."""
    error = done.exception()
    if error is None:
        return _line(done.result())
    if not isinstance(error, (WhyboxError, Cancelled)):
        log.error("a question failed", exc_info=error)
    return _line({"error": "cancelled" if isinstance(error, Cancelled) else reason_of(error)})  # type: ignore[arg-type]


def _line(value: dict[str, Any]) -> str:
    return strict_json(_without_nan(value))


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return value
