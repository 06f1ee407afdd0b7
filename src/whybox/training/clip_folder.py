"""The folder of a trained CLIP: Hugging Face's format, and a card with how it was trained."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from whybox import zoo
from whybox.errors import WhyboxError
from whybox.files import write_whole
from whybox.models.hf._hub import fetch
from whybox.training.clip_words import hugging_face


def save(network: nn.Module, processor: Any, card: Mapping[str, Any], folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` and `AutoProcessor.from_pretrained` load, with a card.

    Args:
        network: A CLIPModel.
        processor: The processor of its images and texts.
        card: How it was trained, for `card.json`.
        folder: The folder to write to.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    clip: Any = network
    zoo.save(network, card, folder)
    # transformers writes its files in place: from a draft, each of them arrives whole or not at all.
    with tempfile.TemporaryDirectory() as draft:
        clip.config.save_pretrained(draft)
        processor.tokenizer.save_pretrained(draft)
        processor.image_processor.save_pretrained(draft)
        for file in sorted(Path(draft).iterdir()):
            write_whole(folder / file.name, file.read_bytes())


def read(folder: Path) -> tuple[nn.Module, Any]:
    """Load the model of a folder.

    Args:
        folder: A folder that `save` wrote.

    Returns:
        The network, in evaluation mode, and its processor.

    Raises:
        WhyboxError: The folder holds no CLIP, or transformers is not installed.
    """
    hf = hugging_face()
    if not (folder / "config.json").is_file():
        raise WhyboxError(f"{folder} holds no CLIP; give a folder that whybox train-clip wrote")
    network: nn.Module = fetch(hf.CLIPModel, str(folder))
    return network.eval(), fetch(hf.CLIPProcessor, str(folder))


def read_trainings(folder: Path) -> list[Any]:
    """The trainings that led to the weights of a folder.

    Args:
        folder: A folder that `save` wrote.

    Returns:
        The trainings of its card, the earliest first.
    """
    file = folder / "card.json"
    card = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [*card.get("before", []), *([card["trained"]] if "trained" in card else [])]
