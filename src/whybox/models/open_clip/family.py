"""open_clip's models: vision transformers of its own and of timm (SigLIP), CoCa, and CLIP's ResNets with attention pooling."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from whybox.errors import WeightsError, WhyboxError, unknown
from whybox.models._image_encoder import ImageEncoder
from whybox.models._image_text import Encoders, ImageText, TextEncoder, TokenBatch
from whybox.models._layers import channels_taken
from whybox.models._whole_image import made_again
from whybox.models.open_clip._images import Preparation, WantedSize, check_size, settings_of
from whybox.models.open_clip._text_tower import TextTower, text_tower
from whybox.models.open_clip._timm_tower import timm_tower
from whybox.models.open_clip._tokens import check_tokenizer, read_texts
from whybox.models.open_clip._vision_tower import Tower, refused, resnet, vision_transformer
from whybox.network_state import device_of

PREFIX = "open_clip"
_KINDS = ("CLIP", "CustomTextCLIP", "CoCa")
_CLIP_VOCABULARY = 49408


def matches(module: nn.Module) -> bool:
    """Whether the module's class is open_clip's CLIP, CustomTextCLIP or CoCa, or derived from one."""
    return any(kind.__module__.split(".")[0] == "open_clip" and kind.__name__ in _KINDS for kind in type(module).__mro__)


@made_again
def wrap(
    module: nn.Module, *, name: str | None = None, tokenizer: Any = None, preprocess: Any = None, size: WantedSize = None
) -> ImageText:
    """A model from an open_clip module.

    Args:
        module: The network.
        name: For reports and errors; None: from its class.
        tokenizer: From open_clip.get_tokenizer; None: CLIP's, where the module has CLIP's vocabulary.
        preprocess: Settings that override the module's (mean, std, size, resize_mode, interpolation).
        size: Size of the network's input. None: from its own preprocessing; "keep": the whole image with its aspect ratio,
            each side rounded to a multiple of the patch and the shorter one at most 640; or (height, width), to which the
            image is resized. Position embeddings are interpolated during the call (bicubic).
    """
    net: Any = module
    settings = settings_of(net.visual, preprocess)
    reader = check_tokenizer(_default_tokenizer(net, text_tower(net)) if tokenizer is None else tokenizer)
    wanted = check_size(size, _image_tower(net.visual).patch)
    return ImageText(partial(_encoders, net, settings, reader, wanted), name or f"{PREFIX}/{type(module).__name__}")


def _encoders(net: Any, settings: Any, reader: Any, size: WantedSize) -> Encoders:
    tower, texts = _image_tower(net.visual), text_tower(net)
    # A convolution's: in half precision open_clip keeps the norms in float32.
    first_weights = next(part for part in net.visual.modules() if channels_taken(part) is not None)
    mean = (settings.mean,) * 3 if isinstance(settings.mean, float) else tuple(settings.mean)
    image_encoder = ImageEncoder(
        net,
        Preparation(settings, tower.patch, lambda: first_weights.weight, size),
        tower.transformer,
        tower.grid,
        _embed_image(net, tower),
        tower.first,
        features={layer: f"visual.{path}" for layer, path in tower.features.items()},
        fill=mean,
    )
    text_encoder = TextEncoder(
        texts.transformer,
        _tokenize(net, reader, texts),
        _embed_text(net, texts),
        lambda: (float(net.logit_scale.exp()), 0.0 if net.logit_bias is None else float(net.logit_bias)),
    )
    return image_encoder, text_encoder


def _image_tower(visual: Any) -> Tower:
    if hasattr(visual, "trunk"):
        return timm_tower(visual)
    if hasattr(visual, "attnpool"):
        return resnet(visual)
    if hasattr(visual, "class_embedding") and hasattr(visual, "_embeds"):
        return vision_transformer(visual)
    raise refused(f"an image tower of {type(visual).__name__}")


def _default_tokenizer(net: Any, texts: TextTower) -> Any:
    from open_clip import SimpleTokenizer

    if texts.vocabulary != _CLIP_VOCABULARY or not texts.context:
        raise WhyboxError(
            f"{type(net).__name__} does not have CLIP's vocabulary of {_CLIP_VOCABULARY} tokens: say which tokenizer goes with "
            "it, tokenizer=open_clip.get_tokenizer(NAME)"
        )
    return SimpleTokenizer(context_length=texts.context)


def _embed_image(net: Any, tower: Tower) -> Callable[[Tensor], Tensor]:
    def embed(pixels: Tensor) -> Tensor:
        with tower.sized((pixels.shape[-2], pixels.shape[-1])):
            return _embedding_of(net.encode_image(pixels, normalize=False))

    return embed


def _embed_text(net: Any, texts: TextTower) -> Callable[[Tensor], Tensor]:
    """The network's own forward pass, which needs ids padded to the full context."""

    def embed(ids: Tensor) -> Tensor:
        # By zeros, whatever the padding is: only what a causal mask hides has been trimmed, and no text ends with the id 0.
        whole = pad(ids, (0, max(0, texts.context - ids.shape[1])))
        return _embedding_of(net.encode_text(whole, normalize=False))

    return embed


def _embedding_of(output: Any) -> Tensor:
    """The embedding (B,D); a tower with output_tokens=True returns its tokens beside it."""
    embedding: Tensor = output[0] if isinstance(output, tuple | list) else output
    return embedding


def _tokenize(net: Any, reader: Any, texts: TextTower) -> Callable[[Sequence[str], bool], TokenBatch]:
    def tokenize(given: Sequence[str], padded: bool) -> TokenBatch:
        """T texts -> ids (T,N), trimmed to the longest text where padding cannot change the embedding, unless `padded`."""
        ids, words, read = read_texts(reader, given, texts.context)
        if int(ids.max()) >= texts.vocabulary:
            raise WhyboxError(
                f"the tokenizer gives the id {int(ids.max())}, and {type(net).__name__} knows {texts.vocabulary}: use the "
                "tokenizer that the model was trained with, tokenizer=open_clip.get_tokenizer(NAME)"
            )
        rows = texts.rows(ids)
        if texts.trims and not padded:
            longest = 1 + int(max(rows.max(), words.nonzero()[:, 1].max()))
            ids, words = ids[:, :longest], words[:, :longest]
        device = device_of(net)
        return TokenBatch(ids.to(device), rows.to(device), pad(words, (0, texts.appended)).to(device), read)

    return tokenize


def build(name: str, weights: str | None = "default", **options: Any) -> ImageText:
    """A model by open_clip's name for it.

    Args:
        name: "ViT-B-16", or with the tag of its weights "ViT-B-16/laion2b_s34b_b88k"; also "hf-hub:OWNER/NAME" and
            "local-dir:FOLDER".
        weights: "default", the tag in the name, else "openai" where that exists, else the first that open_clip lists; another
            tag; or None for random ones.
        options: As for `wrap`.
    """
    try:
        import open_clip
    except ImportError as error:
        raise WhyboxError("open_clip is not installed: pip install 'whybox[open_clip]'") from error
    kind, tag = _parse(open_clip, name, weights)
    try:
        network = _create(open_clip, kind, tag, weights is not None)
        if options.get("tokenizer") is None:
            options["tokenizer"] = open_clip.get_tokenizer(kind)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise WeightsError(
            f"{PREFIX}/{name} could not be had from the hub, its local cache or a folder: check the name and the connection, "
            f"give weights=PATH of a file, or None for random ones ({told})"
        ) from error
    return wrap(network.eval(), **{"name": f"{PREFIX}/{name}", **options})


def _create(open_clip: Any, kind: str, tag: str | None, filled: bool) -> Any:
    """The network. filled: with weights, which open_clip would otherwise leave random where a folder has none."""
    settings = {"load_weights": filled, "require_pretrained": filled, "pretrained_text": filled}
    if tag is not None:
        # The architecture's name alone does not say whether these weights were trained with QuickGELU.
        settings["force_quick_gelu"] = bool(open_clip.get_pretrained_cfg(kind, tag).get("quick_gelu", False))
    return open_clip.create_model(kind, tag, **settings)


def _parse(open_clip: Any, name: str, weights: str | None) -> tuple[str, str | None]:
    """The architecture and the tag of the weights. OpenAI's old names have a slash themselves: "ViT-B/16"."""
    if ":" in name:
        if weights not in ("default", None):
            raise WeightsError(f"{PREFIX}/{name} takes its own weights, a file or None, got weights={weights!r}")
        return name, None
    known = open_clip.list_models()
    kind, tag = name.replace("/", "-"), None
    if kind not in known:
        rest, _, tag = name.rpartition("/")
        kind = rest.replace("/", "-")
    if kind not in known:
        raise unknown("open_clip model", name, known)
    tags = open_clip.list_pretrained_tags_by_model(kind)
    if weights is None:
        return kind, None
    tag = tag if weights == "default" else weights
    if tag is None:
        if not tags:
            raise WeightsError(f"{PREFIX}/{name} has no published weights; give weights=PATH of a file, or None for random ones")
        return kind, "openai" if "openai" in tags else tags[0]
    if tag not in tags:
        raise unknown(f"tag of {kind}'s weights", tag, tags)
    return kind, tag
