"""Makes the picture of the page on fine-tuning CLIP: the same objects in the maps of several models.

python docs/images/finetune.py --data coco:FOLDER --model "as it is=BASE" --model "fine-tuned=DIR"
"""

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

import whybox
from whybox.report.overlay import blend
from whybox.truth import Sample

WIDTH = 7.2
"""In inches, as wide as a page's text: so that letters are as large as there."""


def main() -> None:
    """Make the picture."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--data", required=True, help="images with boxes")
    asked.add_argument("--model", action="append", required=True, help="TITLE=MODEL, a column; can be repeated")
    asked.add_argument("--rows", type=int, default=4)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "finetune.webp")
    given = asked.parse_args()
    data = whybox.open_data(given.data)
    columns = [text.split("=", 1) for text in given.model]
    models = [whybox.load(name) for _, name in columns]
    figure = Figure(figsize=(WIDTH, 1.42 * given.rows + 0.2), layout="constrained")
    shown = [(sample, row) for sample in (data[index] for index in range(len(data))) for row in lone_objects(sample)[:1]]
    rows = figure.subplots(given.rows, len(columns), squeeze=False)
    for axes, (title, _) in zip(rows[0], columns, strict=True):
        axes.set_title(title, fontsize=8)
    for cells, (sample, row) in zip(rows, shown[: given.rows], strict=True):
        word = data.classes[int(sample.truth.labels[row])]
        cells[0].set_ylabel(f"“a {word}”", fontsize=8)
        for axes, model in zip(cells, models, strict=True):
            draw(axes, sample, row, whybox.explain(model, sample.image, text=f"a {word}").maps.at_image()[0].numpy())
    drawn = BytesIO()
    figure.savefig(drawn, dpi=190, facecolor="white")
    Image.open(drawn).convert("RGB").save(given.out, "WEBP", quality=80, method=6)


def lone_objects(sample: Sample) -> list[int]:
    """The rows of objects that are the only ones of their class and take 1 to 20 percent of the image, the smallest first."""
    labels, boxes = sample.truth.labels, sample.truth.boxes
    shares = (boxes[:, 2:] - boxes[:, :2]).prod(1) / (sample.image.width * sample.image.height)
    fit = [row for row in range(len(labels)) if (labels == labels[row]).sum() == 1 and 0.01 < shares[row] < 0.2]
    return sorted(fit, key=lambda row: float(shares[row]))


def draw(axes: Axes, sample: Sample, row: int, values: np.ndarray) -> None:
    """A map, and the object's box."""
    axes.imshow(blend(np.asarray(sample.image.convert("RGB")), values, float(values.min()), float(values.max())))
    x1, y1, x2, y2 = sample.truth.boxes[row].tolist()
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=1.2))
    axes.set(xticks=[], yticks=[])


if __name__ == "__main__":
    main()
