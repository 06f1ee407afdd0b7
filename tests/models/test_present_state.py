"""What is explained is the network as it is now: changed after loading, hooked, wrapped, in any state that torch knows."""

import copy
import pickle
from threading import Thread

import pytest
import torch
from torch import nn

import whybox
from conformance.conftest import BUILDERS, Tiny
from models import open_clip_models
from models.detectors import image as picture

FAMILIES = sorted(BUILDERS)
IMAGE = picture(seed=3, height=96, width=128)


def fresh(family):
    """A model that no other test has touched."""
    model = BUILDERS[family]()
    if family == "open_clip":  # its small networks are shared by tests
        net = copy.deepcopy(model.network)
        return whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(list(model.classes))
    return model


def texts_of(model):
    return list(model.classes) if model.takes_text else None


def own_scores(model):
    """The network's scores by its own forward pass, called as its user calls it; sorted, because no rows are needed here."""
    net, training = model.network, model.network.training
    net.eval()
    with torch.no_grad():
        if model.takes_text:
            return torch.cat([candidates.scores for candidates in [type(model).predict(model, IMAGE[None])[0]]]).flatten()
        if isinstance(net, Tiny):
            scores = model.read(net(model._input(IMAGE, model._frame(IMAGE))[None]))[1]
        elif hasattr(net, "config"):
            inputs = (
                model.processor(images=[(IMAGE * 255).round().byte().permute(1, 2, 0).numpy()], return_tensors="pt")
                if hasattr(model, "processor")
                else None
            )
            if inputs is None:
                return model.predict(IMAGE[None])[0].scores.flatten()
            scores = net(**inputs).logits[0].softmax(-1)[:, :-1]
        else:
            scores = net([IMAGE])[0]["scores"]
    net.train(training)
    return scores.flatten().sort(descending=True).values


def ours(model):
    trace = model.trace(IMAGE)
    if type(model).__module__.startswith("whybox.models.torchvision"):
        return trace.detections.scores.sort(descending=True).values
    if model.whole_image:
        return trace.candidates.scores.flatten()
    return trace.candidates.scores.flatten().sort(descending=True).values


def clip_cosines(net, tokenizer, texts, processor_pixels):
    image = net.get_image_features(pixel_values=processor_pixels)
    words = net.get_text_features(**tokenizer(texts, return_tensors="pt", padding=True))
    image, words = (part if isinstance(part, torch.Tensor) else part.pooler_output for part in (image, words))
    return nn.functional.normalize(image, dim=-1) @ nn.functional.normalize(words, dim=-1).T


def halve(module, args, output):
    """A hook that changes what a layer gives, whatever its form."""
    if isinstance(output, torch.Tensor):
        mask = torch.ones(output.shape[1 if output.ndim == 4 else -1])
        mask[::2] = 0
        return output * (mask[:, None, None] if output.ndim == 4 else mask)
    return type(output)((output[0] * 0.5, *output[1:])) if isinstance(output, tuple) else output


HOOKED = {
    "torchvision_onestage": "head.classification_head.conv.0",
    "torchvision_twostage": "roi_heads.box_head.fc6",
    "hf_detection": "model.encoder.layers.0",
    "hf_image_text": "vision_model.encoder.layers.2.mlp.fc1",
    "hf_classification": "vit.layernorm",
    "open_clip": "visual.transformer.resblocks.1.mlp.c_fc",
    "plain": "neck.1",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_set_after_loading_act_once(family):
    model = fresh(family)
    before = ours(model)
    handle = model.network.get_submodule(HOOKED[family]).register_forward_hook(halve)
    after = ours(model)
    assert after.shape != before.shape or not torch.allclose(after, before, atol=1e-5)
    if not model.takes_text:
        assert torch.allclose(after, own_scores(model), atol=1e-5)
    assert torch.allclose(model.predict(IMAGE[None])[0].scores, model.trace(IMAGE).candidates.scores, atol=1e-5)
    handle.remove()
    assert torch.allclose(ours(model), before, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_of_changed_weights_is_refused(family):
    model = fresh(family)
    trace = whybox.trace(model, IMAGE)
    weight = next(model.network.parameters())
    with torch.no_grad():
        weight.mul_(1.01)
    with pytest.raises(whybox.WhyboxError, match="has changed since this trace was made"):
        whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)
    trace = whybox.trace(model, IMAGE)
    weight.data.mul_(1.01)  # unseen by torch's version counter
    with pytest.raises(whybox.WhyboxError, match="has changed since this trace was made"):
        whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)
    trace = whybox.trace(model, IMAGE)
    whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_threads_give_what_one_gives(family):
    model = fresh(family)
    model.network.train()
    for weight in model.network.parameters():
        weight.requires_grad_(True)
    modes = [part.training for part in model.network.modules()]
    images = [picture(seed=i, height=96, width=128) for i in range(8)]
    settings = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    alone = [whybox.explain(model, image, **settings) for image in images]
    together = [None] * 8

    def work(i):
        together[i] = whybox.explain(model, images[i], **settings)

    threads = [Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.detections.scores, b.detections.scores)
        assert torch.allclose(a.maps.values, b.maps.values, atol=1e-6)
    assert [part.training for part in model.network.modules()] == modes
    assert all(weight.requires_grad and weight.grad is None for weight in model.network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_inside_autocast_and_under_another_default_dtype(family):
    model = fresh(family)
    settings = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    plain = whybox.explain(model, IMAGE, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = whybox.explain(model, IMAGE, **settings)
    assert torch.allclose(plain.maps.values, inside.maps.values, atol=1e-6)
    try:
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            inside = whybox.explain(model, IMAGE, **settings)
            # open_clip's own preprocessing makes images in the default dtype.
            near = 2e-2 if family == "open_clip" and dtype == torch.bfloat16 else 1e-4
            assert torch.allclose(plain.maps.values.float(), inside.maps.values.float(), atol=near)
            assert torch.allclose(plain.detections.scores.float(), inside.detections.scores.float(), atol=near)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_in_double_precision(family):
    model = fresh(family)
    settings = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    single = whybox.explain(model, IMAGE, **settings)
    model.network.double()
    double = whybox.explain(model, IMAGE, **settings)
    assert torch.allclose(single.detections.scores.float(), double.detections.scores.float(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_pickled_copied_and_put_in_sets(family):
    model = fresh(family)
    trace = whybox.trace(model, IMAGE)
    settings = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    result = whybox.explain(model, trace, **settings)
    for thing in (trace, trace.candidates, result, result.detections, result.maps, *trace.features):
        again = pickle.loads(pickle.dumps(thing))
        assert type(again) is type(thing)
        assert thing != again
        assert len({thing, thing, again, copy.deepcopy(thing), copy.copy(thing)}) == 4
    loaded = whybox.explain(model, pickle.loads(pickle.dumps(trace)), **settings)
    assert torch.allclose(loaded.maps.values, result.maps.values, atol=1e-6)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.mul_(1.1)
    if not model.takes_text:
        with pytest.raises(whybox.WhyboxError, match="another"):
            whybox.explain(model, pickle.loads(pickle.dumps(trace)), **settings)
