"""FeatureNMS's head: where its embeddings come from, how it is trained, and that the detector is the same with and without it."""

import copy
import json

import pytest
import torch
from torch import nn

import whybox
from models.detectors import detector, image
from training.test_odam_train import NETWORKS, RECIPE, SMALL, batch, network, one_thread, same, state
from whybox import zoo
from whybox.duplicates import remove_duplicates
from whybox.errors import WhyboxError
from whybox.losses import FeatureMargin, OdamTrain
from whybox.losses.feature_margin import margin_loss
from whybox.models.torchvision.onestage import OneStage
from whybox.ops.embedding_heads import RegionEmbeddings, add_embedding_head
from whybox.training import detector as training
from whybox.training.examples import open_training_data
from whybox.training.pass_losses import as_losses, make_loss, spec_of, specs_of, watching

__all__ = ["one_thread"]


def embedding(name, size=6, layers=2):
    """A detector in training mode with a head, whose weights, but for the head's, are those of `network`."""
    net = network(name)
    add_embedding_head(net, size, layers)
    return net


def passed(net, *losses, given=None, seed=0, step=0):
    """The detector's losses, and the pass."""
    torch.manual_seed(seed)
    with watching(net, *losses, step=step) as seen:
        own = net(*copy.deepcopy(given or batch()))
    return own, seen


def spread(net):
    """In evaluation mode, every score kept."""
    getattr(net, "roi_heads", net).score_thresh = 0.0
    return net.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_detector_is_the_same_with_and_without_a_head(name):
    plain, headed = spread(network(name)), spread(embedding(name))
    with torch.no_grad():
        expected, found = plain(batch()[0]), headed(batch()[0])
    assert len(expected[0]["scores"])
    assert all(torch.equal(value, found[i][key]) for i in range(2) for key, value in expected[i].items())
    torch.manual_seed(0)
    losses = plain.train()(*batch())
    with_head, _ = passed(headed.train(), FeatureMargin())
    assert losses.keys() == with_head.keys()
    assert all(torch.equal(value, with_head[key]) for key, value in losses.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_embeddings_are_the_heads_at_each_detections_place(name):
    net = spread(embedding(name))
    model = whybox.load(net)
    trace = model.trace(batch()[0][0])
    found = model.unsuppressed(trace)
    found = found[torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:40]]
    ours = model.embed_detections(trace, found)
    assert ours.shape == (len(found), 6)
    assert not ours.requires_grad
    with torch.no_grad():
        given, _ = net.transform([batch()[0][0]])
        features = net.backbone(given.tensors)
        for row, values in zip(found.source.tolist(), ours, strict=True):
            if hasattr(net, "roi_heads"):
                region = [trace.state.proposals[row][None]]
                pooled = net.roi_heads.box_roi_pool(features, region, given.image_sizes)
                expected = net.embedding_head(net.roi_heads.box_head(pooled))[0]
            else:
                # One anchor per cell: the row says level and cell.
                for level in features.values():
                    cells = level.shape[-2] * level.shape[-1]
                    if row < cells:
                        break
                    row -= cells
                at = net.embedding_head.last(net.embedding_head.tower(level))[0, :, row // level.shape[-1], row % level.shape[-1]]
                expected = at / at.norm()
            torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-4)
    assert model.embed_detections(trace, found[:0]).shape == (0, 6)


def test_each_anchor_of_a_cell_has_its_own():
    torch.manual_seed(0)
    net = copy.deepcopy(detector("retinanet_resnet50_fpn"))
    head = add_embedding_head(net, 5, 0)
    model = whybox.load(net)
    trace = model.trace(image())
    found = model.unsuppressed(trace)[:60]
    feature, values = trace.features[0], model.embed_detections(trace, found)
    first = found.source < feature.grid[0] * feature.grid[1] * 9
    assert first.any()
    raw = head.last(feature.values[None])[0]
    for row, value in zip(found.source[first].tolist(), values[first], strict=True):
        cell, anchor = divmod(row, 9)
        at = raw[5 * anchor : 5 * anchor + 5, cell // feature.grid[1], cell % feature.grid[1]].detach()
        torch.testing.assert_close(value, at / at.norm(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_pass_embeds_the_predictions_that_were_assigned_an_object(name):
    net = embedding(name)
    # So that normalizations do the same on some regions as on all of the pass.
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    before = state(net)
    own, seen = passed(net, FeatureMargin(weight=0.5))
    found = seen.seen.embedded(most=300)
    assert state(net) == before
    row = seen.seen._assigned(300).row
    if seen.seen.two_stage:
        expected = net.embedding_head(net.roi_heads.box_head(seen.seen._pooled)[row])
    else:
        features = list(net.backbone(net.transform(batch()[0])[0].tensors).values())
        expected = net.embedding_head(features).flatten(0, 1)[row]
    torch.testing.assert_close(found.embeddings, expected)
    terms = margin_loss(found.embeddings, found.boxes, found.owner, found.image, found.labels)
    loss = seen.losses()["feature_margin"]
    assert loss.item() == pytest.approx(0.5 * (terms.same + terms.different).item())
    torch.autograd.backward(loss + sum(own.values()))
    assert all(weight.grad.isfinite().all() for weight in net.embedding_head.parameters())


@pytest.mark.parametrize("name", ["fcos", "faster rcnn"])
def test_images_without_objects_give_the_head_a_gradient_of_zero(name):
    net = embedding(name)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    _, seen = passed(net, FeatureMargin(), given=(batch()[0], [none, none]))
    loss = seen.losses()["feature_margin"]
    loss.backward()
    assert loss == 0
    assert all(not weight.grad.any() for weight in net.embedding_head.parameters())


def distances(found):
    """Mean distances of embeddings of the same object and of different ones in an image."""
    apart = torch.cdist(found.embeddings, found.embeddings).detach()
    pairs = (found.image[:, None] == found.image).triu(1)
    mine = found.owner[:, None] == found.owner
    return [apart[pairs & chosen].mean().item() for chosen in (mine, ~mine)]


@pytest.mark.parametrize("name", ["fcos", "retinanet", "faster rcnn"])
def test_a_short_training_brings_those_of_one_object_together(name):
    net = embedding(name, size=8)
    # All pairs of an image: an untrained detector's boxes need not overlap as the objects do.
    options = FeatureMargin(low=0.0, high=1.0)
    # Each lies between two of RetinaNet's anchors, and gets both.
    crowd = {"boxes": torch.tensor([[24.0, 32, 56, 64], [40, 48, 72, 80]]), "labels": torch.tensor([1, 1])}
    given = batch()[0], [crowd, crowd]
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    seen = []
    for _ in range(10):
        own, now = passed(net, options, given=given)
        seen.append(distances(now.seen.embedded(most=300)))
        optimizer.zero_grad()
        torch.autograd.backward(now.losses()["feature_margin"] + 0.1 * sum(own.values()))
        optimizer.step()
    (same_before, different_before), (same_after, different_after) = seen[0], seen[-1]
    assert same_after < 0.8 < 1.0 < different_after
    assert same_after / different_after < 0.7 * same_before / different_before


def test_both_losses_come_from_one_pass():
    net = embedding("fcos")
    own, seen = passed(net, OdamTrain(every=2), FeatureMargin())
    both = seen.losses()
    assert list(both) == ["odam_train", "feature_margin"]
    alone = {}
    for loss in (OdamTrain(), FeatureMargin()):
        alone |= passed(net, loss)[1].losses()
    assert all(torch.equal(both[key], value) for key, value in alone.items())
    torch.autograd.backward(sum(both.values()) + sum(own.values()))
    _, seen = passed(net, OdamTrain(every=2), FeatureMargin(), step=1)
    assert seen.losses()["odam_train"] == 0
    assert seen.losses()["feature_margin"] > 0
    with pytest.raises(WhyboxError, match="loss 'odam_train' is given twice"), watching(net, OdamTrain(), OdamTrain()):
        pass
    assert as_losses(None) == () == as_losses([])


def test_a_head_of_a_detector_that_cannot_give_maps_is_trained():
    class Squeezed(nn.Conv2d):
        pass

    net = embedding("retinanet")
    net.head.classification_head.conv[0][0] = Squeezed(32, 32, 3, padding=1)
    assert passed(net, FeatureMargin())[1].losses()["feature_margin"] > 0


def test_what_is_not_supported_is_said_in_one_line():
    for net, message in (
        (network("fcos"), r"this FCOS has no embedding_head: add one .*add_embedding_head\(network\)"),
        (detector("ssdlite320_mobilenet_v3_large"), "embeddings during training are there for torchvision's FCOS.*not for SSD"),
    ):
        with pytest.raises(WhyboxError, match=message) as caught, watching(net, FeatureMargin()):
            pass
        assert "\n" not in str(caught.value)
    with (
        pytest.raises(WhyboxError, match="maps and embeddings during training"),
        watching(nn.Linear(1, 1), OdamTrain(), FeatureMargin()),
    ):
        pass
    for net in (nn.Linear(1, 1), detector("ssdlite320_mobilenet_v3_large")):
        with pytest.raises(WhyboxError, match="an embedding head is there for torchvision's FCOS, RetinaNet and R-CNNs"):
            add_embedding_head(net)
    with pytest.raises(WhyboxError, match="this FCOS has an embedding head already"):
        add_embedding_head(embedding("fcos"))
    with watching(embedding("fcos"), FeatureMargin()) as seen:
        pass
    with pytest.raises(WhyboxError, match="its backbone was not called; call it once"):
        seen.losses()


@pytest.mark.parametrize("name", ["fcos", "faster rcnn"])
def test_a_model_without_a_head_is_refused_early(name):
    net = spread(network(name))
    model = whybox.load(net, name="mine")
    for refused in (
        lambda: whybox.with_nms(model, "feature"),
        lambda: remove_duplicates(model, model.trace(batch()[0][0]), whybox.duplicates.make_rule("feature")),
    ):
        with pytest.raises(WhyboxError, match="rule 'feature' compares learned embeddings, and mine has no embedding head"):
            refused()
    with pytest.raises(WhyboxError, match="mine has no embedding head"):
        model.embed_detections(model.trace(batch()[0][0]), None)
    add_embedding_head(net)
    assert whybox.with_nms(model, "feature").embeds


@pytest.mark.parametrize("name", ["fcos", "retinanet v2", "faster rcnn"])
def test_the_rule_on_a_model_is_the_rule_on_its_embeddings(name):
    model = whybox.load(spread(embedding(name)))
    trace = whybox.trace(model, batch()[0][0])
    found = model.unsuppressed(trace)
    found = found[found.scores.argsort(descending=True, stable=True)][:200]
    embeddings = model.embed_detections(trace, found)
    distance, least = float(torch.cdist(embeddings, embeddings).median()), float(found.scores.min())
    kept = whybox.detect(model, trace, nms=f"feature:distance={distance}", score_threshold=least, top=10_000)
    options = {"rule": "feature", "distance": distance}
    rows = whybox.nms(found.boxes, found.scores, found.labels, embeddings=embeddings, **options)
    greedy = whybox.nms(found.boxes, found.scores, found.labels, rule="greedy", iou_threshold=0.1)
    count = min(len(kept), len(rows))
    assert torch.equal(kept.source[:count], found.source[rows][:count])
    assert len(rows) > len(greedy)


def test_weights_travel_in_state_dict_and_folder(tmp_path):
    arguments = {**SMALL, zoo.EMBEDDING: {"size": 6, "layers": 2}}
    torch.manual_seed(3)
    net = zoo.build("compact_fcos", arguments)
    torch.manual_seed(3)
    assert same(zoo.build("compact_fcos", SMALL).state_dict(), net.state_dict())
    other = zoo.build("compact_fcos", arguments)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.embedding_head.last.weight, net.embedding_head.last.weight)
    classes = [f"class {i}" for i in range(6)]
    zoo.save(net, {"network": "compact_fcos", "arguments": arguments, "classes": classes}, tmp_path)
    model = whybox.with_nms(str(tmp_path), "feature")
    assert model.embeds
    assert torch.equal(model.network.embedding_head.last.weight, net.embedding_head.last.weight.half().float())
    assert len(whybox.detect(model, batch()[0][0], score_threshold=0))
    with pytest.raises(WhyboxError, match="compact_fcos cannot be built from"):
        zoo.build("compact_fcos", {**SMALL, zoo.EMBEDDING: {"width": 6}})


def test_a_region_head_takes_what_a_box_head_gives():
    head = RegionEmbeddings(4, 3)
    values = head(torch.randn(2, 4, 1, 1))
    assert torch.allclose(values.norm(dim=1), torch.ones(2), atol=1e-3)
    nn.init.zeros_(head.last.bias)
    still = torch.zeros(1, 4, requires_grad=True)
    head(still).sum().backward()
    assert still.grad.isfinite().all()


def test_specs_of_several_losses():
    losses = [make_loss(text) for text in ("feature_margin:weight=0.5:size=16", "odam_train")]
    assert losses == [FeatureMargin(weight=0.5, size=16), OdamTrain()]
    assert spec_of(losses[0]) == "feature_margin:weight=0.5:size=16"
    assert specs_of(losses) == "feature_margin:weight=0.5:size=16 odam_train"
    assert specs_of([]) is None


def test_start_takes_over_a_trained_head(tmp_path):
    data = open_training_data("scenes", 4, limit=4, held_out=2)
    loss = FeatureMargin(size=6, layers=1)
    first, arguments = training.start(data.classes, "96x72", embedding=loss.head)
    run = training.fit(first, data, RECIPE, tmp_path, loss=[loss, OdamTrain()], interim=0)
    card = training.keep(run, data, tmp_path, "compact_fcos", arguments, "")
    assert card["arguments"]["embedding"] == {"size": 6, "layers": 1}
    assert card["trained"]["loss"] == "feature_margin:size=6:layers=1 odam_train"
    json.dumps(card)
    taken, _ = training.start(data.classes, "96x72", init=str(tmp_path), embedding=loss.head)
    assert torch.equal(taken.embedding_head.last.weight, zoo.load(tmp_path).network.embedding_head.last.weight)
    without, arguments = training.start(data.classes, "96x72", init=str(tmp_path))
    assert not hasattr(without, "embedding_head")
    assert "embedding" not in arguments
    with pytest.raises(WhyboxError, match="has no embedding_head"):
        training.begin(without, data, RECIPE, loss=loss)


@pytest.mark.parametrize("name", ["fcos", "faster rcnn"])
def test_a_head_alone_can_be_trained(name):
    net = network(name).requires_grad_(False)
    add_embedding_head(net, 6)
    passed(net, FeatureMargin(low=0.0, high=1.0))[1].losses()["feature_margin"].backward()
    assert {path.split(".")[0] for path, weight in net.named_parameters() if weight.grad is not None} == {"embedding_head"}


def test_a_family_of_ones_own_needs_the_method_alone():
    class Own(OneStage):
        embeds = whybox.Model.embeds

        def embed_detections(self, trace, detections):
            return torch.zeros(len(detections), 2)

    net = spread(network("fcos"))
    kept = whybox.detect(whybox.with_nms(Own(net, "own"), "feature"), batch()[0][0], score_threshold=0, top=10_000)
    greedy = whybox.detect(whybox.load(net), batch()[0][0], nms="greedy:iou_threshold=0.1", score_threshold=0, top=10_000)
    assert torch.equal(kept.source, greedy.source)
