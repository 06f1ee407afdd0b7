"""Features of regions held to plain loops over cells and pixels, on every kind of network."""

import pytest
import torch
from torch.nn.functional import normalize

import whybox
from models import hf_models, open_clip_models
from runs.small_clip import make_clip
from whybox.data.images import read_image
from whybox.data.scenes import draw_scene
from whybox.frame import Frame
from whybox.runs.clip_scores.regions import dense_map, mask_weights, pool_boxes, pool_masks, region_features
from whybox.targets import ClassScore

FRAMES = {
    "same": Frame.same((48, 64)),
    "padded": Frame((30, 40), (48, 64), (64, 64), (8, 0)),
    "cropped": Frame((60, 90), (48, 72), (48, 48), (0, -12)),
    "squeezed": Frame((30, 40), (64, 64), (64, 64)),
}


def features_for(frame, cell=8):
    generator = torch.Generator().manual_seed(0)
    grid = [side // cell for side in frame.network]
    return normalize(torch.randn((5, *grid), generator=generator), dim=0)


@pytest.mark.parametrize("name", FRAMES)
def test_a_box_that_covers_cells_exactly_has_their_mean(name):
    frame = FRAMES[name]
    features = features_for(frame)
    box = torch.tensor([[16.0, 8.0, 40.0, 32.0]])
    pooled = pool_boxes(features, frame.boxes_to_image(box), frame)
    assert torch.allclose(pooled[0], normalize(features[:, 1:4, 2:5].mean((1, 2)), dim=0), atol=1e-5)


@pytest.mark.parametrize("name", FRAMES)
def test_a_mask_counts_its_pixels_by_the_cell_of_their_centers(name):
    frame = FRAMES[name]
    height, width = frame.image
    masks = (
        torch.rand((3, height, width), generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.5, 0.9])[:, None, None]
    )
    rows, columns = (side // 8 for side in frame.network)
    counts = torch.zeros(3, rows, columns)
    for y in range(height):
        for x in range(width):
            across, down = frame.points_to_network(torch.tensor([x + 0.5, y + 0.5])).tolist()
            row, column = int(down // 8), int(across // 8)
            if 0 <= row < rows and 0 <= column < columns:
                counts[:, row, column] += masks[:, y, x]
    weights = mask_weights(masks, frame, (rows, columns))
    assert torch.equal(weights, counts)
    features = features_for(frame)
    mean = torch.einsum("nhw,dhw->nd", counts, features)
    assert torch.allclose(pool_masks(features, masks, frame), normalize(mean, dim=-1), atol=1e-5)


def test_what_the_network_does_not_see_has_no_feature():
    frame = FRAMES["cropped"]
    masks = torch.zeros((2, 60, 90), dtype=torch.bool)
    masks[0, 5:9, :10] = masks[1, 5:9, 40:50] = True
    boxes = torch.tensor([[0.0, 5, 10, 9], [40.0, 5, 50, 9]])
    for pooled in (pool_boxes(features_for(frame), boxes, frame), pool_masks(features_for(frame), masks, frame)):
        assert pooled.isfinite().all(1).tolist() == [False, True]


def test_a_box_is_cut_at_the_image_and_a_tiny_one_has_the_feature_of_its_cell():
    frame = FRAMES["same"]
    features = features_for(frame)
    boxes = torch.tensor([[-30.0, -30, 8, 8], [20.0 - 0.01, 12 - 0.01, 20.01, 12.01]])
    pooled = pool_boxes(features, boxes, frame)
    assert torch.allclose(pooled, features[:, [0, 1], [0, 2]].T, atol=1e-4)


def test_no_regions():
    frame = FRAMES["same"]
    assert pool_boxes(features_for(frame), torch.zeros(0, 4), frame).shape == (0, 5)
    assert pool_masks(features_for(frame), torch.zeros(0, 48, 64, dtype=torch.bool), frame).shape == (0, 5)


def test_a_patchs_cosine_with_a_text_is_maskclips():
    model = make_clip().prompt(["a red ball", "a tree"])
    trace = whybox.trace(model, draw_scene(0, size=(64, 64)).image)
    features = dense_map(model, trace)
    maps = whybox.explain(model, trace, method="maskclip", target=ClassScore()).maps.native
    cosines = torch.einsum("kd,dhw->khw", model.prompt_embeddings(), features)
    assert torch.allclose(cosines, torch.stack(maps), atol=1e-5)


@pytest.mark.parametrize("kind", ["native", "siglip", "timm_mean", "eva", "resnet"])
def test_open_clip_of_every_kind_gives_features(kind):
    check(whybox.load(open_clip_models.network(kind), tokenizer=open_clip_models.tokenizer()))


def test_siglip_gives_features():
    check(whybox.load(hf_models.stirred(hf_models.siglip()), tokenizer=hf_models.tokenizer()))


def check(model):
    trace = whybox.trace(model, read_image(draw_scene(0, size=(96, 64)).image))
    boxes = torch.tensor([[40.0, 10, 60, 40], [45.0, 5, 50, 60]])
    masks = torch.zeros((2, 64, 96), dtype=torch.bool)
    masks[:, 20:40, 40:60] = True
    of_boxes, of_masks = region_features(model, trace, boxes, masks)
    for rows in (of_boxes, of_masks):
        assert torch.allclose(rows.norm(dim=1), torch.ones(2), atol=1e-4)
        assert rows.shape[1] == trace.embedding.shape[1]
