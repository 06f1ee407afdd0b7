"""What the tests of this folder share."""

import pytest

from runs.small import write_annotated


@pytest.fixture(scope="session")
def annotated(tmp_path_factory):
    """The name of a data set of four pictures that the small detector finds objects in."""
    return write_annotated(tmp_path_factory.mktemp("annotated"))
