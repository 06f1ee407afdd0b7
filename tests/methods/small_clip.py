"""A tiny CLIP of transformers with random weights and a tokenizer of a handful of words."""

from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import whybox

TEXTS = ["a red ball", "the tree left of a car"]
WORDS = ("a", "red", "ball", "tree", "left", "of", "car", "the", "photo")
START, END, UNKNOWN, PADDING = range(4)
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def make_clip(attention="sdpa"):
    """Weights larger than at the start of a training, so that attention and maps are not flat."""
    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 13, "max_position_embeddings": 16, "bos_token_id": START, "eos_token_id": END}
    config = transformers.CLIPConfig(
        text_config=text | {"pad_token_id": PADDING},
        vision_config=SMALL | {"image_size": 64, "patch_size": 16},
        projection_dim=24,
    )
    clip = transformers.CLIPModel._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for weight in clip.parameters():
            if weight.ndim > 1:
                weight.mul_(3)
            elif weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    return clip


@cache
def tokenizer():
    """Words between blanks, a start and an end."""
    vocabulary = {"<s>": START, "</s>": END, "<unk>": UNKNOWN, "<pad>": PADDING}
    vocabulary |= {word: i for i, word in enumerate(WORDS, start=4)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **names)


def processor():
    """The middle square of an image, 64 pixels wide."""
    return transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})


def load_small(clip):
    """The module as whybox loads it."""
    return whybox.load(clip, processor=processor(), tokenizer=tokenizer())


@cache
def image():
    """(3,80,120)"""
    return torch.rand((3, 80, 120), generator=torch.Generator().manual_seed(1))
