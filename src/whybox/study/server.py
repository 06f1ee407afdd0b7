"""The server of a study: consent, one question after the other, and an answer that is stored before the next is given."""

from functools import partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whybox.errors import WhyboxError
from whybox.study.answers import Answers, ConflictError, NotFoundError, Place
from whybox.study.design import CONFIDENCES
from whybox.study.folder import PICTURES, STUDY, Study, read_consent
from whybox.study.planning import plan_for
from whybox.web.app import json_of as read_json
from whybox.web.app import make_app, need_server, served
from whybox.web.guard import Guard
from whybox.web.place import Place as Address

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MOST_BYTES = 2**18
"""The largest body of a request: an answer is some numbers, a recording some thousand."""
LONGEST = 24 * 60 * 60 * 1000
"""Milliseconds after which a time is no longer one of thinking."""
PAGE_FILES = {
    "/": ("whybox.study", "page.html", "text/html"),
    "/study.css": ("whybox.study", "page.css", "text/css"),
    "/document.css": ("whybox.report", "document.css", "text/css"),
    "/study.js": ("whybox.study", "page.js", "text/javascript"),
    "/lens.js": ("whybox.study", "lens.js", "text/javascript"),
}


class StudyServer:
    """Answers the page's requests.

    Attributes:
        study: The study.
        folder: Its folder.
        answers: Where the answers are stored.
        consent: The text to agree to, as of `read_consent`.
        key: What tells the study from others on the same device.
    """

    def __init__(self, study: Study, folder: Path, answers: Answers) -> None:
        """See the attributes."""
        self.study, self.folder, self.answers = study, folder, answers
        self.consent = read_consent(folder)
        self.key = sha256((folder / STUDY).read_bytes()).hexdigest()[:16]

    def app(self, address: Address) -> Guard:
        """The application for an address.

        Args:
            address: Where it listens.

        Returns:
            The application.
        """
        need_server()
        from starlette.routing import Route

        pages = [Route(path, partial(_page, *file)) for path, file in PAGE_FILES.items()]
        posts = {"/api/begin": self.begin, "/api/next": self.next, "/api/answer": self.answer}
        routes = [*pages, Route("/api/study", self.about), Route("/picture/{name}", self.picture)]
        routes += [Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()]
        return make_app(routes, address, most_bytes=MOST_BYTES)

    def about(self, request: "Request") -> "Response":
        """What is said before a person begins."""
        return _json({"key": self.key, "title": self.study.design.title, "consent": self.consent})

    def picture(self, request: "Request") -> "Response":
        """A picture of a question; no other file of the folder."""
        from starlette.exceptions import HTTPException
        from starlette.responses import FileResponse

        name = request.path_params["name"]
        if name not in self.study.pictures:
            raise HTTPException(404, "no such picture")
        return FileResponse(self.folder / PICTURES / name, headers={"cache-control": "private, max-age=3600"})

    async def begin(self, request: "Request") -> "Response":
        """A new person: a code, and the first question."""
        asked = await read_json(request)
        if asked.get("agreed") is not True:
            raise WhyboxError("please read the text and agree to it first")
        code = await _aside(self.answers.begin, partial(plan_for, self.study))
        return _json({"code": code, **await _aside(self._next, code)})

    async def next(self, request: "Request") -> "Response":
        """The question at which a person is."""
        asked = await read_json(request)
        return _json(await _aside(self._next, _text(asked, "code")))

    async def answer(self, request: "Request") -> "Response":
        """Store an answer, and only then give the next question."""
        asked = await read_json(request)
        return _json(await _aside(self._answer, asked))

    def _next(self, code: str) -> dict[str, Any]:
        place = self.answers.next_of(code)
        return {"done": True} if place is None else {"done": False, "question": self._shown(place)}

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        code, number, took = _text(asked, "code"), asked.get("place"), asked.get("milliseconds", -1)
        if type(number) is not int:
            raise WhyboxError("place must be a whole number")
        place = self.answers.place_of(code, number)
        question = self.study.by_key[place.asked.question]
        answer = self.study.design.check(question, place.asked, asked.get("answer"))
        self.answers.store(place, answer, took if type(took) is int and 0 <= took <= LONGEST else -1)
        return {"stored": number, **self._next(code)}

    def _shown(self, place: Place) -> dict[str, Any]:
        """A question for the page: nothing of it tells the conditions."""
        design, question = self.study.design, self.study.by_key[place.asked.question]
        texts = {"ask": design.ask, "help": design.help, "instruction": question.instruction}
        confidence = CONFIDENCES if design.confident else 0
        where = {"place": place.place, "count": place.count}
        return {**where, **texts, "confidence": confidence, **design.form(question, place.asked)}


def _page(package: str, name: str, kind: str, request: "Request") -> "Response":
    return served((files(package) / name).read_bytes(), kind)


def _text(asked: dict[str, Any], name: str) -> str:
    value = asked.get(name)
    if not isinstance(value, str):
        raise WhyboxError(f"{name} must be a text")
    return value


async def _aside(work: Any, *arguments: Any) -> Any:
    """Do work that waits for the disk in a thread; what is unknown or in conflict is told by its status."""
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException

    try:
        return await run_in_threadpool(work, *arguments)
    except NotFoundError as error:
        raise HTTPException(404, str(error)) from None
    except ConflictError as error:
        raise HTTPException(409, str(error)) from None


def _json(value: dict[str, Any]) -> "Response":
    from starlette.responses import JSONResponse

    return JSONResponse(value)
