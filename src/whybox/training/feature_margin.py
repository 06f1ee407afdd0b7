"""FeatureNMS's loss in a training step: it trains the detector's embedding head, from the pass that gives the detector's own
losses. In a loop of your own see `pass_losses`."""

import torch
from torch import Tensor

from whybox.losses.feature_margin import FeatureMargin, margin_loss
from whybox.models.torchvision.training_pass import TrainingPass


def loss_of_pass(seen: TrainingPass, options: FeatureMargin, step: int, generator: torch.Generator | None = None) -> Tensor:
    """The loss of a pass that ran, times its factor.

    Args:
        seen: The pass.
        options: The loss's options.
        step: Without effect.
        generator: Chooses pairs where there are more than `most_pairs`, on the CPU; None: torch's own.

    Returns:
        A scalar; 0 where no two predictions are to be compared, still with a graph to the head.

    Raises:
        WhyboxError: The detector was not called, or does not train as torchvision's own.
    """
    found = seen.embedded(most=options.most_samples)
    terms = margin_loss(
        found.embeddings,
        found.boxes,
        found.owner,
        found.image,
        found.labels,
        alpha=options.alpha,
        beta=options.beta,
        low=options.low,
        high=options.high,
        most_pairs=options.most_pairs,
        generator=generator,
    )
    return options.weight * (terms.same + terms.different)
