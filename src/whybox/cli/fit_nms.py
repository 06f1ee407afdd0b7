"""`whybox fit-nms`: fit a rule of duplicate removal to a detector on annotated images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from whybox.cli.options import AsJson, Device, ModelName, Rename, Weights, load_model, read_pairs
from whybox.cli.output import bar, print_json, print_table, warn


def fit_nms(
    data: Annotated[
        str, typer.Option(help="Annotated images to fit to: coco:FOLDER:split=train, scenes:variant=crowd:count=60.")
    ],
    out: Annotated[Path, typer.Option(help="The rule's file, such as rule.json: for --nms.")],
    test: Annotated[
        str | None, typer.Option(help="Other annotated images: compare the rule with greedy NMS there, with intervals.")
    ] = None,
    model: ModelName = "whybox/scenes",
    weights: Weights = "default",
    maps: Annotated[bool, typer.Option("--maps", help="Also compare what two boxes looked at: slower.")] = False,
    limit: Annotated[int | None, typer.Option(help="Use only the first N images of each data set.")] = None,
    rename: Rename = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Fit how much a kept box lowers the scores of those that overlap it, and what a final score is worth."""
    from whybox import api
    from whybox.errors import WhyboxError
    from whybox.rule_files import SUFFIX, save_rule
    from whybox.runs.crowds.candidates import collect_candidates
    from whybox.runs.crowds.comparison import choose, compare, settings_of
    from whybox.runs.crowds.fitting import fit_rule

    # Refused now, before data and model are loaded.
    if out.suffix != SUFFIX or out.exists() or not out.absolute().parent.is_dir():
        raise WhyboxError(f"--out must be a new file in a folder that exists, ending in {SUFFIX}, got {out}")
    opened = {name: api.open_data(name, rename=read_pairs("--rename", rename)) for name in (data, test) if name is not None}
    network = load_model(model, weights, device, None)

    def collect(name: str) -> Any:
        count = min(len(opened[name]), limit or len(opened[name]))
        with bar(count, "looking for candidates") as on_progress:
            return list(
                collect_candidates(network, opened[name], maps=maps, limit=limit, on_progress=on_progress, on_warning=warn)
            )

    images = collect(data)
    fitted, reference = fit_rule(images, maps=maps), choose(images, settings_of("greedy"))
    about: dict[str, Any] = {"model": network.name, "data": opened[data].name, "images": len(images), "pairs": fitted.pairs}
    about |= {
        "pairs of two objects": fitted.neighbors,
        "auroc": round(fitted.auroc, 4),
        "auroc of iou": round(fitted.iou_auroc, 4),
    }
    compared = (
        compare(collect(test), (reference, fitted.rule), ("greedy NMS, best threshold", fitted.rule.title)) if test else None
    )
    if compared is not None and test is not None:
        about["test"] = {"data": opened[test].name, **compared.as_dict()}
    save_rule(fitted.rule, out, about)
    if as_json:
        print_json({"file": str(out), **about})
        return
    print(f"{fitted.pairs} pairs of boxes, {fitted.neighbors} of two objects")
    print(f"AUROC of duplicates {fitted.auroc:.3f}, of the IoU alone {fitted.iou_auroc:.3f}")
    if compared is not None:
        print_table(f"on {compared.images} other images", *compared.table())
    print(f"rule: {out}")
