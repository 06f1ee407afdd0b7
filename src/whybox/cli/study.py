"""`whybox study`: studies with people. Commands: new, serve, report, simulate."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from whybox.cli import options as read
from whybox.cli.evaluate import Limit, OnProblem, ScoreThreshold
from whybox.cli.options import AsJson, Device, Weights
from whybox.cli.output import bar, free_folder, print_table, tell_own_threshold, warn

study = typer.Typer(
    help="Studies with people: which maps they trust, what they read from them.", no_args_is_help=True, add_completion=False
)

Folder = Annotated[Path, typer.Argument(help="A study's folder, made by `whybox study new`.", show_default=False)]


@study.command()
def new(
    design: Annotated[
        str,
        typer.Argument(
            help="trust_ranking, better_detector, discrimination, forward_simulation, or attention with its settings: "
            "attention:kind=bubbles:radius=0.05:blur=0.04:seconds=10:box=true.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new folder for the study.")],
    data: Annotated[str, typer.Option(help="scenes:count=40, coco:FOLDER:split=val, coco:FILE.json.")] = "scenes:count=40",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A detector; for better_detector two of them, each with its own --model; for attention none is needed, and "
            "with one it is asked about objects that it found.",
            show_default="whybox/scenes; for attention none",
        ),
    ] = None,
    weights: Weights = "default",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated methods, with settings after colons: drise:masks=500.",
            show_default="odam,gradcam,gradcam_pp,drise:masks=500; for better_detector odam; for attention none",
        ),
    ] = None,
    objects_of: Annotated[
        Path | None,
        typer.Option(
            help="Another study's folder: ask about its objects, as far as they are found here, and about no others.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            help="Number of objects, balanced by class and size.", show_default="30; with --objects-of all of that study's"
        ),
    ] = None,
    per_person: Annotated[int | None, typer.Option(help="Questions per person.", show_default="one for each object")] = None,
    checks: Annotated[int, typer.Option(help="Attention checks per person.")] = 2,
    failures_allowed: Annotated[int, typer.Option(help="Who fails more checks is left out of the report.")] = 0,
    score_threshold: ScoreThreshold = 0.3,
    iou: Annotated[float, typer.Option(help="From which IoU with an object a detection has found it.")] = 0.5,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the objects, their order, and the order of the maps.")] = 0,
    on_problem: OnProblem = "skip",
    device: Device = None,
) -> None:
    """Make a study: a folder with its questions, pictures and a consent text to edit."""
    from whybox import api
    from whybox.files import check_new_folder
    from whybox.study.designs import find_design
    from whybox.study.folder import read_study
    from whybox.study.making import Recipe, make_study

    chosen = find_design(design)
    items = {question.item for question in read_study(objects_of).questions} if objects_of else None
    most = count if count is not None else len(items or range(30))
    recipe = Recipe(most, per_person, checks, failures_allowed, score_threshold, iou, limit, seed, items)
    check_new_folder(out)
    asked = methods or {"models": "odam", "methods": "odam,gradcam,gradcam_pp,drise:masks=500"}.get(chosen.compares, "")
    named = read.read_list(asked) if asked else ()
    models = {}
    for text in model or (["whybox/scenes"] if chosen.compares else []):
        name, _, own = text.partition("@")
        models[text] = api.load(name, weights=read.read_weights(own or weights), device=device)
    images = api.open_data(data, on_problem=on_problem)
    with bar(min(len(images), limit or len(images)) + most, "making a study") as on_progress:
        made = make_study(chosen, images, models, named, out, recipe, on_progress=on_progress, on_warning=warn)
    print(f"{len(made.questions)} objects, {made.per_person} questions and {len(made.checks)} checks per person")
    print(f"edit {out / 'consent.md'}, then: whybox study serve {out}")
    for each in models.values():
        tell_own_threshold(each, score_threshold)


@study.command()
def serve(
    folder: Folder,
    host: Annotated[
        str | None, typer.Option(help="A name or address that others can reach; they need the token in the printed address.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="The port.", show_default="8765")] = None,
) -> None:
    """Ask people: a page in the browser, for phones and desktops. Every answer is stored before the next question is shown."""
    from whybox.study.answers import Answers
    from whybox.study.folder import ANSWERS, read_study
    from whybox.study.server import StudyServer
    from whybox.web.app import need_server
    from whybox.web.place import choose_place
    from whybox.web.serving import serve as run

    need_server()
    opened = read_study(folder)
    with Answers(folder / ANSWERS) as answers:
        server = StudyServer(opened, folder, answers)
        # Without a buffer, so that who started this in the background can read the address.
        say = lambda address: print(f"study: {address}", flush=True)
        run(server.app, choose_place(host, port), other_port=port is None, say=say)


@study.command()
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-study-report.")] = None,
    simulated: Annotated[
        bool | None,
        typer.Option(
            "--simulated/--people",
            help="Whose answers.",
            show_default="people's; of simulated respondents where no people took part",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report a study: tables with intervals, tests with effect sizes, figures, and all answers as CSV and Parquet."""
    from whybox.report.study import study_markdown, table_plain, tests_plain
    from whybox.study.folder import read_study
    from whybox.study.reporting import PAGE, report_study

    target = out or free_folder("whybox-study-report")
    opened = read_study(folder)
    made = report_study(opened, folder, target, simulated=simulated)
    if as_json:
        return print((target / "report.json").read_text(encoding="utf-8"))
    # In a pipe or a file, Markdown: its heading says whether anybody was asked, and it has no width to fit into.
    if not sys.stdout.isatty():
        print(study_markdown(made))
    else:
        for table in made.tables:
            print_table(f"{table.title}: {made.heading}", *table_plain(table))
        if made.tests:
            print_table(f"Tests: {made.heading}", *tests_plain(made))
    print(f"report: {(target / PAGE).resolve().as_uri()}")


@study.command()
def simulate(
    folder: Folder,
    count: Annotated[int, typer.Option(help="Number of respondents.")] = 20,
    strength: Annotated[
        list[str] | None,
        typer.Option(help="How good a condition is to them; 0: it tells nothing. Once for each.", metavar="CONDITION=NUMBER"),
    ] = None,
    careless: Annotated[float, typer.Option(help="Share of respondents who do not read instructions.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the answers.")] = 0,
) -> None:
    """Answer a study by chance, to try it from end to end. All that is made of such answers is named as simulated."""
    from whybox.errors import WhyboxError
    from whybox.study.folder import read_study
    from whybox.study.respondents import simulate as run

    told = {}
    for text in strength or []:
        # From the right: settings of a method have equals signs, too.
        name, _, number = text.rpartition("=")
        try:
            told[name] = float(number)
        except ValueError:
            raise WhyboxError(f"--strength {text!r}: expected CONDITION=NUMBER") from None
    opened = read_study(folder)
    with bar(count, "simulating respondents") as on_progress:
        run(opened, folder, count, strength=told or None, careless=careless, seed=seed, on_progress=on_progress)
    print(f"{count} simulated respondents answered; whybox study report {folder} --simulated")
