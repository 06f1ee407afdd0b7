"""The routes of a small application: some that answer, and some that fail."""

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from whybox.errors import WhyboxError
from whybox.web.app import json_of


async def echo(request):
    return JSONResponse({"bytes": len(await request.body())})


async def page(request):
    return PlainTextResponse("the page", headers={"cache-control": "max-age=60"})


async def object_of(request):
    return JSONResponse(await json_of(request))


def refuse(request):
    raise WhyboxError("no such image;\nlook elsewhere")


def fail(request):
    raise RuntimeError("out of\nmemory")


ROUTES = [
    Route("/", page),
    Route("/echo", echo, methods=["POST"]),
    Route("/object", object_of, methods=["POST"]),
    Route("/refuse", refuse),
    Route("/fail", fail),
]
