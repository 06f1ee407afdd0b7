"""Faults at the edges of runs: damaged records, sources that are not known, tables with a byte order mark."""

import gzip
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import torch

from whybox.runs.analyses.concreteness import read_ratings
from whybox.runs.evaluation.records import _load
from whybox.runs.mistakes.search import _narrowed
from whybox.training.augmentation import augment
from whybox.training.examples import Example
from whybox.types import Candidates, Detections, Trace


def test_a_record_with_damaged_bytes_is_measured_again(tmp_path):
    packed = bytearray(gzip.compress(b"{}" * 400))
    packed[12:20] = b"\xff" * 8
    (tmp_path / "a.json.gz").write_bytes(packed)
    assert _load(tmp_path / "a.json.gz") is None


def test_a_source_that_is_not_known_stays_so():
    candidates = Candidates(torch.zeros(3, 4), torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    found = Detections(torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.long), torch.tensor([-1, 2]))
    trace = Trace(torch.zeros(3, 8, 8), SimpleNamespace(), (), candidates, found)
    assert _narrowed(trace, torch.tensor([2])).detections.source.tolist() == [-1, 0]


def test_ratings_with_a_byte_order_mark(tmp_path):
    (tmp_path / "r.csv").write_text("word,rating\nball,4.5\n", encoding="utf-8-sig")
    assert read_ratings(tmp_path / "r.csv") == {"ball": 4.5}


def test_a_size_that_is_whole_is_not_rounded_to_the_pixel_below():
    """240 / 93 * 93 is 239.99999999999997 in floats."""
    none = np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool)
    for side in range(50, 200):
        image, _ = augment(Example(np.zeros((side, side, 3), np.uint8), *none), (240, 320), (1.0, 1.01), np.random.default_rng(0))
        assert image.shape == (3, 240, 240)


def test_python_m_whybox():
    done = subprocess.run([sys.executable, "-m", "whybox", "--help"], capture_output=True, text=True, check=True)
    assert "explain" in done.stdout
