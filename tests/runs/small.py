"""A detector with random weights that knows the scenes' classes, and a plan for it: a run takes seconds."""

import json

import torch

import whybox
from whybox import api, zoo
from whybox.data.scenes import CLASSES, draw_scene
from whybox.errors import WhyboxError

ARGUMENTS = {"num_classes": len(CLASSES) + 1, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 64, "max_size": 96}
ARGUMENTS |= {"score_thresh": 0.0, "detections_per_img": 5}
PLAN = {
    "methods": ("odam", "drise:masks=16:candidate_threshold=0"),
    "metrics": ("deletion:points=3", "insertion:points=3:fill=blurred", "energy_pointing_game", "stability", "randomization"),
    "select": "all",
    "score_threshold": 0.0,
    "top": 2,
}


def make_network():
    """Its weights are such as a file of half precision holds, so that the saved model is the same."""
    torch.manual_seed(0)
    return zoo.build("compact_fcos", ARGUMENTS).half().float().eval()


def make_model():
    return api.load(make_network(), classes=("background", *CLASSES))


def save_model(folder):
    zoo.save(make_network(), {"network": "compact_fcos", "arguments": ARGUMENTS, "classes": list(CLASSES)}, folder)
    return str(folder)


class Broken:
    """A data set of which some images cannot be read."""

    name, problems = "broken", ("a line about something left out",)

    def __init__(self, data, bad=(1,)):
        self.inner, self.bad = api.open_data(data), bad
        self.classes, self.names = self.inner.classes, self.inner.names

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        if index in self.bad:
            raise WhyboxError(f"{self.names[index]}: cannot be read")
        return self.inner[index]


def write_annotated(folder):
    """Four pictures in COCO's format, annotated with what the small detector finds in them, so that its random boxes have
    objects to stand for; the second detection of each has none. Returns the data set's name."""
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
            rows += [row] if place != 1 and label else []
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)]
    content = {"images": images, "annotations": rows, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    return f"coco:{folder / 'val.json'}"
