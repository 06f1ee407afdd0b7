"""Features of regions in the joint space of images and texts: boxes and masks pooled from a dense map."""

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.ops import clip_boxes_to_image, roi_align

from whybox.attention import ImageTextModel
from whybox.frame import Frame, Size
from whybox.methods._dense_features import dense_features
from whybox.network_state import exclusive
from whybox.ops.hooks import frozen
from whybox.types import Trace


def dense_map(model: ImageTextModel, trace: Trace) -> Tensor:
    """The features of all patches: the last layer without its attention, each of length 1.

    Args:
        model: The model.
        trace: Its pass over the image.

    Returns:
        (D,h,w) in float32.
    """
    with exclusive(model.network), frozen(model.network), torch.inference_mode(False), torch.no_grad():
        transformer_pass = model.transformer(trace)
        features = normalize(dense_features(transformer_pass), dim=-1)
    assert transformer_pass.grid is not None
    return features.T.reshape(-1, *transformer_pass.grid)


def pool_boxes(features: Tensor, boxes: Tensor, frame: Frame) -> Tensor:
    """The mean feature of each box by RoIAlign with one bin, as many samples as the box has cells, and half-pixel centers.

    Source: the published evaluation code of Wu et al., CLIPSelf, ICLR 2024.

    Args:
        features: (D,h,w), covering the network's canvas.
        boxes: (N,4) xyxy in image pixels.
        frame: Where the image lies on the canvas.

    Returns:
        (N,D) of length 1; NaN for a box that the canvas does not show, because a crop cut it off.
    """
    on_canvas = frame.boxes_to_network(clip_boxes_to_image(boxes.to(features.device), frame.image).float())
    height, width = frame.network
    shown = on_canvas.clamp(min=0).minimum(on_canvas.new_tensor([width, height, width, height]))
    visible = (shown[:, 2:] > shown[:, :2]).all(1)
    scale = features.shape[-1] / width
    pooled = roi_align(features[None], [on_canvas], output_size=1, spatial_scale=scale, sampling_ratio=-1, aligned=True)
    return _unit(pooled[:, :, 0, 0], visible)


def pool_masks(features: Tensor, masks: Tensor, frame: Frame) -> Tensor:
    """The mean feature of each mask's pixels, each with the feature of the patch that its center lies in.

    Args:
        features: (D,h,w), covering the network's canvas.
        masks: (N,H,W) bool on the image's pixels.
        frame: Where the image lies on the canvas.

    Returns:
        (N,D) of length 1; NaN for a mask of which no pixel is on the canvas.
    """
    weights = mask_weights(masks, frame, (features.shape[-2], features.shape[-1])).to(features.device)
    pooled = weights.flatten(1) @ features.flatten(1).T
    return _unit(pooled, weights.flatten(1).sum(1) > 0)


def mask_weights(masks: Tensor, frame: Frame, grid: Size) -> Tensor:
    """How many pixels of each mask lie in each patch.

    Args:
        masks: (N,H,W) bool on the image's pixels.
        frame: Where the image lies on the network's canvas.
        grid: (h,w) patches that cover the canvas.

    Returns:
        (N,h,w) counts, as float32.
    """
    height, width = frame.image
    # Rows and columns of pixels go to rows and columns of patches independently.
    down = _cells(torch.arange(height) + 0.5, frame, grid, axis=1)
    across = _cells(torch.arange(width) + 0.5, frame, grid, axis=0)
    return down @ masks.cpu().float() @ across.T


def _cells(centers: Tensor, frame: Frame, grid: Size, axis: int) -> Tensor:
    """(cells,pixels) 1 where a pixel's center lies in a cell; axis 0: columns, 1: rows."""
    points = torch.zeros(len(centers), 2)
    points[:, axis] = centers
    extent, count = frame.network[1 - axis], grid[1 - axis]
    cell = (frame.points_to_network(points)[:, axis] * count / extent).floor()
    return (cell == torch.arange(count)[:, None]).float()


def _unit(pooled: Tensor, visible: Tensor) -> Tensor:
    return torch.where(visible[:, None], normalize(pooled, dim=-1), torch.nan)


def region_features(model: ImageTextModel, trace: Trace, boxes: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The features of an image's regions, from one pass.

    Args:
        model: The model.
        trace: Its pass over the image.
        boxes: (N,4) xyxy in image pixels.
        masks: (N,H,W) bool, or None.

    Returns:
        (N,D) of the boxes and of the masks, each of length 1 or NaN, on the CPU; None without masks.
    """
    features = dense_map(model, trace)
    of_boxes = pool_boxes(features, boxes, trace.frame).cpu()
    return of_boxes, None if masks is None else pool_masks(features, masks, trace.frame).cpu()


def image_embedding(trace: Trace) -> Tensor:
    """(D,) the embedding of the whole image, of length 1, in float32 on the CPU."""
    assert trace.embedding is not None
    return normalize(trace.embedding[0].float(), dim=-1).cpu()
