"""Losses on what a training pass shows beside the detector's own losses: any number of them from one pass.

with watching(detector, OdamTrain(), FeatureMargin()) as seen:
    losses = detector(images, targets)
losses |= seen.losses()
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from whybox import registry
from whybox.errors import WhyboxError
from whybox.losses.feature_margin import FeatureMargin
from whybox.losses.odam_train import OdamTrain
from whybox.models.torchvision import training_pass
from whybox.models.torchvision.training_pass import TrainingPass, watched
from whybox.network_state import device_of
from whybox.options import options_of, read_options
from whybox.specs import format_spec, split_spec
from whybox.training import feature_margin, odam_train
from whybox.unwrapping import unwrapped


class PassLoss(Protocol):
    """The options of a loss on a training pass, a frozen dataclass in `losses/`.

    Attributes:
        name: Its name in the registry.
        needs: What it asks of the pass: "maps" or "embeddings".
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]

    def due(self, step: int) -> bool:
        """Whether it is computed in a step, counted from 0."""
        ...


OneOrMore = PassLoss | Sequence[PassLoss] | None

_OF_PASS: Mapping[str, Callable[[TrainingPass, Any, int, torch.Generator | None], Tensor]] = {
    OdamTrain.name: odam_train.loss_of_pass,
    FeatureMargin.name: feature_margin.loss_of_pass,
}


@dataclass(frozen=True)
class SeenPass:
    """A training pass, and the losses to compute from it.

    Attributes:
        network: The detector.
        options: The losses.
        step: The number of the step, from 0.
        seen: The pass; None in a step without any of the losses.
    """

    network: nn.Module
    options: tuple[PassLoss, ...]
    step: int
    seen: TrainingPass | None

    def losses(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """The losses of the step by name, to be added to the detector's own, once the detector was called.

        Args:
            generator: Makes the losses' random choices, on the CPU; None: torch's own.

        Returns:
            Scalars; 0 for a loss that is not due in the step.

        Raises:
            WhyboxError: The detector was not called, or does not train as torchvision's own.
        """
        return {
            loss.name: torch.zeros((), device=device_of(self.network))
            if self.seen is None or not loss.due(self.step)
            else _OF_PASS[loss.name](self.seen, loss, self.step, generator)
            for loss in self.options
        }


@contextmanager
def watching(detector: nn.Module, *losses: PassLoss, step: int = 0) -> Iterator[SeenPass]:
    """Inside, the detector's call in training mode is watched; afterwards the detector is as it was, also after an error.

    Args:
        detector: torchvision's FCOS, RetinaNet, or an R-CNN, alone or inside DistributedDataParallel and the like; for
            `FeatureMargin` with an embedding head (`add_embedding_head`).
        *losses: The losses' options.
        step: The number of the step, from 0.

    Yields:
        The pass, with its `losses`.

    Raises:
        WhyboxError: A loss does not support the detector, or is given twice.
    """
    network, chosen = unwrapped(detector), as_losses(losses)
    due = [loss for loss in chosen if loss.due(step)]
    if not due:
        yield SeenPass(network, chosen, step, None)
        return
    with training_pass.watching(network, _needs(due)) as seen:
        yield SeenPass(network, chosen, step, seen)


def check(detector: nn.Module, losses: Sequence[PassLoss]) -> None:
    """Refuse a detector that a loss does not support, before anything runs.

    Raises:
        WhyboxError: What the detector lacks.
    """
    if losses:
        watched(unwrapped(detector), _needs(losses))


def _needs(losses: Sequence[PassLoss]) -> frozenset[str]:
    return frozenset().union(*(loss.needs for loss in losses))


def as_losses(given: OneOrMore) -> tuple[PassLoss, ...]:
    """None, a loss or several as a tuple.

    Raises:
        WhyboxError: A loss is given twice.
    """
    losses = () if given is None else tuple(given) if isinstance(given, Sequence) else (given,)
    names = [loss.name for loss in losses]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise WhyboxError(f"loss {twice[0]!r} is given twice")
    return losses


def head_options(losses: Sequence[PassLoss]) -> dict[str, int] | None:
    """The options of the embedding head that a loss trains, as `add_embedding_head` takes them; None: none does."""
    return next((loss.head for loss in losses if isinstance(loss, FeatureMargin)), None)


def make_loss(text: str) -> PassLoss:
    """A loss by its name, with settings or without: "odam_train:weight=0.2:order=second".

    Raises:
        WhyboxError: An unknown name or option, a value of the wrong type, or a loss of `whybox distill`.
    """
    written, texts = split_spec(text)
    name, kind = registry.loss_named(written, needs_teacher=False)
    made: PassLoss = kind(**read_options(f"loss {name!r}", options_of(kind), texts))
    return made


def spec_of(loss: PassLoss) -> str:
    """The inverse of `make_loss`: the name and the options that differ from the defaults."""
    defaults: dict[str, Any] = {field.name: field.default for field in fields(loss)}
    return format_spec(loss.name, {name: value for name, value in asdict(loss).items() if value != defaults[name]})


def specs_of(losses: Sequence[PassLoss]) -> str | None:
    """The specs of losses in one text, with a space between two; None of none."""
    return " ".join(map(spec_of, losses)) or None
