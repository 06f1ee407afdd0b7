"""`whybox compare`: two evaluations side by side, with a paired test."""

from pathlib import Path
from typing import Annotated

import typer

from whybox.cli.options import AsJson
from whybox.cli.output import print_json
from whybox.errors import WhyboxError


def compare(
    a: Annotated[Path, typer.Argument(help="The folder of a `whybox evaluate` run.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="The folder of another run, or of the same one.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="A new folder for the page. Default: only print the table.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare method A of the first run with method B of the second. Default: every method in both.", metavar="A=B"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the confidence intervals and tests.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two evaluations on the objects in both: differences with confidence intervals and corrected p-values."""
    pairs = [_pair(text) for text in method or []]

    from whybox.report.comparison import comparison_markdown
    from whybox.runs.evaluation.compare import as_dict
    from whybox.runs.evaluation.compare import compare as run

    comparison = run(a, b, out=out, methods=pairs or None, seed=seed)
    if as_json:
        return print_json(as_dict(comparison))
    print(comparison_markdown(comparison))
    for remark in comparison.remarks:
        print(remark)
    if out is not None:
        print(f"page: {(out / 'index.html').resolve().as_uri()}")


def _pair(text: str) -> tuple[str, str]:
    """Split "odam=drise:masks=500" at the first equals sign that does not belong to a setting."""
    head, equals, tail = text.partition("=")
    while equals and ":" in head.rpartition("=")[2]:
        # This equals sign belongs to a setting: "drise:masks=500=odam".
        value, equals, tail = tail.partition("=")
        head = f"{head}={value}"
    if not equals or not head or not tail:
        raise WhyboxError(f"--method {text!r}: expected A=B, a method of the first run and one of the second")
    return head, tail
