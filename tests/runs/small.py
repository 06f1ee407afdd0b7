"""A detector with random weights that knows the scenes' classes, and a plan for it: a run takes seconds."""

import torch

from whybox import api, zoo
from whybox.data.scenes import CLASSES
from whybox.errors import WhyboxError

ARGUMENTS = {"num_classes": len(CLASSES) + 1, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 64, "max_size": 96}
ARGUMENTS |= {"score_thresh": 0.0, "detections_per_img": 5}
PLAN = {
    "methods": ("odam", "drise:masks=16:candidate_threshold=0"),
    "metrics": ("deletion:points=3", "insertion:points=3:fill=blurred", "energy_pointing_game", "stability", "randomisation"),
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
