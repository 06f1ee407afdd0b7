"""ODAM-Train in a training step: its loss from the pass that gives the detector's own losses.

with watching(detector, OdamTrain()) as explained:
    losses = detector(images, targets)
losses["odam_train"] = explained.loss()
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.losses.odam_train import OdamTrain, odam_train_loss
from whybox.models.torchvision import training_pass
from whybox.models.torchvision.training_pass import Positives, TrainingPass
from whybox.network_state import device_of
from whybox.unwrapping import unwrapped


@dataclass(frozen=True)
class Explained:
    """A training pass and what ODAM-Train makes of it.

    Attributes:
        network: The detector.
        options: The loss's options.
        step: The number of the step, from 0.
        seen: The pass; None in a step without this loss.
    """

    network: nn.Module
    options: OdamTrain
    step: int
    seen: TrainingPass | None

    def loss(self, generator: torch.Generator | None = None) -> Tensor:
        """The loss of the step, times its factor; to be added to the detector's own, once the detector was called.

        Args:
            generator: Chooses pairs where there are more than `most_pairs`, on the CPU; None: torch's own.

        Returns:
            A scalar; 0 in a step without this loss, or without two predictions to compare.

        Raises:
            WhyboxError: The detector was not called, or does not train as torchvision's own.
        """
        if self.seen is None:
            return torch.zeros((), device=device_of(self.network))
        return loss_of_pass(self.seen, self.options, self.step, generator)

    def positives(self) -> Positives:
        """The predictions that were assigned an object, with their maps: for a loss of your own.

        Raises:
            WhyboxError: The detector was not called, does not train as torchvision's own, or the step is one without maps.
        """
        options = self.options
        if self.seen is None:
            raise WhyboxError(f"step {self.step} has no maps: they are made in every {options.every}. step")
        return _positives(self.seen, options)


def loss_of_pass(seen: TrainingPass, options: OdamTrain, step: int, generator: torch.Generator | None = None) -> Tensor:
    """The loss of a pass that ran, times its factor in the step.

    Args:
        seen: The pass.
        options: The loss's options.
        step: The number of the step, from 0.
        generator: Chooses pairs where there are more than `most_pairs`, on the CPU; None: torch's own.

    Returns:
        A scalar.

    Raises:
        WhyboxError: The detector was not called, or does not train as torchvision's own.
    """
    found = _positives(seen, options)
    terms = odam_train_loss(
        found.maps,
        found.boxes,
        found.truth_iou,
        found.owner,
        found.image,
        form=options.form,
        two_stage=seen.two_stage,
        most_pairs=options.most_pairs,
        generator=generator,
    )
    return options.factor(step, two_stage=seen.two_stage, images=seen.images) * (terms.consistency + terms.separation)


def _positives(seen: TrainingPass, options: OdamTrain) -> Positives:
    second = options.order == "second"
    return seen.positives(most=options.most_samples, stride=options.stride, second_order=second)


@contextmanager
def watching(detector: nn.Module, options: OdamTrain | None = None, *, step: int = 0) -> Iterator[Explained]:
    """Inside, the detector's call in training mode is watched; afterwards the detector is as it was, also after an error.

    Args:
        detector: torchvision's FCOS, RetinaNet, or an R-CNN, alone or inside DistributedDataParallel and the like.
        options: The loss's options; None: the defaults.
        step: The number of the step, from 0, for `warmup` and `every`.

    Yields:
        The pass, with its `loss`.

    Raises:
        WhyboxError: The detector or its head is not supported.
    """
    options, network = options or OdamTrain(), unwrapped(detector)
    if not options.due(step):
        yield Explained(network, options, step, None)
        return
    with training_pass.watching(network) as seen:
        yield Explained(network, options, step, seen)
