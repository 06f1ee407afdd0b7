"""A detector with random weights in a folder, pictures, and the command line as the shell calls it."""

import numpy as np
import pytest
import torch
from PIL import Image

from whybox import zoo
from whybox.cli import main

ARGUMENTS = {"num_classes": 3, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 64, "max_size": 96}
ARGUMENTS |= {"score_thresh": 0.0, "detections_per_img": 5}


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    card = {"network": "compact_fcos", "arguments": ARGUMENTS, "classes": ["cat", "dog"]}
    zoo.save(zoo.build("compact_fcos", ARGUMENTS), card, folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    """Two pictures and a file that is none."""
    generator = np.random.default_rng(0)
    for name in ("one.png", "two.png"):
        Image.fromarray(generator.integers(0, 255, (64, 96, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "bad.jpg").write_text("not an image")
    return tmp_path


@pytest.fixture
def whybox(capsys, monkeypatch, tmp_path):
    """Call the command line in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as ended:
            main.run([str(word) for word in words])
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call
