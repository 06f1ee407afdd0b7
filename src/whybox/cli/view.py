"""`whybox view`: images and models in the browser, asked live."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli import options as read
from whybox.cli.options import MODEL, Device, Texts
from whybox.cli.output import warn
from whybox.errors import WhyboxError

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help=f"As for `whybox explain`; can be repeated. Default: {MODEL}.", metavar="NAME"),
]
AllWeights = Annotated[
    list[str] | None,
    typer.Option("--weights", help="default, none or a file; once for all models, or once for each.", metavar="PATH"),
]


def view(
    images: Annotated[list[str] | None, typer.Argument(help="Files, a folder or a data set; more can be added.")] = None,
    model: Models = None,
    weights: AllWeights = None,
    text: Texts = None,
    host: Annotated[
        str | None, typer.Option(help="Listen for other machines, too, at this address; the page then needs a token.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8765, or any free one.")] = None,
    memory: Annotated[int, typer.Option(help="Megabytes for the passes that are kept.", min=1)] = 1024,
    nms: read.Nms = None,
    device: Device = None,
) -> None:
    """Look at images and ask the model live: a local page, until Ctrl+C."""
    from whybox.web.app import need_server
    from whybox.web.place import choose_place

    # What can be refused is, before a model is loaded.
    need_server()
    place = choose_place(host, port)
    chosen = _pairs(model or [MODEL], weights or ["default"])

    from whybox.viewer.images import Files, open_images
    from whybox.viewer.view import view as run

    named = open_images(images or [])
    if isinstance(named, Files) and named.outside:
        warn(f"{named.outside} links lead out of the folder and are not shown")
    models: dict[str, Any] = {
        title: read.load_model(name, file, device, nms) for title, (name, file) in zip(_titles(chosen), chosen, strict=True)
    }
    run(
        models,
        named,
        place,
        texts=text or (),
        most_bytes=memory * 2**20,
        other_port=port is None,
        say=lambda address: print(f"whybox: {address}  (Ctrl+C ends it)", flush=True),
    )


def _pairs(models: list[str], weights: list[str]) -> list[tuple[str, str]]:
    """Each model with its weights; one model with several weights is several models."""
    if len(models) == 1:
        models = models * len(weights)
    if len(weights) == 1:
        weights = weights * len(models)
    if len(models) != len(weights):
        raise WhyboxError(f"{len(models)} models and {len(weights)} weights: give --weights once, or once for each --model")
    return list(zip(models, weights, strict=True))


def _titles(chosen: list[tuple[str, str]]) -> list[str]:
    """A name for each model that no other has."""
    titles: list[str] = []
    for name, file in chosen:
        # A path of this machine is nobody's business who looks at the page.
        short = Path(name).name if Path(name.partition(".py:")[0]).is_absolute() or name.startswith(".") else name
        title = short if file == "default" else f"{short} ({Path(file).name})"
        number = sum(other.partition(" #")[0] == title for other in titles)
        titles.append(title if not number else f"{title} #{number + 1}")
    return titles
