"""Batches of a CLIP's training: a function of their number, colors that stay what they are."""

import numpy as np
import pytest
import torch

from whybox.training import captioned_scenes
from whybox.training.clip_batches import CaptionedBatches, recolor

transformers = pytest.importorskip("transformers")


def test_colors_are_changed_a_little():
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = recolor(images, np.random.default_rng(0))
    assert 0.01 < (changed - images).abs().mean() < 0.12
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_a_batch_is_a_function_of_its_number(tmp_path):
    from whybox.training.clip_words import tokenizer

    drawn = captioned_scenes.draw(4, 4, 40, tmp_path)
    batches = CaptionedBatches(drawn, tokenizer(48), 3, 4, 32, 2, (0.7, 1.1))
    (first, truth), (again, _), (other, _) = batches(5), batches(5), batches(6)
    assert first["pixel_values"].shape == (3, 3, 32, 32)
    assert truth["patches"].shape[:2] == (3, 4)
    assert truth["texts"].shape == truth["sure"].shape == (3, len(first["input_ids"]))
    assert torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["pixel_values"], other["pixel_values"])
