"""Images with boxes in COCO's JSON format, from any folder that holds them."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from whybox.errors import WhyboxError


@dataclass(frozen=True)
class CocoImage:
    """One annotated image of `size` (W,H) with N objects.

    boxes (N,4) float32 xyxy in image pixels; labels (N,) int64, 1 for the first class; iscrowd (N,) bool, true for a
    region of uncounted objects; segmentations, COCO's own form of each mask or None.
    """

    path: Path
    size: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    iscrowd: NDArray[np.bool_]
    segmentations: tuple[Any, ...]

    def image(self) -> Image.Image:
        """The picture in RGB."""
        try:
            with Image.open(self.path) as opened:
                return opened.convert("RGB")
        except (OSError, ValueError) as error:
            raise WhyboxError(f"cannot read the image {self.path}: {error}") from error

    def masks(self) -> NDArray[np.bool_]:
        """(N,H,W) bool; an object without a segmentation gets its box."""
        masks = np.zeros((len(self.labels), self.size[1], self.size[0]), dtype=bool)
        for mask, box, segmentation in zip(masks, self.boxes, self.segmentations, strict=True):
            if segmentation:
                mask[:] = decode_mask(segmentation, self.size)
            else:
                x1, y1, x2, y2 = np.rint(box).astype(int)
                mask[y1:y2, x1:x2] = True
        return masks


@dataclass(frozen=True)
class CocoData(Sequence[CocoImage]):
    """The images of one annotation file, and its class names in the order of their labels."""

    classes: tuple[str, ...]
    images: tuple[CocoImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        return self.images[index]


def read_coco(path: str | Path, split: str = "train") -> CocoData:
    """The images and boxes of an annotation file, or of a folder that holds one.

    In a folder the file is the only JSON file, or the only one whose name holds the split's ("val.json",
    "instances_val2017.json"), there or below `annotations/`; caption files are passed over. Images
    are looked for beside the file, in `images/`, and in the folders of COCO's own layout.
    """
    source = find_annotations(Path(path), split)
    content = _parse(source)
    folder = _image_folder(source, content["images"], split)
    rows = defaultdict(list)
    try:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        labels = {category["id"]: index for index, category in enumerate(categories, start=1)}
        for row in content["annotations"]:
            rows[row["image_id"]].append(row)
        images = tuple(_read_image(entry, rows[entry["id"]], labels, folder) for entry in content["images"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise WhyboxError(f"{source} is not in COCO's format: {type(error).__name__} {error}") from error
    return CocoData(tuple(str(category["name"]) for category in categories), images)


def find_annotations(path: Path, split: str) -> Path:
    """The annotation file that `path` is, or the one of this split in the folder that `path` is."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise WhyboxError(f"no COCO annotations at {path}: give a JSON file or a folder that holds one")
    for place in (path, path / "annotations"):
        found = [file for file in sorted(place.glob("*.json")) if "captions" not in file.stem]
        named = [file for file in found if split in file.stem]
        if len(found) == 1 or len(named) == 1:
            return (named or found)[0]
    raise WhyboxError(f"no single JSON file for the split {split!r} in {path}; name the file itself")


def _parse(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WhyboxError(f"cannot read {source} as JSON: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content, dict) or key not in content]
    if missing:
        raise WhyboxError(f"{source} is not in COCO's format: it lacks {', '.join(missing)}")
    if not content["images"]:
        raise WhyboxError(f"{source} lists no images")
    return dict(content)


def _image_folder(source: Path, images: Sequence[Mapping[str, Any]], split: str) -> Path:
    """The first likely folder that holds the first image."""
    name = images[0].get("file_name", "")
    above = source.parent
    for folder in (above / "images", above, above.parent / "images", above.parent / split, above.parent / source.stem):
        if name and (folder / name).is_file():
            return folder
    later = source.stem.removeprefix("instances_")
    if (above.parent / later / name).is_file():
        return above.parent / later
    raise WhyboxError(f"the image {name!r} of {source} is neither beside it nor in an images/ folder")


def _read_image(
    entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], labels: Mapping[int, int], folder: Path
) -> CocoImage:
    width, height = int(entry["width"]), int(entry["height"])
    kept = [row for row in rows if row["bbox"][2] > 0 and row["bbox"][3] > 0]
    if strange := {row["category_id"] for row in kept} - labels.keys():
        raise ValueError(f"the categories lack id {min(strange)} of image {entry['id']}")
    boxes = np.asarray([row["bbox"] for row in kept], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return CocoImage(
        path=folder / entry["file_name"],
        size=(width, height),
        boxes=boxes.clip(0, np.asarray([width, height] * 2, dtype=np.float32)),
        labels=np.asarray([labels[row["category_id"]] for row in kept], dtype=np.int64),
        iscrowd=np.asarray([bool(row.get("iscrowd", 0)) for row in kept], dtype=bool),
        segmentations=tuple(row.get("segmentation") for row in kept),
    )


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed run lengths of a mask (H,W): down the columns, starting with the length of zeros."""
    flat = np.concatenate([[False], mask.flatten(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    edges = np.concatenate([[0], changes, [mask.size]])
    counts = np.diff(edges)
    return {"size": list(mask.shape), "counts": (counts[:-1] if counts[-1] == 0 else counts).tolist()}


def decode_mask(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H,W) of a COCO segmentation: polygons, or run lengths, uncompressed or compressed; `size` is (W,H)."""
    if isinstance(segmentation, Mapping):
        return _decode_runs(segmentation)
    sheet = Image.new("1", size)
    for polygon in segmentation:
        ImageDraw.Draw(sheet).polygon([float(value) for value in polygon], fill=1)
    return np.asarray(sheet)


def _decode_runs(segmentation: Mapping[str, Any]) -> NDArray[np.bool_]:
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    runs = _unpack(counts) if isinstance(counts, str | bytes) else list(counts)
    if sum(runs) != height * width:
        raise WhyboxError(f"a mask of {sum(runs)} run-length pixels does not fill {width}x{height}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")


def _unpack(counts: str | bytes) -> list[int]:
    """The run lengths in COCO's compressed text: five bits a character, low ones first, each from the fourth on as the
    difference to the run two before.

    Source: `rleFrString` of cocoapi's common/maskApi.c.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs
