"""Makes the picture of the page on fine-tuning CLIP: what several models take the same regions for, and their maps of a text.

python docs/images/finetune.py --data coco:FOLDER --model "as it is=BASE,BASE-SCORES" --model "fine-tuned=DIR,DIR-SCORES"
"""

import argparse
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import whybox
from whybox.report.overlay import blend
from whybox.runs.clip_scores.scores import read_scores
from whybox.truth import Sample

WIDTH = 7.2
"""In inches, as wide as a page's text: so that letters are as large as there."""
RIGHT, WRONG = "#2ee6cf", "#ff9d2e"


def main() -> None:
    """Make the picture."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", required=True, help="images with boxes")
    asked.add_argument(
        "--model", action="append", required=True, help="TITLE=MODEL,SCORES: a column, and its `score-clip` folder"
    )
    asked.add_argument("--images", type=int, default=3)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "finetune.webp")
    given = asked.parse_args()
    data = whybox.open_data(given.data)
    titles, places = zip(*(text.split("=", 1) for text in given.model), strict=True)
    models = [whybox.load(place.split(",")[0]) for place in places]
    scores = [read_scores(place.split(",")[1]).folder.records["regions"] for place in places]
    shown = [(data[index], row) for index in range(len(data)) if (row := lone_object(data[index])) is not None][: given.images]
    figure = Figure(figsize=(WIDTH, 2 * len(shown) * 1.42 + 0.2), layout="constrained")
    grid = figure.subplots(2 * len(shown), len(models), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8)
    for number, (sample, row) in enumerate(shown):
        word = data.classes[int(sample.truth.labels[row])]
        regions, maps = grid[2 * number], grid[2 * number + 1]
        regions[0].set_ylabel("regions", fontsize=8)
        maps[0].set_ylabel(f"“a {word}”", fontsize=8)
        for axes, kept in zip(regions, scores, strict=True):
            draw_regions(axes, sample, kept[sample.name])
        for axes, model in zip(maps, models, strict=True):
            draw_map(axes, sample, row, whybox.explain(model, sample.image, text=f"a {word}").maps.at_image()[0].numpy())
    drawn = BytesIO()
    figure.savefig(drawn, dpi=190, facecolor="white")
    Image.open(drawn).convert("RGB").save(given.out, "WEBP", quality=80, method=6)


def lone_object(sample: Sample) -> int | None:
    """The row of the smallest object that is the only one of its class and takes 1 to 20 percent of the image."""
    labels, boxes = sample.truth.labels, sample.truth.boxes
    shares = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (sample.image.width * sample.image.height)
    fit = [row for row in range(len(labels)) if (labels == labels[row]).sum() == 1 and 0.01 < shares[row] < 0.2]
    return min(fit, key=lambda row: float(shares[row]), default=None)


def draw_regions(axes: Axes, sample: Sample, record: Mapping[str, Any]) -> None:
    """Every object's box with the class that its mask is taken for."""
    axes.imshow(sample.image.convert("RGB"))
    named = {region["id"]: region for region in record["regions"]}
    for name, box in zip(sample.truth.ids, sample.truth.boxes.tolist(), strict=True):
        if name in named and named[name].get("mask"):
            best = named[name]["mask"]["best"]
            color = RIGHT if best == named[name]["class"] else WRONG
            outline(axes, box, color)
            axes.text(box[0] + 1, box[1] - 3, best, fontsize=5, bbox={"pad": 0.4, "color": color})
    axes.set(xticks=[], yticks=[])


def draw_map(axes: Axes, sample: Sample, row: int, values: np.ndarray) -> None:
    """A map, and the object's box."""
    axes.imshow(blend(np.asarray(sample.image.convert("RGB")), values, float(values.min()), float(values.max())))
    outline(axes, sample.truth.boxes[row].tolist(), "white")
    axes.set(xticks=[], yticks=[])


def outline(axes: Axes, box: list[float], color: str) -> None:
    """The outline of a box."""
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.2))


if __name__ == "__main__":
    main()
