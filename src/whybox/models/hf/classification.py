"""Hugging Face's image classifiers: ViT and DeiT."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from whybox.attention import Transformer
from whybox.errors import WhyboxError
from whybox.frame import Size
from whybox.models._classifier import Classifier
from whybox.models._image_encoder import ImageEncoder
from whybox.models._whole_image import made_again
from whybox.models.hf import _hub as hf
from whybox.models.hf._images import SizeOption, check_processor, mean_color, other_size, preparation
from whybox.models.hf._layers import known_or_opaque, pre_norm_layer


@dataclass(frozen=True)
class Family:
    """model: the class of the classifier. processor: the image processor's. first: tokens before the patches."""

    model: str
    processor: str
    first: int = 1


FAMILIES = {
    "vit": Family("ViTForImageClassification", "ViTImageProcessor"),
    "deit": Family("DeiTForImageClassification", "DeiTImageProcessor", first=2),
}
"""By the name of the package in transformers.models."""


def matches(module: nn.Module) -> bool:
    """Whether the module is one of transformers' models of these families; also one without a classifier, to say so."""
    return hf.package_of(module)[0] in FAMILIES


def knows(config: Any) -> bool:
    """Whether a configuration is of these families."""
    return config.model_type in FAMILIES


def build(name: str, weights: str | None = "default", **options: Any) -> Classifier:
    """A model from the hub, its local cache, or a local folder, with its image processor.

    Args:
        name: The hub's name for it, or a folder.
        weights: "default" or None for random ones.
        options: As for `wrap`.
    """
    import transformers

    family = FAMILIES[hf.fetch(transformers.AutoConfig, name).model_type]
    module = hf.fetch_network(getattr(transformers, family.model), name, weights)
    if "processor" not in options:
        options["processor"] = hf.fetch_beside(transformers.AutoImageProcessor, name)
    return wrap(module, **{"name": f"{hf.PREFIX}/{name}", **options})


@made_again
def wrap(
    module: nn.Module,
    *,
    name: str | None = None,
    processor: Any = None,
    classes: Sequence[str] | None = None,
    size: SizeOption = None,
) -> Classifier:
    """A model from a transformers classifier.

    Args:
        module: The network.
        name: For reports and errors; None: its family's.
        processor: The image processor that goes with the weights; None: the one kept beside them, or the family's usual one
            for the network's image size.
        classes: Names of the classes; None: its configuration's.
        size: None, images as the processor makes them; "keep", every side rounded to whole patches and nothing cropped; or
            (h,w) in pixels.
    """
    package, kind = hf.package_of(module)
    family = FAMILIES[package]
    if kind != family.model:
        raise WhyboxError(f"{kind} has no single classifier to explain: load {family.model}")
    net: Any = module
    images = check_processor(_image_processor(net, family) if processor is None else processor)
    names = hf.class_names(net.config, net.classifier.out_features) if classes is None else classes
    make_encoder = partial(_image_encoder, net, family, images, size)
    # Looked up in every call: the head may have been replaced since.
    return Classifier(make_encoder, lambda rows: net.classifier(rows), names, name or f"{hf.PREFIX}/{package}")


def _image_processor(net: Any, family: Family) -> Any:
    """Kept beside the weights, or the family's own for the size that the network was made for."""
    import transformers

    kept = hf.kept(transformers.AutoImageProcessor, net)
    if kept is not None:
        return kept
    height, width = _pair(net.config.image_size)
    size = {"height": height, "width": width}
    # Without a crop: DeiT's processor by default resizes to 256 and crops to 224.
    return getattr(transformers, family.processor)(size=size, do_center_crop=False)


def _image_encoder(net: Any, family: Family, processor: Any, size: SizeOption) -> ImageEncoder:
    body = getattr(net, net.base_model_prefix)
    patch, own = _pair(net.config.patch_size), _pair(net.config.image_size)
    # Older versions of transformers keep the blocks in an encoder of its own.
    blocks = body.layers if hasattr(body, "layers") else body.encoder.layer
    return ImageEncoder(
        net,
        preparation(net, processor, patch, size),
        Transformer(
            tuple(known_or_opaque(pre_norm_layer, block, f"layers.{i}") for i, block in enumerate(blocks)),
            lambda inputs: None,
            lambda rows: body.layernorm(rows[:, 0]),
            (body.layernorm, net.classifier),
        ),
        lambda network: (network[0] // patch[0], network[1] // patch[1]),
        partial(_class_token, body, own),
        first=family.first,
        fill=mean_color(processor),
    )


def _class_token(body: Any, own: Size, pixels: Tensor) -> Tensor:
    seen = body(pixels, interpolate_pos_encoding=other_size(pixels, own))
    return seen.last_hidden_state[:, 0]  # type: ignore[no-any-return]


def _pair(extent: Any) -> Size:
    """(h,w) of a configuration's number or pair."""
    height, width = (extent, extent) if isinstance(extent, int) else extent
    return int(height), int(width)
