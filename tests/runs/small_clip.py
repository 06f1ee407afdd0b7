"""A CLIP with random weights that can spell the scenes' texts, a classifier of the scenes' classes, and plans for them."""

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import whybox
from whybox.data._sprites import COLORS
from whybox.data.scenes import CLASSES

SPECIAL = ["<pad>", "<start>", "<unk>", "<end>"]
WORDS = [*SPECIAL, "a", "an", "photo", "of", "in", *CLASSES, *COLORS]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
DATA = "scenes:count=2:size=96x64:variant=mixed"
PLAN = {
    "methods": ("grad_eclip", "gradcam"),
    "metrics": (
        "insertion:points=3:extent=image:score=top1",
        "pixel_ap",
        "text_deletion",
        "text_insertion",
    ),
}


def make_tokenizer():
    known = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    known.normalizer = normalizers.Lowercase()
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(part, WORDS.index(part)) for part in ("<start>", "<end>")]
    known.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=known, **names)


def make_clip():
    """Its weights are stirred, so that texts and images differ in more than their last digits."""
    torch.manual_seed(0)
    text = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 16}
    text |= {"eos_token_id": WORDS.index("<end>"), "bos_token_id": 1, "pad_token_id": 0}
    net = transformers.CLIPModel(transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24))
    return whybox.load(_stirred(net), tokenizer=make_tokenizer())


def make_classifier(classes=CLASSES):
    torch.manual_seed(0)
    config = transformers.ViTConfig(**VISION, num_labels=len(classes), id2label=dict(enumerate(classes)))
    return whybox.load(_stirred(transformers.ViTForImageClassification(config)))


def _stirred(net, scale=0.2):
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * scale)
    return net.eval()
