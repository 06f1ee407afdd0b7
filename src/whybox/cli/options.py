"""Options that several commands take, and how their texts are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.errors import WhyboxError
from whybox.specs import parse_value

Images = Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)]
ModelName = Annotated[str, typer.Option("--model", help="A name from `whybox models`, or a folder that `whybox train` wrote.")]
Weights = Annotated[
    str, typer.Option(help="default, none for random ones, or a file: safetensors or a state dict.", metavar="PATH")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1; by default where the model is.")]
Threshold = Annotated[float, typer.Option(help="Lowest score of a detection.")]
Top = Annotated[int, typer.Option(help="At most so many detections an image, the best.")]
Classes = Annotated[
    list[str] | None, typer.Option("--class", help="Only detections of this class; may be given again.", metavar="NAME")
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="For models that take texts: what to look for; may be given again.", metavar="TEXT"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")]

MODEL = "torchvision/fcos_resnet50_fpn"


def read_weights(text: str) -> str | None:
    """The word none means no weights."""
    return None if text == "none" else text


def read_list(text: str) -> tuple[str, ...]:
    """Words between commas, each once."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise WhyboxError(f"expected names between commas, got {text!r}")
    return words


def read_boxes(texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
    """Boxes written as x1,y1,x2,y2."""
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
    """Options written as key=value; numbers, true, false and none are read as such."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise WhyboxError(f"--option {text!r}: expected key=value")
        options[key.strip().replace("-", "_")] = parse_value(value.strip())
    return options
