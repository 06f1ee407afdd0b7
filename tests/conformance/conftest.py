"""One small model of every registered family. A new family needs an entry here, and then all tests of this folder run on it."""

from functools import cache

import pytest
import torch
import transformers
from torch import nn

import whybox
from contract.pages import DOCS, defined_by, python_blocks
from models import hf_models, instance_models, open_clip_models, prompted_models
from models.hf_versions import OWN_BACKBONE
from models.small_yolo import BaseModel as SmallYolo
from whybox import registry
from whybox.zoo.compact_faster_rcnn import compact_faster_rcnn
from whybox.zoo.compact_fcos import compact_fcos


class Tiny(nn.Module):
    """A grid detector in three layers, as a user may have one."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, 16, 3, stride=8, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(16, 4 + 3, 3, padding=1)

    def forward(self, images):
        return self.head(self.neck(images))


def read(output):
    """A box around every cell, moved and stretched by the network; three classes."""
    _, _, height, width = output.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center = torch.stack([columns, rows], -1).reshape(-1, 2) * 8.0 + 4 + output[0, :2].flatten(1).T
    half = 12 * output[0, 2:4].flatten(1).T.sigmoid() + 4
    return torch.cat([center - half, center + half], 1), output[0, 4:].flatten(1).T.sigmoid()


def plain():
    torch.manual_seed(0)
    return whybox.load(Tiny(), candidates=read, features=["neck.0"], size=(96, 128), score_threshold=0.3)


def small_torchvision(build):
    """One of torchvision's detectors on a backbone of few channels, every score kept, logits spread so that detections differ."""
    torch.manual_seed(0)
    net = build(6, widths=(8, 8, 16, 16), channels=32, min_size=160, max_size=256, score_thresh=0.0, detections_per_img=40)
    for path, part in net.named_modules():
        if path.startswith("head.") and isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    if hasattr(net, "roi_heads"):
        nn.init.normal_(net.roi_heads.box_predictor.cls_score.weight, std=0.1)
    return whybox.load(net.eval())


def hugging_face():
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 10, "num_labels": 4}
    config = transformers.DetrConfig(backbone_config=backbone, **OWN_BACKBONE, **small, **heads)
    return whybox.load(transformers.DetrForObjectDetection(config).eval(), score_threshold=0.0)


def hugging_face_instances():
    processor = instance_models.processor("mask2former", (64, 96))
    return whybox.load(instance_models.network("mask2former"), processor=processor, score_threshold=0.0)


def hugging_face_matches():
    torch.manual_seed(0)
    net = hf_models.stirred(hf_models.clip())
    return whybox.load(net, tokenizer=hf_models.tokenizer()).prompt(["a red ball", "a tree", "a big blue dog"])


def hugging_face_classifier():
    torch.manual_seed(0)
    return whybox.load(hf_models.stirred(hf_models.vit()))


def hugging_face_prompted():
    net, processor = prompted_models.prompted_pair("owlvit")
    return whybox.load(net, processor=processor).prompt(["a red ball", "a tree", "a big blue dog"])


def open_clip_matches():
    net = open_clip_models.network("native")
    return whybox.load(net, tokenizer=open_clip_models.tokenizer()).prompt(["a red ball", "a tree", "a big blue dog"])


GUIDE = DOCS / "extending.md"


def of_the_guide(network, model):
    """A model that docs/extending.md shows as an example of a family."""
    shown = [block for block in python_blocks(GUIDE) if any(f"class {name}(" in block for name in ("Tiny", "Pyramid"))]
    guide = vars(defined_by(GUIDE, shown, whybox=whybox))
    # With seed 0, no cell of SSGrad-CAM++'s map is positive.
    torch.manual_seed(1)
    return guide[model](guide[network]())


BUILDERS = {
    "torchvision_onestage": lambda: small_torchvision(compact_fcos),
    "torchvision_twostage": lambda: small_torchvision(compact_faster_rcnn),
    "hf_detection": hugging_face,
    "hf_instances": hugging_face_instances,
    "hf_image_text": hugging_face_matches,
    "hf_classification": hugging_face_classifier,
    "hf_prompted": hugging_face_prompted,
    "open_clip": open_clip_matches,
    "plain": plain,
    "ultralytics": lambda: whybox.load(SmallYolo()),
    "guide_tiny": lambda: of_the_guide("Tiny", "TinyModel"),
    "guide_pyramid": lambda: of_the_guide("Pyramid", "PyramidModel"),
}
FAMILIES = sorted({*registry.models(), *BUILDERS})
"""Every registered family, and the examples of the guide."""


@cache
def sample(family):
    """The family's small model; a family without one fails by name."""
    assert family in BUILDERS, f"the model family {family!r} has no sample in tests/conformance/conftest.py"
    return BUILDERS[family]()


@pytest.fixture(params=FAMILIES)
def model(request):
    """One model of every family."""
    return sample(request.param)
