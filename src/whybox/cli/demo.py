"""`whybox demo`: explain generated scenes with the models that ship with the package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whybox.cli.options import AsJson
from whybox.cli.output import bar, print_outcome, warn
from whybox.errors import WhyboxError

if TYPE_CHECKING:
    from whybox.model import Model

MODEL = "whybox/scenes"
READER = "whybox/scenes-clip"
TARGETS = ("score", "x1", "y1", "x2", "y2", "combined")


def demo(
    out: Annotated[Path, typer.Option(help="The folder; an earlier demo in it is replaced.")] = Path("whybox-demo"),
    scenes: Annotated[int, typer.Option(help="Number of scenes.", min=1, max=40)] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 11,
    as_json: AsJson = False,
) -> None:
    """Explain a few generated scenes and write a page; nothing is downloaded."""
    import torch

    from whybox import api
    from whybox.runs.explaining.demo import check_demo_folder, explain_scenes
    from whybox.runs.explaining.images import Question

    check_demo_folder(out)
    # Scenes and detector are so small that threads wait for each other longer than they work.
    torch.set_num_threads(1)
    model = api.load(MODEL)
    question = Question(methods=("odam", "gradcam"), targets=TARGETS, score_threshold=0.5)
    with bar(scenes * len(question), "explaining") as on_progress:
        outcome = explain_scenes(model, question, out, scenes, seed, reader=_reader(), on_progress=on_progress, on_warning=warn)
    print_outcome(outcome, out, as_json)


def _reader() -> "Model | None":
    """The image-text model, or None where the package that it needs is not installed."""
    from whybox import api

    try:
        return api.load(READER)
    except WhyboxError as error:
        warn(f"no page for texts: {error}")
        return None
