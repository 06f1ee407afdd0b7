"""COCO AP of a detector on held-out examples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from whybox.accuracy.coco import AREAS, CocoAP, coco_ap
from whybox.errors import WhyboxError
from whybox.training.examples import Example


@torch.no_grad()
def evaluate(
    network: nn.Module,
    examples: Sequence[Example],
    classes: Sequence[str],
    limit: int | None = None,
    batch: int = 8,
    areas: tuple[float, float] = AREAS,
) -> CocoAP:
    """Score a torchvision detector.

    Args:
        network: The detector; it is left in the mode that it was in.
        examples: Images and boxes.
        classes: Class names; label 1 is the first.
        limit: Score on this many of the first examples; None: on all.
        batch: Images per forward pass.
        areas: Square pixels of a box up to which it is small, and from which on it is large.

    Returns:
        The average precisions.

    Raises:
        WhyboxError: The network predicts a label that no class has.
    """
    was_training, device = network.training, next(network.parameters()).device
    network.eval()
    detections: list[Mapping[str, Tensor]] = []
    truths: list[Mapping[str, Any]] = []
    count = min(len(examples), limit or len(examples))
    for start in range(0, count, batch):
        chosen = [examples[index] for index in range(start, min(start + batch, count))]
        # Copied: arrays of pictures may be read-only, of which torch.from_numpy warns.
        images = [torch.tensor(example.image, device=device).permute(2, 0, 1) / 255 for example in chosen]
        # torchvision's label 0 is the background.
        for prediction in network(images):
            _check_labels(prediction["labels"], len(classes))
            detections.append({key: value.cpu() - int(key == "labels") for key, value in prediction.items()})
        truths += [{"boxes": item.boxes, "labels": item.labels, "iscrowd": item.iscrowd} for item in chosen]
    network.train(was_training)
    return coco_ap(detections, truths, classes, areas)


def _check_labels(labels: Tensor, count: int) -> None:
    """Refuse labels without a class name, whose boxes would be left out of the score in silence."""
    if len(labels) and int(labels.max()) > count:
        raise WhyboxError(
            f"the network predicts label {int(labels.max())}, and the data has {count} classes, labels 1 to {count}: score it on "
            "data of the classes that it was trained on"
        )
