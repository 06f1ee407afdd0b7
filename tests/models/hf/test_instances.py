"""MaskFormer and Mask2Former: instances as their processors give them, maps as autograd does."""

import pytest
import torch

import whybox
from models import instance_models
from whybox.errors import GradientError, WhyboxError
from whybox.models.hf import instances
from whybox.models.hf._images import processed
from whybox.models.hf.family import build
from whybox.targets import find_target

transformers = pytest.importorskip("transformers")

SIZE = (64, 96)
every_kind = pytest.mark.parametrize("name", instance_models.KINDS)


def pixels(shape):
    return torch.randint(0, 256, (3, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def model_of(name, net=None, **options):
    options = {"processor": instance_models.processor(name, SIZE), "score_threshold": 0.0, **options}
    return whybox.load(instance_models.network(name) if net is None else net, **options)


def own_output(model, picture):
    """What transformers' users call: the processor on the 8-bit picture, then the network."""
    return model.network(**model.processor(images=[picture.permute(1, 2, 0).numpy()], return_tensors="pt"))


@every_kind
@pytest.mark.parametrize("shape", [(50, 77), (400, 500)], ids=["small", "larger than the masks"])
def test_instances_equal_the_processors(name, shape):
    model, picture = model_of(name), pixels(shape)
    with torch.no_grad():
        output = own_output(model, picture)
    post = model.processor.post_process_instance_segmentation
    scores = [one["score"] for one in post(output, threshold=0.0)[0]["segments_info"]]
    threshold = sorted(scores)[2] - 1e-6  # the processor rounds them
    model.score_threshold = threshold
    (expected,) = post(output, threshold=threshold, target_sizes=[shape], return_binary_maps=True)
    found = whybox.detect(model, picture / 255, score_threshold=threshold)
    theirs, masks = expected["segments_info"], expected["segmentation"].bool()
    assert len(found) == len(theirs) == len(scores) - 2
    assert found.labels.tolist() == [one["label_id"] for one in theirs]
    assert found.scores.tolist() == pytest.approx([one["score"] for one in theirs], abs=1e-6)
    assert torch.equal(found.masks, masks)
    assert 0.1 < masks.float().mean() < 0.9
    for box, mask in zip(found.boxes.tolist(), masks, strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_a_query_whose_mask_the_image_does_not_show_is_no_instance():
    net = instance_models.network("mask2former")

    def one_cell(part, given, output):
        logits = torch.full_like(output.masks_queries_logits, -1.0)
        logits[:, 1:, 4:12, 6:20] = 1.0  # of query 0 nothing
        output["masks_queries_logits"] = logits
        return output

    net.register_forward_hook(one_cell)
    trace = model_of("mask2former", net).trace(pixels((50, 77)) / 255)
    assert trace.candidates.boxes[0].tolist() == [0, 0, 0, 0]
    assert (trace.candidates.scores[0] == 0).all()
    assert 0 not in trace.detections.source
    assert (trace.candidates.boxes[1] > 0).all()


@every_kind
def test_scores_are_the_class_times_the_mask_and_every_pair_can_be_removed_as_a_duplicate(name):
    model = model_of(name)
    trace = model.trace(pixels((50, 77)) / 255)
    found, candidates = trace.detections, trace.candidates
    assert torch.equal(candidates.scores[found.source, found.labels], found.scores)
    assert torch.equal(candidates.boxes[found.source], found.boxes)
    assert torch.equal(candidates.factors["class"] * candidates.factors["mask"][:, None], candidates.scores)
    assert len(candidates) == instance_models.QUERIES
    assert candidates.scores.shape[1] == len(model.classes) == instance_models.LABELS
    assert torch.equal(model.unsuppressed(trace).source, found[found.scores > 0.05].source)
    (alone,) = model.predict(trace.image[None])
    torch.testing.assert_close(alone.scores, candidates.scores)


def values_of(target, output, source, label):
    """The target of a query by the definition, on the network's own output."""
    mask = output.masks_queries_logits[0, source]
    if target == "mask":
        return mask[mask > 0].mean()
    if target == "logit":
        return output.class_queries_logits[0, source, label]
    return instance_models.own_scores(output)[source, label]


@pytest.mark.parametrize("layer", ["backbone", "pixel_decoder[0]", "input"])
def test_gradients_are_autograds(layer):
    model, picture = model_of("mask2former"), pixels((50, 77))
    kept = []
    level = model.network.model.pixel_level_module
    part = {"backbone": level.encoder, "pixel_decoder[0]": level.decoder}.get(layer)
    inputs = model.processor(images=[picture.permute(1, 2, 0).numpy()], return_tensors="pt")
    inputs["pixel_values"].requires_grad_()
    if part is not None:
        handle = part.register_forward_hook(lambda module, given, output: kept.append(output))
    output = model.network(**inputs)
    if part is None:
        theirs_at = inputs["pixel_values"]
    else:
        handle.remove()
        theirs_at = kept[0].feature_maps[-1] if layer == "backbone" else kept[0].multi_scale_features[0]
    trace = model.trace(picture / 255)
    found = trace.detections[[0, 3]]
    for target in ("score", "logit", "mask"):
        way = model.branch_pullbacks("mask", trace, found, layer, "auto") if target == "mask" else None
        (pullback,) = way or model.pullbacks(trace, found, layer, "auto")
        gradients = pullback.gradient(find_target(target, model.classes, (), model)).gradient
        for row, (source, label) in enumerate(zip(found.source, found.labels, strict=True)):
            value = values_of(target, output, source, label)
            (theirs,) = torch.autograd.grad(value, theirs_at, retain_graph=True)
            torch.testing.assert_close(gradients[row], theirs[0], rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_of_the_pixel_decoders_maps_masks_take_the_one_that_they_are_drawn_on():
    model, image = model_of("mask2former"), pixels((50, 77)) / 255
    layers = {
        target: set(whybox.explain(model, image, target=target, layer="pixel_decoder", score_threshold=0.0, top=3).maps.layers)
        for target in ("score", "logit", "contrast:1", "mask:inside", "mask:edge")
    }
    assert layers["mask:inside"] == layers["mask:edge"] == {"pixel_decoder[3]"}
    # The classes do not read it.
    assert layers["score"] == layers["logit"] == layers["contrast:1"]
    assert "pixel_decoder[3]" not in layers["score"]


@pytest.mark.parametrize(("target", "layer"), [("x1", None), ("combined", None), ("logit", "pixel_decoder[3]")])
def test_what_has_no_gradient_is_refused_in_one_line(target, layer):
    model = model_of("mask2former")
    refused = r"^the explained value of hf/mask2former has no gradient at layer '.*': boxes are drawn around the masks .*$"
    with pytest.raises(GradientError, match=refused):
        whybox.explain(model, pixels((50, 77)) / 255, target=target, layer=layer, score_threshold=0.0, top=2)


def test_a_processor_that_pads_is_refused(monkeypatch):
    def padded(*given):
        made = processed(*given)
        made["pixel_mask"][:, -8:] = 0
        return made

    monkeypatch.setattr(instances, "processed", padded)
    model = model_of("mask2former")
    with pytest.raises(WhyboxError, match=r"pads images, and then stretches their masks: give one with pad_size=None"):
        model.trace(pixels((50, 77)) / 255)


@every_kind
def test_a_folder_is_loaded_with_its_processor(name, tmp_path):
    net = instance_models.network(name)
    net.save_pretrained(tmp_path)
    instance_models.processor(name, SIZE).save_pretrained(tmp_path)
    model = build(str(tmp_path), score_threshold=0.0)
    net._forward_hooks.clear()
    image = pixels((50, 77)) / 255
    found, expected = (one.trace(image).candidates.scores for one in (model, model_of(name, net)))
    assert torch.equal(found, expected)
    random = build(str(tmp_path), None, score_threshold=0.0)
    assert not torch.equal(random.trace(image).candidates.scores, expected)
    kept = whybox.load(getattr(transformers, instance_models.KINDS[name][0]).from_pretrained(tmp_path))
    assert torch.equal(kept.trace(image).candidates.scores, expected)
