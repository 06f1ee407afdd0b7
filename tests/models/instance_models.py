"""Small networks of masks with random weights, in which every query and class differs."""

import torch
import transformers

from models.hf_versions import OWN_BACKBONE

LABELS = 4
QUERIES = 4


def swin():
    stages = [f"stage{i}" for i in (1, 2, 3, 4)]
    small = {"embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 2, "patch_size": 4, "image_size": 64}
    return transformers.SwinConfig(**small, out_features=stages)


def mask2former():
    widths = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32}
    depths = {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 2, "num_queries": QUERIES}
    return transformers.Mask2FormerConfig(backbone_config=swin(), **widths, **depths, num_labels=LABELS)


def maskformer():
    layers = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_queries": QUERIES}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    decoder = transformers.DetrConfig(**OWN_BACKBONE, d_model=32, **layers, **heads)
    widths = {"fpn_feature_size": 32, "mask_feature_size": 32}
    return transformers.MaskFormerConfig(backbone_config=swin(), decoder_config=decoder, **widths, num_labels=LABELS)


KINDS = {
    "mask2former": ("Mask2FormerForUniversalSegmentation", "Mask2FormerImageProcessor", mask2former),
    "maskformer": ("MaskFormerForInstanceSegmentation", "MaskFormerImageProcessor", maskformer),
}


def network(name):
    """The network, whose masks have edges in the image: each query's logits lie around 0."""
    torch.manual_seed(0)
    kind, _, config = KINDS[name]
    net = getattr(transformers, kind)(config()).eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    net.register_forward_hook(_around_zero)
    return net


def _around_zero(net, given, output):
    """A trained network's masks have edges; with random weights nearly every logit of a query has one sign."""
    logits = output.masks_queries_logits
    output["masks_queries_logits"] = logits - logits.detach().mean((2, 3), keepdim=True)
    return output


def processor(name, size):
    """Its image processor, with images of this size (height, width)."""
    return getattr(transformers, KINDS[name][1])(size={"height": size[0], "width": size[1]})


def own_scores(output):
    """(M,K) the scores of all queries and classes by their definition, of the network's own output for one image."""
    (masks,) = torch.nn.functional.interpolate(output.masks_queries_logits, size=(384, 384), mode="bilinear")
    sure = torch.stack([mask[mask > 0].sigmoid().mean() for mask in masks])
    return output.class_queries_logits[0].softmax(-1)[:, :-1] * sure[:, None]
