"""`import whybox` loads no framework that it can do without."""

import subprocess
import sys

import pytest

HEAVY = [
    "transformers",
    "open_clip",
    "timm",
    "ultralytics",
    "gradio",
    "ray",
    "matplotlib",
    "lightning_fabric",
    "starlette",
    "uvicorn",
]


@pytest.mark.parametrize("statement", ["import whybox", "import whybox; whybox.explain; whybox.load; whybox.HeatMaps"])
def test_import_stays_light(statement):
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_alone_loads_no_torch():
    code = "import whybox, sys\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
