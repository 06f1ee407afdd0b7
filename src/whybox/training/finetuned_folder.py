"""The folder of a fine-tuned CLIP, in the format of its own library: transformers or open_clip."""

import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whybox.errors import WhyboxError
from whybox.files import json_text, write_whole
from whybox.model import Model
from whybox.models.hf import _hub
from whybox.models.open_clip import family as open_clip_family

OPEN_CLIP = ("open_clip_model.safetensors", "open_clip_config.json")
LOCAL = "local-dir:"


def check_apart(model: Model, folder: Path) -> None:
    """Refuse to write into the folder that a model was loaded from.

    Args:
        model: The model.
        folder: The folder to write to.

    Raises:
        WhyboxError: It is the same folder.
    """
    place = _place(model)
    if place and Path(place).is_dir() and Path(place).resolve() == folder.resolve():
        raise WhyboxError(f"{folder} holds the model itself, which stays as it is: choose another folder")


def save(model: Model, network: nn.Module, card: Mapping[str, Any], folder: Path) -> str:
    """Write weights in single precision, what is needed to load them, and last the card.

    Args:
        model: The model that was trained, for its name, tokenizer and preprocessing.
        network: Its network with the trained weights.
        card: How it was trained, for `card.json`; the name that loads the folder is added as "load".
        folder: The folder to write to.

    Returns:
        The name that `whybox.load` takes, with DIR for the folder.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    is_open_clip = open_clip_family.matches(network)
    with tempfile.TemporaryDirectory() as draft:
        name = _draft_open_clip(model, network, Path(draft)) if is_open_clip else _draft_hf(model, network, Path(draft))
        # The libraries write in place: from a draft, each file arrives whole or not at all.
        for file in sorted(Path(draft).iterdir()):
            write_whole(folder / file.name, file.read_bytes())
    write_whole(folder / "card.json", (json_text({**card, "load": name}) + "\n").encode())
    return name


def _draft_hf(model: Any, network: Any, draft: Path) -> str:
    from transformers import AutoImageProcessor, AutoTokenizer

    # What the model was loaded with; else what lies beside its weights.
    given = getattr(getattr(model, "_made_by", None), "keywords", {})
    processor = given.get("processor")
    images = getattr(processor, "image_processor", processor) or _hub.kept(AutoImageProcessor, network)
    words = given.get("tokenizer") or getattr(processor, "tokenizer", None) or _hub.kept(AutoTokenizer, network)

    config = copy.deepcopy(network.config)
    config.architectures = [type(network).__name__]
    # transformers before 4.56 calls it torch_dtype.
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", torch.float32)
    config.save_pretrained(draft)
    # Not network.save_pretrained, which draws a progress bar.
    _write_weights(network, draft / "model.safetensors")
    for part in (images, getattr(words, "tokenizer", words)):
        if part is not None:
            part.save_pretrained(draft)
    return "DIR"


def _draft_open_clip(model: Model, network: Any, draft: Path) -> str:
    weights, config = OPEN_CLIP
    _write_weights(network, draft / weights)
    settings = _open_clip_settings(model, network)
    if settings is None:
        # Of a module that the user built, only the user knows how to build it again.
        return f"a module of your own, weights=DIR/{weights}"
    (draft / config).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return f"{open_clip_family.PREFIX}/{LOCAL}DIR"


def _write_weights(network: nn.Module, file: Path) -> None:
    from safetensors.torch import save_file

    kept = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    # transformers asks for this entry.
    save_file(kept, file, {"format": "pt"})


def _open_clip_settings(model: Model, network: Any) -> dict[str, Any] | None:
    """The content of open_clip_config.json; None where the model was not built by a name."""
    import open_clip

    name = model.name.removeprefix(f"{open_clip_family.PREFIX}/")
    if name == model.name:
        return None
    if name.startswith(LOCAL):
        return dict(json.loads(Path(name.removeprefix(LOCAL), OPEN_CLIP[1]).read_text(encoding="utf-8")))
    if ":" in name:
        return dict(open_clip.factory._get_hf_config(name.partition(":")[2]))
    architecture = next(
        (known for known in (name.replace("/", "-"), name.rpartition("/")[0].replace("/", "-")) if _known(known)), ""
    )
    if not architecture:
        return None
    built = open_clip.get_model_config(architecture)
    # The tag's weights may have been trained with it, whatever the architecture says.
    quick = any(type(part).__name__ == "QuickGELU" for part in network.modules())
    return {"model_cfg": {**built, "quick_gelu": quick}, "preprocess_cfg": getattr(network.visual, "preprocess_cfg", {})}


def _known(architecture: str) -> bool:
    import open_clip

    return architecture in open_clip.list_models()


def _place(model: Any) -> str:
    """The folder or name that the model was loaded from; "" where it is not known."""
    name = str(model.name).removeprefix(f"{open_clip_family.PREFIX}/")
    return name.removeprefix(LOCAL) if name.startswith(LOCAL) else str(getattr(model.network, "name_or_path", "") or "")
