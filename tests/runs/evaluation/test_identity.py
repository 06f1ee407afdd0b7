"""What a run's numbers are made by: the same script has the same identity, anything else has another."""

import functools
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

import whybox
from runs.small import PLAN, make_model
from whybox.data.scenes import CLASSES
from whybox.errors import WhyboxError
from whybox.method import Method
from whybox.methods.control_blob import control_blob_map
from whybox.runs.evaluation import identity as identities
from whybox.runs.evaluation.code_digest import digest_of
from whybox.runs.evaluation.evaluate import evaluate
from whybox.runs.evaluation.plan import Plan
from whybox.truth import Metric, MetricResult
from whybox.types import Frame

SCALE = 1.0
ANCHORS = [[8.0, 12.0], [16.0, 20.0]]


class Grid(nn.Module):
    """A detector of one box a cell."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.head = nn.Conv2d(8, len(CLASSES), 1)
        self.shape = None

    def forward(self, images):
        return self.head(self.stem(images).relu()).sigmoid()


class Steeper(Grid):
    def forward(self, images):
        return self.head(self.stem(images).relu() * 2.0).sigmoid()


def boxes_of(scores, side):
    rows, columns = scores.shape[-2:]
    y, x = torch.meshgrid(torch.arange(rows) * 8.0, torch.arange(columns) * 8.0, indexing="ij")
    return torch.stack([x, y, x + side, y + side], -1).reshape(-1, 4)


def read(scores):
    return boxes_of(scores, 16.0), scores[0].flatten(1).T * SCALE


def read_larger(scores):
    return boxes_of(scores, 18.0), scores[0].flatten(1).T * SCALE


def made(side):
    def read(scores):
        return boxes_of(scores, side), scores[0].flatten(1).T

    return read


@dataclass(frozen=True)
class Peak(Metric):
    factor: float = 1.0

    name: ClassVar[str] = "peak"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, maps, inputs):
        return MetricResult(maps.flatten(1).amax(1) * self.factor)


@dataclass(frozen=True)
class Blob(Method):
    name: ClassVar[str] = "blob"
    source: ClassVar[str] = "a test"
    needs: ClassVar[frozenset[str]] = frozenset({"candidates"})
    same_for_all: ClassVar[bool] = True

    def __call__(self, model, trace, detections, targets):
        native = tuple(control_blob_map(detections.boxes, trace.frame.image, self.sigma()))
        return [self.heat_maps(native, Frame.same(trace.frame.image), target) for target in targets]

    def sigma(self):
        return 0.25


SMALL = {**PLAN, "select": "all", "top": 2, "limit": 1}


def run(folder, *, network=Grid, candidates=read, metrics=None, methods=None, changed=None, limit=1):
    module = network().eval()
    if changed:
        changed(module)
    model = whybox.load(module, candidates=candidates, features=["stem"], classes=CLASSES)
    plan = {**SMALL, "methods": methods or [Blob()], "metrics": metrics or ["compactness", Peak()], "limit": limit}
    return evaluate(model, "scenes:count=2:size=64x64", out=folder, **plan)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("identity") / "run"
    run(place)
    return place


def test_what_has_not_changed_goes_on(folder):
    run(folder)
    assert {one["image"] for one in run(folder, limit=2).results.objects} > {run(folder).results.objects[0]["image"]}


def other_metric(self, maps, inputs):
    return MetricResult(maps.flatten(1).amax(1) * self.factor + 0.5)


def shift(module):
    with torch.no_grad():
        module.head.bias[0] += 1e-3


def hook(module):
    module.stem.register_forward_hook(lambda part, args, output: output * 1.5)


def patch(module):
    module.forward = lambda images: module.head(module.stem(images)).sigmoid()


@pytest.mark.parametrize(
    ("told", "change"),
    [
        ("functions of the model", {"candidates": read_larger}),
        ("functions of the model", {"candidates": functools.partial(read_larger)}),
        ("code of the network", {"network": Steeper}),
        ("code of the network", {"changed": hook}),
        ("code of the network", {"changed": patch}),
        ("weights", {"changed": shift}),
        ("own metrics", {"metrics": ["compactness", type("Peak", (Peak,), {"__call__": other_metric})()]}),
        ("own metrics", {"metrics": ["compactness", Peak(2.0)]}),
        ("own methods", {"methods": [type("Blob", (Blob,), {"sigma": lambda self: 0.5})()]}),
    ],
)
def test_what_has_changed_is_told_in_one_line(folder, told, change):
    with pytest.raises(WhyboxError, match=f"holds another evaluation, which differs in: .*{told}") as caught:
        run(folder, **change)
    assert "\n" not in str(caught.value)


def test_a_method_changed_in_place_is_another(folder, monkeypatch):
    monkeypatch.setattr(Blob, "sigma", lambda self: 0.5)
    with pytest.raises(WhyboxError, match=r"differs in: own methods; choose another folder"):
        run(folder)


def test_a_forward_changed_in_place_is_another(folder, monkeypatch):
    monkeypatch.setattr(Grid, "forward", Steeper.forward)
    with pytest.raises(WhyboxError, match=r"differs in: code of the network; choose another folder"):
        run(folder)


def test_a_constant_or_a_helper_of_the_function_changes_it(folder, monkeypatch):
    monkeypatch.setitem(globals(), "SCALE", 0.9)
    with pytest.raises(WhyboxError, match="differs in: functions of the model;"):
        run(folder)
    monkeypatch.undo()
    monkeypatch.setitem(globals(), "boxes_of", lambda scores, side: None)
    with pytest.raises(WhyboxError, match="differs in: functions of the model;"):
        run(folder)


def test_a_closure_and_a_target_count_with_what_they_hold(tmp_path):
    run(tmp_path / "run", candidates=made(16.0))
    run(tmp_path / "run", candidates=made(16.0))
    with pytest.raises(WhyboxError, match="differs in: functions of the model;"):
        run(tmp_path / "run", candidates=made(17.0))

    def scores(power=1.0):
        def target(trace):
            return trace.candidates.scores[trace.detections.source, trace.detections.labels] ** power

        return target

    plan = {**SMALL, "methods": "odam", "metrics": "compactness", "out": tmp_path / "target"}
    evaluate(make_model(), "scenes:count=1:size=64x64", target=scores(), **plan)
    evaluate(make_model(), "scenes:count=1:size=64x64", target=scores(), **plan)
    with pytest.raises(WhyboxError, match="differs in: target;"):
        evaluate(make_model(), "scenes:count=1:size=64x64", target=scores(2.0), **plan)


class Darker:
    """A data set of the user's, whose code makes the samples."""

    name, problems, classes = "darker", (), CLASSES
    factor = 0.9

    def __init__(self, count):
        self.inner = whybox.open_data(f"scenes:count={count}:size=64x64")

    @property
    def names(self):
        return self.inner.names

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        return replace(sample, image=sample.image.point(lambda value: value * self.factor))


def test_the_code_of_a_data_set_counts_but_not_how_long_it_is(tmp_path, monkeypatch):
    plan = {**SMALL, "methods": "odam", "metrics": "compactness", "out": tmp_path / "run"}
    evaluate(make_model(), Darker(1), **plan)
    evaluate(make_model(), Darker(2), **{**plan, "limit": 2})
    monkeypatch.setattr(Darker, "factor", 0.5)
    with pytest.raises(WhyboxError, match="differs in: code of the data;"):
        evaluate(make_model(), Darker(1), **plan)


def test_another_version_is_named(folder, monkeypatch):
    known = identities.version_of
    monkeypatch.setattr(identities, "version_of", lambda name: "9.9" if name == "torchvision" else known(name))
    with pytest.raises(WhyboxError, match=r"differs in: versions \(torchvision \S+ → 9\.9\);"):
        run(folder)


def test_passes_do_not_change_the_identity():
    """Faster R-CNN keeps the scales of the first image's features."""
    network = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None).eval()
    model, data = whybox.load(network), whybox.open_data("scenes:count=1")
    before = identities.identity(Plan(), model, data)
    whybox.trace(model, torch.rand(3, 96, 96))
    assert identities.changed(before, identities.identity(Plan(), model, data)) == []


SCRIPT = """
import sys
from whybox.runs.evaluation.code_digest import digest_of
KINDS = {"car", "dog", "cat", "ball"}
class Box:
    size = 3
    def __init__(self): self.kinds, self.other = set(KINDS), self
    def __call__(self, x): return helper(x) if x in {"a", "b", "c"} else self.size
def helper(x, kinds=frozenset(KINDS), *, by={"a": 1, "b": 2}): return [lambda: BOX, kinds, by, x]
BOX = Box()
def first(x): return second(x)
def second(x): return first(x)
print(digest_of(BOX, helper, first, KINDS))
"""


def test_a_digest_is_the_same_in_every_process(tmp_path):
    file = tmp_path / "script.py"
    told = []
    for seed, text in (
        ("1", SCRIPT),
        ("2", SCRIPT),
        ("3", f"\n\n# moved\n{SCRIPT}"),
        ("4", SCRIPT.replace("size = 3", "size = 4")),
    ):
        file.write_text(text)
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        told.append(subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, check=True).stdout)
    assert told[0] == told[1] == told[2] != told[3]


def test_digests_tell_functions_apart():
    def plain(x, y=1):
        return x + y

    def documented(x, y=1):
        """The same with words."""
        return x + y

    def default(x, y=2):
        return x + y

    def constant(x, y=1):
        return x + y + 1

    documented.__qualname__ = plain.__qualname__
    assert digest_of(plain) == digest_of(documented)
    assert (
        len({digest_of(one) for one in (plain, default, constant, functools.partial(plain, 1), functools.partial(plain, 2))}) == 5
    )
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 2, "b": 1})
    assert digest_of(torch.ones(2)) != digest_of(torch.ones(2, 1)) != digest_of(torch.zeros(2, 1))
    ANCHORS.append(ANCHORS)
    assert digest_of(ANCHORS)
    ANCHORS.pop()


OBJECTS = """
import collections, enum, functools, re
import numpy as np
import torch
from whybox.runs.evaluation.code_digest import digest_of

class Thing:
    def __init__(self, size):
        self.size = size

class Way(enum.Enum):
    near = functools.partial(max, 1)
    far = Thing(2)

def function(values):
    return values + 1

def array(*entries):
    made = np.empty(len(entries), object)
    made[:] = entries
    return made

itself = array(1, None)
itself[1] = itself
record = np.zeros(1, [("a", "f4"), ("b", object)])
record["b"][0] = Thing(SIZE)
things = [array(Thing(SIZE), function), array({"a": Thing(SIZE)}, [array(Thing(SIZE))]), itself, record, record[0]]
things += [collections.deque([Thing(SIZE), array(Thing(SIZE))])]
things += [(Way.near, Way.far, array(Way.far, SIZE)), {array: [Thing(SIZE)]}]
things += [np.float32(SIZE), slice(SIZE, None), range(SIZE), re.compile("a" * SIZE), bytearray(SIZE)]
padding = [object() for _ in range(SKIP)]
print([digest_of(thing) for thing in things], digest_of(things))
"""


def test_arrays_and_containers_of_objects_have_no_addresses_in_their_digest():
    def run(size, skip):
        code = f"SIZE, SKIP = {size}, {skip}\nhold = [bytearray(i) for i in range(SKIP)]\n{OBJECTS}"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    one, again, other = run(3, 0), run(3, 5000), run(4, 0)
    assert one == again
    same = [a == b for a, b in zip(one.split(","), other.split(","), strict=True)]
    # The array that holds itself has nothing of the size in it.
    assert [i for i, equal in enumerate(same) if equal] == [2]


def test_a_number_with_a_stride_of_zero_is_a_weight():
    """As modules made from ONNX files hold it."""
    network = Grid()
    model = whybox.load(network, candidates=lambda output: output, features=["stem"])
    network.register_buffer("scale", torch.as_strided(torch.ones(1), (1,), (0,)))
    before = identities.weights_digest(model)
    network.scale = torch.as_strided(torch.full((1,), 2.0), (1,), (0,))
    assert identities.weights_digest(model) != before
