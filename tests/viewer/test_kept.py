"""What is kept is bounded in bytes."""

from types import SimpleNamespace

import torch
from torch import nn

import whybox
from whybox.viewer.kept import Kept, tensor_bytes


def test_what_was_used_longest_ago_goes_first():
    kept = Kept(100)
    for key in "abc":
        kept.put(key, key, 40 if key != "c" else 20)
    assert kept.get("a") == "a"
    kept.put("d", "d", 30)
    assert [kept.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert kept.bytes == 90
    kept.put("a", "larger", 1000)
    assert (kept.get("a"), len(kept), kept.bytes) == ("larger", 1, 1000)


def test_every_storage_counts_once_and_networks_do_not():
    tensor = torch.zeros(10)
    inner = torch.zeros(5)
    ring = SimpleNamespace(view=tensor[:2], again=[tensor, {"b": tensor}], call=lambda: inner, network=nn.Linear(100, 100))
    ring.ring = ring
    assert tensor_bytes(ring) == 60


def test_a_trace_is_counted_with_what_it_needs_for_gradients(detector, pictures):
    trace = whybox.trace(detector, pictures[0])
    size = tensor_bytes(trace)
    features = sum(level.values.untyped_storage().nbytes() for level in trace.features)
    assert size >= features + trace.image.untyped_storage().nbytes() + trace.candidates.scores.untyped_storage().nbytes()
    assert size < 200_000_000
