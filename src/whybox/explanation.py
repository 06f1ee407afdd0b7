"""The result of `explain`: the detections of one image with one heat map each, and methods to view, save and export them."""

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
    """N detections of one image with one heat map each (attributes: see `Explained`), to view, save and export.

    `result[0]`, `result[1:3]`, `result[mask]` and iteration give explanations of those detections alone.
    """

    def overlay(self, index: int, *, longest: int = pictures.LONGEST_OVERLAY, opacity: float = 0.85) -> Image.Image:
        """Detection `index` as a picture: its map over the image, on the map's own scale, its box, class and score.

        Args:
            index: The detection.
            longest: The largest length of the picture's longer side, in pixels.
            opacity: Opacity of the map's highest value, 0 to 1.
        """
        return pictures.draw_overlay(self, index, shrink(self.image, longest), opacity)

    def plot(self, index: int | Sequence[int] | None = None, *, columns: int = 4, opacity: float = 0.85) -> "Figure":
        """A matplotlib figure of overlays.

        Args:
            index: A detection, or several; None: the first 16.
            columns: The largest number of overlays per row.
            opacity: Opacity of a map's highest value, 0 to 1.
        """
        return pictures.draw_figure(self, index, columns, opacity)

    def _repr_html_(self) -> str:
        """For notebooks."""
        return pictures.notebook_view(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but images and maps, as plain numbers and text: the contents of the manifest."""
        return exports.to_dict(self)

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO's results format, one dict per detection: bbox is x, y, width, height; category_id is the label."""
        return exports.to_coco(self, image_id)

    def to_supervision(self) -> Any:
        """supervision.Detections, with masks where there are any, and the class names and the candidates' rows in `data`."""
        return exports.to_supervision(self)

    def to_fiftyone(self) -> Any:
        """fiftyone.Detections, each with its map as the attribute `heatmap`, a fiftyone.Heatmap on the image's pixels with raw
        values; for a model of the whole image fiftyone.Classifications with maps. The App shows the heat maps of a sample's own
        fields: `sample["why"] = labels.detections[0].heatmap`.
        """
        return exports.to_fiftyone(self)

    def save(self, directory: str | Path) -> Path:
        """Save raw maps, overlays, a manifest, the HTML page and the image to a new folder.

        Args:
            directory: A folder that is new or empty.

        Returns:
            The folder's path.

        Raises:
            WhyboxError: The folder is not empty, or cannot be written; nothing is left behind.
        """
        return saved.save(self, directory)

    @classmethod
    def load(cls, directory: str | Path) -> "Explanation":
        """Load what `save` wrote: maps and detections bit by bit, the image with 8 bits per channel.

        Raises:
            WhyboxError: A file is missing or damaged.
        """
        return saved.load(directory, cls)
