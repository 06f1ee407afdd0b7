"""What people put around a network, and the states that they bring it into: each works, with the maps of the network alone, or is
refused in one line that says what to do. For one small network of every family."""

import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import accelerate
import lightning_fabric
import peft
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint

import whybox
from conformance.conftest import Tiny, hugging_face, read
from models import hf_models, instance_models, open_clip_models, prompted_models
from models.detectors import image as picture
from models.hf_versions import on_torchvision
from models.small_yolo import BaseModel as SmallYolo
from whybox import api
from whybox.errors import WhyboxError
from whybox.models import _whole_image
from whybox.zoo.compact_faster_rcnn import compact_faster_rcnn
from whybox.zoo.compact_fcos import compact_fcos

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch moves quantization to another package, and scripting
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # FSDP's own
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # PEFT reads it
    pytest.mark.filterwarnings("ignore:FSDP is switching to use"),
    pytest.mark.filterwarnings("ignore:quantized..linear_dynamic"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max"),
]

IMAGE = picture(seed=3, height=64, width=96)
TEXTS = ["a red ball", "a tree"]


@dataclass(frozen=True)
class Family:
    """How its small network is made and loaded; a layer that a classifier is fine-tuned with; texts."""

    make: Any
    last: str
    options: dict[str, Any] = field(default_factory=dict)
    texts: Any = None
    target: str = "score"


def torchvisions(build):
    torch.manual_seed(0)
    network = build(4, widths=(8, 8, 8, 8), channels=32, min_size=64, max_size=96, score_thresh=0.0)
    for weight in network.parameters():
        if weight.ndim > 1:
            nn.init.kaiming_normal_(weight)
    if hasattr(network, "roi_heads"):
        nn.init.normal_(network.roi_heads.box_predictor.cls_score.weight, std=0.1)
    return network.eval()


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


AS_PLAIN = {"candidates": read, "features": ["neck.0"], "size": (96, 128), "score_threshold": 0.0}
SMALL = on_torchvision("DetrImageProcessor")(size={"shortest_edge": 64, "longest_edge": 96})
FAMILIES = {
    "torchvision_onestage": Family(lambda: torchvisions(compact_fcos), "head.classification_head.cls_logits"),
    "torchvision_twostage": Family(lambda: torchvisions(compact_faster_rcnn), "roi_heads.box_predictor.cls_score"),
    "plain": Family(lambda: seeded(Tiny), "head", AS_PLAIN),
    "ultralytics": Family(lambda: SmallYolo().eval(), "model.3.cv3.0"),
    # With random weights its scores are nearly uniform, and their gradient is rounding in half precision.
    "hf_detection": Family(lambda: hugging_face().network, "class_labels_classifier", {"processor": SMALL}, target="logit"),
    "hf_instances": Family(
        lambda: instance_models.network("mask2former"),
        "class_predictor",
        {"processor": instance_models.processor("mask2former", (64, 96))},
        target="logit",
    ),
    "hf_prompted": Family(
        lambda: prompted_models.prompted_pair("owlvit")[0],
        "class_head.dense0",
        {"processor": prompted_models.prompted_pair("owlvit")[1]},
        TEXTS,
        target="logit",
    ),
    "hf_classification": Family(lambda: seeded(lambda: hf_models.stirred(hf_models.vit())), "classifier"),
    "hf_image_text": Family(
        lambda: seeded(lambda: hf_models.stirred(hf_models.clip())),
        "visual_projection",
        {"tokenizer": hf_models.tokenizer()},
        TEXTS,
    ),
    "open_clip": Family(
        lambda: open_clip_models.network("native"),
        "visual.transformer.resblocks.1.mlp.c_proj",
        {"tokenizer": open_clip_models.tokenizer()},
        TEXTS,
    ),
}


@pytest.fixture(autouse=True)
def without_vocabularies(monkeypatch):
    """CLIP's vocabulary takes a second to be described in a model's settings, which no test here reads."""
    monkeypatch.setattr(_whole_image, "_in_words", lambda value: type(value).__name__)


every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def original(name):
    return FAMILIES[name].make()


def network(name):
    """A network that no other test has touched."""
    return copy.deepcopy(original(name))


def loaded(name, module):
    family = FAMILIES[name]
    model = whybox.load(module, **family.options)
    return model if family.texts is None else model.prompt(family.texts)


@cache
def alone(name):
    """The explanation of the network with nothing around it: of two detections, or of the texts."""
    return whybox.explain(
        loaded(name, original(name)), IMAGE, method="odam", target=FAMILIES[name].target, score_threshold=0.0, top=2
    )


def explained(name, module, like=None):
    """The same candidates' explanation by another form of the network; None: those that are explained of the network alone."""
    model, like = loaded(name, module), alone(name).detections if like is None else like
    trace = whybox.trace(model, IMAGE)
    scores = trace.candidates.scores[like.source, like.labels]
    boxes = trace.candidates.boxes_of(like.source, like.labels)
    chosen = whybox.Detections(boxes, scores, like.labels, like.source)
    return whybox.explain(model, trace, detections=chosen, method="odam", target=FAMILIES[name].target)


def assert_same(result, expected, rtol=1e-4):
    """Equal up to rounding; `rtol` is a part of the largest value of all maps."""
    assert torch.allclose(result.detections.scores.float(), expected.detections.scores.float(), atol=max(rtol, 1e-5))
    maps, those = (values.maps.at_image().float() for values in (result, expected))
    assert those.any()
    assert torch.allclose(maps, those, atol=rtol * float(those.abs().max()))


def refused(name, module, told):
    with pytest.raises(WhyboxError, match=told) as caught:
        explained(name, module)
    assert "\n" not in str(caught.value)


def first_convolution(module):
    return next((path, part) for path, part in module.named_modules() if isinstance(part, nn.Conv2d))


def replaced(module, path, part):
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, part)
    return module


@pytest.fixture(scope="module")
def one_process():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


def compiled_part(module):
    path, part = first_convolution(module)
    return replaced(module, path, torch.compile(part, backend="eager"))


def prepared(precision):
    def prepare(module):
        AcceleratorState._reset_state(True)
        return accelerate.Accelerator(cpu=True, mixed_precision=precision).prepare(module)

    return prepare


def of_fabric(module):
    return lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup(module)


def checkpointed(module):
    """With the library's own switch, where there is one."""
    for switch, values in (("gradient_checkpointing_enable", ()), ("set_grad_checkpointing", (True,))):
        if hasattr(module, switch) and getattr(module, "supports_gradient_checkpointing", True):
            getattr(module, switch)(*values)
            return module.train()
    path, part = first_convolution(module)
    return replaced(module, path, Checkpointed(part))


class Checkpointed(nn.Module):
    """A part whose activations are computed again in the backward pass."""

    def __init__(self, part, reentrant=False):
        super().__init__()
        self.part, self.reentrant = part, reentrant

    def forward(self, *values):
        return checkpoint(self.part, *values, use_reentrant=self.reentrant)

    def __getattr__(self, name):
        return super().__getattr__(name) if name == "part" else getattr(self.part, name)


def scripted_part(module):
    """Not the layer that is watched, where that is named."""
    path, part = ("head", module.head) if isinstance(module, Tiny) else first_convolution(module)
    return replaced(module, path, torch.jit.script(part))


WITHOUT_EFFECT = {
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "compiled_in_place": compiled_in_place,
    "compiled_part": compiled_part,
    "data_parallel": nn.DataParallel,
    "distributed_and_compiled": lambda module: torch.compile(nn.parallel.DistributedDataParallel(module), backend="eager"),
    "accelerate_in_mixed_precision": prepared("bf16"),
    "fabric_in_mixed_precision": of_fabric,
    "channels_last": lambda module: module.to(memory_format=torch.channels_last),
    "checkpointed": checkpointed,
    "scripted_part": scripted_part,
}


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("around", WITHOUT_EFFECT)
@every_family
def test_maps_are_those_of_the_network_alone(name, around):
    assert_same(explained(name, WITHOUT_EFFECT[around](network(name))), alone(name))


def test_compiled_parts_are_put_back():
    module = compiled_part(compiled_in_place(network("plain")))
    held = lambda: [(vars(part).get("_compiled_call_impl"), vars(part).get("forward")) for part in module.modules()]
    before = held()
    assert any(called for called, _ in before)
    explained("plain", module)
    assert held() == before


def test_the_prepared_forward_is_put_back():
    module = prepared("bf16")(network("plain"))
    forward = module.forward
    explained("plain", module)
    assert module.forward is forward
    assert module(torch.rand(1, 3, 96, 128)).dtype == torch.float32
    with pytest.raises(RuntimeError):
        explained("plain", replaced(module, "head", nn.Conv2d(3, 7, 1)))
    assert module.forward is forward


@every_family
def test_adapters_give_the_maps_of_the_merged_network(name):
    """LoRA in a part of the network, and a layer that is trained beside it."""
    module = network(name)
    paths = [path for path, part in module.named_modules() if type(part) in (nn.Linear, nn.Conv2d)]
    last = FAMILIES[name].last
    # Mask2Former runs the layers of its mask head from a list, where an adapter does not take their place.
    chosen = [path for path in paths if path != last and "mask_embedder" not in path]
    chosen = chosen[:: max(1, len(chosen) // 4)]
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=chosen, modules_to_save=[last], init_lora_weights=False)
    wrapped = peft.get_peft_model(module, settings).eval()
    with torch.no_grad():
        for path, weight in wrapped.named_parameters():
            if "lora_B" in path:  # so that no score is saturated
                weight.mul_(0.3)
    model = loaded(name, wrapped)
    result = whybox.explain(model, IMAGE, method="odam", target=FAMILIES[name].target, score_threshold=0.0, top=2)
    assert not torch.allclose(result.detections.scores, alone(name).detections.scores, atol=1e-4)
    assert_same(result, explained(name, wrapped.merge_and_unload(), result.detections))


HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def lacks_a_kernel(name, dtype):
    """torchvision's suppression has none; before torch 2.5 the sampling of deformable attention has none either."""
    if name == "hf_instances":
        try:
            nn.functional.grid_sample(*torch.zeros((2, 1, 2, 2, 2), dtype=dtype), align_corners=False)
        except RuntimeError:
            return True
    return name.startswith("torchvision")


@pytest.mark.parametrize("dtype", HALF)
@every_family
def test_half_precision(name, dtype):
    module = network(name).to(HALF[dtype])
    if lacks_a_kernel(name, HALF[dtype]):
        refused(name, module, r"half precision, for which torch has no \w+ on this device.*network.float\(\)")
    else:
        result = explained(name, module)
        assert torch.allclose(result.detections.scores.float(), alone(name).detections.scores, atol=1e-2)
        both = zip(result.maps.native, alone(name).maps.native, strict=True)
        similar = [nn.functional.cosine_similarity(a.float().flatten(), b.flatten(), 0) for a, b in both if b.any()]
        # The small networks' features and gradients have been rounded to 8 bits.
        assert min(similar) > 0.9
        assert all(weight.dtype == HALF[dtype] for weight in module.parameters())


@pytest.mark.usefixtures("one_process")
@every_family
def test_sharded_weights_are_refused(name):
    module = network(name)
    path, part = first_convolution(module)
    replaced(module, path, FullyShardedDataParallel(part, device_id=torch.device("cpu")))
    refused(name, module, f"sharded .*{path}.*full state dict")
    if hasattr(torch.distributed.fsdp, "fully_shard"):  # from torch 2.6 on
        module = network(name)
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        torch.distributed.fsdp.fully_shard(first_convolution(module)[1], mesh=mesh)
        refused(name, module, f"sharded .*{path}.*full state dict")


@pytest.mark.usefixtures("one_process")
def test_a_sharded_network_as_a_whole_is_refused():
    refused("plain", FullyShardedDataParallel(network("plain"), device_id=torch.device("cpu")), "sharded .*full state dict")


@every_family
def test_weights_without_values_are_refused(name):
    refused(name, network(name).to("meta"), "on the device 'meta', where they have no values: network.to_empty")


@every_family
def test_quantized_modules_are_refused(name):
    """Dynamically quantized linear layers; statically quantized convolutions where there are no linear ones."""
    module = network(name)
    if any(isinstance(part, nn.Linear) for part in module.modules()):
        torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, inplace=True)
    else:
        module.qconfig = torch.ao.quantization.get_default_qconfig("qnnpack")
        torch.ao.quantization.prepare(module, inplace=True)
        module([IMAGE] if name == "torchvision_onestage" else IMAGE[None])
        torch.ao.quantization.convert(module, inplace=True)
    refused(name, module, "holds quantized modules .*explain the network before it is quantized")


@pytest.mark.parametrize("make", [torch.jit.script, lambda module: torch.jit.trace(module, torch.rand(1, 3, 96, 128))])
def test_a_network_of_torchscript_is_refused(make):
    refused("plain", make(network("plain")), "Tiny is scripted or traced.*pass the module that it was made from")


def test_a_scripted_layer_is_refused():
    module = network("plain")
    refused(
        "plain", replaced(module, "neck.0", torch.jit.script(module.neck[0])), "scripted or traced part where a layer is watched"
    )


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch's own
def test_a_reentrant_checkpoint_is_named():
    module = network("plain")
    refused("plain", replaced(module, "neck", Named(module.neck)), r"checkpoint\(use_reentrant=True\)")


class Named(Checkpointed):
    """A part that holds the layer that is watched, under its name."""

    def __init__(self, part):
        super().__init__(part, reentrant=True)
        self._modules["0"] = part[0]


@every_family
def test_the_image_follows_the_network_to_its_device(name, monkeypatch):
    """'meta' stands for a second device, which there may be none of: the model's own pass gets the image there."""
    model, seen = loaded(name, network(name)), []

    def note(image, *, differentiable=False):
        seen.append(image.device.type)
        raise WhyboxError("seen")

    monkeypatch.setattr(api, "device_of", lambda network: torch.device("meta"))
    monkeypatch.setattr(model, "trace", note)
    with pytest.raises(WhyboxError, match="seen"):
        whybox.trace(model, IMAGE)
    assert seen == ["meta"]


def test_an_image_without_pixels_is_refused():
    with pytest.raises(WhyboxError, match="holds no pixels"):
        whybox.trace(loaded("plain", network("plain")), IMAGE.to("meta"))
