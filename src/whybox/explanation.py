"""What `explain` returns: the detections of one image with a heat map each, to look at, to keep and to pass on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from whybox import exports, pictures, saved
from whybox.explained import Explained
from whybox.report.overlay import shrink

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Explanation(Explained):
    """N detections of one image with a heat map each: data (see `Explained`), and ways to look at it, keep it and pass it on.

    `result[0]`, `result[1:3]`, `result[mask]` and iteration give explanations of those detections alone.
    """

    def overlay(self, index: int, *, longest: int = pictures.LONGEST_OVERLAY, opacity: float = 0.85) -> Image.Image:
        """Detection `index` as a picture: its map over the image, on the map's own scale, its box, class and score.

        Args:
            index: The detection.
            longest: Pixels of the picture's longer side at most.
            opacity: Of the highest value, 0 to 1.
        """
        return pictures.draw_overlay(self, index, shrink(self.image, longest), opacity)

    def plot(self, index: int | Sequence[int] | None = None, *, columns: int = 4, opacity: float = 0.85) -> "Figure":
        """A matplotlib figure with an overlay for each of the detections `index`; None: the first 16."""
        return pictures.draw_figure(self, index, columns, opacity)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return pictures.notebook_view(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, as plain numbers and text: what the manifest holds."""
        return exports.to_dict(self)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO's result form, one dict per detection: bbox is x, y, width, height; category_id is the label."""
        return exports.to_coco(self, image_id)

    def to_supervision(self) -> Any:
        """supervision.Detections, with the class names and the candidates' rows in `data`."""
        return exports.to_supervision(self)

    def save(self, directory: str | Path) -> Path:
        """Keep everything in a new folder and return its path: raw maps, overlays, a manifest, the page and the image.

        Raises:
            WhyboxError: The folder holds something, or cannot be written; nothing is left behind.
        """
        return saved.save(self, directory)

    @classmethod
    def load(cls, directory: str | Path) -> "Explanation":
        """What `save` kept: maps and detections bit by bit, the image with 8 bits per channel.

        Raises:
            WhyboxError: A file is missing or damaged.
        """
        return saved.load(directory, cls)
