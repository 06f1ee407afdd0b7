"""Hugging Face's contrastive image-text models: CLIP, SigLIP, SigLIP 2, and BLIP for image-text retrieval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from whybox.attention import AttentionLayer, Transformer
from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.models._image_encoder import ImageEncoder
from whybox.models._image_text import Encoders, ImageText, TextEncoder, TokenBatch
from whybox.models._whole_image import made_again
from whybox.models.hf import _hub as hf
from whybox.models.hf._images import (
    SizeOption,
    check_processor,
    mean_color,
    other_size,
    patch_preparation,
    preparation,
    to_patches,
)
from whybox.models.hf._layers import first_of, known_or_opaque, pooling_layer, post_norm_layer, pre_norm_layer
from whybox.models.hf._texts import check_texts, check_tokenizer, encode, own_tokens, read_texts
from whybox.network_state import device_of

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """models: the classes with an image-text score, the usual one first. processor: the image processor's class."""

    models: tuple[str, ...]
    processor: str


FAMILIES = {
    "clip": Family(("CLIPModel",), "CLIPImageProcessor"),
    "siglip": Family(("SiglipModel",), "SiglipImageProcessor"),
    "siglip2": Family(("Siglip2Model",), "Siglip2ImageProcessor"),
    "blip": Family(("BlipForImageTextRetrieval", "BlipModel"), "BlipImageProcessor"),
}
"""By the name of the package in transformers.models."""


def matches(module: nn.Module) -> bool:
    """Whether the module is one of transformers' models of these families; also a single encoder, for a clear error."""
    package, kind = hf.package_of(module)
    return package in FAMILIES and not kind.endswith("ForImageClassification")


def knows(config: Any) -> bool:
    """Whether a configuration is of these families."""
    made = config.architectures or [""]
    return config.model_type in FAMILIES and not made[0].endswith("ForImageClassification")


def build(name: str, weights: str | None = "default", **options: Any) -> ImageText:
    """A model from the hub, its local cache, or a local folder, with its image processor and tokenizer.

    Args:
        name: The hub's name for it, or a folder.
        weights: "default" or None for random ones.
        options: As for `wrap`.
    """
    import transformers

    config = hf.fetch(transformers.AutoConfig, name)
    family = FAMILIES[config.model_type]
    # A configuration that was never saved with its network names no architecture.
    made = (config.architectures or family.models)[0]
    if made not in family.models:
        raise _one_sided(made, config.model_type)
    module = hf.fetch_network(getattr(transformers, made), name, weights)
    if "processor" not in options:
        options["processor"] = hf.fetch_beside(transformers.AutoImageProcessor, name)
    if "tokenizer" not in options and not hasattr(options["processor"], "tokenizer"):
        options["tokenizer"] = hf.fetch_beside(transformers.AutoTokenizer, name)
    return wrap(module, **{"name": f"{hf.PREFIX}/{name}", **options})


@made_again
def wrap(
    module: nn.Module, *, name: str | None = None, processor: Any = None, tokenizer: Any = None, size: SizeOption = None
) -> ImageText:
    """A model from a transformers module, to be prompted with texts.

    Args:
        module: The network.
        name: For reports and errors; None: its family's.
        processor: The image processor that goes with the weights, or a whole processor with its tokenizer; None: the one kept
            beside the weights, or the family's usual one for the network's image size.
        tokenizer: What reads the texts; None: the one kept beside the weights.
        size: None, images as the processor makes them; "keep", every side rounded to whole patches and nothing cropped; or
            (h,w) in pixels. Position embeddings are interpolated where that is not the network's own size.
    """
    package, kind = hf.package_of(module)
    if kind not in FAMILIES[package].models:
        raise _one_sided(kind, package)
    images = check_processor(_image_processor(module, package, processor))
    words = _tokenizer(module, processor) if tokenizer is None else getattr(tokenizer, "tokenizer", tokenizer)
    make_encoders = partial(_ENCODERS[kind], module, images, check_tokenizer(words), size)
    return ImageText(make_encoders, name or f"{hf.PREFIX}/{package}")


def _one_sided(kind: str, package: str) -> WhyboxError:
    needed = " or ".join(FAMILIES[package].models)
    lacks = "its text side" if "Vision" in kind else "its image side" if "Text" in kind else "an image-text score"
    return WhyboxError(f"{kind} lacks {lacks}, so no text can be matched with an image: load {needed}, which has both sides")


def _image_processor(module: Any, package: str, processor: Any) -> Any:
    """Given, kept beside the weights, or the family's own for the size that the network was made for."""
    if processor is not None:
        return getattr(processor, "image_processor", processor)
    import transformers

    kept = hf.kept(transformers.AutoImageProcessor, module)
    if kept is not None:
        return kept
    kind = getattr(transformers, FAMILIES[package].processor)
    vision = module.config.vision_config
    if package == "siglip2":
        return kind(patch_size=vision.patch_size, max_num_patches=vision.num_patches)
    if package == "clip":
        square = {"height": vision.image_size, "width": vision.image_size}
        return kind(size={"shortest_edge": vision.image_size}, crop_size=square)
    return kind(size={"height": vision.image_size, "width": vision.image_size})


def _tokenizer(module: Any, processor: Any) -> Any:
    """The processor's, or the one kept beside the weights."""
    import transformers

    found = getattr(processor, "tokenizer", None)
    if found is None:
        found = hf.kept(transformers.AutoTokenizer, module)
    if found is None:
        raise WhyboxError(f"{type(module).__name__} comes without a tokenizer, which reads the texts: give tokenizer=")
    return found


def _two_towers(
    net: Any, processor: Any, size: SizeOption, image_end: tuple[Any, ...], words: Transformer, tokenize: Any
) -> Encoders:
    """Dual encoders with CLIP's attribute names: a vision_model whose class token is read through `image_end`, and a text
    encoder."""
    vision = net.vision_model
    image_encoder = ImageEncoder(
        net,
        preparation(net, processor, _patch(vision), size),
        Transformer(_layers(vision), _no_mask, partial(_read, image_end), image_end),
        _grid(vision),
        partial(_image_features, net),
        fill=mean_color(processor),
    )
    # Read in every call: fine-tuning changes it.
    scale = lambda: (float(net.logit_scale.exp()), 0.0)
    return image_encoder, TextEncoder(words, tokenize, partial(_text_features, net), scale)


def _clip(net: Any, processor: Any, tokenizer: Any, size: SizeOption) -> Encoders:
    vision, text = net.vision_model, net.text_model
    image_end, text_end = (vision.post_layernorm, net.visual_projection), (text.final_layer_norm, net.text_projection)
    rows = partial(_end_rows, end=net.config.text_config.eos_token_id)
    words = Transformer(_layers(text), partial(_causal_mask, text), partial(_read, text_end), text_end)
    return _two_towers(net, processor, size, image_end, words, _tokenize(text, tokenizer, rows))


def _siglip(net: Any, processor: Any, tokenizer: Any, size: SizeOption) -> Encoders:
    vision = net.vision_model
    image_encoder = ImageEncoder(
        net,
        preparation(net, processor, _patch(vision), size),
        Transformer(_pooled_layers(net), _no_mask, partial(_read, ()), ()),
        _grid(vision),
        partial(_image_features, net),
        first=0,
        fill=mean_color(processor),
    )
    return image_encoder, _siglip_text(net, tokenizer)


def _siglip2(net: Any, processor: Any, tokenizer: Any, size: SizeOption) -> Encoders:
    vision = net.vision_model
    if size is not None:
        raise WhyboxError("SigLIP 2 keeps the aspect by itself: leave size out, and set max_num_patches of its image processor")
    image_encoder = ImageEncoder(
        net,
        patch_preparation(net, processor, vision.config.patch_size),
        Transformer(_pooled_layers(net), _no_mask, partial(_read, ()), ()),
        _grid(vision),
        partial(_patch_features, net),
        first=0,
        fill=mean_color(processor),
    )
    return image_encoder, _siglip_text(net, tokenizer)


def _pooled_layers(net: Any) -> tuple[AttentionLayer, ...]:
    vision = net.vision_model
    if not vision.use_head:
        raise WhyboxError(f"{type(net).__name__} has no head that pools its patches (vision_use_head=False): it gives no score")
    return (*_layers(vision), pooling_layer(vision.post_layernorm, vision.head, "head"))


def _siglip_text(net: Any, tokenizer: Any) -> TextEncoder:
    """SigLIP's text encoder: all positions of the context are attended to, and the last one is read, padding or not."""
    text = net.text_model
    end = (text.final_layer_norm, text.head)
    return TextEncoder(
        Transformer(_layers(text), partial(_open_mask, text), partial(_read, end), end),
        _tokenize(text, tokenizer, _last_rows, full=True),
        partial(_text_features, net),
        lambda: (float(net.logit_scale.exp()), float(net.logit_bias)),
    )


def _blip_retrieval(net: Any, processor: Any, tokenizer: Any, size: SizeOption) -> Encoders:
    """BLIP's contrastive score (ITC), which does not use its cross-attention (ITM)."""
    vision, text = net.vision_model, net.text_encoder
    image_end, text_end = (vision.post_layernorm, net.vision_proj), (net.text_proj,)

    def image_features(pixels: Tensor) -> Tensor:
        """The embeddings (B,D) of images (B,3,H,W), prepared for the network."""
        seen = vision(pixel_values=pixels, interpolate_pos_encoding=other_size(pixels, _own_size(vision)))
        return net.vision_proj(seen.last_hidden_state[:, 0])  # type: ignore[no-any-return]

    def text_features(inputs: Inputs) -> Tensor:
        """The embeddings (T,D) of tokenized texts."""
        return net.text_proj(text(**inputs).last_hidden_state[:, 0])  # type: ignore[no-any-return]

    image_encoder = ImageEncoder(
        net,
        preparation(net, processor, _patch(vision), size),
        Transformer(_layers(vision), _no_mask, partial(_read, image_end), image_end),
        _grid(vision),
        image_features,
        fill=mean_color(processor),
    )
    words = Transformer(_bert_layers(text), partial(_open_mask, text), partial(_read, text_end), text_end)
    return image_encoder, TextEncoder(words, _tokenize(text, tokenizer, _first_rows), text_features)


def _blip(net: Any, processor: Any, tokenizer: Any, size: SizeOption) -> Encoders:
    """BlipModel."""
    vision, text = net.vision_model, net.text_model
    # BlipVisionModel normalizes the class token once more for its pooled output.
    image_end = (vision.post_layernorm, vision.post_layernorm, net.visual_projection)
    text_end = (text.pooler.dense, text.pooler.activation, net.text_projection)
    words = Transformer(_bert_layers(text), partial(_open_mask, text), partial(_read, text_end), text_end)
    return _two_towers(net, processor, size, image_end, words, _tokenize(text, tokenizer, _first_rows))


_ENCODERS: dict[str, Callable[[Any, Any, Any, SizeOption], Encoders]] = {
    "CLIPModel": _clip,
    "SiglipModel": _siglip,
    "Siglip2Model": _siglip2,
    "BlipForImageTextRetrieval": _blip_retrieval,
    "BlipModel": _blip,
}


def _layers(encoder: Any) -> tuple[AttentionLayer, ...]:
    return tuple(known_or_opaque(pre_norm_layer, block, f"layers.{i}") for i, block in enumerate(encoder.encoder.layers))


def _bert_layers(encoder: Any) -> tuple[AttentionLayer, ...]:
    return tuple(known_or_opaque(post_norm_layer, block, f"layer.{i}") for i, block in enumerate(encoder.encoder.layer))


def _read(modules: Sequence[nn.Module], rows: Tensor) -> Tensor:
    """The modules one after the other on the one row (B,1,C) that is read."""
    embedding = rows[:, 0]
    for module in modules:
        embedding = module(embedding)
    return embedding


def _patch(vision: Any) -> Size:
    return vision.config.patch_size, vision.config.patch_size


def _grid(vision: Any) -> Callable[[Size], Size]:
    patch = vision.config.patch_size
    return lambda network: (network[0] // patch, network[1] // patch)


def _own_size(vision: Any) -> Size:
    return vision.config.image_size, vision.config.image_size


def _no_mask(inputs: Any) -> None:
    return None


def _image_features(net: Any, pixels: Tensor) -> Tensor:
    other = other_size(pixels, _own_size(net.vision_model))
    return _pooled(net.get_image_features(pixel_values=pixels, interpolate_pos_encoding=other))


def _patch_features(net: Any, pixels: Tensor) -> Tensor:
    patches, shapes = to_patches(pixels, net.vision_model.config.patch_size)
    mask = patches.new_ones(patches.shape[:2], dtype=torch.long)
    return _pooled(net.get_image_features(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes))


def _text_features(net: Any, inputs: Inputs) -> Tensor:
    return _pooled(net.get_text_features(**inputs))


def _pooled(output: Any) -> Tensor:
    """The embedding, also where it comes in an output object, as from transformers 5 on."""
    pooled: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return pooled


def _causal_mask(text: Any, inputs: Inputs) -> Tensor:
    """Every position sees itself and what stands before it."""
    count = inputs["input_ids"].shape[1]
    later = torch.ones(count, count, dtype=torch.bool, device=inputs["input_ids"].device).triu(1)[None, None]
    return _bias(later | _padding(inputs), _words(text).weight)


def _open_mask(text: Any, inputs: Inputs) -> Tensor | None:
    """Every position sees all that the tokenizer's attention mask allows."""
    padding = _padding(inputs)
    return _bias(padding, _words(text).weight) if padding.any() else None


def _words(encoder: Any) -> Any:
    """The embedding of words."""
    return first_of(encoder.embeddings, "token_embedding", "word_embeddings")


def _padding(inputs: Inputs) -> Tensor:
    """(T,1,1,N) which positions the attention mask hides."""
    ids = inputs["input_ids"]
    return (inputs["attention_mask"] == 0 if "attention_mask" in inputs else torch.zeros_like(ids).bool())[:, None, None]


def _bias(hidden: Tensor, like: Tensor) -> Tensor:
    # The lowest finite number, not -inf, as in transformers: the softmax of a fully masked row must not become NaN.
    return torch.zeros_like(hidden, dtype=like.dtype).masked_fill(hidden, torch.finfo(like.dtype).min)


def _tokenize(
    encoder: Any, tokenizer: Any, rows: Callable[[Tensor], Tensor], *, full: bool = False
) -> Callable[[Sequence[str], bool], TokenBatch]:
    """A function that tokenizes texts. rows: ids (T,N) -> the position that is read. full: whether texts are always padded to
    the full context, on the tokenizer's side."""
    words = _words(encoder)
    context = first_of(encoder.embeddings, "position_embedding", "position_embeddings").num_embeddings

    def tokenize(texts: Sequence[str], padded: bool) -> TokenBatch:
        """Tokenize texts for the encoder.

        Args:
            texts: T texts.
            padded: Whether to pad them to the full context, and not only to the longest.

        Returns:
            Token ids (T,N) with their mask, the position (T,) that is read, and which tokens are the text's own.
        """
        check_texts(texts)
        # On the right padding shifts no position, so a text's embedding does not depend on the others of its batch.
        side = tokenizer.padding_side if full else "right"
        encoded = encode(tokenizer, texts, context, full=full or padded, side=side)
        device = device_of(encoder)
        inputs = {key: encoded[key].to(device) for key in ("input_ids", "attention_mask") if key in encoded}
        highest = int(inputs["input_ids"].max())
        if highest >= words.num_embeddings:
            known = words.num_embeddings
            raise WhyboxError(f"the tokenizer gives the token {highest}, the model knows {known}: give its own tokenizer")
        own = own_tokens(encoded).to(device)
        return TokenBatch(inputs, rows(inputs["input_ids"]), own, read_texts(tokenizer, texts, encoded))

    return tokenize


def _end_rows(ids: Tensor, end: int) -> Tensor:
    """CLIP's end of the text: the first token `end`. Old configurations have the wrong id 2; there it is the largest id."""
    # As CLIP in transformers does (huggingface/transformers#24773).
    return ids.argmax(-1) if end == 2 else (ids == end).int().argmax(-1)


def _last_rows(ids: Tensor) -> Tensor:
    return torch.full_like(ids[:, 0], ids.shape[1] - 1)


def _first_rows(ids: Tensor) -> Tensor:
    return torch.zeros_like(ids[:, 0])
