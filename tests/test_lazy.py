"""Classes by name from the folders that hold them, loaded when they are used."""

import subprocess
import sys

import pytest

import whybox.methods
import whybox.metrics
from whybox import registry


@pytest.mark.parametrize(("room", "known"), [(whybox.methods, registry.methods()), (whybox.metrics, registry.metrics())])
def test_every_registered_class_is_there_by_name(room, known):
    for kind in known.values():
        if kind.__module__.startswith("whybox."):
            assert getattr(room, kind.__name__) is kind
            assert kind.__name__ in dir(room)


def test_what_is_not_registered_is_not_there():
    for name in ("Nothing", "PixelCurves", "Tensor", "Method", "nothing"):
        with pytest.raises(AttributeError, match=f"'whybox.methods' has no attribute '{name}'"):
            getattr(whybox.methods, name)
    with pytest.raises(ImportError):
        exec("from whybox.methods import Odm")


def test_one_class_loads_one_file():
    code = (
        "import whybox.methods, whybox.metrics, sys\n"
        "print('torch' in sys.modules)\n"
        "from whybox.methods import Odam\n"
        "from whybox.metrics import Deletion\n"
        "print(Odam.name, Deletion.name, 'whybox.methods.drise' in sys.modules, 'whybox.metrics.insertion' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "odam", "deletion", "False", "False"]


def test_every_public_name_is_there():
    for name in whybox.__all__:
        assert getattr(whybox, name) is not None
    wanted = {"Model", "Method", "GradientMethod", "FeatureGradient", "PlacedMaps", "Placement", "Pullback", "DensePullback"}
    assert wanted | {"WindowPullback", "MetricInput", "MetricResult", "list_methods"} <= set(whybox.__all__)
