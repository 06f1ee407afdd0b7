import inspect
import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

import whybox
from models import hf_versions
from models.hf_versions import OWN_BACKBONE, on_pillow
from whybox.errors import GradientError, UnknownNameError, WeightsError, WhyboxError
from whybox.methods.odam import Odam
from whybox.model import Model
from whybox.models.hf import instances
from whybox.models.hf._detection_classes import FAMILIES, REFUSED
from whybox.models.hf._mask_heads import MASK_HEADS
from whybox.models.hf.detection import knows, matches, wrap
from whybox.models.hf.family import build
from whybox.ops.hooks import tensors_in
from whybox.targets import find_target

transformers = pytest.importorskip("transformers")
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES  # noqa: E402

SIZE = {"height": 64, "width": 96}
SHAPE = (50, 77)
SMALL = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "num_queries": 7,
    "num_labels": 5,
}
REAL_TIME = {
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [16, 16, 32],
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "d_model": 32,
    "num_queries": 9,
    "decoder_in_channels": [32, 32, 32],
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_labels": 5,
    "num_denoising": 0,
    "hidden_expansion": 0.5,
}
GROUPED = {
    "d_model": 32,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "decoder_self_attention_heads": 2,
    "decoder_cross_attention_heads": 2,
    "num_queries": 6,
    "group_detr": 2,
    "num_labels": 5,
    "hidden_expansion": 0.5,
}
TOKENS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 16}
STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic", "embedding_size": 8}
THREE = ["stage2", "stage3", "stage4"]


def resnet(*stages):
    return transformers.ResNetConfig(**STAGES, out_features=list(stages or ["stage4"]))


def rt_resnet():
    return transformers.RTDetrResNetConfig(**STAGES, out_features=THREE)


def hgnet(*stages):
    return transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 16, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        embedding_size=8,
        hidden_sizes=[16, 16, 16, 32],
        depths=[1, 1, 1, 1],
        out_features=list(stages or THREE),
    )


def deformable(**more):
    return transformers.DeformableDetrConfig(backbone_config=resnet(*THREE), **OWN_BACKBONE, **SMALL, **more)


def dab():
    small = {key: value for key, value in SMALL.items() if key != "d_model"}
    return transformers.DabDetrConfig(backbone_config=resnet(), **OWN_BACKBONE, hidden_size=32, **small)


def lw():
    backbone = transformers.LwDetrViTConfig(
        **TOKENS,
        mlp_ratio=1,
        image_size=64,
        pretrain_image_size=64,
        num_windows=4,
        window_block_indices=[0, 1],
        out_indices=[1, 3],
    )
    return transformers.LwDetrConfig(backbone_config=backbone, projector_scale_factors=[1.0], **GROUPED)


def rf():
    backbone = transformers.RfDetrDinov2Config(
        **TOKENS, mlp_ratio=1, image_size=64, num_windows=2, out_features=["stage1", "stage3"]
    )
    return transformers.RfDetrConfig(backbone_config=backbone, **GROUPED)


def yolos(**more):
    options = {**TOKENS, "intermediate_size": 32, "image_size": [64, 96], "num_detection_tokens": 6, "num_labels": 5, **more}
    return transformers.YolosConfig(**options)


def deimv2(**more):
    options = {"backbone_config": hgnet(), "lqe_hidden_dim": 8, **REAL_TIME, **more}
    return transformers.Deimv2Config(**options)


def deimv2_lite():
    levels = {"decoder_in_channels": [32, 32], "num_feature_levels": 2, "feat_strides": [16, 32], "encoder_in_channels": [16]}
    return deimv2(backbone_config=hgnet("stage3"), encoder_type="lite", encoder_layers=0, use_gateway=False, **levels)


def deimv2_dinov3():
    vit = {**TOKENS, "intermediate_size": 32, "image_size": 64, "out_features": ["stage1", "stage2", "stage3"]}
    backbone = transformers.DINOv3ViTConfig(**vit)
    return deimv2(backbone_config=backbone, encoder_in_channels=[32, 32, 32], encoder_has_trailing_conv=False)


def layout2():
    order = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 1, "num_classes": 5}
    boxes = {"coordinate_size": 6, "shape_size": 4, "relation_bias_embed_dim": 4, "max_position_embeddings": 40}
    classes = {"class_thresholds": [0.5, 0.4, 0.6, 0.5, 0.3], "class_order": [3, 1, 0, 2, 4]}
    return transformers.PPDocLayoutV2Config(
        backbone_config=hgnet(), reading_order_config={**order, **boxes, "global_pointer_head_size": 8}, **classes, **REAL_TIME
    )


def layout3():
    masks = {"x4_feat_dim": 16, "mask_feature_channels": [8, 8], "num_prototypes": 4, "global_pointer_head_size": 8}
    return transformers.PPDocLayoutV3Config(backbone_config=hgnet("stage1", *THREE), **masks, **REAL_TIME)


def layout4():
    sizes = {("hidden_size" if key == "d_model" else key): value for key, value in REAL_TIME.items()}
    return transformers.PPDocLayoutV4Config(backbone_config=hgnet(), global_pointer_head_size=8, **sizes)


CONFIGS = {
    "detr": lambda: transformers.DetrConfig(backbone_config=resnet(), **OWN_BACKBONE, **SMALL),
    "table_transformer": lambda: transformers.TableTransformerConfig(backbone_config=resnet(), **OWN_BACKBONE, **SMALL),
    "conditional_detr": lambda: transformers.ConditionalDetrConfig(backbone_config=resnet(), **OWN_BACKBONE, **SMALL),
    "dab_detr": dab,
    "deformable_detr": deformable,
    "deformable_detr two-stage": lambda: deformable(two_stage=True, with_box_refine=True, two_stage_num_proposals=7),
    "rt_detr": lambda: transformers.RTDetrConfig(backbone_config=rt_resnet(), **REAL_TIME),
    "rt_detr_v2": lambda: transformers.RTDetrV2Config(backbone_config=rt_resnet(), **REAL_TIME),
    "d_fine": lambda: transformers.DFineConfig(backbone_config=hgnet(), **REAL_TIME),
    "yolos": yolos,
    "lw_detr": lw,
    "rf_detr": rf,
    "deimv2": deimv2,
    "deimv2 lite": deimv2_lite,
    "deimv2 dinov3": deimv2_dinov3,
    "pp_doclayout_v2": layout2,
    "pp_doclayout_v3": layout3,
    "pp_doclayout_v4": layout4,
}
NAMES = [pytest.param(name, marks=hf_versions.needs(name.split()[0])) for name in CONFIGS]


def network(name):
    """The family's network with weights far enough from their start that every query and class differs."""
    torch.manual_seed(0)
    net = transformers.AutoModelForObjectDetection.from_config(CONFIGS[name]())
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
        backbone = getattr(net.config, "backbone_config", None)
        for part in net.modules():
            # With HGNetV2's own start its features are 1e-14: every query would be the same.
            if isinstance(part, nn.Conv2d) and getattr(backbone, "model_type", None) == "hgnet_v2":
                nn.init.kaiming_normal_(part.weight)
    return net


def processor(name, **options):
    return getattr(transformers, FAMILIES[name.split()[0]].processor)(**{"size": SIZE, **options})


def model_of(name, net=None, **options):
    options = {"processor": processor(name), "score_threshold": 0.0, **options}
    return wrap(network(name) if net is None else net, **options)


def pixels(shape=SHAPE):
    return torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def image(shape=SHAPE):
    return pixels(shape) / 255


def score(trace):
    return trace.candidates.scores[trace.detections.source, trace.detections.labels]


def left_side(trace):
    return trace.candidates.boxes[trace.detections.source, 0]


def state(net):
    return (
        [part.training for part in net.modules()],
        [weight.requires_grad for weight in net.parameters()],
        [weight.grad for weight in net.parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()],
        [value.clone() for value in net.state_dict().values()],
    )


def assert_same(before, after):
    assert before[:4] == after[:4]
    assert all(torch.equal(a, b) for a, b in zip(before[4], after[4], strict=True))


def framework(net, own, picture, threshold, **options):
    """What transformers itself answers: the processor on the 8-bit picture, the network, the processor's post-processing."""
    net.eval()
    inputs = own(images=[picture.permute(1, 2, 0).numpy()], return_tensors="pt")
    if "pixel_mask" not in inspect.signature(net.forward).parameters:
        inputs = {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        output = net(**inputs)
    size = torch.tensor([picture.shape[1:]])
    if type(own).__name__ == "PPDocLayoutV3ImageProcessor" and find_spec("cv2") is None:
        own = transformers.PPDocLayoutV2ImageProcessor()  # the same function without polygons of the masks, which need OpenCV
    found = own.post_process_object_detection(output, threshold=threshold, target_sizes=size, **options)[0]
    if "order_seq" not in found:
        return found
    # In the order of reading; here by score.
    by_score = found["scores"].argsort(descending=True)
    return {key: found[key][by_score] for key in ("scores", "labels", "boxes")}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quantile", [0.0, 0.5])
def test_detections_equal_the_frameworks_bit_by_bit(name, quantile):
    net = network(name)
    scores = framework(net, processor(name), pixels(), 0.0)["scores"]
    threshold = float(scores.quantile(quantile)) if quantile else 0.0
    expected = framework(net, processor(name), pixels(), threshold)
    found = model_of(name, net, score_threshold=threshold).trace(image()).detections
    assert len(found) == len(expected["scores"]) > 0
    for key, value in expected.items():
        assert torch.equal(getattr(found, key), value), key


@pytest.mark.parametrize("name", NAMES)
def test_a_detection_keeps_its_query(name):
    model = model_of(name)
    trace = model.trace(image())
    found, candidates = trace.detections, trace.candidates
    assert isinstance(model, Model)
    assert torch.equal(candidates.scores[found.source, found.labels], found.scores)
    assert torch.equal(candidates.boxes[found.source], found.boxes)
    assert candidates.scores.shape[1] == len(model.classes) == 5
    assert candidates.logits.shape == candidates.scores.shape
    raw = candidates.raw
    left, below = (raw["cx"] - raw["w"] / 2, raw["cy"] + raw["h"] / 2) if "w" in raw else around_corners(raw)
    torch.testing.assert_close(candidates.boxes[:, 0], left * SHAPE[1])
    torch.testing.assert_close(candidates.boxes[:, 3], below * SHAPE[0])


def around_corners(raw):
    """The left and the lower side of the box around four corners."""
    across, down = ([raw[f"c{axis}"] + raw[f"d{axis}{i}"] for i in (1, 2, 3, 4)] for axis in "xy")
    return torch.stack(across).amin(0), torch.stack(down).amax(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_of_duplicate_removal_gets_all_that_the_processor_gives(name):
    """Also a query's second class, where the family's detections are pairs of a query and a class."""
    model = model_of(name)
    trace = model.trace(image())
    found = model.unsuppressed(trace)
    pairs, own = (list(zip(part.source.tolist(), part.labels.tolist(), strict=True)) for part in (found, trace.detections))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) >= set(own)
    assert torch.equal(found.scores, trace.candidates.scores[found.source, found.labels])
    limit = torch.tensor([SHAPE[1], SHAPE[0]] * 2)
    assert torch.equal(found.boxes, trace.candidates.boxes[found.source].clamp(min=0).minimum(limit))
    strict = model_of(name, model.network, score_threshold=0.9)
    assert set(strict.unsuppressed(strict.trace(image())).source.tolist()) <= set(found.source.tolist())
    assert len(strict.unsuppressed(strict.trace(image()))) == int((found.scores > 0.05).sum())


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_gives_a_gradient_for_every_detection(name):
    model = model_of(name)
    trace = model.trace(image())
    chosen = trace.detections[[0, 2, 1]]
    for layer in (None, *model.layers):
        rows = []
        for pullback in model.pullbacks(trace, chosen, layer, "auto"):
            rows += pullback.rows.tolist()
            for target in (score, left_side):
                gradient = pullback.gradient(target).gradient
                assert gradient.shape == (len(pullback.rows), *pullback.features.shape)
                assert gradient.flatten(1).any(1).all()
            assert pullback.stride == 64 / pullback.features.shape[-2]
            assert torch.equal(score(pullback.trace), chosen.scores[pullback.rows])
        assert sorted(rows) == [0, 1, 2]


def swap(output, change):
    """The output of a backbone or a block with its last feature map, or its tokens, changed."""
    if isinstance(output, tuple):  # (map, mask)
        return (change(output[0]), *output[1:])
    if isinstance(output, list):  # stages of (map, mask)
        return [*output[:-1], swap(output[-1], change)]
    return change(output)


def with_hook(model, change, run):
    layer = model.layers[0]
    module = model.network.get_submodule(model._paths[layer])
    handle = module.register_forward_hook(lambda part, args, output: swap(output, change))
    try:
        return run()
    finally:
        handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_a_hand_made_one(name):
    """The network called as transformers' users call it, its features replaced by a leaf."""
    net = network(name)
    net = net if name == "dab_detr" else net.double()  # DAB-DETR's position code is float32 whatever the weights are
    model = model_of(name, net)
    trace = model.trace(image())
    (pullback,) = model.pullbacks(trace, trace.detections[:1], None, "exact")
    leaves = []

    def leaf(tensor):
        leaves.append(tensor.detach().requires_grad_())
        return leaves[-1]

    # The image twice: of one image torch's own gradient is wrong in D-FINE's neck (whybox.ops.graphs).
    inputs, _ = model._inputs(trace.image[None].repeat(2, 1, 1, 1))
    output = with_hook(model, leaf, lambda: net.eval()(**inputs))
    logits = output.logits[0, trace.detections.source[0]]
    scores = logits.softmax(-1) if model.family.rule == "best" else logits.sigmoid()
    (expected,) = torch.autograd.grad(scores[trace.detections.labels[0]], leaves)
    expected = expected[:1]
    if name == "yolos":
        expected = expected[:, 1:25].transpose(1, 2).reshape(1, 32, 4, 6)
    torch.testing.assert_close(pullback.gradient(score).gradient, expected)


@pytest.mark.parametrize("name", ["detr", "table_transformer", "conditional_detr", "deformable_detr", "yolos"])
def test_gradient_equals_finite_differences(name):
    """One number of the features moved by hand, in float64, in the networks that detach nothing themselves."""
    model = model_of(name, network(name).double())
    trace = model.trace(image().double())
    (pullback,) = model.pullbacks(trace, trace.detections[0], None, "exact")
    gradient = pullback.gradient(score).gradient[0]
    c, y, x = (gradient.abs() == gradient.abs().max()).nonzero()[0].tolist()
    place = (0, 1 + y * gradient.shape[2] + x, c) if name == "yolos" else (0, c, y, x)
    step = 1e-5 * float(pullback.features.abs().max())
    scores = []
    for sign in (-1, 1):
        change = lambda tensor, sign=sign: tensor.index_put(
            tuple(torch.tensor([i]) for i in place), torch.tensor(sign * step, dtype=tensor.dtype), accumulate=True
        )
        moved = with_hook(model, change, lambda: model.trace(trace.image))
        scores.append(moved.candidates.scores[trace.detections.source[0], trace.detections.labels[0]])
    torch.testing.assert_close((scores[1] - scores[0]) / (2 * step), gradient[c, y, x], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["deformable_detr", "rt_detr"])
def test_levels_of_the_encoder(name):
    model = model_of(name)
    trace = model.trace(image())
    with pytest.raises(UnknownNameError, match=r"unknown layer 'encoder\[9\]'; did you mean encoder"):
        list(model.pullbacks(trace, trace.detections[0], "encoder[9]", "auto"))
    grids = [(8, 12), (4, 6), (2, 3), (1, 2)][: 4 if name == "deformable_detr" else 3]
    magnitude = []
    for i, grid in enumerate(grids):
        (pullback,) = model.pullbacks(trace, trace.detections[0], f"encoder[{i}]", "auto")
        assert pullback.features.shape == (32, *grid)
        magnitude.append(float((pullback.gradient(score).gradient[0] * pullback.features).abs().sum()))
    (chosen,) = model.pullbacks(trace, trace.detections[0], "encoder", "auto")
    assert chosen.features.shape[-2:] == grids[magnitude.index(max(magnitude))]


def test_encoder_tokens_lie_on_the_grid_row_by_row():
    model = model_of("detr")
    recorded = []
    handle = model.network.model.encoder.register_forward_hook(
        lambda part, args, output: recorded.append(output.last_hidden_state)
    )
    trace = model.trace(image())
    handle.remove()
    (pullback,) = model.pullbacks(trace, trace.detections[0], "encoder", "auto")
    torch.testing.assert_close(pullback.features[:, 1, 2], recorded[0][0, 1 * 3 + 2])


def test_stages_and_any_module_are_layers():
    model = model_of("rt_detr")
    trace = model.trace(image())
    assert [level.name for level in trace.features] == ["backbone[2]"]
    for layer, grid in {"backbone[0]": (8, 12), "backbone": (2, 3), "model.encoder.pan_blocks.1": (2, 3)}.items():
        (pullback,) = model.pullbacks(trace, trace.detections[:2], layer, "auto")
        assert pullback.features.shape[-2:] == grid


@pytest.mark.parametrize("shape", [(50, 77), (77, 50), (64, 96), (31, 200)])
@pytest.mark.parametrize("name", ["detr", "yolos"])
def test_frames_of_processors_that_keep_the_aspect_ratio(name, shape):
    own = processor(name, size={"shortest_edge": 48, "longest_edge": 128})
    model = model_of(name, processor=own)
    trace = model.trace(image(shape))
    values = own(images=[pixels(shape).permute(1, 2, 0).numpy()], return_tensors="pt")["pixel_values"]
    assert trace.frame.network == trace.frame.resized == tuple(values.shape[-2:])
    assert trace.frame.image == shape
    expected = framework(model.network, own, pixels(shape), 0.0)
    assert torch.equal(trace.detections.boxes, expected["boxes"])
    (maps,) = Odam()(model, trace, trace.detections, [score])
    assert maps.at_image().shape == (len(trace.detections), *shape)
    assert maps.at_image().isfinite().all()


def test_a_padded_canvas_is_known_to_the_frame():
    own = processor("detr", size={"shortest_edge": 48, "longest_edge": 96}, pad_size={"height": 96, "width": 128})
    model = model_of("detr", processor=own)
    trace = model.trace(image())
    assert trace.frame.network == (96, 128)
    assert trace.frame.resized == (48, 73)
    assert torch.equal(trace.detections.boxes, framework(model.network, own, pixels(), 0.0)["boxes"])


def test_a_pil_processor_works_too():
    own = on_pillow("DetrImageProcessor")(size=SIZE)
    model = model_of("detr", processor=own)
    assert torch.equal(model.trace(image()).detections.boxes, framework(model.network, own, pixels(), 0.0)["boxes"])


def test_the_default_processor_is_the_familys():
    assert type(wrap(network("rt_detr")).processor) is transformers.RTDetrImageProcessor
    assert type(wrap(network("yolos")).processor) is transformers.YolosImageProcessor


@pytest.mark.parametrize("name", ["detr", "deformable_detr", "yolos"])
def test_predict_equals_trace(name):
    model = model_of(name)
    images = torch.stack([image(), image().flip(2)])
    for picture, candidates in zip(images, model.predict(images), strict=True):
        expected = model.trace(picture).candidates
        torch.testing.assert_close(candidates.scores, expected.scores)
        torch.testing.assert_close(candidates.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
    assert model.predict(images[:0]) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_network_is_left_as_it_was(name):
    net = network(name).train()
    first = next(net.modules())
    list(net.modules())[3].training = False
    next(net.parameters()).requires_grad_(False)
    before = state(net)
    model = model_of(name, net)
    trace = model.trace(image())
    for pullback in model.pullbacks(trace, trace.detections[:2], None, "auto"):
        pullback.gradient(score)
    model.predict(image()[None])
    assert first.training
    assert_same(before, state(net))


def test_the_network_is_left_as_it_was_after_an_exception():
    net = network("detr").train()
    before = state(net)
    model = model_of("detr", net)
    trace = model.trace(image())
    original, net.model.encoder.forward = net.model.encoder.forward, None
    for run in (lambda: model.trace(image()), lambda: list(model.pullbacks(trace, trace.detections, None, "auto"))):
        with pytest.raises(TypeError):
            run()
    net.model.encoder.forward = original
    assert_same(before, state(net))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    model = model_of("rt_detr")
    with mode():
        trace = model.trace(image())
        for pullback in model.pullbacks(trace, trace.detections, "encoder", "auto"):
            assert pullback.gradient(score).gradient.any()


def test_a_detached_head_is_named():
    model = model_of("detr")
    trace = model.trace(image())
    model.network.class_labels_classifier.register_forward_hook(lambda part, args, output: output.detach())
    (pullback,) = model.pullbacks(trace, trace.detections, None, "auto")
    assert pullback.gradient(left_side).gradient.any()
    with pytest.raises(GradientError, match="does not depend on layer 'backbone'"):
        pullback.gradient(score)


def test_a_forward_under_inference_mode_is_named():
    model = model_of("detr")
    expected = model.trace(image())
    model.network.model.forward = torch.inference_mode()(model.network.model.forward)
    trace = model.trace(image())
    assert torch.equal(trace.detections.boxes, expected.detections.boxes)
    with pytest.raises(GradientError, match=r"runs under torch[.]inference_mode"):
        list(model.pullbacks(trace, trace.detections, None, "auto"))


def test_subclasses_match_and_others_do_not():
    class Own(transformers.DetrForObjectDetection):
        pass

    assert matches(Own(CONFIGS["detr"]()))
    assert not matches(network("detr").model)
    assert not matches(nn.Linear(1, 1))
    with pytest.raises(WhyboxError, match=r"Linear is not a supported detection transformer \(detr"):
        wrap(nn.Linear(1, 1))


def test_no_detection_is_no_map():
    model = model_of("detr", score_threshold=1.0)
    trace = model.trace(image())
    assert len(trace.detections) == 0
    assert list(model.pullbacks(trace, trace.detections, None, "auto")) == []


def test_unknown_layers_and_routes_get_suggestions():
    model = model_of("detr")
    trace = model.trace(image())
    with pytest.raises(UnknownNameError, match=r"unknown layer 'model\.encodr'; did you mean model\.encoder"):
        list(model.pullbacks(trace, trace.detections, "model.encodr", "auto"))
    with pytest.raises(UnknownNameError, match="unknown route 'fast'"):
        list(model.pullbacks(trace, trace.detections, None, "fast"))


@pytest.mark.parametrize(("layer", "runs"), [(None, 0), ("encoder", 0), ("input", 1), ("resnet", 1)])
def test_the_backbone_runs_again_only_where_it_must(layer, runs):
    model = model_of("detr")
    trace = model.trace(image())
    name, resnet = next((name, part) for name, part in model.network.named_modules() if type(part).__name__ == "ResNetBackbone")
    layer = name if layer == "resnet" else layer
    calls = []
    resnet.register_forward_hook(lambda part, args, output: calls.append(part))
    (pullback,) = model.pullbacks(trace, trace.detections, layer, "auto")
    assert pullback.gradient(score).gradient.flatten(1).any(1).all()
    assert len(calls) == runs
    assert not any("forward" in vars(part) for part in model.network.modules())


def test_a_trace_that_lost_its_state_is_made_again():
    model = model_of("rt_detr")
    trace = model.trace(image())
    for layer in (None, "encoder[1]"):
        one, other = (list(model.pullbacks(t, trace.detections, layer, "auto")) for t in (trace, replace(trace, state=None)))
        assert torch.equal(one[0].gradient(score).gradient, other[0].gradient(score).gradient)


def test_queries_are_no_map():
    model = model_of("detr")
    trace = model.trace(image())
    with pytest.raises(GradientError, match=r"layer 'bbox_predictor.layers.0' gives \(1, 7, 32\), no feature map"):
        list(model.pullbacks(trace, trace.detections, "bbox_predictor.layers.0", "auto"))


def test_a_yolos_of_one_block_is_explained_at_its_embeddings():
    torch.manual_seed(0)
    net = transformers.YolosForObjectDetection(yolos(num_hidden_layers=1))
    model = wrap(net, processor=processor("yolos"), score_threshold=0.0)
    trace = model.trace(image())
    (pullback,) = model.pullbacks(trace, trace.detections, None, "auto")
    assert pullback.features.shape == (32, 4, 6)
    assert pullback.gradient(score).gradient.any()


def test_a_folder_is_loaded_by_name(tmp_path):
    net, own = network("detr"), processor("detr")
    net.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    model = build(str(tmp_path), score_threshold=0.0)
    assert model.name == f"hf/{tmp_path}"
    assert torch.equal(model.trace(image()).detections.boxes, framework(net, own, pixels(), 0.0)["boxes"])
    random = build(str(tmp_path), None, score_threshold=0.0)
    assert not torch.equal(random.network.bbox_predictor.layers[0].weight, net.bbox_predictor.layers[0].weight)
    with pytest.raises(WeightsError, match="takes its own weights, a file or None"):
        build(str(tmp_path), "COCO_V1")


@pytest.mark.parametrize("name", NAMES)
def test_every_family_is_known_by_its_configuration(name):
    assert knows(CONFIGS[name]())


def detector_classes():
    """Every class of the installed transformers that detects objects without a text, by name."""
    named = {name for name in dir(transformers) if name.endswith("ForObjectDetection") and not name.startswith("Auto")}
    return sorted(named - set(MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES.values()))


@pytest.mark.parametrize("name", detector_classes())
def test_every_detector_of_transformers_is_supported_and_tested_or_refused_in_one_line(name, tmp_path):
    """Where this fails, the installed transformers has a new detector: give it a family, or the reason why it has none."""
    kind = getattr(transformers, name)
    package = kind.__module__.split(".")[2]
    model_type = kind.config_class.model_type
    assert matches(kind.__new__(kind))
    if name in REFUSED:
        refused = f"^{name} {re.escape(REFUSED[name])}$"
        with pytest.raises(WhyboxError, match=refused):
            whybox.load(unbuilt(kind))
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [name]}))
        with pytest.raises(WhyboxError, match=refused):
            build(str(tmp_path))
        return
    assert package in FAMILIES
    assert package in {tested.split()[0] for tested in CONFIGS}
    own = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type)
    assert not isinstance(own, dict) or own["torchvision"] == FAMILIES[package].processor


def unbuilt(kind):
    """A module of a class, without parts."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    return made


@pytest.mark.parametrize("name", sorted(MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES.values()))
def test_detectors_that_take_a_text_are_not_of_this_family(name):
    assert not matches((kind := getattr(transformers, name)).__new__(kind))


def with_masks(name):
    """A network with a mask head, and the name of its detector's family."""
    torch.manual_seed(0)
    if name == "RfDetrForInstanceSegmentation":
        return transformers.RfDetrForInstanceSegmentation(rf()), "rf_detr"
    # The mask head wants channels and heads that can be divided by 8, and divides by 64 in the end.
    wide = {"backbone_config": resnet("stage1", *THREE), **OWN_BACKBONE, **SMALL, "d_model": 128, "encoder_attention_heads": 8}
    if name == "DetrForSegmentation":
        return transformers.DetrForSegmentation(transformers.DetrConfig(**wide)), "detr"
    return transformers.ConditionalDetrForSegmentation(transformers.ConditionalDetrConfig(**wide)), "conditional_detr"


@pytest.mark.parametrize("name", [name for name in MASK_HEADS if hasattr(transformers, name)])
def test_of_a_network_with_masks_the_boxes_are_explained(name, tmp_path):
    net, family = with_masks(name)
    assert matches(net)
    own = processor(family)
    expected = framework(net, own, pixels(), 0.0)
    net.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    loaded = build(str(tmp_path), score_threshold=0.0)
    random = build(str(tmp_path), None, score_threshold=0.0)
    assert not torch.equal(random.trace(image()).detections.boxes, expected["boxes"])
    for model in (wrap(net, processor=own, score_threshold=0.0), loaded):
        found = model.trace(image()).detections
        for key, value in expected.items():
            assert torch.equal(getattr(found, key), value), key
        (pullback,) = model.pullbacks(model.trace(image()), found[:2], None, "auto")
        assert pullback.gradient(score).gradient.flatten(1).any(1).all()


@pytest.mark.parametrize("name", [name for name in MASK_HEADS if hasattr(transformers, name)])
def test_masks_are_the_networks_own_and_their_gradients_autograds(name):
    net, family = with_masks(name)
    own = processor(family)
    model = wrap(net.eval(), processor=own, score_threshold=0.0)
    assert "masks" in model.gives
    trace = whybox.trace(model, image())
    found = whybox.detect(model, trace, score_threshold=0.0, top=4)
    inputs = own(images=pixels(), return_tensors="pt")
    inputs["pixel_values"].requires_grad_()  # DETR's backbone does not train
    kept = []
    path = model._paths["backbone"]
    handle = model.network.get_submodule(path).register_forward_hook(lambda part, given, output: kept.append(output))
    output = net(**inputs)
    handle.remove()
    (logits,) = output.pred_masks[:, found.source].detach()
    if trace.frame.resized == trace.frame.network:
        expected = nn.functional.interpolate(logits[None], trace.frame.image, mode="bilinear")[0] > 0
        assert torch.equal(found.masks, expected)
    assert found.masks.shape == (4, *trace.frame.image)
    target = find_target("mask", model.classes, (), model)
    (pullback,) = model.branch_pullbacks("mask", trace, found, None, "auto")
    gradients = pullback.gradient(target).gradient
    assert pullback.route == "exact"
    features = [part for part in tensors_in(kept[0]) if part.requires_grad][-1]
    height, width = (
        cells * part / whole
        for cells, part, whole in zip(logits.shape[1:], trace.frame.resized, trace.frame.network, strict=True)
    )
    for row, source in enumerate(found.source.tolist()):
        mask = output.pred_masks[0, source]
        inside = (mask > 0) & (torch.arange(mask.shape[0])[:, None] + 0.5 < height) & (torch.arange(mask.shape[1]) + 0.5 < width)
        value = mask[inside].mean() if inside.any() else mask[: int(height + 0.5), : int(width + 0.5)].max()
        assert float(target(pullback.trace)[row].detach()) == pytest.approx(float(value.detach()), rel=1e-3, abs=1e-5)
        theirs = torch.autograd.grad(value, features, retain_graph=True)[0][0]
        torch.testing.assert_close(gradients[row], theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", [name for name in MASK_HEADS if hasattr(transformers, name)])
@pytest.mark.parametrize("hooks", [False, True], ids=["", "with hooks"])
def test_masks_come_from_the_traces_own_pass(name, hooks):
    """Not where the user's hooks hang on what would be replayed: they would act twice."""
    net, family = with_masks(name)
    model = wrap(net.eval(), processor=processor(family), score_threshold=0.0)
    runs = []
    inside = next(part for part in model.network.modules() if isinstance(part, nn.Conv2d))
    inside.register_forward_hook(lambda *given: runs.append(1))
    if hooks:
        model.network.get_submodule(MASK_HEADS[name].reads[-1]).register_forward_hook(lambda *given: None)
    trace = model.trace(image())
    found = trace.detections[:3]
    assert len(runs) == 1
    first, again = model.complete(trace, found), model.complete(trace, found)
    assert len(runs) == (3 if hooks else 1)
    other = model.complete(replace(trace, state=None), found)
    assert torch.equal(first.masks, other.masks)
    assert torch.equal(first.masks, again.masks)


@hf_versions.needs("pp_doclayout_v3")
def test_masks_of_document_layout_lie_in_their_boxes():
    net, own = network("pp_doclayout_v3"), processor("pp_doclayout_v3")
    spread = torch.rand((1, 9, 4), generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25

    def with_larger_boxes(part, given, output):
        output.pred_boxes, output.out_masks = spread, output.out_masks - output.out_masks.mean((2, 3), keepdim=True)
        return output

    net.eval().register_forward_hook(with_larger_boxes)
    inputs = own(images=[pixels().permute(1, 2, 0).numpy()], return_tensors="pt")["pixel_values"].requires_grad_()
    output = net(pixel_values=inputs)
    model = model_of("pp_doclayout_v3", net)
    found = whybox.detect(model, image(), score_threshold=0.0, top=6)
    assert found.masks.any()
    logits = output.out_masks[:, found.source]
    expected = nn.functional.interpolate(logits.detach(), SHAPE, mode="bilinear")[0] > 0
    for mask, full, (x1, y1, x2, y2) in zip(found.masks, expected, found.boxes.tolist(), strict=True):
        rows, columns = torch.arange(SHAPE[0])[:, None], torch.arange(SHAPE[1])
        assert torch.equal(mask, full & (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2))
    trace = model.trace(image())
    (pullback,) = model.branch_pullbacks("mask", trace, found, "input", "auto")
    gradients = pullback.gradient(find_target("mask", model.classes, (), model)).gradient
    sides = output.pred_boxes[0, found.source].detach()
    cells = torch.tensor(logits.shape[:1:-1] * 2)
    low, high = ((sides[:, :2] + sign * sides[:, 2:] / 2) * cells[:2] for sign in (-1, 1))
    down, across = torch.arange(logits.shape[2])[:, None] + 0.5, torch.arange(logits.shape[3]) + 0.5
    for row, mask in enumerate(logits[0]):
        in_box = (low[row, 1] <= down) & (down < high[row, 1]) & (low[row, 0] <= across) & (across < high[row, 0])
        inside = in_box & (mask > 0)
        value = mask[inside].mean() if inside.any() else mask[in_box].max()
        theirs = torch.autograd.grad(value, inputs, retain_graph=True)[0][0]
        torch.testing.assert_close(gradients[row], theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@hf_versions.needs("pp_doclayout_v4")
def test_four_corners_are_the_processors_own_and_explained():
    net, own = network("pp_doclayout_v4"), processor("pp_doclayout_v4")
    inputs = own(images=[pixels().permute(1, 2, 0).numpy()], return_tensors="pt")
    with torch.no_grad():
        output = net.eval()(pixel_values=inputs["pixel_values"])
    theirs = own.post_process_object_detection(output, threshold=0.0, target_sizes=torch.tensor([SHAPE]))[0]
    model = model_of("pp_doclayout_v4", net)
    found = whybox.detect(model, image(), score_threshold=0.0)
    by_score = theirs["scores"].argsort(descending=True)
    polygons = torch.stack([torch.as_tensor(points) for points in theirs["polygon_points"]])[by_score].reshape(-1, 4, 2)
    torch.testing.assert_close(found.corners, polygons.float(), rtol=1e-4, atol=1.0)
    result = whybox.explain(model, image(), target="corner:2:y", score_threshold=0.0, top=2)
    assert any(values.any() for values in result.maps.native)
    assert result.detections.corners.shape == (2, 4, 2)


def test_a_network_without_mask_head_says_so():
    with pytest.raises(WhyboxError, match="target 'mask:edge' is about masks, and hf/detr gives none"):
        whybox.explain(wrap(network("detr"), score_threshold=0.0), image(), target="mask:edge")


def instance_classes():
    """Every class of the installed transformers that gives masks of instances, by name."""
    ends = ("ForInstanceSegmentation", "ForUniversalSegmentation")
    return sorted(name for name in dir(transformers) if name.endswith(ends) and not name.startswith("Auto"))


@pytest.mark.parametrize("name", instance_classes())
def test_every_network_of_instances_is_supported_or_refused_in_one_line(name):
    """Where this fails, the installed transformers has a new one: give it a family, or the reason why it has none."""
    made = unbuilt(getattr(transformers, name))
    if name in REFUSED:
        with pytest.raises(WhyboxError, match=f"^{name} {re.escape(REFUSED[name])}$"):
            whybox.load(made)
        return
    assert name in MASK_HEADS or name in instances.FAMILIES
    assert matches(made) != instances.matches(made)


def test_conditional_detr_with_masks_is_refused_because_its_boxes_are_others(tmp_path):
    net, _ = with_masks("ConditionalDetrForSegmentation")
    nn.init.normal_(net.conditional_detr.model.query_position_embeddings.weight, std=5.0)
    nn.init.normal_(net.conditional_detr.model.decoder.ref_point_head.layers[1].weight)
    inputs = {"pixel_values": image()[None, :, :48, :64]}
    with torch.no_grad():
        boxes = [part.eval()(**inputs).pred_boxes for part in (net, net.conditional_detr)]
    assert not torch.allclose(*boxes, atol=1e-3), "they agree now: it belongs to MASK_HEADS"
    refused = r"^ConditionalDetrForSegmentation computes other boxes than .* whybox.load\(module.conditional_detr\)$"
    with pytest.raises(WhyboxError, match=refused):
        whybox.load(net)
    net.save_pretrained(tmp_path)
    with pytest.raises(WhyboxError, match=refused):
        build(str(tmp_path))
    assert whybox.load(net.conditional_detr).name == "hf/conditional_detr"


SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


@hf_versions.needs("deimv2")
def test_a_trained_detector_finds_what_is_annotated_and_its_maps_lie_on_it():
    weights, coco = SHARED / "weights" / "deimv2_femto" / "hf", SHARED / "coco"
    if not weights.is_dir() or not coco.is_dir():
        pytest.skip(f"{weights} or {coco} is not here")
    model = whybox.load(str(weights))
    samples = whybox.open_data(f"coco:{coco}:split=val")
    inside, area = [], []
    for sample in [samples[i] for i in range(3)]:
        picture = torch.from_numpy(numpy.array(sample.image.convert("RGB"))).permute(2, 0, 1)
        expected = framework(model.network, model.processor, picture, model.score_threshold)
        found = model.trace(picture / 255).detections
        for key, value in expected.items():
            assert torch.equal(getattr(found, key), value), key
        sure = found[found.scores > 0.4][:4]
        assert len(sure)
        names = {samples.classes[label] for label in sample.truth.labels.tolist()}
        assert {model.classes[label] for label in sure.labels[:1].tolist()} <= names
        (maps,) = Odam()(model, model.trace(picture / 255), sure, [score])
        for box, values in zip(sure.boxes, maps.at_image(), strict=True):
            x1, y1, x2, y2 = (max(0, int(side)) for side in box)
            inside.append(float(values[y1:y2, x1:x2].sum() / values.sum()))
            area.append((x2 - x1) * (y2 - y1) / values.numel())
    # A map that is even over the image would have the box's part of its area.
    assert sum(inside) / len(inside) > 1.5 * sum(area) / len(area)


def test_an_architecture_of_a_later_release_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "detr_of_tomorrow"}')
    with pytest.raises(WhyboxError, match=r"^the installed transformers \S+ does not know the architecture of .*newer one$"):
        build(str(tmp_path))


def test_what_cannot_be_loaded_is_one_line(tmp_path):
    with pytest.raises(WeightsError, match="is neither a folder nor available from the hub") as error:
        build(str(tmp_path / "nothing" / "here"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("detr", True),
        ("conditional_detr", True),
        ("rt_detr", False),
        pytest.param("d_fine", False, marks=hf_versions.needs("d_fine")),
    ],
)
def test_queries_that_the_image_chooses_are_no_fixed_rows(name, fixed):
    assert wrap(network(name)).fixed_rows is fixed
