"""Output of the commands: progress and warnings on standard error, results on standard output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from whybox.files import json_text

if TYPE_CHECKING:
    from whybox.model import Model
    from whybox.runs.explaining.images import Outcome

# Without markup: rich would read brackets in a file name as a style.
errors = Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """Print a value as JSON.

    Args:
        value: Numbers that JSON lacks (NaN, infinity) become null.
    """
    print(json_text(value))


def warn(line: str) -> None:
    """Print a line on standard error, also while a progress bar is shown.

    Args:
        line: The message.
    """
    # Through the bar's own console, which moves the bar aside; soft_wrap, because rich would break lines itself.
    errors.print(f"whybox: {line}", soft_wrap=True)


def tell_own_threshold(model: "Model", asked: float) -> None:
    """Say where the model itself leaves out scores that the user asks for.

    Args:
        model: The model.
        asked: The lowest score that the user asks for.
    """
    if asked < model.score_threshold:
        warn(
            f"{model.name} itself gives nothing under a score of {model.score_threshold:g}: a function in a file, "
            "--model FILE.py:FUNCTION, can return a model with a lower one"
        )


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar on standard error that disappears when it is done; without a terminal, nothing is shown.

    Args:
        total: The number of steps.
        what: The description before the first step.

    Yields:
        A function of an item's name, shown as the description, and the steps done.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=errors, disable=not errors.is_terminal, transient=True)
    # Not entered without a terminal: older releases of rich, 14.1 among them, then print an empty line (Textualize/rich#3905).
    with progress if errors.is_terminal else nullcontext():
        task = progress.add_task(what, total=total)

        def on_progress(name: str, part: float = 1) -> None:
            progress.update(task, advance=part, description=Path(name).name)

        yield on_progress


def print_outcome(outcome: "Outcome", folder: Path, as_json: bool) -> None:
    """Print the results of `whybox explain` or `whybox demo`: one line per image, its detections, and the path of the page.

    Args:
        outcome: The results.
        folder: Their folder.
        as_json: Whether to print JSON instead.
    """
    if as_json:
        return print_json(_outcome(outcome, folder))
    for kept in outcome.kept:
        # All explanations of an image are of the same detections.
        first = kept.explanations[0]
        count = len(first["detections"])
        seconds = sum(explanation["seconds"].get("maps", 0.0) for explanation in kept.explanations)
        total = count * len(kept.explanations)
        maps = f"{total} map{'s' * (total != 1)} in {seconds:.2f} s" if total else "nothing to explain"
        print(f"{kept.image}: {_count(count)}, {maps}")
        for index, row in enumerate(first["detections"]):
            print("\n".join([_row(row), *_words(kept.explanations, index)]))
    if outcome.page is not None:
        print(f"page: {outcome.page.resolve().as_uri()}")
    if outcome.match is not None:
        print(f"page for texts: {outcome.match.resolve().as_uri()}")


def _words(explanations: Sequence[Mapping[str, Any]], index: int) -> list[str]:
    """A line for the words' weights of a detection; several, with what each is of, where explanations hold different ones."""
    lines: dict[str, list[str]] = {}
    for explanation in explanations:
        if words := explanation["detections"][index].get("words"):
            line = ", ".join(f"{word} {weight:+.3g}" for word, weight in words)
            lines.setdefault(line, []).append(f"({explanation['method']}, {explanation['target']})")
    if len(lines) == 1:
        return [f"    words: {line}" for line in lines]
    return [f"    words {' '.join(of)}: {line}" for line, of in lines.items()]


def _outcome(outcome: "Outcome", folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "page": None if outcome.page is None else str(outcome.page),
        **({} if outcome.match is None else {"match": str(outcome.match)}),
        "images": [{"image": kept.image, "folder": str(kept.folder), "explanations": kept.explanations} for kept in outcome.kept],
        "failed": [{"image": name, "error": error} for name, error in outcome.failed],
    }


def print_detections(image: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print an image's name and its detections, one per line.

    Args:
        image: The image's name.
        rows: The detections: "name", "score", "box" and, optionally, "note".
    """
    print(f"{image}: {_count(len(rows))}")
    for row in rows:
        print(_row(row))


def _count(number: int) -> str:
    return "no detection" if not number else "1 detection" if number == 1 else f"{number} detections"


def _row(row: Mapping[str, Any]) -> str:
    box = ", ".join(f"{side:.0f}" for side in row["box"])
    note = f"\n    {row['note']}" if row.get("note") else ""
    return f"  {row['name']:<16} {row['score']:.2f}  ({box}){note}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on a terminal, and tab-separated columns without header elsewhere.

    Args:
        title: The line above the table.
        columns: The header.
        rows: One text per column.
    """
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        for row in rows:
            print("\t".join(row))
        return
    from rich import box
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def free_folder(stem: str) -> Path:
    """Find a folder name that is not taken.

    Args:
        stem: The preferred name.

    Returns:
        The first of stem, stem-2, stem-3 ... that does not exist.
    """
    number, folder = 1, Path(stem)
    while folder.exists():
        number += 1
        folder = Path(f"{stem}-{number}")
    return folder
