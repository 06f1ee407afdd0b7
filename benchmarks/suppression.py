"""What another rule of duplicate removal costs: whole pipelines, from the image to the detections, relative to greedy NMS.

    python -m benchmarks.suppression [--size 480x640] [--candidates 500] [--repeats 3]

ResNet-50 FPN detectors with random weights and one class, so that every candidate is one of the class. Their boxes are scattered,
as no trained detector's are; so that every candidate has a neighbor, as in a crowd, all boxes are moved together before the rule
gets them. The maps are those of the network's own candidates. And a plain YOLO, as in benchmarks.plain.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torchvision.models import detection

import whybox
from benchmarks.detectors import parse_size
from benchmarks.plain import build as plain_yolo
from benchmarks.timing import timed_in_turn
from whybox.duplicates import make_rule, remove_duplicates
from whybox.model import Model
from whybox.types import Detections, Trace

PAIR = (9.0, 3.0, -0.5, 0.3, 0.2, -4.0)
"""Weights of the fitted rules, by hand: the cost does not depend on them."""
BOX = (1.5, 0.7, 0.4, 0.2, 1.0)
RULES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "soft": {},
    "fitted": {"pair": PAIR, "box": BOX},
    "odam": {},
    "fitted_odam": {"pair": (*PAIR[:-1], 2.0, 0.5, -1.0, PAIR[-1]), "box": BOX},
}


def detectors(height: int, width: int, candidates: int) -> dict[str, Model]:
    """The detectors, by name."""
    shared: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 2, "min_size": height, "max_size": width}
    dense = {**shared, "score_thresh": 0.0, "topk_candidates": candidates, "detections_per_img": candidates}
    regions = {"box_score_thresh": 0.0, "rpn_post_nms_top_n_test": candidates, "box_detections_per_img": candidates}
    torch.manual_seed(0)
    networks = {
        "FCOS": detection.fcos_resnet50_fpn(**dense),
        "RetinaNet": detection.retinanet_resnet50_fpn(**dense),
        "Faster R-CNN": detection.fasterrcnn_resnet50_fpn(**shared, **regions),
    }
    yolo: Any = plain_yolo((height, width))
    yolo.suppression = replace(yolo.suppression, score_threshold=0.0, max_detections=candidates)
    return {name: whybox.load(network.eval()) for name, network in networks.items()} | {"plain YOLO": yolo}


def crowded(model: Model, count: int) -> None:
    """Let a model hand its best `count` candidates to the rule, with boxes that all have neighbors."""
    own: Callable[[Trace], Detections] = model.unsuppressed

    def unsuppressed(trace: Trace) -> Detections:
        found = own(trace)
        found = found[found.scores.argsort(descending=True, stable=True)[:count]]
        height, width = trace.frame.image
        generator = torch.Generator().manual_seed(0)
        corner = torch.rand(len(found), 2, generator=generator) * torch.tensor([width, height]) * 0.3
        boxes = torch.cat([corner, corner + torch.tensor([width, height]) * 0.1], 1)
        return replace(found, boxes=boxes.to(found.boxes), labels=torch.zeros_like(found.labels) + found.labels[:1])

    model.unsuppressed = unsuppressed  # type: ignore[method-assign]


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="480x640", type=parse_size, help="HEIGHTxWIDTH.")
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    height, width = arguments.size
    image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(1))
    for name, model in detectors(height, width, arguments.candidates).items():
        crowded(model, arguments.candidates)
        count = len(model.unsuppressed(whybox.trace(model, image)))

        def pipeline(rule: str, model: Model = model) -> Callable[[], Any]:
            return lambda: remove_duplicates(model, whybox.trace(model, image), make_rule(rule, **RULES[rule]))

        seconds = timed_in_turn({rule: pipeline(rule) for rule in RULES}, arguments.repeats)
        greedy = seconds.pop("greedy")
        ratios = {rule: median(one / other for one, other in zip(own, greedy, strict=True)) for rule, own in seconds.items()}
        shown = ", ".join(f"{rule} {ratio:.2f}x" for rule, ratio in ratios.items())
        print(f"{name} {height}x{width}, {count} candidates: greedy {median(greedy):.2f} s; {shown}", flush=True)


if __name__ == "__main__":
    main()
