"""Makes the pictures of the pages on duplicate removal and on ODAM-Train: one generated crowd scene, the shipped detector.

python docs/images/crowds.py
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torchvision.ops import box_iou

import whybox
from whybox.accuracy.tide import CORRECT, sort_errors
from whybox.duplicates import map_vectors
from whybox.losses import OdamTrain
from whybox.models.torchvision.training_pass import Positives
from whybox.report.overlay import blend
from whybox.rule import Rule, Vectors, cosine
from whybox.runs.labels import to_columns
from whybox.suppression.feature import Feature
from whybox.suppression.greedy import Greedy
from whybox.suppression.odam import OdamNms
from whybox.suppression.soft import Soft
from whybox.training.odam_train import watching
from whybox.types import HeatMaps

HERE = Path(__file__).parent
LEAST = 0.3
WIDTH = 7.2
"""In inches, as wide as a page's text: so that letters are as large as there."""
RIGHT, WRONG, LOST, SAME, OTHER = "#ffffff", "#ff9d2e", "#2ee6cf", "#c2410c", "#2563eb"
"""Colors of boxes: right, wrong, and objects without one; and of pairs: of one object, and of two."""


class Scene:
    """A crowd scene, and the detector's candidates before suppression, with the object that each fits best.

    Attributes:
        owner: (N,) the object of its class that a candidate overlaps most, -1 where the IoU stays below .5.
        maps: (N,D) as ODAM-NMS compares them.
    """

    def __init__(self) -> None:
        self.model = whybox.load("whybox/scenes")
        data = whybox.open_data("scenes:variant=crowd:count=1")
        sample = data[0]
        self.trace = whybox.trace(self.model, sample.image)
        self.truth = to_columns(sample.truth, data.classes, self.model.classes, first_column=self.model.first_column)
        found = self.model.unsuppressed(self.trace)
        found = found[found.scores.argsort(descending=True)]
        self.found = found[found.scores >= LEAST]
        iou = box_iou(self.found.boxes, self.truth.boxes) * (self.found.labels[:, None] == self.truth.labels)
        self.owner = iou.argmax(1).where(iou.amax(1) >= 0.5, -1)
        self.maps = map_vectors(self.model, self.trace, self.found)

    def keep(self, rule: Rule, vectors: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rows of the candidates that a rule keeps and their scores, where they stay over the threshold."""
        given = None if vectors is None else Vectors(lambda rows: vectors[rows])
        result = rule(self.found.boxes, self.found.scores, self.found.labels, given)
        over = result.scores >= LEAST
        return result.rows[over], result.scores[over]

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """(first, second, IoU) of overlapping candidates of a class, both of which fit an object."""
        iou = box_iou(self.found.boxes, self.found.boxes).triu(1)
        of_class = self.found.labels[:, None] == self.found.labels
        first, second = ((iou > 0.02) & of_class & (self.owner[:, None] >= 0) & (self.owner >= 0)).nonzero().T
        return first, second, iou[first, second]


def draw_kept(axes: Axes, scene: Scene, rule: Rule, name: str, vectors: Tensor | None = None) -> None:
    """The scene with the boxes that a rule keeps: right ones, wrong ones, and the objects that none is right about."""
    rows, scores = scene.keep(rule, vectors)
    chosen = scene.found[rows]
    kept = whybox.Detections(chosen.boxes, scores, chosen.labels, chosen.source)
    errors = sort_errors(kept, scene.truth)
    right = torch.tensor([kind == CORRECT for kind in errors.kinds])
    lost = torch.ones(len(scene.truth), dtype=torch.bool)
    lost[errors.objects[right]] = False
    axes.imshow(scene.trace.image.permute(1, 2, 0))
    for boxes, color, style in (
        (kept.boxes[right], RIGHT, "-"),
        (kept.boxes[~right], WRONG, "-"),
        (scene.truth.boxes[lost], LOST, "--"),
    ):
        for x1, y1, x2, y2 in boxes.tolist():
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#101218", linewidth=2.6, alpha=0.55))
            axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.4, linestyle=style))
    # Without the sky.
    axes.set(xlim=(0, scene.trace.image.shape[2]), ylim=(scene.trace.image.shape[1], 0.22 * scene.trace.image.shape[1]))
    axes.set_title(f"{name}\n{int(right.sum())} right, {int((~right).sum())} wrong, {int(lost.sum())} objects lost", fontsize=9)
    axes.axis("off")


def two_scenes(left: Callable[[Axes], None], right: Callable[[Axes], None], plane: Callable[[Axes], None]) -> Figure:
    """Two scenes beside each other, and a diagram below them."""
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    axes = list(figure.subplot_mosaic("ab;cc", height_ratios=(1.15, 1)).values())
    for draw, each in zip((left, right, plane), axes, strict=True):
        draw(each)
    axes[2].spines[["top", "right"]].set_visible(False)
    axes[2].tick_params(labelsize=8)
    keys = [Rectangle((0, 0), 1, 1, facecolor="#6b6d76", edgecolor=color) for color in (RIGHT, WRONG, LOST)]
    keys[2].set_linestyle("--")
    figure.legend(
        keys,
        ["right", "duplicate or other error", "object without a right box"],
        loc="outside upper left",
        ncols=3,
        fontsize=8,
        frameon=False,
    )
    return figure


def dots(axes: Axes, x: Tensor, y: Tensor, same: Tensor) -> None:
    """Pairs in a plane, those of one object and those of two."""
    for which, color, name in ((same, SAME, "one object"), (~same, OTHER, "two objects")):
        axes.scatter(x[which], y[which], s=4, alpha=0.35, color=color, linewidths=0, label=name)
    axes.set_xlabel("IoU", fontsize=8)
    legend = axes.legend(fontsize=8, loc="upper left", frameon=False, markerscale=2)
    for mark in legend.legend_handles:
        mark.set_alpha(1)


def greedy(scene: Scene) -> Figure:
    """A low and a high threshold; the IoUs of pairs."""

    def plane(axes: Axes) -> None:
        first, second, iou = scene.pairs()
        same = scene.owner[first] == scene.owner[second]
        axes.hist(
            [iou[same].numpy(), iou[~same].numpy()],
            bins=25,
            range=(0, 1),
            color=[SAME, OTHER],
            label=["one object", "two objects"],
        )
        for threshold in (0.5, 0.7):
            axes.axvline(threshold, color="#1c1d22", linewidth=1, linestyle=":")
        axes.set_title("pairs of candidates: no threshold divides them", fontsize=9)
        axes.set_xlabel("IoU", fontsize=8)
        axes.legend(fontsize=8, frameon=False)

    return two_scenes(
        lambda axes: draw_kept(axes, scene, Greedy(0.5), "greedy, T = 0.5"),
        lambda axes: draw_kept(axes, scene, Greedy(0.7), "greedy, T = 0.7"),
        plane,
    )


def soft(scene: Scene) -> Figure:
    """Beside greedy NMS; the factor by which a score falls."""

    def plane(axes: Axes) -> None:
        iou = torch.linspace(0, 1, 400)
        for rule, name in ((Soft(), "gaussian, σ = 0.5"), (Soft("linear"), "linear, T = 0.3")):
            axes.plot(iou, rule._factor(iou), label=name)
        axes.plot(iou, (iou <= 0.5).float(), color="#676973", linewidth=1, linestyle=":", label="greedy, T = 0.5")
        axes.set_title("factor of the score", fontsize=9)
        axes.set_xlabel("IoU", fontsize=8)
        axes.legend(fontsize=8, frameon=False)

    return two_scenes(
        lambda axes: draw_kept(axes, scene, Greedy(0.5), "greedy, T = 0.5"),
        lambda axes: draw_kept(axes, scene, Soft(), f"soft: score still at least {LEAST:g}"),
        plane,
    )


def feature(scene: Scene) -> Figure:
    """With ideal embeddings: candidates of one object lie together, those of two 2 apart; and a little noise."""
    objects = torch.eye(len(scene.truth) + 1)[scene.owner] * 2**0.5
    embeddings = objects + 0.08 * torch.randn(objects.shape, generator=torch.Generator().manual_seed(0))

    def plane(axes: Axes) -> None:
        first, second, iou = scene.pairs()
        apart = (embeddings[first] - embeddings[second]).norm(dim=1)
        axes.axvspan(0.9, 1, color="#eec9a8", alpha=0.6, linewidth=0)
        axes.add_patch(Rectangle((0.1, 0), 0.8, 1, color="#eec9a8", alpha=0.6, linewidth=0))
        dots(axes, iou, apart, scene.owner[first] == scene.owner[second])
        axes.set(xlim=(0, 1), ylim=(0, 3.4))
        axes.set_ylabel("distance of the embeddings", fontsize=8)
        axes.set_title("removed in the tinted part", fontsize=9)

    return two_scenes(
        lambda axes: draw_kept(axes, scene, Greedy(0.5), "greedy, T = 0.5"),
        lambda axes: draw_kept(axes, scene, Feature(), "feature, ideal embeddings", embeddings),
        plane,
    )


def odam(scene: Scene) -> Figure:
    """Beside greedy NMS; the cosine of the maps against the IoU."""
    rule = OdamNms()

    def plane(axes: Axes) -> None:
        first, second, iou = scene.pairs()
        cosine = rule.similarity(scene.maps[first], scene.maps[second])
        axes.add_patch(
            Rectangle((rule.iou_threshold, rule.low), 1 - rule.iou_threshold, 1, color="#eec9a8", alpha=0.6, linewidth=0)
        )
        axes.add_patch(Rectangle((0, rule.high), rule.iou_threshold, 1, color="#eec9a8", alpha=0.6, linewidth=0))
        dots(axes, iou, cosine, scene.owner[first] == scene.owner[second])
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_ylabel("cosine of the maps", fontsize=8)
        axes.set_title("removed in the tinted part", fontsize=9)

    return two_scenes(
        lambda axes: draw_kept(axes, scene, Greedy(0.5), "greedy, T = 0.5"),
        lambda axes: draw_kept(axes, scene, rule, "odam: T = 0.5, high 0.8, low 0.2", scene.maps),
        plane,
    )


def odam_train(scene: Scene) -> Figure:
    """Maps of predictions that were assigned to two overlapping objects, with the loss's terms; before any training with it."""
    network = scene.model.network.train()
    truth = {"boxes": scene.truth.boxes, "labels": scene.truth.labels}
    with watching(network, OdamTrain()) as explained:
        network([scene.trace.image], [truth])
    positives = explained.positives()
    maps = HeatMaps(tuple(positives.maps.detach()), scene.trace.frame, "logit", "odam").at_image()
    vectors = positives.maps.detach().flatten(1)
    first, second = neighbors(scene, positives.owner)
    best, *others = rows_of_object(positives, first)
    alike = cosine(vectors, vectors[best].expand_as(vectors))
    drawn = [(best, "p*, the best\nprediction of\nthis person")]
    for row in sorted(others, key=lambda row: float(alike[row]))[:2]:
        drawn.append((row, f"same person:\ncosine {alike[row]:.2f}\n−log cos = {-alike[row].log():.2f}"))
    for row in sorted(rows_of_object(positives, second), key=lambda row: -float(alike[row]))[:2]:
        drawn.append((row, f"the other person:\ncosine {alike[row]:.2f}\n−log(1 − cos) = {-(1 - alike[row]).log():.2f}"))
    figure = Figure(figsize=(WIDTH, 2.75), layout="constrained")
    boxes = scene.truth.boxes[[first, second]]
    for axes, (row, title) in zip(figure.subplots(1, 5), drawn, strict=True):
        draw_map(axes, scene, maps[row], boxes)
        axes.set_title(title, fontsize=7.5)
    return figure


def neighbors(scene: Scene, owner: Tensor) -> tuple[int, int]:
    """The two objects of a class that overlap most, of those with at least three predictions each."""
    counts = torch.bincount(owner, minlength=len(scene.truth))
    iou = box_iou(scene.truth.boxes, scene.truth.boxes).triu(1)
    fit = (counts[:, None] >= 3) & (counts >= 3) & (scene.truth.labels[:, None] == scene.truth.labels)
    first, second = divmod(int((iou * fit).argmax()), len(scene.truth))
    return first, second


def rows_of_object(positives: Positives, number: int) -> list[int]:
    """The predictions of an object, the one with the best box first."""
    rows = (positives.owner == number).nonzero()[:, 0]
    return rows[positives.truth_iou[rows].argsort(descending=True)].tolist()


def draw_map(axes: Axes, scene: Scene, values: Tensor, boxes: Tensor) -> None:
    """A map around two objects: the first one's box drawn through, the second one's dashed."""
    pixels = (scene.trace.image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    axes.imshow(blend(pixels, values.numpy(), float(values.min()), float(values.max())))
    for box, color, style in zip(boxes.tolist(), (RIGHT, LOST), ("-", "--"), strict=True):
        x1, y1, x2, y2 = box
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=1.6, linestyle=style))
    x1, y1 = boxes[:, :2].amin(0).tolist()
    x2, y2 = boxes[:, 2:].amax(0).tolist()
    margin = 0.35 * max(x2 - x1, y2 - y1)
    axes.set(
        xlim=(max(0, x1 - margin), min(pixels.shape[1], x2 + margin)),
        ylim=(min(pixels.shape[0], y2 + margin), max(0, y1 - margin)),
    )
    axes.axis("off")


PICTURES: Mapping[str, Callable[[Scene], Figure]] = {
    "suppression_greedy": greedy,
    "suppression_soft": soft,
    "suppression_feature": feature,
    "suppression_odam": odam,
    "odam_train": odam_train,
}


def main() -> None:
    """Make all pictures."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=HERE)
    asked.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    given = asked.parse_args()
    scene = Scene()
    with tempfile.TemporaryDirectory() as made:
        # The script beside this one.
        from make import take

        page = whybox.explain_nms(scene.model, scene.trace, "odam", name="generated scene").save(Path(made) / "page")
        take(given.chromium, page, (1240, 800), given.out / "decisions.webp")
    for name, draw in PICTURES.items():
        drawn = BytesIO()
        draw(scene).savefig(drawn, dpi=190, facecolor="white")
        file = given.out / f"{name}.webp"
        Image.open(drawn).convert("RGB").save(file, "WEBP", quality=80, method=6)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
