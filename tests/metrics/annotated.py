"""An annotated image and detections that stand for some of its objects."""

import torch

from whybox.frame import Frame
from whybox.truth import MetricInput, Truth
from whybox.types import Detections

SIZE = (40, 50)


def case_of(boxes, matched, ignore=(), masks=None, size=SIZE):
    """A case of G boxes, some of them ignore regions, and one detection for each entry of `matched`."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    ignored = torch.zeros(count, dtype=torch.bool)
    ignored[list(ignore)] = True
    truth = Truth(boxes, torch.ones(count, dtype=torch.long), tuple(str(i) for i in range(count)), ignored, masks)
    matched = torch.as_tensor(matched, dtype=torch.long)
    none = torch.zeros(len(matched))
    found = Detections(torch.zeros((len(matched), 4)), none, none.long(), none.long())
    return MetricInput(torch.zeros((3, *size)), Frame.same(size), found, truth, matched, torch.arange(len(matched)))


def random_case(seed=0, ignore=()):
    """Seven boxes, several of them overlapping or reaching beyond the image, with masks, and a map for each."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand((7, 2), generator=generator) * torch.tensor([50.0, 40.0])
    half = torch.rand((7, 2), generator=generator) * 10 + 4
    boxes = torch.cat([center - half, center + half], 1)
    boxes[0] = torch.tensor([-6.5, 20.2, 12.7, 55.0])
    y, x = torch.meshgrid(torch.arange(40.0) + 0.5, torch.arange(50.0) + 0.5, indexing="ij")
    middle, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    across, down = (x - middle[:, 0, None, None]) / radius[:, 0, None, None], (y - middle[:, 1, None, None])
    masks = across**2 + (down / radius[:, 1, None, None]) ** 2 < 1
    maps = torch.rand((7, *SIZE), generator=generator) * 3 - 1
    return maps, case_of(boxes, range(7), ignore, masks)


def touched(box, size=SIZE):
    """The pixels (y, x) that a box touches, one by one."""
    left, top, right, bottom = box.double().tolist()
    return {(y, x) for y in range(size[0]) for x in range(size[1]) if left < x + 1 and x < right and top < y + 1 and y < bottom}


def region_pixels(case, row, region):
    """The pixels (y, x) of an object's box or mask."""
    if region == "box":
        return touched(case.truth.boxes[row], tuple(case.image.shape[1:]))
    return {(y, x) for y, x in case.truth.masks[row].nonzero().tolist()}


def add_up(values, pixels):
    """The sum of a map (H,W) over pixels."""
    return sum(float(values[y, x]) for y, x in pixels)


def same(values, expected, rtol=1e-5, atol=1e-6):
    """values (N,) are the expected numbers, NaN for NaN."""
    torch.testing.assert_close(values.double(), torch.tensor(expected, dtype=torch.double), rtol=rtol, atol=atol, equal_nan=True)
