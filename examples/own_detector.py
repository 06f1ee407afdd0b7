"""A detector that whybox has never heard of: a grid of cells that predict boxes, as YOLO's family does."""

import torch
from torch import nn

import whybox


class GridDetector(nn.Module):
    """One box and three class scores for each cell of a grid with stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, 32, 5, stride=8, padding=2), nn.SiLU(inplace=True))
        self.head = nn.Conv2d(32, 4 + 3, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.neck(images))


def read(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (M,4) xyxy in network pixels and scores (M,3) from the output (1,7,h,w)."""
    _, _, height, width = output.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center = torch.stack([columns, rows], -1).reshape(-1, 2) * 8 + 4 + 8 * output[0, :2].flatten(1).T.tanh()
    half = 16 * output[0, 2:4].flatten(1).T.exp()
    return torch.cat([center - half, center + half], 1), output[0, 4:].flatten(1).T.sigmoid()


torch.manual_seed(0)
model = whybox.load(GridDetector(), candidates=read, features=["neck"], size=(256, 320), classes=["cat", "dog", "bird"])
result = whybox.explain(model, torch.rand(3, 240, 400), target="x2", top=3)
print(result.names, result.maps.values.shape, result.maps.at_image().shape)
