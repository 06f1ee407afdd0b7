"""Pictures annotated with what the small detector finds in them, so that its random boxes have objects to stand for."""

import json

import pytest

import whybox
from runs.small import make_model
from whybox.data.scenes import CLASSES, draw_scene


@pytest.fixture(scope="session")
def annotated(tmp_path_factory):
    """The name of a COCO-format data set of four pictures. The second detection of each picture has no annotation."""
    folder = tmp_path_factory.mktemp("annotated")
    (folder / "images").mkdir()
    model, images, rows = make_model(), [], []
    for index in range(4):
        picture = draw_scene(index, seed=5, size=(96, 64)).image
        picture.save(folder / "images" / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": 96, "height": 64})
        found = whybox.detect(model, picture, score_threshold=0.0)
        for place, (box, label) in enumerate(zip(found.boxes.tolist(), found.labels.tolist(), strict=True)):
            x1, y1, x2, y2 = box
            row = {"id": len(rows) + 1, "image_id": index + 1, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            rows += [row] if place != 1 else []
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return f"coco:{folder / 'val.json'}"
