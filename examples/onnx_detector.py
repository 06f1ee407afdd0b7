"""Detectors exported to ONNX, as `--model examples/onnx_detector.py:yolox` takes them; needs `pip install onnx2torch`.

The environment variable WEIGHTS names a folder that holds, at any depth, `yolox_nano_416.onnx` or `deimv2_atto_320.onnx`, and
`coco80.txt`, the 80 class names in the order of the outputs. Another export of these networks needs other numbers here: its size,
and its layers, which have the names of the file's nodes.
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import whybox

WEIGHTS = Path(os.environ.get("WEIGHTS", "weights"))


def yolox() -> whybox.Model:
    """YOLOX-Nano at 416x416; its features are the inputs of the head."""
    return whybox.load(
        network("yolox_nano_416.onnx"),
        name="YOLOX-Nano",
        candidates=YoloxReader((416, 416)),
        features=["Mul_246", "Mul_272", "Mul_298"],
        size=(416, 416),
        resize="corner",
        scale=255,
        bgr=True,
        nms_iou=0.65,
        classes=names(),
    )


def deimv2() -> whybox.Model:
    """DEIMv2-Atto at 320x320; its features are what the decoder reads: the encoder's two levels."""
    return whybox.load(
        network("deimv2_atto_320.onnx"),
        name="DEIMv2-Atto",
        candidates=read_deimv2,
        features=["model/encoder/fpn_block/cv4/act/Mul", "model/encoder/pan_block/cv4/act/Mul"],
        size=(320, 320),
        resize="stretch",
        nms_iou=None,
        classes=names(),
    )


def network(file: str) -> nn.Module:
    """The module with the nodes of an ONNX file, with gradients."""
    import onnx2torch

    return onnx2torch.convert(str(find(file)))


def names() -> list[str]:
    """COCO's 80 classes."""
    return find("coco80.txt").read_text().splitlines()


def find(file: str) -> Path:
    """A file in the folder WEIGHTS, at any depth."""
    found = sorted(WEIGHTS.rglob(file))
    if not found:
        raise FileNotFoundError(f"{WEIGHTS} holds no {file}; set the environment variable WEIGHTS to its folder")
    return found[0]


class YoloxReader:
    """Reads YOLOX's own export: boxes in strides, from the corner of their cell; objectness and class are probabilities."""

    def __init__(self, size: tuple[int, int], strides: tuple[int, ...] = (8, 16, 32)) -> None:
        """size: (height, width) of the input."""
        grids = [torch.meshgrid(torch.arange(size[0] // s), torch.arange(size[1] // s), indexing="ij") for s in strides]
        self.cells = torch.cat([torch.stack([columns, rows], -1).view(-1, 2) for rows, columns in grids])
        self.strides = torch.cat([torch.full((rows.numel(), 1), s) for s, (rows, _) in zip(strides, grids, strict=True)])

    def __call__(self, output: Tensor) -> dict[str, Any]:
        """(1, M, 4 + 1 + classes) -> all candidates."""
        values = output[0]
        center, half = (values[:, :2] + self.cells) * self.strides, values[:, 2:4].exp() * self.strides / 2
        objectness, classes = values[:, 4], values[:, 5:]
        return {
            "boxes": torch.cat([center - half, center + half], 1),
            "scores": objectness[:, None] * classes,
            "factors": {"objectness": objectness, "class": classes},
        }


def read_deimv2(output: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Logits (1, queries, classes); centers and sizes (1, queries, 4) in parts of the image -> all candidates."""
    logits, boxes = output[0][0], output[1][0] * 320
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return {"boxes": torch.cat([center - half, center + half], 1), "scores": logits.sigmoid(), "logits": logits}


if __name__ == "__main__":
    print(f"whybox explain PHOTO --model {Path(__file__).name}:yolox --out maps")
