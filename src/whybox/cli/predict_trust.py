"""`whybox predict-trust`: does a map's agreement with where people look predict the trust that they give it?"""

from pathlib import Path
from typing import Annotated

import typer

from whybox.cli.options import AsJson
from whybox.cli.output import free_folder, print_json


def predict_trust(
    run: Annotated[Path, typer.Argument(help="The folder of a `whybox evaluate --metrics attention` run.", show_default=False)],
    answers: Annotated[
        Path, typer.Argument(help="A CSV file with the columns person, item, method, and rank or score.", show_default=False)
    ],
    metric: Annotated[str, typer.Option(help="The run's metric of agreement.")] = "attention_cosine",
    data: Annotated[str | None, typer.Option(help="The run's data set, for answers of `whybox study`.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder. Default: whybox-trust.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the confidence intervals.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit the trust that people gave to maps (their ranks or scores) to the maps' agreement with human attention, as Fig. 14 of
    the ODAM paper; confidence intervals are for other people and other objects."""
    from whybox import api
    from whybox.files import check_new_folder
    from whybox.runs.attention.answers import read_answers
    from whybox.runs.attention.trust import predict_trust as fit

    folder = out or free_folder("whybox-trust")
    check_new_folder(folder)
    given = read_answers(answers)
    images = None if data is None else api.open_data(data)
    prediction = fit(run, given, metric=metric, data=images, out=folder, seed=seed)
    if as_json:
        return print_json({"folder": str(folder), **prediction.as_dict()})
    print(prediction.table() + "\n")
    print(prediction.means() + "\n")
    for fact in prediction.facts:
        print(fact)
    print(f"figure: {(folder / 'figure.png').resolve().as_uri()}")
