"""Models that a function in a file makes: what it may return, and what is told where it does not work."""

import subprocess
import sys

import pytest
import torch

import whybox
from whybox.errors import UnknownNameError, WhyboxError

FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 8, stride=8), nn.Conv2d(8, 4 + 2, 1)

    def forward(self, x):
        return self.head(self.stem(x))


def read(output):
    values = output[0].flatten(1).T
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in output.shape[2:]), indexing="ij")
    center = (torch.stack([columns, rows], -1).flatten(0, 1) + 0.5) * 8
    return torch.cat([center - 9 - values[:, :2], center + 9 + values[:, 2:4]], 1), values[:, 4:].sigmoid()


OPTIONS = {"candidates": read, "features": ["stem"], "classes": ["cat", "dog"]}


def build():
    return Net(), OPTIONS


def loaded():
    import whybox

    return whybox.load(Net(), **OPTIONS)


def known():
    from torchvision.models.detection import fcos_resnet50_fpn

    return fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)


def plain_module():
    return Net()


def broken():
    raise ValueError("no weights at\\nthis place")


def number():
    return 3


def wrong_options():
    return Net(), ["stem"]


def misspelt():
    return Net(), {**OPTIONS, "score_treshold": 0.1}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "mine.py").write_text(FILE)
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)


def test_a_module_with_options_is_loaded_by_file_and_function(mine):
    model = whybox.load("mine.py:build")
    assert (model.name, model.classes) == ("mine.py:build", ["cat", "dog"])
    assert len(whybox.explain(model, torch.rand(3, 48, 64), score_threshold=0.0, top=2)) == 2
    assert whybox.load(f"{mine}:build", classes=["a", "b"]).classes == ["a", "b"]


def test_a_loaded_model_a_known_module_and_a_class_do(mine):
    assert whybox.load("mine.py:loaded").classes == ["cat", "dog"]
    assert whybox.load("mine.py:known").first_column == 1
    # A class is called as a function is.
    whybox.load("mine.py:Net", candidates=lambda output: output, features=["stem"])


def test_weights_from_a_file_are_loaded_into_it(mine, tmp_path):
    state = {name: torch.zeros_like(value) for name, value in whybox.load("mine.py:build").network.state_dict().items()}
    torch.save(state, tmp_path / "zero.pt")
    for name in ("mine.py:build", "mine.py:loaded"):
        assert float(whybox.load(name, weights="zero.pt").network.stem.weight.detach().abs().sum()) == 0


def test_a_file_is_read_again_and_leaves_other_modules_alone(mine, tmp_path):
    before = sys.modules["random"]
    (tmp_path / "random.py").write_text(FILE)
    assert whybox.load("random.py:build").classes == ["cat", "dog"]
    assert sys.modules["random"] is before
    mine.write_text(FILE.replace('"dog"', '"cow"   '))
    assert whybox.load("mine.py:build").classes == ["cat", "cow"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone.py:build", r"^gone.py:build: there is no file gone.py$"),
        ("gone.py", r"^gone.py: there is no file gone.py$"),
        ("mine.py", r"^mine.py: say which function makes the model, mine.py:FUNCTION; it has .*build"),
        ("mine.py:biuld", r"^unknown function in mine.py 'biuld'; did you mean build"),
        ("mine.py:OPTIONS", r"^mine.py:OPTIONS: OPTIONS is no function"),
        ("mine.py:broken", r"^mine.py:broken failed: ValueError: no weights at \(mine.py, line 47\)$"),
        ("mine.py:number", r"^mine.py:number must return an nn.Module, a whybox Model, or .*, got int$"),
        ("mine.py:wrong_options", r"got a tuple with list$"),
        ("mine.py:misspelt", r"unknown option 'score_treshold'; did you mean score_threshold"),
        ("mine.py:plain_module", r"^Net is not a supported model"),
    ],
)
def test_mistakes_are_told_in_one_line(mine, name, told):
    with pytest.raises(WhyboxError, match=told) as caught:
        whybox.load(name)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_run(mine):
    mine.write_text("import torch\nimport nowhere_to_be_found\n")
    with pytest.raises(WhyboxError, match=r"cannot be run: ModuleNotFoundError: No module named .* \(mine.py, line 2\)$"):
        whybox.load("mine.py:build")
    mine.write_text("def build(:\n")
    with pytest.raises(WhyboxError, match=r"^mine.py:build: mine.py cannot be run: SyntaxError"):
        whybox.load("mine.py:build")


def test_an_unknown_name_is_told_of_files():
    with pytest.raises(UnknownNameError, match=r"or is FILE.py:FUNCTION"):
        whybox.load("zzz")


def test_worker_processes_find_the_file(mine):
    """As a worker of an evaluation does: another process, with the path of the first one, unpickles the model."""
    whybox.load("mine.py:build")
    folders = [str(folder) for folder in sys.path]
    send = "import pickle, sys, whybox; sys.stdout.buffer.write(pickle.dumps(whybox.load('mine.py:build')))"
    packed = subprocess.run([sys.executable, "-c", send], check=True, capture_output=True).stdout
    take = f"import pickle, sys; sys.path[:] = {folders!r}; print(pickle.load(sys.stdin.buffer).name)"
    told = subprocess.run([sys.executable, "-c", take], input=packed, check=True, capture_output=True).stdout
    assert told.decode().strip() == "mine.py:build"
