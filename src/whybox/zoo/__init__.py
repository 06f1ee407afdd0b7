"""Networks that ship with the package, and the file format in which trained networks are kept.

A network is two files: weights in safetensors, and a card in JSON that names the builder and its arguments, the classes,
and how the weights were trained. A folder holds them as `model.safetensors` and `card.json`; the shipped ones are beside
this file as `<name>.safetensors` and `<name>.json`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from whybox.errors import WhyboxError, unknown
from whybox.files import json_text, write_whole
from whybox.ops.embedding_heads import add_embedding_head
from whybox.weights import load_weights

HERE = Path(__file__).parent
EMBEDDING = "embedding"
"""The entry of a card's arguments with the options of an embedding head."""


class Loaded(NamedTuple):
    """A network in evaluation mode, its class names (of column 1, after the background), and its whole card."""

    network: nn.Module
    classes: tuple[str, ...]
    card: dict[str, Any]


def shipped() -> tuple[str, ...]:
    """The names of the networks that come with the package.

    Returns:
        The names, sorted.
    """
    return tuple(sorted(file.stem for file in HERE.glob("*.safetensors")))


def shipped_folders() -> Mapping[str, Path]:
    """Models that come with the package as a folder in Hugging Face's format.

    Returns:
        Folders by name; a name has dashes where the folder's has underscores.
    """
    return {file.parent.name.replace("_", "-"): file.parent for file in sorted(HERE.glob("*/config.json"))}


def load(name: str | Path) -> Loaded:
    """Load a network with its weights and its card.

    Args:
        name: A shipped name ("scenes" or "whybox/scenes"), a folder that `save` wrote, or a safetensors file beside its card.

    Returns:
        The network, its classes and its card.

    Raises:
        UnknownNameError: No network has this name.
        WhyboxError: The card cannot be read or does not fit the network, or the weights do not.
    """
    weights, card_file = _files(str(name))
    card = _read_card(card_file)
    network = build(card["network"], card["arguments"])
    # torchvision counts the background as a class.
    expected = card["arguments"]["num_classes"] - 1
    if len(card["classes"]) != expected:
        raise WhyboxError(f"{card_file} names {len(card['classes'])} classes, its network has {expected}")
    load_weights(network, weights)
    return Loaded(network.eval(), tuple(card["classes"]), card)


def build(network: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network with random weights.

    Args:
        network: The builder's name: "compact_fcos" or "compact_faster_rcnn".
        arguments: The builder's arguments, as a card holds them; "embedding" is not the builder's, but holds the options of
            `add_embedding_head`, for a network with such a head.

    Returns:
        The network.

    Raises:
        UnknownNameError: No builder has this name.
        WhyboxError: The arguments do not fit the builder.
    """
    known = builders()
    if network not in known:
        raise unknown("network", network, known)
    own = {key: value for key, value in arguments.items() if key != EMBEDDING}
    try:
        built = known[network](**own)
        if arguments.get(EMBEDDING) is not None:
            # After the network, whose random weights are then the same with and without a head.
            add_embedding_head(built, **arguments[EMBEDDING])
        return built
    except (TypeError, ValueError, RuntimeError) as error:
        raise WhyboxError(f"{network} cannot be built from {dict(arguments)}: {error}") from error


def save(network: nn.Module, card: Mapping[str, Any], folder: Path, name: str | None = None) -> tuple[Path, Path]:
    """Write weights and card into a folder, each file whole or not at all.

    Matrices and kernels are kept in half precision, to be small; statistics and biases stay in single precision.

    Args:
        network: Its weights are written.
        card: What `load` needs ("network", "arguments", "classes"), and how the weights were trained.
        folder: The folder to write to.
        name: The stem of both files; None: `model.safetensors` and `card.json`.

    Returns:
        The paths of the weights and of the card.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    # Imported here: listing and building networks needs no safetensors.
    from safetensors.torch import save as to_bytes

    kept = {key: _compact(value) for key, value in network.state_dict().items()}
    weights = folder / f"{name or 'model'}.safetensors"
    card_file = folder / f"{name or 'card'}.json"
    write_whole(weights, to_bytes(kept))
    # The card comes last: what has one is taken for a model.
    write_whole(card_file, (json_text(card) + "\n").encode())
    return weights, card_file


def _compact(value: Tensor) -> Tensor:
    return (value.half() if value.is_floating_point() and value.ndim > 1 else value).detach().cpu().contiguous()


def builders() -> dict[str, Callable[..., nn.Module]]:
    """The networks that can be built.

    Returns:
        Their functions by name.
    """
    from whybox.zoo.compact_faster_rcnn import compact_faster_rcnn
    from whybox.zoo.compact_fcos import compact_fcos

    return {"compact_fcos": compact_fcos, "compact_faster_rcnn": compact_faster_rcnn}


def _files(name: str) -> tuple[Path, Path]:
    short = name.removeprefix("whybox/")
    if short in shipped():
        return HERE / f"{short}.safetensors", HERE / f"{short}.json"
    path = Path(name)
    if path.is_dir():
        return path / "model.safetensors", path / "card.json"
    if path.suffix == ".safetensors" and path.is_file():
        # The folder's own weights, named in full, go with the folder's card.
        return path, path.with_suffix(".json") if path.stem != "model" else path.with_name("card.json")
    raise unknown("network", name, [f"whybox/{known}" for known in (*shipped(), *shipped_folders())])


def _read_card(file: Path) -> dict[str, Any]:
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WhyboxError(f"cannot read the network's card {file}: {error}") from error
    if missing := [key for key in ("network", "arguments", "classes") if key not in card]:
        raise WhyboxError(f"the network's card {file} lacks {', '.join(missing)}")
    return dict(card)
