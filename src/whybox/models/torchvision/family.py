"""torchvision's detectors by name."""

import sys
from contextlib import redirect_stdout
from typing import Any

from torch import nn

from whybox.errors import WeightsError, WhyboxError, unknown

PREFIX = "torchvision"


def names() -> list[str]:
    """The detectors that `build` knows."""
    from torchvision.models import detection, list_models

    found: list[str] = list_models(detection)
    return found


def build(name: str, weights: str | None = "default", **options: Any) -> nn.Module:
    """One of torchvision's detectors by its name. weights: "default" (downloaded and kept by torch), one of the model's own
    weight names, or None for random ones. Options go to torchvision's builder."""
    from torchvision.models import get_model

    if name not in names():
        raise unknown("torchvision model", name, names())
    chosen = "DEFAULT" if weights == "default" else weights
    # Otherwise the builders download ImageNet's weights for the backbone.
    backbone = {} if chosen else {"weights_backbone": None}
    try:
        # torch.hub prints what it downloads, and standard output is for results.
        with redirect_stdout(sys.stderr):
            network: nn.Module = get_model(name, weights=chosen, **backbone, **options)
        return network
    except (OSError, ConnectionError) as error:
        raise WeightsError(
            f"the weights of torchvision/{name} could not be downloaded ({error}); pass weights=PATH of a file, or None"
        ) from error
    except (ValueError, TypeError, KeyError) as error:
        raise WhyboxError(f"torchvision/{name} could not be built: {error}") from error
