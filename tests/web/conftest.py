"""A browser's requests to a small application behind the guard."""

import pytest
from starlette.testclient import TestClient

from web.small_app import ROUTES
from whybox.web.app import make_app
from whybox.web.place import Place


@pytest.fixture
def client():
    """A client that asks as the page of a server on loopback does, or of one that others can reach, with a token."""

    def make(place=None, **options):
        place = place or Place()
        base = f"http://{place.host}:{place.port}"
        made = TestClient(make_app(ROUTES, place, **options), base_url=base, follow_redirects=False)
        made.headers["origin"] = base
        return made

    return make
