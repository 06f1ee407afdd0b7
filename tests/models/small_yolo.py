"""A small network with the interface of ultralytics' detectors, and classes of their names: it stands in for one where the
package, which brings OpenCV and more, is not installed."""

import torch
from torch import nn

STRIDES = (8.0, 16.0)


class _OfUltralytics:
    """What derives from this is taken for a class of the package."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.__module__ = "ultralytics.stand_in"


class Detect(_OfUltralytics, nn.Module):
    """Distances from a cell's center to the sides, in strides, and K class scores; with a second branch where it is asked for.
    `f` and `i` say where in the network its inputs and itself stand."""

    max_det, xyxy, shape = 300, False, None
    detaches = False  # early releases cut the second branch off from the features

    def __init__(self, channels, classes, second):
        super().__init__()
        self.nc, self.f, self.i, self.end2end = classes, [1, -1], 3, second
        self.stride, self.dfl = torch.tensor(STRIDES), nn.Identity()
        self.cv2 = nn.ModuleList(nn.Conv2d(channels, 4, 3, padding=1) for _ in STRIDES)
        self.cv3 = nn.ModuleList(nn.Conv2d(channels, classes, 3, padding=1) for _ in STRIDES)
        if second:
            self.one2one_cv2 = nn.ModuleList(nn.Conv2d(channels, 4, 3, padding=1) for _ in STRIDES)
            self.one2one_cv3 = nn.ModuleList(nn.Conv2d(channels, classes, 3, padding=1) for _ in STRIDES)

    def forward_head(self, maps, sides, scores):
        columns = [
            torch.cat([layer(x).flatten(2) for layer, x in zip(layers, maps, strict=True)], 2) for layers in (sides, scores)
        ]
        return {"boxes": columns[0], "scores": columns[1], "feats": maps}

    def forward(self, maps):
        raw = read = self.forward_head(maps, self.cv2, self.cv3)
        if hasattr(self, "one2one_cv2"):
            apart = [values.detach() for values in maps] if self.detaches else maps
            raw = {"one2many": raw, "one2one": self.forward_head(apart, self.one2one_cv2, self.one2one_cv3)}
            read = raw["one2one" if self.end2end else "one2many"]
        return self._inference(read), raw

    def _inference(self, raw):
        if self.shape != raw["feats"][0].shape:
            self.shape = raw["feats"][0].shape
            self.anchors, self.strides = self._grid(raw["feats"])
        centers, sides = self.anchors, raw["boxes"]
        low, high = centers - sides[:, :2], centers + sides[:, 2:]
        parts = (low, high) if self.end2end else ((low + high) / 2, high - low)
        return torch.cat([torch.cat(parts, 1) * self.strides, raw["scores"].sigmoid()], 1)

    def _grid(self, maps):
        centers, strides = [], []
        for values, stride in zip(maps, STRIDES, strict=True):
            rows, columns = torch.meshgrid(*(torch.arange(n) + 0.5 for n in values.shape[2:]), indexing="ij")
            centers.append(torch.stack([columns, rows]).flatten(1))
            strides.append(torch.full((1, values[0, 0].numel()), stride))
        return torch.cat(centers, 1), torch.cat(strides, 1)


class _WithMore(Detect):
    """A head with more outputs per cell: `count` of them, called `key` among the raw ones."""

    key, count = "", 0

    def __init__(self, channels, classes, second):
        super().__init__(channels, classes, second)
        self.cv4 = nn.ModuleList(nn.Conv2d(channels, self.count, 3, padding=1) for _ in STRIDES)

    def forward_head(self, maps, sides, scores):
        more = torch.cat([layer(x).flatten(2) for layer, x in zip(self.cv4, maps, strict=True)], 2)
        return super().forward_head(maps, sides, scores) | {self.key: self.decode(more)}

    def decode(self, values):
        return values

    def _inference(self, raw):
        return torch.cat([super()._inference(raw), raw[self.key]], 1)


class Segment(_WithMore):
    """Weights of four prototypes, which lie on a grid of stride 4."""

    key, count, nm = "mask_coefficient", 4, 4

    def __init__(self, channels, classes, second):
        super().__init__(channels, classes, second)
        self.proto = nn.ConvTranspose2d(channels, self.nm, 2, 2)

    def forward(self, maps):
        output, raw = super().forward(maps)
        return (output, self.proto(maps[0])), raw


class Pose(_WithMore):
    """Five keypoints with a score each, from the cell's center in strides."""

    key, count, nk, kpt_shape = "kpts", 15, 15, (5, 3)

    def _inference(self, raw):
        boxes = Detect._inference(self, raw)
        x, y, score = raw["kpts"].unflatten(1, self.kpt_shape).unbind(2)
        points = [(x + self.anchors[0]) * self.strides, (y + self.anchors[1]) * self.strides, score.sigmoid()]
        return torch.cat([boxes, torch.stack(points, 2).flatten(1, 2)], 1)


class OBB(_WithMore):
    """Boxes turned by an angle."""

    key, count, ne = "angle", 1, 1

    def decode(self, values):
        return (values.sigmoid() - 0.25) * torch.pi


class YOLOEDetect(Detect):
    """A head that reads prompts, here none."""


class Classify(_OfUltralytics, nn.Module):
    """A head that draws no boxes."""


class BaseModel(_OfUltralytics, nn.Module):
    """A backbone, two levels, a head. end2end: whether the head has a second branch, which it then reads."""

    def __init__(self, *, end2end=False, head=Detect, names=("cat", "dog", "bird")):
        super().__init__()
        torch.manual_seed(0)
        down = lambda first, stride: nn.Sequential(nn.Conv2d(first, 8, 3, stride, 1), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        stem = nn.Sequential(down(3, 4), down(8, 2))
        last = head(8, len(names), end2end) if issubclass(head, Detect) else head()
        self.model = nn.Sequential(stem, down(8, 1), down(8, 2), last)
        self.names, self.yaml = dict(enumerate(names)), {"yaml_file": "small.yaml"}
        self.args = {"imgsz": 128}
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        for name in ("cv2", "one2one_cv2"):
            for layer in getattr(last, name, ()):
                nn.init.constant_(layer.bias, 2.0)

    def forward(self, images):
        *parts, head = self.model
        outputs = []
        for part in parts:
            images = part(images)
            outputs.append(images)
        return head([outputs[index if index >= 0 else head.i + index] for index in head.f])
