"""The file format of networks: what is written is read back, and what does not fit is named."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from whybox import zoo
from whybox.errors import WeightsError, WhyboxError

ARGUMENTS = {"num_classes": 3, "widths": [8, 8, 16, 16], "channels": 32, "min_size": 64, "max_size": 96}
CARD = {"network": "compact_fcos", "arguments": ARGUMENTS, "classes": ["cat", "dog"]}


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    zoo.save(zoo.build("compact_fcos", ARGUMENTS), CARD, tmp_path)
    return tmp_path


def test_written_and_read_back(folder):
    torch.manual_seed(0)
    made, read = zoo.build("compact_fcos", ARGUMENTS), zoo.load(folder)
    assert read.classes == ("cat", "dog")
    assert not read.network.training
    for key, value in made.state_dict().items():
        assert torch.allclose(read.network.state_dict()[key], value, rtol=1e-3, atol=1e-4), key
    image = [torch.rand(3, 64, 96)]
    assert all(torch.equal(*pair) for pair in zip(*(zoo.load(folder).network(image)[0].values(),) * 2, strict=True))


def test_a_file_is_as_good_as_its_folder(folder):
    read, named = zoo.load(folder), zoo.load(folder / "model.safetensors")
    assert all(torch.equal(value, named.network.state_dict()[key]) for key, value in read.network.state_dict().items())


def test_matrices_in_half_precision_statistics_in_full(folder):
    kinds = {(value.ndim > 1, value.dtype) for value in load_file(folder / "model.safetensors").values()}
    assert kinds == {(True, torch.float16), (False, torch.float32), (False, torch.int64)}


def spoil(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def nan(weights):
    weights["head.classification_head.cls_logits.weight"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("stem.0.weight", weights.pop("backbone.stem.0.weight", None)), "missing "),
        (
            lambda weights: weights.update(more=torch.ones(1)),
            "not known to the network more",
        ),
        (
            lambda weights: weights.update({"backbone.stem.0.weight": torch.ones(2, 2)}),
            r"is \(2, 2\), FCOS expects",
        ),
        (nan, "holds NaN"),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    spoil(folder, change)
    with pytest.raises(WeightsError, match=message) as caught:
        zoo.load(folder)
    assert "\n" not in str(caught.value)


def test_cut_files(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        zoo.load(folder)
    (folder / "card.json").write_text("{")
    with pytest.raises(WhyboxError, match="cannot read the network's card"):
        zoo.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "compact_fcoss"}, "unknown network 'compact_fcoss'; did you mean compact_fcos"),
        ({"arguments": {"num_clases": 3}}, "compact_fcos cannot be built"),
        ({"classes": ["cat"]}, "names 1 classes, its network has 2"),
    ],
)
def test_cards_that_do_not_fit(folder, change, message):
    (folder / "card.json").write_text(json.dumps({**CARD, **change}))
    with pytest.raises(WhyboxError, match=message):
        zoo.load(folder)


def test_cards_that_lack_something(folder):
    (folder / "card.json").write_text(json.dumps({"network": "compact_fcos"}))
    with pytest.raises(WhyboxError, match="lacks arguments, classes"):
        zoo.load(folder)


def test_unknown_names(tmp_path):
    with pytest.raises(WhyboxError, match="unknown network 'whybox/scene'"):
        zoo.load("whybox/scene")
    with pytest.raises(WhyboxError, match="cannot read the network's card"):
        zoo.load(tmp_path)


def test_nothing_half_written_where_nothing_can_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WhyboxError, match="cannot be made"):
        zoo.save(zoo.build("compact_fcos", ARGUMENTS), CARD, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
