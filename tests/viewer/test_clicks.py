"""A click costs a gradient alone: the pass with its graph is kept from click to click, as long as the network is the same."""

import pytest
import torch

import whybox
from models.hf.test_detection import model_of, network
from viewer.asking import desk_of
from whybox.viewer.asked import read_ask
from whybox.viewer.jobs import Job


@pytest.fixture
def passes(monkeypatch):
    """A small detection transformer, and its passes counted."""
    model, made = model_of("rt_detr", network("rt_detr")), []
    run = type(model)._run
    monkeypatch.setattr(type(model), "_run", lambda *given, **options: made.append(1) or run(*given, **options))
    return model, made


def maps_of(desk, rows, **question):
    ask = read_ask({"image": "0", "model": "detr", "method": "odam", "target": "score", "rows": rows, **question})
    return desk.draw(ask, Job(lambda job: None))["maps"]


def test_further_clicks_take_no_pass_and_give_the_same_maps(passes):
    model, made = passes
    pictures = torch.rand((2, 3, 50, 77), generator=torch.Generator().manual_seed(0))
    desk = desk_of({"detr": model}, *pictures)
    first = maps_of(desk, [0])
    count = len(made)
    again, other = maps_of(desk, [0]), maps_of(desk, [1], method="gradcam")
    assert len(made) == count
    assert again == first
    alone = desk_of({"detr": model}, *pictures)
    assert maps_of(alone, [1], method="gradcam") == other
    # Another image takes its place, and so does the network in another state.
    count = len(made)
    maps_of(desk, [0], image="1")
    assert maps_of(desk, [0]) == first
    assert len(made) > count
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.mul_(1.1)
    with pytest.raises(whybox.WhyboxError, match="changed since this trace"):
        maps_of(desk, [0])
