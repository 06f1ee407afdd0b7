"""Heat maps that explain object detectors, classifiers and CLIP: why did the model predict this?

result = whybox.explain(whybox.load("torchvision/fcos_resnet50_fpn"), "photo.jpg")
result.plot()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whybox.api import detect, explain, load, open_data, trace
    from whybox.attention import Text, TokenMaps
    from whybox.catalog import list_methods, list_metrics, list_models, list_targets
    from whybox.data.images import read_image
    from whybox.decide import explain_nms
    from whybox.decisions import Decisions
    from whybox.duplicates import nms, with_nms
    from whybox.errors import WhyboxError
    from whybox.explanation import Explanation
    from whybox.frame import Frame
    from whybox.method import Method
    from whybox.model import Model
    from whybox.ops.maps import GradientMethod
    from whybox.placement import Placement
    from whybox.pullback import DensePullback, FeatureGradient, PlacedMaps, Pullback, WindowPullback
    from whybox.rule import Rule
    from whybox.runs.evaluation.compare import compare
    from whybox.runs.evaluation.evaluate import Evaluation, evaluate
    from whybox.truth import DataSet, Metric, MetricInput, MetricResult, Sample, Truth
    from whybox.types import Candidates, Detections, FeatureMap, HeatMaps, Target, Trace

__version__ = "0.1.0"

_HOMES = {
    "whybox.api": (
        "detect",
        "explain",
        "load",
        "open_data",
        "trace",
    ),
    "whybox.attention": (
        "Text",
        "TokenMaps",
    ),
    "whybox.catalog": (
        "list_methods",
        "list_metrics",
        "list_models",
        "list_targets",
    ),
    "whybox.data.images": ("read_image",),
    "whybox.decide": ("explain_nms",),
    "whybox.decisions": ("Decisions",),
    "whybox.duplicates": ("nms", "with_nms"),
    "whybox.errors": ("WhyboxError",),
    "whybox.explanation": ("Explanation",),
    "whybox.frame": ("Frame",),
    "whybox.method": ("Method",),
    "whybox.model": ("Model",),
    "whybox.ops.maps": ("GradientMethod",),
    "whybox.placement": ("Placement",),
    "whybox.pullback": (
        "DensePullback",
        "FeatureGradient",
        "PlacedMaps",
        "Pullback",
        "WindowPullback",
    ),
    "whybox.rule": ("Rule",),
    "whybox.runs.evaluation.compare": ("compare",),
    "whybox.runs.evaluation.evaluate": (
        "Evaluation",
        "evaluate",
    ),
    "whybox.truth": (
        "DataSet",
        "Metric",
        "MetricInput",
        "MetricResult",
        "Sample",
        "Truth",
    ),
    "whybox.types": (
        "Candidates",
        "Detections",
        "FeatureMap",
        "HeatMaps",
        "Target",
        "Trace",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Candidates",
    "DataSet",
    "Decisions",
    "DensePullback",
    "Detections",
    "Evaluation",
    "Explanation",
    "FeatureGradient",
    "FeatureMap",
    "Frame",
    "GradientMethod",
    "HeatMaps",
    "Method",
    "Metric",
    "MetricInput",
    "MetricResult",
    "Model",
    "PlacedMaps",
    "Placement",
    "Pullback",
    "Rule",
    "Sample",
    "Target",
    "Text",
    "TokenMaps",
    "Trace",
    "Truth",
    "WhyboxError",
    "WindowPullback",
    "compare",
    "detect",
    "evaluate",
    "explain",
    "explain_nms",
    "list_methods",
    "list_metrics",
    "list_models",
    "list_targets",
    "load",
    "nms",
    "open_data",
    "read_image",
    "trace",
    "with_nms",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import whybox` alone imports no framework."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'whybox' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
