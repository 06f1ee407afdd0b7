"""The folder that a trained CLIP is kept in: Hugging Face's form, and a card that says how it came to be."""

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
    """Write a folder that `CLIPModel.from_pretrained` and `AutoProcessor.from_pretrained` take, with a card.

    Args:
        network: A CLIPModel.
        processor: Of its images and texts.
        card: What is known of it.
        folder: Where to.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    clip: Any = network
    zoo.save(network, card, folder)
    with tempfile.TemporaryDirectory() as draft:
        clip.config.save_pretrained(draft)
        processor.tokenizer.save_pretrained(draft)
        processor.image_processor.save_pretrained(draft)
        for file in sorted(Path(draft).iterdir()):
            write_whole(folder / file.name, file.read_bytes())


def read(folder: Path) -> tuple[nn.Module, Any]:
    """What a folder holds.

    Args:
        folder: One that `save` wrote.

    Returns:
        The network, in evaluation mode, and its processor.

    Raises:
        WhyboxError: It holds no CLIP.
    """
    hf = hugging_face()
    if not (folder / "config.json").is_file():
        raise WhyboxError(f"{folder} holds no CLIP: name a folder that whybox train-clip has written")
    network: nn.Module = fetch(hf.CLIPModel, str(folder))
    return network.eval(), fetch(hf.CLIPProcessor, str(folder))


def read_trainings(folder: Path) -> list[Any]:
    """How the weights of a folder came to be.

    Args:
        folder: One that `save` wrote.

    Returns:
        The trainings of its card, the first one first.
    """
    file = folder / "card.json"
    card = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [*card.get("before", []), *([card["trained"]] if "trained" in card else [])]
