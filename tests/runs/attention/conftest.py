"""Where made-up people looked on the pictures that the small detector knows."""

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def gazed(annotated):
    """Three people who looked near the middle of every annotated box."""
    file = Path(annotated.removeprefix("coco:"))
    rng, entries = np.random.default_rng(0), []
    for row in json.loads(file.read_text())["annotations"]:
        x, y, width, height = row["bbox"]
        for person in "abc":
            near = [[x + width * rng.uniform(0.4, 0.6), y + height * rng.uniform(0.4, 0.6), 0.2] for _ in range(2)]
            entries.append({"annotation_id": row["id"], "fixations": near, "viewer": person})
    looked = file.parent / "looked.json"
    looked.write_text(json.dumps(entries))
    return f"{annotated}:fixations={looked}"
