"""The functions of docs/your_detector.md read outputs of the forms that their packages' networks have. The packages are not
installed here: each network is a small one of the same output form, and where its outputs are zero, its boxes are known."""

import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import whybox
from contract.pages import DOCS, defined_by

ROOT = Path(__file__).parents[2]
PAGE = DOCS / "your_detector.md"
SIZE = (64, 96)
STRIDES = (8, 16)
CLASSES = 3


@pytest.fixture(scope="module")
def page():
    """What the page's blocks define."""
    return defined_by(PAGE)


class Pyramid(nn.Module):
    """Two levels, and a convolution on each that gives `columns` numbers per cell."""

    def __init__(self, columns, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=8, padding=1), nn.SiLU())
        self.fpn = Levels()
        self.heads = nn.ModuleList(nn.Conv2d(8, columns, 3, padding=1) for _ in STRIDES)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.3)

    def raw(self, images):
        return [head(level) for head, level in zip(self.heads, self.fpn(self.stem(images)), strict=True)]


class Levels(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.SiLU())

    def forward(self, level):
        return [level, self.down(level)]


def silent(network):
    """The same network with outputs of zero before they are decoded."""
    for head in network.heads:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return network


class Yolox(Pyramid):
    """Probabilities, and boxes decoded to center and size where the export did not leave them as they are."""

    decoded = True

    def __init__(self, **options):
        super().__init__(4 + 1 + CLASSES, **options)

    def forward(self, images):
        rows = []
        for raw, stride in zip(self.raw(images), STRIDES, strict=True):
            _, _, height, width = raw.shape
            values = raw.flatten(2).transpose(1, 2)
            sides = values[..., :4]
            if self.decoded:
                ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
                corner = torch.stack([xs, ys], -1).reshape(1, -1, 2)
                sides = torch.cat([(values[..., :2] + corner) * stride, values[..., 2:4].exp() * stride], -1)
            rows.append(torch.cat([sides, values[..., 4:].sigmoid()], -1))
        return torch.cat(rows, 1)


class ExportedYolox(Yolox):
    decoded = False


class ExportedYolov8(Pyramid):
    """Center and size in pixels, and probabilities, in rows."""

    def __init__(self, **options):
        super().__init__(4 + CLASSES, **options)

    def forward(self, images):
        values = torch.cat([raw.flatten(2) for raw in self.raw(images)], 2)
        center = centers_of(0.5, 1).T
        sides = values[:, 2:4].exp() * 8
        return torch.cat([values[:, :2] + center, sides, values[:, 4:].sigmoid()], 1)


class Yolov7(Pyramid):
    """Raw outputs beside ones that were decoded in place."""

    anchors = torch.tensor([[[1.0, 2.0], [2.0, 1.0]], [[1.5, 1.5], [3.0, 2.0]]])  # in strides
    stride = torch.tensor([float(stride) for stride in STRIDES])

    def __init__(self, **options):
        super().__init__(2 * (4 + 1 + CLASSES), **options)

    def forward(self, images):
        decoded, kept = [], []
        for raw in self.raw(images):
            batch, _, height, width = raw.shape
            values = raw.view(batch, 2, -1, height, width).permute(0, 1, 3, 4, 2).contiguous()
            kept.append(values)
            values = values.sigmoid()
            values[..., 0:2] = values[..., 0:2] * 2.0 - 0.5
            decoded.append(values.flatten(1, 3))
        return torch.cat(decoded, 1), kept


class EffDet(Pyramid):
    """Class logits and box codes of two anchors per cell, each a list of levels."""

    def __init__(self, **options):
        super().__init__(2 * (CLASSES + 4), **options)

    def forward(self, images):
        parts = [level.split([2 * CLASSES, 2 * 4], 1) for level in self.raw(images)]
        return [logits for logits, _ in parts], [codes for _, codes in parts]


def anchors():
    """y1, x1, y2, x2: two squares around the center of every cell."""
    rows = []
    for stride in STRIDES:
        for y in range(SIZE[0] // stride):
            for x in range(SIZE[1] // stride):
                for side in (stride, 2 * stride):
                    center = ((y + 0.5) * stride, (x + 0.5) * stride)
                    rows.append([center[0] - side / 2, center[1] - side / 2, center[0] + side / 2, center[1] + side / 2])
    return torch.tensor(rows)


class MmDet(EffDet):
    """With a head that knows its priors and how to decode."""

    class PriorGenerator:
        def grid_priors(self, sizes, device):
            assert [tuple(size) for size in sizes] == [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
            split = 2 * (SIZE[0] // 8) * (SIZE[1] // 8)
            return anchors()[:, [1, 0, 3, 2]].split([split, len(anchors()) - split])

    class Coder:
        def decode(self, priors, codes):
            return priors + codes

    def __init__(self, **options):
        super().__init__(**options)
        self.head = SimpleNamespace(cls_out_channels=CLASSES, prior_generator=self.PriorGenerator(), bbox_coder=self.Coder())


class MmDetWithCenterness(MmDet):
    def __init__(self, **options):
        super().__init__(**options)
        self.center = nn.Conv2d(2 * CLASSES, 2, 1)

    def forward(self, images):
        logits, codes = super().forward(images)
        return logits, codes, [self.center(level) for level in logits]


class Detr(Pyramid):
    def __init__(self, **options):
        super().__init__(CLASSES + 4, **options)

    def forward(self, images):
        values = torch.cat([level.flatten(2).transpose(1, 2) for level in self.raw(images)], 1)
        return {"pred_logits": values[..., 4:], "pred_boxes": values[..., :4].sigmoid()}


class NanoDet(Pyramid):
    def __init__(self, **options):
        super().__init__(CLASSES + 4 * 8, **options)

    def forward(self, images):
        return torch.cat([level.flatten(2) for level in self.raw(images)], 2).permute(0, 2, 1)


class Detectron2(Pyramid):
    """Its parts, by their names in detectron2."""

    head_in_features = ("p3", "p4")
    num_classes = CLASSES

    def __init__(self, **options):
        super().__init__(2 * (CLASSES + 4), **options)
        self.pixel_mean, self.pixel_std = torch.zeros(3, 1, 1), torch.full((3, 1, 1), 255.0)
        self.backbone = Backbone(self.stem, self.fpn)
        self.box2box_transform = SimpleNamespace(apply_deltas=lambda codes, boxes: boxes + codes)

    def head(self, features):
        parts = [head(level).split([2 * CLASSES, 2 * 4], 1) for head, level in zip(self.heads, features, strict=True)]
        return [logits for logits, _ in parts], [codes for _, codes in parts]

    def anchor_generator(self, features):
        split = 2 * features[0][0, 0].numel()
        boxes = anchors()[:, [1, 0, 3, 2]]
        return [SimpleNamespace(tensor=boxes[:split]), SimpleNamespace(tensor=boxes[split:])]


class Backbone(nn.Module):
    def __init__(self, stem, fpn):
        super().__init__()
        self.stem, self.fpn = stem, fpn

    def forward(self, images):
        return dict(zip(("p3", "p4"), self.fpn(self.stem(images)), strict=True))


def centers_of(offset, per_cell):
    """Where boxes lie whose code is zero, per level, row and column: `offset` parts of a cell from its corner."""
    points = []
    for stride in STRIDES:
        rows, columns = SIZE[0] // stride, SIZE[1] // stride
        points += [((x + offset) * stride, (y + offset) * stride) for y in range(rows) for x in range(columns)] * per_cell
    return torch.tensor(points)


def of_anchors():
    return anchors()[:, [1, 0, 3, 2]]


def boxes_of(centers, sides):
    return torch.cat([centers - sides / 2, centers + sides / 2], 1)


def yolox_boxes():
    sides = torch.tensor([[float(s)] * 2 for s in STRIDES for _ in range((SIZE[0] // s) * (SIZE[1] // s))])
    return boxes_of(centers_of(0.0, 1), sides)


def yolov8_boxes():
    return boxes_of(centers_of(0.5, 1), torch.tensor([8.0, 8.0]))


def yolov7_boxes():
    sides = []
    for stride, pair in zip(STRIDES, Yolov7.anchors, strict=True):
        sides += [anchor * stride for anchor in pair for _ in range((SIZE[0] // stride) * (SIZE[1] // stride))]
    return boxes_of(centers_of(0.5, 2), torch.stack(sides))


def nanodet_boxes():
    reach = torch.tensor([[7.0 * s] * 2 for s in STRIDES for _ in range((SIZE[0] // s) * (SIZE[1] // s))])
    return boxes_of(centers_of(0.0, 1), reach)


def detr_boxes():
    """A half of the image's width and height around its center."""
    return torch.tensor([[24.0, 16.0, 72.0, 48.0]]).expand(8 * 12 + 4 * 6, 4)


FORMS = {
    "yolox": (Yolox, lambda page, net: page.read_yolox, yolox_boxes, 0.25),
    "exported yolox": (ExportedYolox, lambda page, net: page.read_exported_yolox(SIZE, STRIDES), yolox_boxes, 0.25),
    "exported yolov8": (ExportedYolov8, lambda page, net: page.read_exported_yolov8, yolov8_boxes, 0.5),
    "yolov7": (Yolov7, lambda page, net: page.read_yolov5(net), yolov7_boxes, 0.25),
    "effdet": (EffDet, lambda page, net: page.read_effdet(anchors(), CLASSES), of_anchors, 0.5),
    "detr": (Detr, lambda page, net: page.read_detr(SIZE), detr_boxes, 0.5),
    "nanodet": (NanoDet, lambda page, net: page.read_nanodet(SIZE, CLASSES, STRIDES), nanodet_boxes, 0.5),
    "mmdet": (MmDet, lambda page, net: page.read_mmdet(net.head), of_anchors, 0.5),
    "mmdet with centerness": (MmDetWithCenterness, lambda page, net: page.read_mmdet(net.head), of_anchors, None),
    "detectron2": (Detectron2, lambda page, net: page.read_detectron2(net), of_anchors, 0.5),
}


def as_model(page, network, form):
    read = FORMS[form][1](page, network)
    options = {"size": SIZE, "score_threshold": 0.0, "nms_iou": None}
    if form == "detectron2":
        return whybox.load(page.Raw(network), candidates=read, features=["net.backbone"], scale=255, bgr=True, **options)
    return whybox.load(network, candidates=read, features=["fpn"], **options)


@pytest.mark.filterwarnings("ignore:plain")  # a word of doubt about the silent network's boxes
@pytest.mark.parametrize("form", FORMS)
def test_boxes_of_a_silent_network_are_its_anchors(page, form):
    kind, _, boxes, score = FORMS[form]
    candidates = as_model(page, silent(kind()), form).trace(torch.rand(3, *SIZE)).candidates
    torch.testing.assert_close(candidates.boxes, boxes())
    assert candidates.scores.shape[1] == CLASSES
    if score is not None:
        torch.testing.assert_close(candidates.scores, torch.full_like(candidates.scores, score))


@pytest.mark.filterwarnings("ignore:plain")
@pytest.mark.parametrize("form", FORMS)
def test_maps_are_those_of_autograd(page, form):
    model = as_model(page, FORMS[form][0](), form)
    trace = whybox.trace(model, torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1)))
    quick, exact = (whybox.explain(model, trace, top=4, score_threshold=0.0, route=route).maps for route in ("auto", "exact"))
    assert any(values.any() for values in exact.native)
    for a, b in zip(quick.native, exact.native, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_example_with_onnx_files_reads_as_the_page_does(page):
    example = runpy.run_path(str(ROOT / "examples" / "onnx_detector.py"))
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        raw, answer = ExportedYolox()(image), Detr()(image)
    pairs = [
        (example["YoloxReader"](SIZE, STRIDES)(raw), page.read_exported_yolox(SIZE, STRIDES)(raw)),
        (example["read_deimv2"]((answer["pred_logits"], answer["pred_boxes"])), page.read_detr((320, 320))(answer)),
    ]
    for read, expected in pairs:
        torch.testing.assert_close(read, expected)


def test_the_table_leads_to_sections():
    text = PAGE.read_text()
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    sections = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    links = set(re.findall(r"\[below\]\(#([\w-]+)\)", text))
    assert links == sections
