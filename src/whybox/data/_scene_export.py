"""Generated scenes as files in COCO's format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whybox.data._scene import Scene, draw_scene
from whybox.data._segmentations import encode_mask
from whybox.data._sprites import CLASSES
from whybox.errors import WhyboxError
from whybox.files import write_whole


def export_coco(
    folder: str | Path, count: int, *, seed: int = 0, variant: str = "mixed", size: tuple[int, int] = (320, 240)
) -> Path:
    """Write the first scenes of a series in COCO's format: `images/`, `instances.json`, `captions.json`.

    An annotation's `bbox` goes around the whole object, its `segmentation` (uncompressed run lengths) and `area` are of
    the visible pixels; `visible_bbox`, `visibility` and `phrase` are ours.

    Args:
        folder: The folder to write to; it is created where it is missing.
        count: The number of scenes.
        seed: As for `draw_scene`.
        variant: As for `draw_scene`.
        size: (width, height) in pixels.

    Returns:
        The folder.

    Raises:
        WhyboxError: The folder holds annotations already, or an option is invalid.
    """
    target = Path(folder)
    if (target / "instances.json").exists():
        raise WhyboxError(f"{target} already holds instances.json; name another folder")
    content: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    captions: list[dict[str, Any]] = []
    (target / "images").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = draw_scene(index, seed=seed, variant=variant, size=size)
        entry = {"id": index + 1, "file_name": f"{index:06d}.png", "width": size[0], "height": size[1]}
        scene.image.save(target / "images" / str(entry["file_name"]))
        content["images"].append(entry)
        content["annotations"] += _rows(scene, index + 1, len(content["annotations"]))
        for caption in scene.captions:
            captions.append({"id": len(captions) + 1, "image_id": index + 1, "caption": caption})
    classes = [{"id": label, "name": name} for label, name in enumerate(CLASSES, start=1)]
    # instances.json comes last: a folder that holds it is complete, and is not written to again.
    write_whole(target / "captions.json", json.dumps({"images": content["images"], "annotations": captions}))
    write_whole(target / "instances.json", json.dumps({**content, "categories": classes}))
    return target


def _rows(scene: Scene, image: int, before: int) -> list[dict[str, Any]]:
    return [
        {
            "id": before + row + 1,
            "image_id": image,
            "category_id": int(scene.labels[row]) + 1,
            "bbox": _xywh(scene.boxes[row]),
            "visible_bbox": _xywh(scene.visible[row]),
            "visibility": round(float(scene.visibility[row]), 4),
            "phrase": scene.phrases[row],
            "segmentation": encode_mask(mask),
            "area": int(mask.sum()),
            "iscrowd": 0,
        }
        for row, mask in enumerate(scene.masks)
    ]


def _xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]
