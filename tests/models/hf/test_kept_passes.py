"""Question after question about one image takes one pass, and gives what a model that was never asked gives."""

import pytest
import torch

import whybox
from models import instance_models
from models.hf_versions import needs
from models.prompted_models import TEXTS, prompted_pair
from whybox.ops.kept_pass import KeptPass, keeping

transformers = pytest.importorskip("transformers")

FAMILIES = ["mask2former", "owlvit", pytest.param("grounding_dino", marks=needs("grounding_dino"))]
every_family = pytest.mark.parametrize("family", FAMILIES)


def image(seed=1):
    return torch.rand((3, 50, 77), generator=torch.Generator().manual_seed(seed))


def fresh(family):
    if family == "mask2former":
        net, processor = instance_models.network(family), instance_models.processor(family, (64, 96))
        return whybox.load(net, processor=processor, score_threshold=0.0)
    net, processor = prompted_pair(family)
    return whybox.load(net, processor=processor).prompt(TEXTS)


def ask(model, trace, row, target="score", method="odam"):
    detections = model.unsuppressed(trace)[[row]]
    return whybox.explain(model, trace, detections=detections, target=target, method=method).maps.values


@every_family
def test_further_questions_take_no_pass_and_get_the_same_maps(family, monkeypatch):
    model, made = fresh(family), []
    forward = type(model)._forward
    # Not a hook on the network, which would be a change of it.
    monkeypatch.setattr(type(model), "_forward", lambda *given: made.append(1) or forward(*given))
    trace = model.trace(image())
    with keeping(KeptPass()):
        ask(model, trace, 0)
        assert len(made) == 2
        maps = [ask(model, trace, 1), ask(model, trace, 1, "logit", "gradcam"), ask(model, trace, 0)]
        if "masks" in model.gives:
            maps.append(ask(model, trace, 1, "mask"))
        assert len(made) == 2
    alone = fresh(family)
    other = alone.trace(image())
    assert torch.equal(maps[0], ask(alone, other, 1))
    assert torch.equal(maps[1], ask(alone, other, 1, "logit", "gradcam"))
    assert torch.equal(maps[2], ask(alone, other, 0))
    assert all(values.any() for values in maps)
    if "masks" in model.gives:
        assert torch.equal(maps[3], ask(alone, other, 1, "mask"))


@every_family
def test_another_image_is_another_pass(family):
    model = fresh(family)
    first, second = model.trace(image()), model.trace(image(2))
    expected = ask(model, second, 0)
    with keeping(KeptPass()):
        assert not torch.equal(ask(model, first, 0), expected)
        assert torch.equal(ask(model, second, 0), expected)


@every_family
def test_an_old_pass_does_not_answer_for_a_changed_network(family):
    model = fresh(family)
    trace = model.trace(image())
    before = ask(model, trace, 0)
    with keeping(KeptPass()):
        ask(model, trace, 0)
        with torch.no_grad():
            for weight in model.network.parameters():
                weight.mul_(1.05)
        with pytest.raises(whybox.WhyboxError, match="changed since this trace"):
            ask(model, trace, 0)
        # Not checked by `explain`.
        with pytest.raises(whybox.WhyboxError, match="different candidates"):
            list(model.pullbacks(trace, model.unsuppressed(trace)[[0]], None, "auto"))
        again = model.trace(image())
        assert not torch.equal(ask(model, again, 0), before)


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_other_texts_are_another_pass(family):
    model = fresh(family)
    trace = model.trace(image())
    swapped = model.prompt(TEXTS[::-1])
    expected = ask(swapped, swapped.trace(image()), 0)
    with keeping(KeptPass()):
        ask(model, trace, 0)
        assert torch.equal(ask(swapped, swapped.answer(trace), 0), expected)
        with pytest.raises(whybox.WhyboxError, match="made with other texts"):
            list(swapped.pullbacks(trace, trace.detections[:1], None, "auto"))


def test_a_hook_on_a_gradient_acts_in_the_next_question():
    model = fresh("mask2former")
    trace = model.trace(image())
    with keeping(KeptPass()):
        before = ask(model, trace, 0)
        handle = model.network.class_predictor.register_full_backward_hook(lambda part, given, taken: (2 * given[0],))
        hooked = ask(model, trace, 0, "logit")
        handle.remove()
        assert torch.equal(2 * ask(model, trace, 0, "logit"), hooked)
        assert torch.equal(ask(model, trace, 0), before)
