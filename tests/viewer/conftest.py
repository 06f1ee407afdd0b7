"""The shipped detector and the shipped CLIP behind one viewer."""

import pytest

import whybox
from viewer.asking import Asking, desk_of
from whybox.data.scenes import draw_scene
from whybox.viewer.jobs import Worker


@pytest.fixture(scope="session")
def detector():
    return whybox.load("whybox/scenes")


@pytest.fixture(scope="session")
def pictures():
    return [draw_scene(index, seed=1).image for index in range(2)]


@pytest.fixture(scope="session")
def worker():
    made = Worker()
    yield made
    made.close()


@pytest.fixture(scope="session")
def asking(detector, pictures, worker):
    return Asking(desk_of({"scenes": detector, "clip": whybox.load("whybox/scenes-clip")}, *pictures), worker)
