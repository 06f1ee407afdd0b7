"""What releases of transformers before 5 name or build in another way, so that the tests run with both.

Found by what the release has, not by its number.
"""

import copy
import inspect
import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers

NEW = hasattr(transformers, "CLIPImageProcessorPil")
"""From 5 on the plain names of image processors are those of the ones that run on torchvision, and tokenizers are made of a
vocabulary; before, the ones on torchvision are called ...Fast, and tokenizers are read from files."""

OWN_BACKBONE = {} if NEW else {"backbone": None, "use_timm_backbone": False, "use_pretrained_backbone": False}
"""For configurations with a `backbone_config`: before 5 the default one stood beside it, and had to be taken away."""


def needs(family):
    """Skip where the release has no such family: D-FINE came with 4.52, LW-DETR and RF-DETR with 5."""
    missing = find_spec(f"transformers.models.{family}") is None
    return pytest.mark.skipif(missing, reason=f"this transformers has no {family}")


def on_torchvision(name):
    """The image processor called `name` that runs on torchvision; on Pillow, where the release has no other: 4.51 for OWL-ViT."""
    return getattr(transformers, name if NEW else f"{name}Fast", None) or getattr(transformers, name)


def on_pillow(name):
    """The image processor called `name` that runs on Pillow."""
    return getattr(transformers, f"{name}Pil" if NEW else name)


def with_attention(net, kernels):
    """The network with "eager" or "sdpa" attention. Before 4.53 it can be chosen only when a network is made."""
    if hasattr(net, "set_attn_implementation"):
        net.set_attn_implementation(kernels)
        return net
    made = type(net)._from_config(copy.deepcopy(net.config), attn_implementation=kernels).to(net.dtype)
    made.load_state_dict(net.state_dict())
    return made.train(net.training)


def tokens_of(output):
    """What a block gives: before 5 often in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def pooled(output):
    """The embedding: before 5 get_image_features and get_text_features give it alone."""
    return output.pooler_output if hasattr(output, "pooler_output") else output


def vision_inputs(net, inputs):
    """A processor's answer as the vision model takes it: before 5 that of SigLIP 2 names the mask of its patches otherwise."""
    if "pixel_attention_mask" in inputs and "attention_mask" in inspect.signature(net.vision_model.forward).parameters:
        return {("attention_mask" if name == "pixel_attention_mask" else name): value for name, value in inputs.items()}
    return inputs


class _AsClip(getattr(transformers, "CLIPTokenizerFast", transformers.PreTrainedTokenizerFast)):
    """Of the class that a processor asks for, and with any vocabulary."""

    def __init__(self, **options):
        # Not CLIP's own, which refuses what is not split as CLIP splits it.
        transformers.PreTrainedTokenizerFast.__init__(self, **options)


OWL_TOKENIZER = transformers.PreTrainedTokenizerFast if NEW else _AsClip
"""Before 5 the processors of OWL-ViT and OWLv2 take a tokenizer of CLIP's class alone."""


def clip_tokenizer(vocabulary, merges, **options):
    """CLIP's tokenizer with these words and pairs."""
    if NEW:
        return transformers.CLIPTokenizer(vocab=vocabulary, merges=merges, **options)
    with tempfile.TemporaryDirectory() as folder:
        words, pairs = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        words.write_text(json.dumps(vocabulary))
        pairs.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]))
        return transformers.CLIPTokenizerFast(str(words), str(pairs), **options)


def bert_tokenizer(words):
    """BERT's tokenizer with these words."""
    if NEW:
        return transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder, "vocab.txt")
        listed.write_text("\n".join(words))
        return transformers.BertTokenizerFast(str(listed))
