"""What is explained is the network as it is now: changed after loading, hooked, wrapped, in any state that torch knows."""

import copy
import pickle
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from threading import Thread

import accelerate
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import whybox
from conformance.conftest import BUILDERS, Tiny, read
from models import hf_models, hf_versions, instance_models, open_clip_models, small_yolo
from models.detectors import detector as shared_detector
from models.detectors import image as picture

FAMILIES = sorted(name for name in BUILDERS if not name.startswith("guide_"))
IMAGE = picture(seed=3, height=96, width=128)


def detector(name):
    """A detector that no other test has touched."""
    return copy.deepcopy(shared_detector(name))


def fresh(family):
    """A model that no other test has touched."""
    model = BUILDERS[family]()
    if family.startswith("torchvision"):
        return whybox.load(copy.deepcopy(model.network))
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
            return model.predict(IMAGE[None])[0].scores.flatten().sort(descending=True).values
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
            output = net(**inputs)
            masks = "masks_queries_logits" in output
            scores = instance_models.own_scores(output) if masks else output.logits[0].softmax(-1)[:, :-1]
        elif isinstance(net, small_yolo.BaseModel):
            scores = net(IMAGE[None])[0][0, 4:]
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
    "hf_detection": "model.encoder.layers.0.final_layer_norm",
    "hf_instances": "class_predictor",
    "hf_image_text": "vision_model.encoder.layers.2.mlp.fc1",
    "hf_classification": "vit.layernorm",
    "hf_prompted": "owlvit.vision_model.encoder.layers.2.mlp.fc1",
    "open_clip": "visual.transformer.resblocks.1.mlp.c_fc",
    "plain": "neck.1",
    "ultralytics": "model.1.0",
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
    weights = list(model.network.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.mul_(1.01)
    with pytest.raises(whybox.WhyboxError, match="has changed since this trace was made"):
        whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)
    trace = whybox.trace(model, IMAGE)
    for weight in weights:
        weight.data.mul_(1.01)  # unseen by torch's version counter
    with pytest.raises(whybox.WhyboxError, match="has changed since this trace was made"):
        whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)
    trace = whybox.trace(model, IMAGE)
    whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)


class Scaled(nn.Module):
    """A part, its output times numbers that are no weights."""

    def __init__(self, part):
        super().__init__()
        self.part = part
        self.factor, self.factors, self.named = 1.0, [1.0], {"factor": 1.0}
        self.tensor = torch.tensor(1.0)
        self.rule = lambda values: values * 1.0

    def __getattr__(self, name):
        # torchvision and transformers ask their layers for weights and widths.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, *args, **options):
        output = self.part(*args, **options)
        return self.rule(output * self.factor * self.factors[0] * self.named["factor"] * self.tensor)


def scaled(model, family):
    # Before a norm, a factor would change nothing.
    last = {"torchvision_onestage": "head.classification_head.cls_logits", "hf_detection": "class_labels_classifier"}
    path = {**HOOKED, **last}[family]
    part = Scaled(model.network.get_submodule(path))
    parent, _, name = path.rpartition(".")
    setattr(model.network.get_submodule(parent), name, part)
    return part


STRENGTH = {"hook": 1.0}


def hook_of_a_file(module, args, output):
    return output * STRENGTH["hook"]


def hook_with(strength):
    return lambda module, args, output: output * strength["hook"]


def on_all_modules(part):
    return nn.modules.module.register_module_forward_hook(lambda module, *_: _[-1] * 3.0 if module is part else None)


def half_enlarged(part):
    part.weight.detach().numpy()[::2] *= 1000.0


UNSEEN = {
    "a number": lambda part, strength: setattr(part, "factor", 3.0),
    "a list's number": lambda part, strength: part.factors.__setitem__(0, 3.0),
    "a dictionary's number": lambda part, strength: part.named.__setitem__("factor", 3.0),
    "a plain tensor": lambda part, strength: setattr(part, "tensor", torch.tensor(3.0)),
    "a plain tensor in place": lambda part, strength: part.tensor.numpy().fill(3.0),
    "a function": lambda part, strength: setattr(part, "rule", lambda values: values * 3.0),
    "a part of the same type": lambda part, strength: setattr(part, "part", nn.Sequential(part.part)),
    "what a hook reads around it": lambda part, strength: strength.__setitem__("hook", 3.0),
    "what a hook reads of its file": lambda part, strength: STRENGTH.__setitem__("hook", 3.0),
    "a hook on all modules": lambda part, strength: on_all_modules(part),
    "half of the weights, by NumPy": lambda part, strength: half_enlarged(part.part),
}


WEIGHTS = "half of the weights, by NumPy"
WITHOUT_WEIGHTS = ("plain", "torchvision_twostage")
"""Families whose wrapped part has no weights, or none that the features of this random network reach."""
CASES = [(family, change) for family in FAMILIES for change in UNSEEN if change != WEIGHTS or family not in WITHOUT_WEIGHTS]


@pytest.mark.parametrize(("family", "change"), CASES)
def test_no_change_of_the_network_leaves_an_old_trace_or_old_texts(family, change):
    model, strength = fresh(family), {"hook": 1.0}
    part = scaled(model, family)
    part.register_forward_hook(hook_with(strength))
    part.register_forward_hook(hook_of_a_file)
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    trace = whybox.trace(model, IMAGE)
    handle = None
    try:
        handle = UNSEEN[change](part, strength)
        if change == "a part of the same type":
            # Nothing is computed otherwise: the old trace is as good as a new one.
            assert torch.equal(
                whybox.explain(model, trace, **options).maps.values, whybox.explain(model, IMAGE, **options).maps.values
            )
            return
        with pytest.raises(whybox.WhyboxError, match="has changed since this trace was made"):
            whybox.explain(model, trace, **options)
    finally:
        STRENGTH["hook"] = 1.0
        if handle is not None:
            handle.remove()


def test_the_slope_of_a_replaced_activation_is_seen():
    model = fresh("plain")
    model.network.neck[1] = nn.LeakyReLU(0.1)
    trace = whybox.trace(model, IMAGE)
    model.network.neck[1] = nn.LeakyReLU(0.9)
    with pytest.raises(whybox.WhyboxError, match="has changed since this trace was made"):
        whybox.explain(model, trace, score_threshold=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_forward_pass_notes_by_itself_is_no_change(family):
    model = fresh(family)
    part = scaled(model, family)
    part.calls, part.cache = 0, {}

    def count(module, args, output):
        module.calls += 1
        module.cache[module.calls] = output.shape

    part.register_forward_hook(count)
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    trace = whybox.trace(model, IMAGE)
    given = whybox.explain(model, trace, **options)
    assert torch.allclose(given.maps.values, whybox.explain(model, IMAGE, **options).maps.values, atol=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # PEFT reads it
@pytest.mark.parametrize("family", ["hf_image_text", "open_clip"])
def test_texts_are_encoded_anew_where_an_adapter_is_switched(family):
    model = fresh(family)
    targets = ["fc1"] if family == "hf_image_text" else ["c_fc"]
    wrapped = peft.get_peft_model(
        model.network, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False), adapter_name="one"
    )
    wrapped.add_adapter("two", peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    wrapped.eval()
    model = model.prompt(list(model.classes))
    seen = [model.trace(IMAGE).candidates.scores]
    with wrapped.disable_adapter():
        seen.append(model.trace(IMAGE).candidates.scores)
        assert torch.allclose(seen[-1], model.prompt(list(model.classes)).trace(IMAGE).candidates.scores, atol=1e-6)
    wrapped.set_adapter("two")
    seen.append(model.trace(IMAGE).candidates.scores)
    assert torch.allclose(seen[-1], model.prompt(list(model.classes)).trace(IMAGE).candidates.scores, atol=1e-6)
    for part in model.network.modules():
        if hasattr(part, "scaling"):
            part.scaling["two"] *= 3
    seen.append(model.trace(IMAGE).candidates.scores)
    assert torch.allclose(seen[-1], model.prompt(list(model.classes)).trace(IMAGE).candidates.scores, atol=1e-6)
    assert all(not torch.allclose(a, b, atol=1e-5) for i, a in enumerate(seen) for b in seen[:i])


@pytest.mark.parametrize("family", FAMILIES)
def test_eight_threads_give_what_one_gives(family):
    model = fresh(family)
    model.network.train()
    for weight in model.network.parameters():
        weight.requires_grad_(True)
    modes = [part.training for part in model.network.modules()]
    images = [picture(seed=i, height=96, width=128) for i in range(8)]
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    alone = [whybox.explain(model, image, **options) for image in images]
    together = [None] * 8

    def work(i):
        together[i] = whybox.explain(model, images[i], **options)

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


WIDE_MASKS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "hf_image_text" and not hf_versions.NEW, reason="this transformers overflows in its own masks of CLIP's texts"
        ),
    )
    for name in FAMILIES
]


@pytest.mark.parametrize("family", WIDE_MASKS)
def test_inside_autocast_and_under_another_default_dtype(family):
    model = fresh(family)
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    plain = whybox.explain(model, IMAGE, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = whybox.explain(model, IMAGE, **options)
    assert torch.allclose(plain.maps.values, inside.maps.values, atol=1e-6)
    try:
        for dtype in (torch.float64, torch.bfloat16):
            torch.set_default_dtype(dtype)
            inside = whybox.explain(model, IMAGE, **options)
            # open_clip's own preprocessing makes images in the default dtype.
            near = 2e-2 if family == "open_clip" and dtype == torch.bfloat16 else 1e-4
            assert torch.allclose(plain.maps.values.float(), inside.maps.values.float(), atol=near)
            assert torch.allclose(plain.detections.scores.float(), inside.detections.scores.float(), atol=near)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("family", WIDE_MASKS)
def test_a_network_in_double_precision(family):
    model = fresh(family)
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    single = whybox.explain(model, IMAGE, **options)
    model.network.double()
    double = whybox.explain(model, IMAGE, **options)
    assert torch.allclose(single.detections.scores.float(), double.detections.scores.float(), atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_pickled_copied_and_put_in_sets(family):
    model = fresh(family)
    trace = whybox.trace(model, IMAGE)
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    result = whybox.explain(model, trace, **options)
    for thing in (trace, trace.candidates, result, result.detections, result.maps, *trace.features):
        again = pickle.loads(pickle.dumps(thing))
        assert type(again) is type(thing)
        assert thing != again
        assert len({thing, thing, again, copy.deepcopy(thing), copy.copy(thing)}) == 4
    loaded = whybox.explain(model, pickle.loads(pickle.dumps(trace)), **options)
    assert torch.allclose(loaded.maps.values, result.maps.values, atol=1e-6)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight.mul_(1.1)
    with pytest.raises(whybox.WhyboxError, match="another"):
        whybox.explain(model, pickle.loads(pickle.dumps(trace)), **options)


# Adapters, replaced and derived parts


def adapted(network, targets):
    """PEFT's LoRA in the network, with weights that matter."""
    peft.inject_adapter_in_model(peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False), network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.5)
    return network.eval()


def scores_of_clip(model):
    """Cosines by the library's own calls."""
    net = model.network
    pixels, _ = model.image_encoder.prepare(IMAGE[None])
    with torch.no_grad():
        if hasattr(net, "encode_image"):
            image, words = net.encode_image(pixels), net.encode_text(open_clip_models.tokenizer()(list(model.classes)))
        else:
            words = model.text_encoder.tokenize(list(model.classes), False).inputs
            image, words = net.get_image_features(pixel_values=pixels), net.get_text_features(**words)
    image, words = (part[0] if isinstance(part, tuple) else getattr(part, "pooler_output", part) for part in (image, words))
    return (nn.functional.normalize(image, dim=-1) @ nn.functional.normalize(words, dim=-1).T)[0]


def clip_by_name(name):
    if name == "open_clip":
        return fresh("open_clip")
    torch.manual_seed(0)
    net = hf_models.stirred(hf_models.IMAGE_TEXT[name]())
    return whybox.load(net, tokenizer=hf_models.tokenizer()).prompt(["a red ball", "a tree", "a big blue dog"])


TARGETS = {"clip": ["q_proj", "v_proj"], "siglip": ["q_proj", "v_proj"], "open_clip": ["attn"]}


@pytest.mark.parametrize("name", TARGETS)
def test_adapters_injected_after_a_first_look_are_part_of_the_network(name):
    model = clip_by_name(name)
    before = whybox.explain(model, IMAGE).detections.scores
    adapted(model.network, TARGETS[name])
    expected = scores_of_clip(model)
    assert not torch.allclose(expected, before, atol=1e-3)
    trace = whybox.trace(model, IMAGE)
    assert torch.allclose(trace.candidates.scores[0], expected, atol=1e-5)
    odam = whybox.explain(model, trace, method="odam")
    assert torch.allclose(odam.detections.scores, expected, atol=1e-5)
    assert torch.allclose(torch.stack(odam.maps.native), odam_by_hooks(model), atol=1e-6, rtol=1e-3)
    if name != "open_clip":
        whybox.explain(model, trace, method="grad_eclip")
        whybox.explain(model, trace, method="game")
        whybox.explain(model, trace, method="rollout")
    else:  # PEFT merges its weights into nn.MultiheadAttention's only inside its forward
        with pytest.raises(whybox.WhyboxError, match="cannot be run by itself"):
            whybox.explain(model, trace, method="grad_eclip")


def odam_by_hooks(model):
    """ODAM at the last norm before attention, by hooks on the network's own forward pass."""
    encoder, seen = model.image_encoder, []
    pixels, frame = encoder.prepare(IMAGE[None])
    norm = encoder.transformer.layers[-1].normalize
    handle = norm.register_forward_hook(lambda part, args, output: seen.append(output))
    for weight in model.network.parameters():
        weight.requires_grad_(True)
    image = nn.functional.normalize(encoder.embed(pixels), dim=-1)
    handle.remove()
    words = nn.functional.normalize(model.prompt_embeddings(), dim=-1)
    height, width = encoder.grid(frame.network)
    maps = []
    for score in (image @ words.T)[0]:
        gradient = torch.autograd.grad(score, seen[0], retain_graph=True)[0]
        products = (gradient * seen[0]).sum(-1).relu()
        maps.append(products.flatten()[-height * width :].reshape(height, width).detach())
    return torch.stack(maps)


class Dimmed(nn.Module):
    """A block around another."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args, **kwargs):
        output = self.inner(*args, **kwargs)
        return output * 0.9 if isinstance(output, torch.Tensor) else (output[0] * 0.9, *output[1:])


@pytest.mark.parametrize("place", [0, -1])
def test_a_replaced_block_is_explained_as_it_is(place):
    model = clip_by_name("clip")
    whybox.explain(model, IMAGE)
    blocks = model.network.vision_model.encoder.layers
    blocks[place] = Dimmed(blocks[place])
    expected = scores_of_clip(model)
    result = whybox.explain(model, IMAGE, method="odam", layer="tokens")
    assert torch.allclose(result.detections.scores, expected, atol=1e-5)
    for method in ("grad_eclip", "game"):
        whole = place == 0 and method == "grad_eclip"  # it needs the last block alone
        with nullcontext() if whole else pytest.raises(whybox.WhyboxError, match=r"^[^\n]*Dimmed, whose attention[^\n]*$"):
            assert torch.allclose(whybox.explain(model, IMAGE, method=method).detections.scores, expected, atol=1e-5)


def test_a_replaced_head_is_run_on_every_route():
    model = whybox.load(detector("fcos_resnet50_fpn"))
    whybox.explain(model, IMAGE, score_threshold=0.0, top=2)
    head = model.network.head.classification_head
    head.conv = nn.Sequential(nn.Conv2d(256, 256, 1), nn.Tanh())
    for route in ("auto", "fast", "exact"):
        result = whybox.explain(model, IMAGE, score_threshold=0.0, top=2, route=route)
        assert torch.allclose(result.detections.scores, own_scores(model)[:2], atol=1e-5)
    auto, exact = (
        whybox.explain(model, IMAGE, score_threshold=0.0, top=4, route=route).maps.values for route in ("auto", "exact")
    )
    assert torch.allclose(auto, exact, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn"]
)
def test_hooks_inside_a_head_are_seen_by_every_route(name):
    model = whybox.load(detector(name))
    path = {"fas": "roi_heads.box_head.fc7", "ssd": "head.classification_head.module_list.0.0.0"}.get(
        name[:3], "head.classification_head.conv.0.0" if "retina" in name else "head.classification_head.conv.0"
    )
    model.network.get_submodule(path).register_forward_hook(halve)
    auto, exact = (whybox.explain(model, IMAGE, score_threshold=0.0, top=6, route=route) for route in ("auto", "exact"))
    assert torch.allclose(auto.detections.scores, exact.detections.scores)
    for ours, theirs in zip(auto.maps.native, exact.maps.native, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3 * float(theirs.abs().max()) + 1e-12)


def of_class(network, base, **methods):
    """The same module, its class derived from its own with other methods."""
    network.__class__ = type(f"Own{base.__name__}", (base,), methods)
    return network


def test_a_derived_detector_that_changes_the_forward_pass_is_refused_in_one_line():
    net = detector("fcos_resnet50_fpn")
    base = type(net)

    def fewer(self, images, targets=None):
        return [{key: value[:1] for key, value in output.items()} for output in base.forward(self, images, targets)]

    model = whybox.load(of_class(net, base, forward=fewer))
    with pytest.raises(whybox.WhyboxError, match="does not work as torchvision's own does") as caught:
        whybox.explain(model, IMAGE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fcos_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"])
def test_a_derived_detector_that_only_prepares_its_images_is_called_as_it_is(name):
    net = detector(name)
    base = type(net)
    dim = lambda self, images, targets=None: base.forward(self, [image * 0.5 for image in images], targets)
    model = whybox.load(of_class(net, base, forward=dim))
    result = whybox.explain(model, IMAGE, score_threshold=0.0, top=3)
    assert torch.allclose(result.detections.scores, own_scores(model)[:3], atol=1e-5)
    assert torch.allclose(model.predict(IMAGE[None])[0].scores, whybox.trace(model, IMAGE).candidates.scores, atol=1e-5)


def test_a_hook_on_the_whole_detector_acts():
    model = whybox.load(detector("fcos_resnet50_fpn"))
    model.network.register_forward_pre_hook(lambda part, args: ([image.flip(0) for image in args[0]],))
    result = whybox.explain(model, IMAGE, score_threshold=0.0, top=3)
    assert torch.allclose(result.detections.scores, own_scores(model)[:3], atol=1e-5)


def test_a_derived_pooling_of_regions_is_run_on_every_route():
    model = whybox.load(detector("fasterrcnn_mobilenet_v3_large_fpn"))
    pool = model.network.roi_heads.box_roi_pool
    base = type(pool)
    of_class(pool, base, forward=lambda self, *args: base.forward(self, *args).flip(-1))
    auto, exact = (whybox.explain(model, IMAGE, score_threshold=0.0, top=3, route=route) for route in ("auto", "exact"))
    assert torch.allclose(auto.detections.scores, own_scores(model)[:3], atol=1e-5)
    assert torch.allclose(auto.maps.values, exact.maps.values, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, torch.optim.swa_utils.AveragedModel])
def test_wrappers_are_taken_off(wrap):
    net = detector("fcos_resnet50_fpn")
    assert type(whybox.load(wrap(net)).network) is type(net)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own
def test_a_peft_model_is_explained_with_its_adapters():
    plain = clip_by_name("clip")
    wrapped = peft.get_peft_model(
        plain.network, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.5)
    model = whybox.load(wrapped.eval(), tokenizer=hf_models.tokenizer()).prompt(list(plain.classes))
    result = whybox.explain(model, IMAGE)
    assert torch.allclose(result.detections.scores, scores_of_clip(model), atol=1e-5)


# States of torch


def test_open_clip_with_gradient_checkpointing_on():
    model = fresh("open_clip")
    expected = {
        layer: whybox.explain(model, IMAGE, method="odam", layer=layer).maps.values for layer in ("input", "visual.ln_pre")
    }
    model.network.set_grad_checkpointing(True)
    for layer, maps in expected.items():
        assert torch.allclose(whybox.explain(model, IMAGE, method="odam", layer=layer).maps.values, maps, atol=1e-6)
    whybox.explain(model, IMAGE, method="smoothgrad", samples=2)
    assert model.network.visual.transformer.grad_checkpointing


def test_open_clip_with_output_tokens():
    model = fresh("open_clip")
    expected = whybox.explain(model, IMAGE)
    model.network.visual.output_tokens = True
    result = whybox.explain(model, IMAGE)
    assert torch.allclose(result.detections.scores, expected.detections.scores)
    assert torch.allclose(result.maps.values, expected.maps.values)


@pytest.mark.parametrize("family", ["torchvision_onestage", "hf_image_text", "plain", "hf_detection"])
def test_offloaded_weights(family):
    model = fresh(family)
    options = {"text": texts_of(model), "score_threshold": 0.0, "top": 2}
    expected = whybox.explain(model, IMAGE, **options)
    accelerate.cpu_offload(model.network, execution_device=torch.device("cpu"))
    assert all(weight.device.type == "meta" for weight in model.network.parameters())
    # CLIP's logit scale is read outside a forward pass, and transformers' DETR itself reads a weight's device there.
    refused = family.startswith("hf_")
    with pytest.raises(whybox.WhyboxError, match="offloaded") if refused else nullcontext():
        result = whybox.explain(model, IMAGE, **options)
        assert torch.allclose(result.detections.scores, expected.detections.scores, atol=1e-5)
        assert torch.allclose(result.maps.values, expected.maps.values, atol=1e-5)


@dataclass(frozen=True)
class Output:
    raw: torch.Tensor
    extra: str = "kept"


class InDataclass(Tiny):
    """The features and the output are dataclasses."""

    class Neck(nn.Sequential):
        def forward(self, images):
            return Output(super().forward(images))

    def __init__(self):
        super().__init__()
        self.neck = self.Neck(*self.neck)

    def forward(self, images):
        return Output(self.head(self.neck(images).raw))


@pytest.mark.parametrize("route", ["auto", "exact"])
def test_outputs_that_are_dataclasses(route):
    torch.manual_seed(0)
    bare = Tiny()
    torch.manual_seed(0)
    net = InDataclass()
    options = {"features": ["neck"], "size": (96, 128), "score_threshold": 0.3}
    expected = whybox.explain(whybox.load(bare, candidates=read, **options), IMAGE, route=route)
    result = whybox.explain(whybox.load(net, candidates=lambda output: read(output.raw), **options), IMAGE, route=route)
    assert torch.allclose(result.maps.values, expected.maps.values, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_networks_of_other_channels(channels):
    torch.manual_seed(0)
    net = Tiny()
    net.neck[0] = nn.Conv2d(channels, 16, 3, stride=8, padding=1)
    image = torch.rand(channels, 96, 128)
    options = {"candidates": read, "features": ["neck.0"], "size": (96, 128), "score_threshold": 0.3}
    model = whybox.load(net, mean=[0.5] * channels, std=[0.25] * channels, **options)
    result = whybox.explain(model, image)
    scores = read(net((image[None] - 0.5) / 0.25))[1]
    assert torch.allclose(whybox.trace(model, image).candidates.scores, scores, atol=1e-5)
    assert result.image.shape == (3, 96, 128)
    whybox.explain(model, image, method="drise", masks=8)
    whybox.explain(whybox.load(net, **options), image)
    if channels == 1:
        grey = whybox.explain(model, IMAGE)
        assert grey.maps.values.shape[1:] == (12, 16)
    else:
        with pytest.raises(whybox.WhyboxError, match=f"takes images of {channels} channels"):
            whybox.explain(model, IMAGE)


@pytest.mark.parametrize("block", [2, 4])
@pytest.mark.parametrize("channels", [None, 3])
def test_pixels_in_blocks_before_the_first_convolution(block, channels):
    """YOLOX's Focus: the first convolution takes 12 channels, and the images have three."""
    torch.manual_seed(0)
    net = Tiny()
    first = nn.Conv2d(3 * block**2, 16, 3, stride=8 // block, padding=1)
    net.neck[0] = nn.Sequential(nn.PixelUnshuffle(block), first)
    options = {"candidates": read, "features": ["neck.0"], "size": (96, 128), "score_threshold": 0.3}
    model = whybox.load(net, channels=channels, **options)
    assert model.channels == 3
    image = torch.rand(3, 96, 128)
    assert torch.allclose(whybox.trace(model, image).candidates.scores, read(net(image[None]))[1], atol=1e-5)
    assert len(whybox.explain(model, IMAGE)) > 0
    with pytest.raises(whybox.WhyboxError, match="say 5 channels, and the network's first convolution takes"):
        whybox.load(net, channels=5, **options)


def test_a_torchvision_detector_of_one_channel():
    net = detector("fcos_resnet50_fpn")
    net.transform.image_mean, net.transform.image_std = [0.5], [0.25]
    first = net.backbone.body.conv1
    net.backbone.body.conv1 = nn.Conv2d(1, first.out_channels, 7, stride=2, padding=3, bias=False)
    image = torch.rand(1, 96, 128)
    model = whybox.load(net)
    scores = net.eval()([image])[0]["scores"]
    result = whybox.explain(model, image, score_threshold=0.0, top=3)
    assert torch.allclose(result.detections.scores, scores[:3], atol=1e-5)


class Flipped(Tiny):
    """Test-time augmentation: the image and its mirror image."""

    def forward(self, images):
        return (super().forward(images) + super().forward(images.flip(-1)).flip(-1)) / 2


def test_a_layer_that_runs_twice_on_one_size_is_refused():
    torch.manual_seed(0)
    model = whybox.load(Flipped(), candidates=read, features=["neck.0"], size=(96, 128), score_threshold=0.3)
    with pytest.raises(whybox.WhyboxError, match="runs 2 times in one pass"):
        whybox.explain(model, IMAGE)


# Names, texts


def test_names_are_those_of_the_columns_whatever_the_order_of_the_keys():
    torch.manual_seed(0)
    net = hf_models.stirred(hf_models.vit())
    net.config.id2label = {"3": "three", "0": "zero", "4": "four", "1": "one", "2": "two"}
    assert list(whybox.load(net).classes) == ["zero", "one", "two", "three", "four"]
    net.config.id2label = {i + 1: name for i, name in enumerate("abcde")}
    assert list(whybox.load(net).classes) == list("abcde")
    net.config.id2label = {0: "zero", 3: "three"}
    assert list(whybox.load(net).classes) == ["zero", "class 1", "class 2", "three", "class 4"]
    model = fresh("hf_detection")
    model.network.config.id2label = {str(i): f"name {i}" for i in (10, 2, 0, 1, 3)}
    assert list(whybox.load(model.network).classes) == ["name 0", "name 1", "name 2", "name 3"]


@pytest.mark.parametrize("family", ["hf_image_text", "open_clip"])
def test_an_embedding_is_a_text(family):
    model = fresh(family)
    written = model.embed_texts(["a red ball", "a tree"])
    ensemble = written.mean(0) * 7
    expected = whybox.explain(model, IMAGE, text=["a red ball", "a tree"])
    result = whybox.explain(model, IMAGE, text=written)
    assert result.names == ("embedding 1", "embedding 2")
    assert torch.allclose(result.maps.values, expected.maps.values, atol=1e-6)
    mixed = whybox.explain(model, IMAGE, text=["a tree", ensemble])
    assert torch.allclose(mixed.maps.values[0], expected.maps.values[1], atol=1e-6)
    assert whybox.explain(model, IMAGE, text={"balls": ensemble, "trees": "a tree"}).names == ("balls", "a tree")
    assert len(whybox.explain(model, IMAGE, text=ensemble, method="clip_surgery", layers=1)) == 1
    other = model.trace(picture(seed=9)).embedding[0]
    assert len(whybox.explain(model, IMAGE, text=other, single_words=True)) == 1
    for text, message in (
        (ensemble[:-1], "embeddings of"),
        (torch.zeros_like(ensemble), "is zero"),
        (ensemble.long(), "must be floats"),
        (ensemble[None, None], "must be floats"),
    ):
        with pytest.raises(whybox.WhyboxError, match=message):
            whybox.explain(model, IMAGE, text=text)
    with pytest.raises(whybox.WhyboxError, match="no words to explain"):
        whybox.explain(model, IMAGE, text=ensemble, words=True)
    again = pickle.loads(pickle.dumps(model.prompt(["a tree"])))
    assert again.classes == ["a tree"]


# Anything, anywhere


@cache
def shared(family):
    return fresh(family)


def own_embedding_scores(model):
    return scores_of_clip(model) if model.takes_text and model.whole_image else own_scores(model)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), factor=st.sampled_from([0.5, -1.0, 3.0]), way=st.sampled_from(["hook", "pre-hook", "replace"]))
@pytest.mark.parametrize("family", FAMILIES)
def test_whatever_changes_the_scores_are_the_networks_own(family, data, factor, way):
    """A random module is hooked, or wrapped in another, after loading: scores, and those beside the maps, are the network's."""
    model = shared(family)
    paths = sorted(
        path for path, part in model.network.named_modules() if path and isinstance(part, (nn.Conv2d, nn.Linear, nn.LayerNorm))
    )
    path = data.draw(st.sampled_from(paths))
    part = model.network.get_submodule(path)
    parent, _, name = path.rpartition(".")
    scale = lambda value: value * factor if isinstance(value, torch.Tensor) else value
    if way == "hook":
        undo = part.register_forward_hook(lambda module, args, output: scale(output)).remove
    elif way == "pre-hook":
        undo = part.register_forward_pre_hook(lambda module, args: tuple(map(scale, args))).remove
    else:
        holder = model.network.get_submodule(parent)
        wrapped = copy.deepcopy(part)
        with torch.no_grad():
            wrapped.weight.mul_(factor)
        setattr(holder, name, wrapped)
        undo = lambda: setattr(holder, name, part)
    try:
        expected = own_embedding_scores(model)
        trace = whybox.trace(model, IMAGE)
        found = ours(model)
        assert torch.allclose(found[: len(expected)], expected[: len(found)], atol=1e-4)
        try:
            whybox.explain(model, trace, text=texts_of(model), score_threshold=0.0, top=1)
        except whybox.WhyboxError as error:
            assert "\n" not in str(error)  # noqa: PT017
    finally:
        undo()


# Which layer


class Stages(nn.Module):
    """A backbone of two stages in series, and a head that reads the second, and a little of the first."""

    def __init__(self, share):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 7, 1)
        self.share = share

    def forward(self, images):
        low = self.first(images)
        high = self.second(low)
        return self.head(high + self.share * nn.functional.avg_pool2d(low, 2))


@pytest.mark.parametrize(("share", "expected"), [(0.0, "second"), (1e-4, "second"), (100.0, "first")])
@pytest.mark.parametrize("route", ["auto", "exact"])
def test_of_maps_in_series_the_one_that_the_head_reads_is_explained(share, expected, route):
    torch.manual_seed(0)
    model = whybox.load(Stages(share), candidates=read, features=["first", "second"], size=(96, 128), score_threshold=0.3)
    result = whybox.explain(model, IMAGE, route=route, top=3)
    assert set(result.maps.layers) == {expected}


def test_levels_beside_other_maps_are_refused():
    class TwoLevels(Stages):
        def forward(self, images):
            high = self.second(self.first(images))
            return self.head(high), self.head(nn.functional.avg_pool2d(high, 2))

    def levels(output):
        parts = [read(part) for part in output]
        level = torch.cat([torch.full((len(scores),), i) for i, (_, scores) in enumerate(parts)])
        return torch.cat([boxes for boxes, _ in parts]), torch.cat([scores for _, scores in parts]), level

    options = {"candidates": levels, "size": (96, 128)}
    with pytest.raises(whybox.WhyboxError, match=r"level 0 has 48 rows, and 'first' has 192 cells"):
        whybox.explain(whybox.load(TwoLevels(0), features=["first", "second"], **options), IMAGE)
    with pytest.raises(whybox.WhyboxError, match="level runs from 0 to 1, of 1 feature maps"):
        whybox.explain(whybox.load(TwoLevels(0), features=["second"], **options), IMAGE)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_explained_layer_is_named_in_the_result_and_kept(family, tmp_path):
    model = fresh(family)
    result = whybox.explain(model, IMAGE, text=texts_of(model), score_threshold=0.0, top=2, method="odam")
    assert len(result.maps.layers) == 2
    assert all(result.maps.layers)
    result.save(tmp_path / "kept")
    assert whybox.Explanation.load(tmp_path / "kept").maps.layers == result.maps.layers
    assert result[1].maps.layers == result.maps.layers[1:]
