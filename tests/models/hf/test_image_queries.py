"""OWL-ViT and OWLv2 asked with images of what is looked for, held to transformers' image-guided detection."""

import pytest
import torch
from PIL import Image

import whybox
from models.hf_versions import needs
from models.prompted_models import SHAPE, TEXTS, prompted_pair
from whybox.errors import WhyboxError
from whybox.methods.odam import odam_map
from whybox.prompting import prompted

FAMILIES = [pytest.param(family, marks=needs(family)) for family in ("owlvit", "owlv2")]


def drawn(seed, height, width):
    values = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(values.numpy())


PICTURE, CROPS = drawn(1, *SHAPE), {"bottle": drawn(2, 30, 20), "can": drawn(3, 24, 40)}


@pytest.fixture(params=FAMILIES)
def pair(request):
    return prompted_pair(request.param)


def own_output(pair, crop):
    net, processor = pair
    return net.image_guided_detection(**processor(images=PICTURE, query_images=crop, return_tensors="pt"))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_detections_are_the_processors(pair, threshold):
    net, processor = pair
    with torch.no_grad():
        output = own_output(pair, CROPS["bottle"])
    settings = {"threshold": threshold, "nms_threshold": 0.3, "target_sizes": torch.tensor([SHAPE])}
    (theirs,) = processor.post_process_image_guided_detection(output, **settings)
    model = whybox.load(net, processor=processor, score_threshold=threshold)
    ours = whybox.detect(model, PICTURE, text=CROPS["bottle"])
    assert len(theirs["scores"])
    torch.testing.assert_close(ours.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
    # The processor gives how opaque to draw a box: 1 for the best one, 0 for a tenth of its score.
    best = ours.scores.max() + 1e-6
    torch.testing.assert_close((ours.scores - 0.1 * best) / (0.9 * best), theirs["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.scores, output.logits[0].sigmoid()[ours.source, 0], rtol=1e-4, atol=1e-5)


def test_a_rule_of_duplicate_removal_stays_with_the_images(pair):
    net, processor = pair
    model = prompted(whybox.with_nms(whybox.load(net, processor=processor), "greedy:iou_threshold=1"), CROPS)
    assert model.classes == list(CROPS)
    assert model.settings.endswith("nms=greedy:iou_threshold=1.0")
    found = whybox.detect(model, PICTURE, score_threshold=0, top=10_000)
    assert len(found) == len(model.unsuppressed(whybox.trace(model, PICTURE))) > 0


def test_several_images_are_classes_by_name(pair):
    net, processor = pair
    model = whybox.load(net, processor=processor, score_threshold=0)
    result = whybox.explain(model, PICTURE, text=CROPS, top=3)
    assert set(result.names) <= {"bottle", "can"}
    trace = whybox.trace(prompted(model, CROPS), PICTURE)
    for column, crop in enumerate(CROPS.values()):
        with torch.no_grad():
            wanted = own_output(pair, crop).logits[0, :, 0]
        torch.testing.assert_close(trace.candidates.logits[:, column], wanted, rtol=1e-3, atol=1e-3)


def test_the_map_is_odam_by_autograd_through_image_guided_detection(pair):
    net, processor = pair
    model = whybox.load(net, processor=processor, score_threshold=0)
    result = whybox.explain(model, PICTURE, text=CROPS["bottle"], top=2)
    kept = []

    def watch(part, args, output):
        output.requires_grad_()
        kept.append(output)

    # The image that is looked for runs first.
    handle = net.get_submodule(model._reader.paths()["tokens"][0]).register_forward_hook(watch)
    output = own_output((net, processor), CROPS["bottle"])
    handle.remove()
    assert len(kept) == 2
    for row, values in zip(result.detections.source.tolist(), result.maps.values, strict=True):
        (gradient,) = torch.autograd.grad(output.logits[0, row, 0].sigmoid(), kept[1], retain_graph=True)
        tokens = [part[0, 1:].T.reshape(-1, 4, 4) for part in (kept[1].detach(), gradient)]
        expected = odam_map(tokens[0], tokens[1][None])[0]
        assert expected.any()
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_a_trace_of_other_images_is_made_again(pair):
    net, processor = pair
    model = whybox.load(net, processor=processor, score_threshold=0)
    trace = whybox.trace(prompted(model, CROPS["bottle"]), PICTURE)
    other = whybox.explain(model, trace, text=CROPS["can"], top=2)
    alone = whybox.explain(model, PICTURE, text=CROPS["can"], top=2)
    assert torch.equal(other.maps.values, alone.maps.values)
    back = whybox.explain(model, trace, text=TEXTS, top=2)
    assert set(back.names) <= set(TEXTS)


def test_the_network_of_the_pass_embeds_the_images(pair):
    net, processor = pair
    model = whybox.load(net, processor=processor, score_threshold=0)
    before = whybox.trace(prompted(model, CROPS["bottle"]), PICTURE).candidates.scores
    weight = net.class_head.dense0.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[::2] = 0
            wanted = own_output(pair, CROPS["bottle"]).logits[0].sigmoid()
        after = whybox.trace(prompted(model, CROPS["bottle"]), PICTURE).candidates.scores
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    torch.testing.assert_close(after, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after, atol=2e-3)


def test_mistakes_are_told_in_one_line(pair):
    net, processor = pair
    model = whybox.load(net, processor=processor, score_threshold=0)
    with pytest.raises(WhyboxError, match="text mixes images of what is looked for with texts"):
        whybox.explain(model, PICTURE, text=["a bottle", CROPS["can"]])
    with pytest.raises(WhyboxError, match="there are no words; leave words out"):
        whybox.explain(model, PICTURE, text=CROPS["can"], words=True, top=1)


@pytest.mark.parametrize("family", [pytest.param("grounding_dino", marks=needs("grounding_dino"))])
def test_networks_that_read_texts_alone(family):
    net, processor = prompted_pair(family)
    model = whybox.load(net, processor=processor)
    with pytest.raises(WhyboxError, match="reads texts alone; OWL-ViT and OWLv2 also take images"):
        whybox.explain(model, PICTURE, text=CROPS["can"])


def test_image_text_models_are_asked_with_texts():
    with pytest.raises(WhyboxError, match="is asked with texts; images of what is looked for are for OWL-ViT"):
        whybox.explain("whybox/scenes-clip", PICTURE, text=CROPS["can"])
