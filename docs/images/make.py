"""Makes the pictures of README and docs: everything on them is computed here, by whybox, from a real detector and photographs.

    pip install '.[hf]' onnx2torch                 # and Chromium, which takes the pictures of pages
    python docs/images/make.py --photos DIR --weights DIR

--photos: a folder with the COCO train2017 photographs 000000000544.jpg and 000000000599.jpg, at any depth.
--weights: a folder that holds, at any depth, YOLOX-Nano for COCO at 416x416, yolox_nano_416.onnx, its 80 class names, coco80.txt,
and one folder with DEIMv2 for transformers, with its preprocessor_config.json.
Both photographs are CC BY 2.0; whoever shows the pictures names their source as README and docs do.
"""

import argparse
import base64
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from browsing import CHROMIUM
from PIL import Image, ImageChops
from torch import Tensor

import whybox
from whybox.data.scenes import draw_scene
from whybox.pictures import draw_overlay
from whybox.report.overlay import blend, jpeg_bytes, overlay, picture_of, shrink
from whybox.runs.explaining.images import Question, explain_images

HERE = Path(__file__).parent
YOLOX = HERE.parents[1] / "examples" / "onnx_detector.py"
PLAYERS = "000000000544.jpg"
CAT = "000000000599.jpg"
SCALE = 2
"""Pixels of a picture for each pixel that it takes on the page."""
GAP = 8
"""Pixels between pictures that stand side by side."""
Region = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the photograph."""
BANNER: Region = (0, 204, 600, 412)
PANEL: Region = (8, 196, 382, 416)


def main() -> None:
    """Make all pictures."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--photos", type=Path, required=True)
    asked.add_argument("--weights", type=Path, required=True)
    asked.add_argument("--out", type=Path, default=HERE)
    asked.add_argument("--chromium", default=CHROMIUM)
    given = asked.parse_args()
    os.environ["WEIGHTS"] = str(given.weights)
    model = whybox.load(f"{YOLOX}:yolox")
    with tempfile.TemporaryDirectory() as made:
        pages = Path(made)
        for name, page, size in (
            ("opening", opening_page(model, find(given.photos, PLAYERS), pages / "opening.html"), (800, 820)),
            ("page", detector_page(model, find(given.photos, CAT), pages / "page"), (1040, 1100)),
            ("match", match_page(pages / "match"), (1040, 1100)),
        ):
            take(given.chromium, page, size, given.out / f"{name}.webp")
    scene = draw_scene(3, seed=1).image
    deimv2 = whybox.load(f"hf/{find(given.weights, 'preprocessor_config.json').parent}")
    for name, detector, image in (
        ("your_yolox", model, find(given.photos, CAT)),
        ("your_deimv2", deimv2, find(given.photos, CAT)),
        ("your_fcos", whybox.load("whybox/scenes"), scene),
    ):
        save(beside(detector, image), given.out / f"{name}.webp")


def find(folder: Path, name: str) -> Path:
    """The file of that name in a folder, at any depth."""
    found = sorted(folder.rglob(name))
    if not found:
        raise SystemExit(f"{folder} holds no {name}")
    return found[0]


@dataclass(frozen=True)
class Box:
    """A box in a cut-out, in parts of its width and height. number: of the detection's column."""

    x: float
    y: float
    width: float
    height: float
    caption: str
    number: int


@dataclass(frozen=True)
class Row:
    """The maps of one method. panels: (picture as a data URI, box, share of the map that lies in the box)."""

    title: str
    meaning: str
    panels: list[tuple[str, Box, float]]


def opening_page(model: Any, photo: Path, page: Path) -> Path:
    """A photograph with its detections, and the map of every person by ODAM and by Grad-CAM, from one forward pass.

    The correlation is the mean over the pairs of maps, pixel by pixel."""
    trace = whybox.trace(model, photo)
    persons = persons_in(model, trace)
    rows = []
    for method, title, meaning in (
        ("odam", "ODAM", "a map of its own for every box"),
        ("gradcam", "Grad-CAM", "nearly one map for all of them"),
    ):
        result = whybox.explain(model, trace, method=method, detections=persons)
        alike = result.maps.at_image().flatten(1).corrcoef()[torch.ones(len(persons), len(persons)).triu(1) > 0].mean()
        rows.append(
            Row(title, f"{meaning} (correlation {alike:.2f})".replace("-", "−"), [panel(result, i) for i in range(len(persons))])
        )
    boxes = [box_of(result, index, BANNER) for index in range(len(persons))]
    banner = uri(cut(enlarged(trace.image), BANNER))
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None]
    colors = blend(np.full((1, 32, 3), 150, np.uint8), ramp, 0, 1)[0].tolist()
    template = jinja2.Template((HERE / "opening.html").read_text(), autoescape=True, undefined=jinja2.StrictUndefined)
    page.write_text(template.render(banner=banner, shape=shape(BANNER), cut=shape(PANEL), boxes=boxes, rows=rows, colors=colors))
    return page


def persons_in(model: Any, trace: whybox.Trace) -> whybox.Detections:
    """The detected persons, from left to right."""
    found = whybox.detect(model, trace, score_threshold=0.5)
    persons = found[(found.labels == list(model.classes).index("person")).nonzero()[:, 0]]
    return persons[persons.boxes[:, 0].argsort()]


def panel(result: whybox.Explanation, index: int) -> tuple[str, Box, float]:
    """One detection's map over its cut-out of the photograph."""
    drawn = overlay(enlarged(result.image), result.maps[index : index + 1])
    return uri(cut(drawn, PANEL)), box_of(result, index, PANEL), share_in_box(result, index)


def share_in_box(result: whybox.Explanation, index: int) -> float:
    """How much of a map's positive mass lies in its own box, 0..1."""
    values = result.maps[index : index + 1].at_image()[0].clamp(min=0)
    x1, y1, x2, y2 = result.detections.boxes[index].round().int().tolist()
    return float(values[y1:y2, x1:x2].sum() / values.sum())


def box_of(result: whybox.Explanation, index: int, region: Region) -> Box:
    """Where a detection's box stands in a cut-out."""
    left, top, right, bottom = region
    x1, y1, x2, y2 = result.detections.boxes[index].tolist()
    wide, high = right - left, bottom - top
    caption = f"{result.names[index]} {float(result.detections.scores[index]):.2f}"
    place = ((x1 - left) / wide, (y1 - top) / high, (x2 - x1) / wide, (y2 - y1) / high)
    return Box(*place, caption, index + 1)


def enlarged(image: Tensor) -> Image.Image:
    """The photograph at twice its size, so that a map over it is drawn finely."""
    return picture_of(image, (2 * image.shape[-2], 2 * image.shape[-1]))


def cut(picture: Image.Image, region: Region) -> Image.Image:
    """The region out of an enlarged picture."""
    return picture.crop(tuple(round(2 * edge) for edge in region))


def shape(region: Region) -> str:
    """CSS's aspect ratio."""
    return f"{region[2] - region[0]:g} / {region[3] - region[1]:g}"


def uri(picture: Image.Image) -> str:
    """The picture as a data URI."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(picture, 95)).decode()}"


def detector_page(model: Any, photo: Path, folder: Path) -> Path:
    """The page that `whybox explain` writes, by two methods and for the score and three sides of the box."""
    question = Question(methods=("odam", "gradcam"), targets=("score", "x1", "x2", "y2"), score_threshold=0.5)
    explain_images(model, [(photo.name, photo)], question, folder)
    return folder / "index.html"


def match_page(folder: Path) -> Path:
    """The page about texts: the small CLIP that comes with the package, on a generated scene."""
    texts = ["a person in purple", "an orange tree", "an orange dog", "a blue ball"]
    scene = draw_scene(102, seed=1).image
    model = whybox.load("whybox/scenes-clip")
    result = whybox.explain(model, scene, text=texts, name="generated scene", words=True, single_words=True)
    result.save(folder)
    return folder / "index.html"


def beside(model: Any, image: Any) -> Image.Image:
    """The maps of the three surest detections, side by side."""
    trace = whybox.trace(model, image)
    found = whybox.detect(model, trace, score_threshold=0.4)
    result = whybox.explain(model, trace, detections=found[found.scores.argsort(descending=True)[:3]])
    picture = shrink(trace.image, 390)
    drawn = Image.new("RGB", (3 * picture.width + 2 * GAP, picture.height), "white")
    for i in range(len(result)):
        drawn.paste(draw_overlay(result, i, picture), (i * (picture.width + GAP), 0))
    return drawn


def take(chromium: str, page: Path, size: Sequence[int], file: Path) -> None:
    """A picture of a page, `size` (width, height) in the page's pixels; empty space at its foot is cut off."""
    shot = page.parent / "shot.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    look = [f"--force-device-scale-factor={SCALE}", f"--window-size={size[0]},{size[1]}", f"--screenshot={shot}"]
    subprocess.run([chromium, *options, *look, page.as_uri()], check=True, capture_output=True)
    picture = Image.open(shot).convert("RGB")
    save(without_foot(picture), file)


def save(picture: Image.Image, file: Path) -> None:
    """Write a picture, and say how large it is."""
    picture.save(file, "WEBP", quality=78, method=6)
    print(f"{file.name}: {picture.width} pixels wide, {file.stat().st_size / 1000:.0f} kB")


def without_foot(picture: Image.Image) -> Image.Image:
    """Cut off rows at the foot that hold the page's ground alone, all but a margin."""
    ground = Image.new("RGB", picture.size, picture.getpixel((0, picture.height - 1)))
    inked = ImageChops.difference(picture, ground).getbbox()
    return picture if inked is None else picture.crop((0, 0, picture.width, min(picture.height, inked[3] + 20 * SCALE)))


if __name__ == "__main__":
    main()
