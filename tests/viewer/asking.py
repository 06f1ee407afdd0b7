"""A viewer over drawn scenes, and questions to it as its page asks them."""

import json

from starlette.testclient import TestClient

from whybox.viewer.desk import Desk
from whybox.viewer.images import Images
from whybox.viewer.routes import viewer_app
from whybox.web.place import Place


class Asking(TestClient):
    """Asks as the page of a server on loopback does."""

    def __init__(self, desk, worker, place=None):
        place = place or Place()
        base = f"http://{place.host}:{place.port}"
        super().__init__(viewer_app(desk, worker, place), base_url=base, headers={"origin": base})
        self.desk = desk

    def ask(self, what, **question):
        """(status, the last line of the answer)"""
        answer = self.post(f"/api/{what}", json={"image": "0", "model": "scenes", **question})
        return answer.status_code, json.loads(answer.text.splitlines()[-1])


class Shown:
    """Pictures in memory, as images that were named."""

    def __init__(self, *pictures):
        self.pictures = pictures
        self.names = [f"{i}.png" for i in range(len(pictures))]

    def source(self, index):
        return self.pictures[index]


def desk_of(models, *pictures, **options):
    return Desk(models, Images(Shown(*pictures)), **options)
