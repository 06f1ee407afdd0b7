"""Small Hugging Face models and tokenizers with random weights, made on the spot."""

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["<pad>", "<start>", "<unk>", "a", "red", "ball", "tree", "photo", "of", "blue", "big", "dog", "left", "right", "<end>"]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
VISION = {**SIZES, "image_size": 32, "patch_size": 8}
TEXT = {**SIZES, "vocab_size": 40, "max_position_embeddings": 16}


def tokenizer(start="<start>", end="<end>", kind=transformers.PreTrainedTokenizerFast, **options):
    """Words of a list, any case; anything else is unknown. kind: the tokenizer's class."""
    known = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    known.normalizer = normalizers.Lowercase()
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    parts = " ".join(part for part in (start, "$A", end) if part)
    special = [(part, WORDS.index(part)) for part in (start, end) if part]
    known.post_processor = processors.TemplateProcessing(single=parts, special_tokens=special)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>", **options}
    names = {"model_input_names": ["input_ids", "attention_mask"], **names}  # those that transformers 5 gives anyway
    return kind(tokenizer_object=known, **names)


def clip(**options):
    text = {**TEXT, "eos_token_id": WORDS.index("<end>"), "bos_token_id": 1, "pad_token_id": 0, **options}
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=VISION, text_config=text, projection_dim=24))


def siglip():
    text = {**TEXT, "projection_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=text))


def siglip2():
    vision = {**SIZES, "patch_size": 8, "num_patches": 16}
    text = {**TEXT, "projection_size": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return transformers.Siglip2Model(transformers.Siglip2Config(vision_config=vision, text_config=text))


def blip_config():
    text = {**TEXT, "encoder_hidden_size": 32, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}
    return transformers.BlipConfig(vision_config=VISION, text_config=text, projection_dim=24, image_text_hidden_size=24)


def blip_retrieval():
    return transformers.BlipForImageTextRetrieval(blip_config())


def blip():
    return transformers.BlipModel(blip_config())


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION, num_labels=5))


def deit():
    return transformers.DeiTForImageClassification(transformers.DeiTConfig(**VISION, num_labels=5))


IMAGE_TEXT = {"clip": clip, "siglip": siglip, "siglip2": siglip2, "blip_retrieval": blip_retrieval, "blip": blip}
CLASSIFIERS = {"vit": vit, "deit": deit}


def stirred(module, scale=0.2):
    """Weights and biases far enough from their start that norms, biases and position embeddings all count."""
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * scale)
    return module.eval()
