"""Options shared by several commands, and their parsers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.errors import WhyboxError
from whybox.specs import parse_value

Images = Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="A name from `whybox models`, a folder that `whybox train` wrote, or FILE.py:FUNCTION that makes a model."
    ),
]
Weights = Annotated[
    str, typer.Option(help="default, none (random weights) or a file: safetensors or a state dict.", metavar="PATH")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1. Default: the model's device.")]
Threshold = Annotated[float, typer.Option(help="Minimum score of a detection.")]
Top = Annotated[int, typer.Option(help="Maximum number of detections per image, highest scores first.")]
Classes = Annotated[
    list[str] | None, typer.Option("--class", help="Only detections of this class; can be repeated.", metavar="NAME")
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="For models with text input: a text to explain; can be repeated.", metavar="TEXT"),
]
Rename = Annotated[
    str | None,
    typer.Option(help="New names for classes of the data, those of the model.", metavar="OLD=NEW,OLD=NEW"),
]
Nms = Annotated[
    str | None,
    typer.Option(
        help="Remove duplicates by this rule instead of the model's own: odam, odam:high=0.9, soft, greedy, a file of fit-nms.",
        metavar="RULE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON only.")]

MODEL = "torchvision/fcos_resnet50_fpn"


def read_weights(text: str) -> str | None:
    """Read --weights.

    Args:
        text: As the user wrote it.

    Returns:
        The text, or None for the word none: no weights.
    """
    return None if text == "none" else text


def load_model(model: str, weights: str, device: str | None, nms: str | None) -> Any:
    """Load the model that a command's options name.

    Args:
        model: --model.
        weights: --weights.
        device: --device.
        nms: --nms; None: the model's own rule.

    Returns:
        The model, with the detections that the rule keeps.

    Raises:
        WhyboxError: There is no such model or rule, or they do not fit together.
    """
    from whybox import api
    from whybox.duplicates import make_rule, with_nms

    # A misspelled rule is refused before weights are read.
    rule = None if nms is None else make_rule(nms)
    loaded = api.load(model, weights=read_weights(weights), device=device)
    return loaded if rule is None else with_nms(loaded, rule)


def read_list(text: str) -> tuple[str, ...]:
    """Read a comma-separated list.

    Args:
        text: As the user wrote it.

    Returns:
        The distinct names, in order.

    Raises:
        WhyboxError: The list is empty.
    """
    # Each once, in order: a set would shuffle the rows of tables.
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise WhyboxError(f"expected comma-separated names, got {text!r}")
    return words


def read_pairs(option: str, text: str | None) -> dict[str, str]:
    """Read a comma-separated list of OLD=NEW.

    Args:
        option: The option's name, for the error.
        text: As the user wrote it; None: nothing.

    Returns:
        The second names by the first.

    Raises:
        WhyboxError: An entry has no equals sign, or nothing before or after it.
    """
    pairs = {}
    for entry in (text or "").split(","):
        old, _, new = (part.strip() for part in entry.partition("="))
        if old and new:
            pairs[old] = new
        elif entry.strip():
            raise WhyboxError(f"{option} {entry.strip()!r}: expected OLD=NEW, as in motorbike=motorcycle,sofa=couch")
    return pairs


def read_boxes(texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Read boxes written as x1,y1,x2,y2.

    Args:
        texts: One text per box.

    Returns:
        Four numbers per box, in image pixels.

    Raises:
        WhyboxError: A text is not four numbers.
    """
    return tuple(_read_box(text) for text in texts)


def _read_box(text: str) -> tuple[float, ...]:
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise WhyboxError(f'--box {text!r}: expected four numbers "x1,y1,x2,y2" in image pixels')
    return box


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Read settings written as key=value.

    Args:
        texts: One text per setting.

    Returns:
        The settings; numbers, true, false and none are converted.

    Raises:
        WhyboxError: A text has no equals sign or no key.
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise WhyboxError(f"--option {text!r}: expected key=value")
        # Settings are Python names, and on a command line people write dashes.
        options[key.strip().replace("-", "_")] = parse_value(value.strip())
    return options
