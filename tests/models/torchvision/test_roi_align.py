import pytest
import torch
from torchvision.ops import roi_align

from whybox.models.torchvision._roi_align import align_weights, spread_pooled

BOXES = torch.tensor([[2.2, 3.1, 9.7, 8.4], [-0.9, -0.4, 3.0, 5.0], [5.0, 6.0, 5.2, 6.1], [8.0, 7.0, 13.4, 11.8], [0, 0, 13, 11]])
GRID = (11, 13)


@pytest.mark.parametrize("ratio", [2, 1, 0, -1])
def test_the_two_matrices_are_roi_align(ratio):
    features = torch.rand(3, *GRID, dtype=torch.float64)
    boxes = BOXES.double()
    origin = torch.zeros(len(boxes), dtype=torch.long)
    rows = align_weights(boxes[:, 1], boxes[:, 3], 7, ratio, GRID[0], origin, GRID[0])
    columns = align_weights(boxes[:, 0], boxes[:, 2], 5, ratio, GRID[1], origin, GRID[1])
    ours = rows[:, None] @ features @ columns.transpose(1, 2)[:, None]
    theirs = roi_align(features[None], [boxes], (7, 5), 1.0, ratio)
    assert torch.allclose(ours, theirs, atol=1e-9)


def test_the_transpose_into_windows_is_autograds():
    features = torch.rand(1, 3, *GRID, dtype=torch.float64, requires_grad=True)
    boxes = BOXES[[0, 3]].double()
    seed = torch.rand(2, 3, 7, 7, dtype=torch.float64)
    first = torch.tensor([[2, 1], [5, 6]])
    rows = align_weights(boxes[:, 1], boxes[:, 3], 7, 2, GRID[0], first[:, 0], 6 + 2)
    columns = align_weights(boxes[:, 0], boxes[:, 2], 7, 2, GRID[1], first[:, 1], 7 + 3)
    windows = spread_pooled(seed, rows, columns)
    for i, (row, column) in enumerate(first.tolist()):
        pooled = roi_align(features, [boxes[i : i + 1]], 7, 1.0, 2)
        expected = torch.autograd.grad((pooled * seed[i]).sum(), features)[0][0]
        inside = expected[:, row : row + 8, column : column + 10]
        assert torch.allclose(windows[i][:, : inside.shape[1], : inside.shape[2]], inside, atol=1e-9)
        assert expected.abs().sum() == pytest.approx(float(inside.abs().sum()))
