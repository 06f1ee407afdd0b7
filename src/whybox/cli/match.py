"""`whybox match`: which pixels of an image and which words of a text match, saved in a folder with an HTML page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli.options import AsJson, Device, Weights, read_options, read_weights
from whybox.cli.output import free_folder, print_json, warn
from whybox.errors import UnknownNameError, WhyboxError

MODEL = "whybox/scenes-clip"
EXAMPLE = "open_clip/ViT-B-16"


def match(
    image: Annotated[Path, typer.Argument(help="An image file.", show_default=False)],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT...", help="Texts to match with the image.", show_default=False)
    ] = None,
    model: Annotated[str, typer.Option(help=f"An image-text model: {EXAMPLE}, hf/..., or a folder.")] = MODEL,
    weights: Weights = "default",
    method: Annotated[str, typer.Option(help="The explanation method: see `whybox methods`.")] = "grad_eclip",
    heads: Annotated[
        str | None, typer.Option(help="For grad_eclip: native (the unchanged model) or single (the paper's variant).")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="keep (no crop) or HxW in pixels. Default: the model's own preprocessing.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="A setting of the method.", metavar="KEY=VALUE")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-IMAGE.")] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain an image-text match: one heat map per text, the weights of its words, and a map of each word alone."""
    wanted = _read_texts(texts or [])
    folder = out or free_folder(f"whybox-{image.stem}")
    settings = read_options(option or []) | ({} if heads is None else {"heads": heads})
    shape = {} if size is None else {"size": _read_size(size)}

    from whybox import api
    from whybox.data.images import read_image
    from whybox.files import check_new_folder

    # Refused now, before the model is loaded.
    check_new_folder(folder)
    pixels = read_image(image)
    try:
        loaded = api.load(model, weights=read_weights(weights), device=device, **shape)
    except UnknownNameError as error:
        raise WhyboxError(f"{error} --model takes an image-text model, such as {EXAMPLE}") from error
    if not (loaded.takes_text and loaded.whole_image):
        raise WhyboxError(
            f"{model} does not match images with texts: pass an image-text model such as --model {EXAMPLE}, or use whybox explain"
        )
    made = api.make_method(method, loaded, **settings)
    words = api.draws_words(made, loaded)
    # top, because texts beyond the first hundred would be left out.
    result = api.explain(
        loaded, pixels, text=wanted, method=made, top=len(wanted), name=image.name, words=words, single_words=words
    )
    for text, note in zip(wanted, result.notes, strict=True):
        if note:
            warn(f"{text[:40]!r}: {note}")
    result.save(folder)
    _print(result.to_dict(), folder, as_json)


def _read_texts(texts: list[str]) -> list[str]:
    if not texts:
        raise WhyboxError('no text to match; give one in quotes: whybox match dog.jpg "a dog on the grass"')
    if not all(text.strip() for text in texts):
        raise WhyboxError("a text is empty; every text needs at least one word")
    return texts


def _read_size(text: str) -> str | tuple[int, int]:
    if text == "keep":
        return text
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise WhyboxError(f"--size {text!r}: expected keep, or height and width in pixels such as 224x336")
    return int(height), int(width)


def _print(explanation: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """One line per text, its words below it, and the path of the page."""
    page = folder / "index.html"
    if as_json:
        return print_json({"folder": str(folder), "page": str(page), "explanation": explanation})
    for row in explanation["detections"]:
        print(f"{' '.join(row['name'].split())}: cosine {row['score']:.3f}, peak {row['peak']:.3g}")
        if "words" in row:
            print("  " + "  ".join(f"{word} {weight:.3g}" for word, weight in row["words"]))
    print(f"page: {page.resolve().as_uri()}")
