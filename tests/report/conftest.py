"""A photo with made-up layers."""

import pytest

from report.made_up import made_up_photo


@pytest.fixture
def photo():
    return made_up_photo
