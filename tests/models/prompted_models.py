"""Small Hugging Face detectors that read text, with random weights, and their processors, made on the spot."""

import torch
import transformers

from models.hf_models import SIZES, TEXT, stirred, tokenizer
from models.hf_versions import OWL_TOKENIZER, OWN_BACKBONE, bert_tokenizer, on_torchvision

TEXTS = ["a red ball", "a big blue dog"]
SHAPE = (50, 77)
# Grounding DINO knows its delimiters by their numbers in BERT's vocabulary.
PLACES = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103, ".": 1012, "?": 1029}
WORDS = ["a", "red", "ball", "big", "blue", "dog", "tree", "##s", "of", "left"]
STAGES = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "layer_type": "basic", "embedding_size": 8}


def bert():
    words = [f"[unused{i}]" for i in range(1040)]
    for word, place in PLACES.items():
        words[place] = word
    words[1030:] = WORDS
    return bert_tokenizer(words)


def owl(name, size=(64, 64)):
    vision = {**SIZES, "image_size": 64, "patch_size": 16}
    text = {**TEXT, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 14}
    config = getattr(transformers, f"{name}Config")(vision_config=vision, text_config=text, projection_dim=32)
    net = stirred(getattr(transformers, f"{name}ForObjectDetection")(config), 0.1)
    with torch.no_grad():  # so that no box is without an area, and no score is 1
        for part in (net.box_head.dense2, net.class_head.logit_scale, net.class_head.logit_shift):
            part.weight.mul_(0.1)
    words = tokenizer(kind=OWL_TOKENIZER, model_max_length=16)
    images = on_torchvision(f"{name}ImageProcessor")(size={"height": size[0], "width": size[1]})
    return net, getattr(transformers, f"{name}Processor")(images, words)


def resnet(*stages):
    return transformers.ResNetConfig(**STAGES, out_features=list(stages))


def grounding(name):
    text = {"vocab_size": 1040, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    small = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 9, "max_text_len": 24}
    backbone = resnet("stage2", "stage3", "stage4")
    config = getattr(transformers, f"{name}Config")(
        backbone_config=backbone,
        text_config=transformers.BertConfig(**text, max_position_embeddings=32),
        fusion_droppath=0.0,
        **OWN_BACKBONE,
        **small,
        **heads,
    )
    net = stirred(getattr(transformers, f"{name}ForObjectDetection")(config), 0.15)
    if hasattr(net.class_embed[-1], "bias"):
        torch.nn.init.constant_(net.class_embed[-1].bias, 0.5)
    images = on_torchvision("GroundingDinoImageProcessor")(size={"shortest_edge": 64, "longest_edge": 96})
    return net, transformers.GroundingDinoProcessor(images, bert())


def omdet():
    text = transformers.CLIPTextConfig(
        **{**TEXT, "hidden_size": 24, "max_position_embeddings": 77},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=14,
        projection_dim=32,
    )
    config = transformers.OmDetTurboConfig(
        backbone_config=resnet("stage2", "stage3", "stage4"),
        text_config=text,
        **({} if not OWN_BACKBONE else {"use_timm_backbone": False}),
        apply_layernorm_after_vision_backbone=False,
        text_projection_in_dim=24,
        text_projection_out_dim=24,
        class_embed_dim=24,
        task_encoder_hidden_dim=32,
        encoder_in_channels=[16, 16, 32],
        encoder_hidden_dim=32,
        vision_features_channels=[32, 32, 32],
        encoder_attention_heads=2,
        encoder_dim_feedforward=32,
        decoder_hidden_dim=32,
        decoder_num_heads=2,
        decoder_num_layers=2,
        decoder_dim_feedforward=32,
        num_queries=9,
    )
    net = stirred(transformers.OmDetTurboForObjectDetection(config), 0.1)
    images = on_torchvision("DetrImageProcessor")(size={"height": 64, "width": 96})
    processor = transformers.OmDetTurboProcessor(images, tokenizer(model_max_length=77))
    return net, processor


BUILDERS = {
    "owlvit": lambda: owl("OwlViT"),
    "owlv2": lambda: owl("Owlv2"),
    "grounding_dino": lambda: grounding("GroundingDino"),
    "mm_grounding_dino": lambda: grounding("MMGroundingDino"),
    "omdet_turbo": omdet,
}


def prompted_pair(family, seed=0):
    """The network and its processor."""
    torch.manual_seed(seed)
    return BUILDERS[family]()
