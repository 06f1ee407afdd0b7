"""An explanation on disk: a folder with raw maps, overlays, a manifest, the page and the image."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from whybox.attention import Text, TokenMaps
from whybox.errors import WhyboxError
from whybox.explained import Explained
from whybox.exports import plain, to_dict
from whybox.files import file_stem, json_text, new_folder, one_line
from whybox.frame import Frame
from whybox.pictures import LONGEST_OVERLAY, draw_overlay, page_of
from whybox.report.overlay import picture_of, png_bytes, shrink, tensor_of
from whybox.types import Detections, HeatMaps
from whybox.versions import versions

Kind = TypeVar("Kind", bound=Explained)
SCHEMA = 1
"""Version of the manifest's format; increased by incompatible changes."""
WORD = "word."
"""Prefix of the names of tensors that belong to `single_words`."""


def save(explained: Explained, directory: str | Path) -> Path:
    """Save an explanation to a new folder.

    Args:
        explained: The explanation.
        directory: A folder that is new or empty. It is written atomically.

    Returns:
        The folder's path.

    Raises:
        WhyboxError: The folder is not empty, or cannot be written.
    """
    with new_folder(directory) as folder:
        (folder / "maps.safetensors").write_bytes(to_bytes(_tensors(explained)))
        (folder / "image.png").write_bytes(png_bytes(picture_of(explained.image)))
        (folder / "overlays").mkdir()
        manifest = _manifest(explained)
        picture = shrink(explained.image, LONGEST_OVERLAY)
        for i, row in enumerate(manifest["detections"]):
            (folder / row["overlay"]).write_bytes(png_bytes(draw_overlay(explained, i, picture)))
        (folder / "manifest.json").write_text(json_text(manifest), encoding="utf-8")
        (folder / "index.html").write_text(page_of(explained), encoding="utf-8")
    return Path(directory)


def load(directory: str | Path, kind: type[Kind]) -> Kind:
    """Load what `save` wrote: maps and detections bit by bit, the image with 8 bits per channel.

    Args:
        directory: The folder.
        kind: The class of the explanation.

    Raises:
        WhyboxError: A file is missing or damaged.
    """
    folder = Path(directory)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest.get("schema") != SCHEMA or manifest.get("kind") != "explanation":
            raise WhyboxError(f"{folder}: expected an explanation of schema {SCHEMA}, got {manifest.get('schema')}")
        tensors = load_file(folder / "maps.safetensors")
        with Image.open(folder / "image.png") as picture:
            image = tensor_of(picture)
        return _from_parts(kind, manifest, tensors, image)
    # Before OSError, which it is one of.
    except FileNotFoundError as error:
        raise WhyboxError(f"{folder}: no saved explanation, {Path(error.filename or '').name} is missing") from None
    # ImportError: see `data.images`.
    except (OSError, ImportError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise WhyboxError(f"{folder}: damaged explanation ({one_line(error)})") from error


def _tensors(explained: Explained) -> dict[str, Tensor]:
    tensors = {name: values for name, values in vars(explained.detections).items() if values is not None}
    tensors |= {f"map.{i}": values for i, values in enumerate(explained.maps.native)}
    if explained.token_maps is not None:
        tensors |= {f"tokens.{i}": values for i, values in enumerate(explained.token_maps.values)}
    if explained.single_words is not None:
        tensors |= {f"{WORD}{name}": values for name, values in _tensors(explained.single_words).items()}
    # Clones, because safetensors refuses tensors that share memory, as views of one tensor do.
    # contiguous, too: a clone keeps a permuted layout, which safetensors refuses.
    return {name: values.detach().cpu().clone().contiguous() for name, values in tensors.items()}


def _manifest(explained: Explained) -> dict[str, Any]:
    manifest = {"schema": SCHEMA, "kind": "explanation", "versions": versions(), **_facts(explained)}
    digits = max(2, len(str(len(explained) - 1)))
    for i, row in enumerate(manifest["detections"]):
        row["overlay"] = f"overlays/{i:0{digits}d}_{file_stem(row['name'])}.png"
    return manifest


def _facts(explained: Explained) -> dict[str, Any]:
    """Everything that `load` needs, except tensors."""
    maps, classes = explained.maps, explained.classes
    facts = {**to_dict(explained), "method_title": maps.method_title, "scaled": maps.scaled}
    facts |= {"frame": asdict(maps.frame), "crop_padding": maps.crop_padding}
    facts |= {"classes": None if classes is None else list(classes)}
    if explained.whole_image:
        facts["whole_image"] = True
    if (tokens := explained.token_maps) is not None:
        options = {name: plain(value) for name, value in tokens.options.items()}
        facts["token_maps"] = {"method": tokens.method, "target": tokens.target, "options": options}
    if explained.single_words is not None:
        facts["single_words"] = _facts(explained.single_words)
    return facts


def _from_parts(kind: type[Kind], manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Tensor) -> Kind:
    rows = manifest["detections"]
    texts = tuple(_text(row["text"]) for row in rows if "text" in row)
    token_maps = single_words = None
    if "token_maps" in manifest:
        token_maps = TokenMaps(tuple(tensors[f"tokens.{i}"] for i in range(len(rows))), texts, **manifest["token_maps"])
    if "single_words" in manifest:
        of_words = {name.removeprefix(WORD): values for name, values in tensors.items() if name.startswith(WORD)}
        single_words = _from_parts(kind, manifest["single_words"], of_words, image)
    return kind(
        Detections(
            *(tensors[name] for name in ("boxes", "scores", "labels", "source")),
            *(tensors.get(name) for name in ("masks", "keypoints", "corners")),
        ),
        _maps(manifest, tensors),
        image,
        manifest["model"],
        manifest["classes"],
        manifest["name"],
        tuple(row["note"] for row in rows),
        manifest["seconds"],
        manifest.get("whole_image", False),
        texts,
        token_maps,
        single_words,
        tuple(manifest.get("keypoints", ())),
    )


def _maps(manifest: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> HeatMaps:
    routes = tuple(row["route"] for row in manifest["detections"])
    # Files of earlier versions do not name the layer.
    layers = tuple(row.get("layer", "") for row in manifest["detections"])
    return HeatMaps(
        tuple(tensors[f"map.{i}"] for i in range(len(routes))),
        Frame(**{name: tuple(size) for name, size in manifest["frame"].items()}),
        manifest["target"],
        manifest["method"],
        manifest["options"],
        routes if any(routes) else (),
        manifest["scaled"],
        manifest["crop_padding"],
        manifest["method_title"],
        layers if any(layers) else (),
    )


def _text(row: Mapping[str, Any]) -> Text:
    spans = tuple((start, end) for start, end in row["spans"])
    return Text(row["text"], tuple(row["tokens"]), spans, row["cut"], tuple(row["unknown"]))
