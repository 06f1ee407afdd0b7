"""What explain returns: kept whole and read back, refused where it must not write, and passed on in other forms."""

import copy
import errno
import json
import os
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from report.made_up import FRAME, made_up_detections, made_up_maps
from report.made_up_match import CROPPED, TEXTS, made_up_asked, made_up_tokens, read_text
from whybox.errors import WhyboxError
from whybox.explanation import Explanation
from whybox.pictures import page_of, photo_of
from whybox.prompting import reading_note
from whybox.report.texts import distinct_words
from whybox.types import Detections, HeatMaps


def explanation(count=3, **fields):
    image = (torch.rand((3, 90, 120), generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    given = {"detections": made_up_detections(count), "maps": made_up_maps(count), "image": image, "model": "toy"}
    given |= {"classes": ("cat", "dog"), "name": "street.jpg", "notes": ("",) * count, "seconds": {"trace": 0.5, "maps": 0.25}}
    return Explanation(**given | fields)


def test_names_come_from_the_classes():
    assert explanation().names == ("cat", "dog", "cat")
    assert explanation(classes=("cat",)).names == ("cat", "class 1", "cat")
    assert explanation(classes=None).names[0] == "class 0"
    assert len(explanation()) == 3


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 detections do not fit 2 maps and 3 notes"):
        explanation(maps=made_up_maps(2))


def test_saved_and_loaded_is_the_same(tmp_path):
    maps = replace(made_up_maps(3), native=(torch.rand(16, 24), torch.rand(8, 12), torch.rand(4, 6)), crop_padding=False)
    kept = explanation(maps=maps, notes=("", "half hidden", ""))
    assert kept.save(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    read = Explanation.load(tmp_path / "a" / "b")
    assert read.to_dict() == kept.to_dict()
    assert all(torch.equal(*pair) for pair in zip(read.maps.native, kept.maps.native, strict=True))
    for name in ("boxes", "scores", "labels", "source"):
        assert torch.equal(getattr(read.detections, name), getattr(kept.detections, name)), name
    assert torch.equal(read.image, kept.image)
    assert torch.equal(read.maps.at_image(), kept.maps.at_image())
    assert (read.maps.frame, read.maps.routes, read.notes, read.names) == (FRAME, kept.maps.routes, kept.notes, kept.names)
    assert (read.name, read.model, read.seconds) == ("street.jpg", "toy", {"trace": 0.5, "maps": 0.25})


def test_maps_that_share_memory_or_carry_gradient_are_saved(tmp_path):
    both = torch.rand(2, 16, 24, requires_grad=True)
    maps = HeatMaps((both[0], both[1].T.T), FRAME, "score", "odam")
    explanation(count=2, maps=maps).save(tmp_path / "a")
    assert torch.equal(torch.stack(Explanation.load(tmp_path / "a").maps.native), both)


def test_what_lies_in_the_folder(tmp_path):
    explanation(classes=("a/b <cat>", "dog")).save(tmp_path / "out")
    files = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file())
    overlays = ["overlays/00_a-b-cat.png", "overlays/01_dog.png", "overlays/02_a-b-cat.png"]
    assert files == ["image.png", "index.html", "manifest.json", "maps.safetensors", *overlays]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["schema"] == 1
    assert manifest["versions"].keys() == {"python", "whybox", "torch", "torchvision"}
    assert manifest["options"] == {"sigma": 0.1, "layer": None}
    assert [row["overlay"] for row in manifest["detections"]] == overlays
    low, high = (manifest["detections"][1]["map"][end] for end in ("low", "high"))
    native = made_up_maps(3).native[1]
    assert (low, high) == (float(native.min()), float(native.max()))
    with Image.open(tmp_path / "out" / overlays[0]) as picture:
        assert picture.size == (120, 90)
    assert os.listdir(tmp_path) == ["out"], "no draft remains"


def test_nothing_found_is_saved_and_loaded(tmp_path):
    nothing = explanation(count=0)
    nothing.save(tmp_path / "out")
    assert len(Explanation.load(tmp_path / "out")) == 0
    assert nothing.plot().axes
    assert "No detections" in nothing._repr_html_()


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(WhyboxError, match="exists and is not empty; nothing was overwritten"):
        explanation().save(tmp_path)
    with pytest.raises(WhyboxError, match="a file of that name exists"):
        explanation().save(tmp_path / "note.txt")
    with pytest.raises(WhyboxError, match="is not a folder"):
        explanation().save(tmp_path / "note.txt" / "out")
    assert (tmp_path / "note.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    explanation(count=1).save(tmp_path / "out")
    assert (tmp_path / "out" / "index.html").is_file()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(WhyboxError, match="cannot be written") as caught:
        explanation().save(tmp_path / "deep" / "out")
    assert "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("whybox.pictures.write_page", stop)
    with pytest.raises(KeyboardInterrupt):
        explanation().save(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(WhyboxError, match="read-only"):
        explanation().save(tmp_path / "out")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("manifest.json", b"{", "damaged explanation"),
        ("manifest.json", b'{"schema": 99, "kind": "explanation"}', "expected an explanation of schema 1, got 99"),
        ("manifest.json", b"[]", "damaged explanation"),
        ("maps.safetensors", b"junk", "damaged explanation"),
        ("image.png", b"junk", "damaged explanation"),
        ("image.png", None, "image.png is missing"),
    ],
)
def test_what_is_damaged_or_missing_is_named(tmp_path, file, content, message):
    folder = explanation(count=1).save(tmp_path / "out")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(WhyboxError, match=message):
        Explanation.load(folder)


def test_coco_boxes_have_widths():
    first, *others = explanation().to_coco(image_id=7)
    assert first == {"image_id": 7, "category_id": 0, "bbox": [10, 10, 30, 30], "score": pytest.approx(0.9)}
    assert len(others) == 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervision_gets_boxes_and_names():
    pytest.importorskip("supervision")
    found = explanation().to_supervision()
    assert np.allclose(found.xyxy, made_up_detections(3).boxes)
    assert found.data["class_name"].tolist() == ["cat", "dog", "cat"]
    assert found.class_id.tolist() == [0, 1, 0]
    assert len(explanation(count=0).to_supervision()) == 0


def masked():
    """Three detections, each with the left half of its box as its mask."""
    found = made_up_detections(3)
    rows, columns = torch.meshgrid(torch.arange(90), torch.arange(120), indexing="ij")
    x1, y1, x2, y2 = (side[:, None, None] for side in found.boxes.T)
    masks = (columns >= x1) & (columns < (x1 + x2) / 2) & (rows >= y1) & (rows < y2)
    return explanation(detections=replace(found, masks=masks))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervision_gets_masks_where_there_are_any():
    pytest.importorskip("supervision")
    found = masked().to_supervision()
    assert found.mask.dtype == bool
    assert found.mask.shape == (3, 90, 120)
    assert found.mask[0].sum() == 15 * 30
    assert explanation().to_supervision().mask is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_supervision_draws_turned_boxes():
    supervision = pytest.importorskip("supervision")
    boxes = made_up_detections(3)
    corners = boxes.boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] + torch.tensor([2.0, 1.0])
    found = explanation(detections=replace(boxes, corners=corners)).to_supervision()
    assert np.array_equal(found.data["xyxyxyxy"], corners)
    drawn = supervision.OrientedBoxAnnotator().annotate(np.zeros((90, 120, 3), np.uint8), found)
    assert drawn.any()


class Label:
    """Keeps what it is made of, as FiftyOne's labels do."""

    def __init__(self, **fields):
        vars(self).update(fields)


@pytest.fixture
def fiftyone(monkeypatch):
    """A stand-in with the names and fields of FiftyOne's labels, after its documentation: the package brings a database along."""
    names = ("Detection", "Detections", "Heatmap", "Classification", "Classifications")
    module = SimpleNamespace(**{name: type(name, (Label,), {}) for name in names})
    monkeypatch.setitem(sys.modules, "fiftyone", module)
    return module


def test_fiftyone_gets_a_heat_map_with_every_detection(fiftyone):
    result = explanation()
    labels = result.to_fiftyone()
    assert type(labels) is fiftyone.Detections
    first = labels.detections[0]
    assert (first.label, first.confidence) == ("cat", pytest.approx(0.9))
    # made_up_detections: 10, 10, 40, 40 in an image of 120 x 90
    assert first.bounding_box == pytest.approx([10 / 120, 10 / 90, 30 / 120, 30 / 90])
    assert not hasattr(first, "mask")
    for detection, values in zip(labels.detections, result.maps.at_image(), strict=True):
        assert np.array_equal(detection.heatmap.map, values.numpy())
        assert detection.heatmap.map.dtype == np.float32
        low, high = detection.heatmap.range
        assert low <= float(values.min()) <= float(values.max()) <= high
        assert low < high
    assert explanation(count=0).to_fiftyone().detections == []


def test_fiftyone_gets_the_mask_inside_the_box(fiftyone):
    mask = masked().to_fiftyone().detections[0].mask
    assert mask.shape == (30, 30)
    assert mask[:, :15].all()
    assert not mask[:, 15:].any()


def test_fiftyone_gets_classifications_of_a_whole_image(fiftyone):
    labels = explanation(whole_image=True).to_fiftyone()
    assert [label.label for label in labels.classifications] == ["cat", "dog", "cat"]
    assert labels.classifications[0].heatmap.map.shape == (90, 120)


def test_without_fiftyone_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(WhyboxError, match="pip install fiftyone"):
        explanation().to_fiftyone()


def test_to_dict_is_json():
    assert json.loads(json.dumps(explanation().to_dict()))["detections"][1]["name"] == "dog"


@pytest.mark.parametrize(("index", "shown"), [(None, 3), (1, 1), ([0, 2], 2)])
def test_plot_draws_an_overlay_for_each(index, shown):
    figure = explanation().plot(index)
    assert sum(bool(cell.images) for cell in figure.axes) == shown
    assert "odam score" in figure.axes[0].get_title()


def test_overlay_and_box_are_where_the_image_is():
    bright = explanation(count=1, image=torch.zeros(3, 90, 120)).overlay(0)
    assert bright.size == (120, 90)
    assert bright.getpixel((40, 37)) == (255, 255, 255), "right side of the box 10, 10, 40, 40"


def test_the_notebook_view_is_a_frame_that_holds_the_page():
    view = explanation()._repr_html_()
    assert view.startswith("<iframe")
    assert view.count("<") == 2, "everything inside is escaped"
    assert 'sandbox="allow-scripts' in view
    assert "allow-same-origin" not in view


def test_explanations_of_one_image_become_layers():
    photo = photo_of([explanation(), explanation(maps=made_up_maps(3, "x1"))])
    assert [(one.method, one.target, one.seconds) for one in photo.layers] == [("odam", "score", 0.25), ("odam", "x1", 0.25)]
    assert photo.seconds == {"trace": 0.5}


def matched(texts=TEXTS, words=True, **fields):
    """Texts that one image was asked for, as the method draws them: with or without maps of words."""
    read = tuple(read_text(text) if isinstance(text, str) else text for text in texts)
    given = asked_alike([text.text for text in read], texts=read)
    if words:
        given = replace(given, token_maps=made_up_tokens(read), single_words=asked_alike(distinct_words(read), seed=5))
    return replace(given, **fields)


def asked_alike(names, seed=0, **fields):
    asked = made_up_asked(names, seed=seed, explained_score=[0.25] * len(names))
    count = len(names)
    none = torch.zeros(count, dtype=torch.long)
    found = Detections(torch.tensor([[0.0, 0, 120, 90]]).expand(count, 4), asked.scores, torch.arange(count), none)
    given = {"whole_image": True, "texts": tuple(read_text(name) for name in names), **fields}
    return Explanation(found, asked.maps, torch.zeros(3, 90, 120), "toy", tuple(names), **given)


def test_rows_are_explanations_of_their_own():
    kept = explanation(notes=("a", "b", "c"))
    assert [each.notes for each in kept] == [("a",), ("b",), ("c",)]
    assert all(type(each) is Explanation and len(each) == 1 for each in kept)
    assert torch.equal(kept[-1].maps.native[0], kept.maps.native[2])
    assert kept[1:].names == ("dog", "cat") == kept[[1, 2]].names == kept[torch.tensor([False, True, True])].names
    assert torch.equal(kept[1:].detections.boxes, kept.detections.boxes[1:])
    assert len(kept[:0]) == 0
    with pytest.raises(IndexError):
        kept[3]


def test_rows_of_texts_keep_what_is_theirs(tmp_path):
    kept = matched(notes=("", "odd"))
    second = kept[1]
    assert (second.names, second.texts, second.notes) == ((TEXTS[1],), (kept.texts[1],), ("odd",))
    assert second.words == (kept.words[1],)
    assert second.single_words.names == ("a", "dog")
    row = kept.single_words.names.index("dog")
    assert torch.equal(second.single_words.maps.native[1], kept.single_words.maps.native[row])
    assert second.maps.options["explained_score"] == [0.25]
    assert Explanation.load(second.save(tmp_path / "out")).words == second.words


def test_an_explanation_is_plain_data(tmp_path):
    kept = matched()
    for same in (pickle.loads(pickle.dumps(kept)), copy.deepcopy(kept), Explanation.load(kept.save(tmp_path / "out"))):
        assert same.words == kept.words
        assert same.single_words.names == kept.single_words.names
        assert same != kept, "compared by identity"
        assert len({same, kept, same}) == 2
    assert pickle.loads(pickle.dumps(Explanation.load(tmp_path / "out"))).words == kept.words


def test_a_methods_title_is_kept(tmp_path):
    kept = explanation(maps=replace(made_up_maps(3), method_title="ODAM"))
    read = Explanation.load(kept.save(tmp_path / "out"))
    assert read.maps.method_title == "ODAM"
    assert page_of(read) == page_of(kept)


def test_words_that_were_not_asked_for_are_one_line():
    with pytest.raises(WhyboxError, match=r"holds no words: whybox.explain\(..., words=True\) computes them"):
        _ = matched(words=False).words
    with pytest.raises(WhyboxError, match="holds no tokens: only texts have them"):
        _ = explanation().tokens


def test_saved_texts_come_back_bit_by_bit(tmp_path):
    kept = matched([read_text("a red ball on the grass", cut="the grass"), "a dog"], notes=("it was cut", ""))
    read = Explanation.load(kept.save(tmp_path / "out"))
    assert json.dumps(read.to_dict()) == json.dumps(kept.to_dict())
    assert read.texts == kept.texts == read.token_maps.texts
    assert all(torch.equal(*pair) for pair in zip(read.token_maps.values, kept.token_maps.values, strict=True))
    assert (read.tokens, read.words, read.peak) == (kept.tokens, kept.words, kept.peak)
    assert read.token_maps.options == kept.token_maps.options == {"heads": "native", "text_layers": 8}
    words = (read.single_words, kept.single_words)
    assert all(torch.equal(*pair) for pair in zip(*(one.maps.native for one in words), strict=True))
    assert words[0].names == words[1].names
    assert torch.equal(words[0].detections.scores, words[1].detections.scores)
    assert page_of(read) == page_of(kept) == (tmp_path / "out" / "index.html").read_text()
    again = Explanation.load(read.save(tmp_path / "again"))
    assert page_of(again) == page_of(kept)


def test_a_method_without_maps_of_words_is_saved_without(tmp_path):
    read = Explanation.load(matched(words=False).save(tmp_path / "out"))
    assert (read.token_maps, read.single_words) == (None, None)
    assert read.whole_image
    assert [text.text for text in read.texts] == list(TEXTS)
    assert "tokens" not in read.to_dict()["detections"][0]
    with pytest.raises(WhyboxError, match="holds no words"):
        _ = read.words


def test_folders_of_before_texts_are_read(tmp_path):
    folder = explanation(count=1).save(tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not {"whole_image", "token_maps", "single_words"} & manifest.keys()
    assert not {"peak", "text", "tokens", "words"} & manifest["detections"][0].keys()
    read = Explanation.load(folder)
    assert (read.whole_image, read.texts, read.single_words) == (False, (), None)


def test_a_damaged_folder_of_texts_is_named(tmp_path):
    folder = matched().save(tmp_path / "out")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["detections"][0]["text"]["tokens"].pop()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WhyboxError, match="damaged explanation"):
        Explanation.load(folder)


def test_texts_in_plain_numbers():
    kept = matched()
    row = kept.to_dict()["detections"][0]
    assert row["name"] == TEXTS[0]
    assert row["peak"] == float(kept.maps.native[0].max())
    assert row["words"] == kept.words[0]
    assert row["tokens"][2:4] == (("ball", float(kept.token_maps.values[0][2])), (",", float(kept.token_maps.values[0][3])))
    assert row["text"]["spans"][0] == (0, 1)


def test_a_text_has_a_caption_and_no_box():
    flat = HeatMaps((torch.zeros(6, 6),), CROPPED, "score", "grad_eclip")
    pixels = np.asarray(matched(["a dog"], maps=flat).overlay(0)).astype(int)
    assert pixels.shape == (90, 120, 3)
    assert pixels[:15].max() > 200, "the caption, white on a plate"
    assert pixels[30:].max() == 0
    assert pixels[:, 110:].max() == 0, "neither frame nor caption at the right edge"


def test_a_long_text_is_cut_to_the_picture():
    long, longer = ("red ball " * count for count in (40, 4000))
    flat = HeatMaps((torch.zeros(6, 6),), CROPPED, "score", "grad_eclip")
    pictures = [matched([text], maps=flat, words=False).overlay(0) for text in (long, longer, long.replace(" ", "\n"))]
    assert len({picture.tobytes() for picture in pictures}) == 1
    assert np.asarray(pictures[0])[:15, -14:].max() > 200, "it fills the line"


def test_texts_are_plotted_and_shown_in_notebooks():
    kept = matched()
    assert sum(bool(cell.images) for cell in kept.plot().axes) == 2
    assert "a red ball, left of a tree" in kept._repr_html_()
    assert "What speaks for" in kept._repr_html_()
    assert "Hover over a box" not in kept._repr_html_()
    assert "Hover over a box" in explanation()._repr_html_()


def test_a_classifier_has_the_page_without_words(tmp_path):
    classes = asked_alike(["cat", "dog"], texts=())
    read = Explanation.load(classes.save(tmp_path / "out"))
    assert read.whole_image
    assert "&quot;probability&quot;" in read._repr_html_()


def test_no_text_is_a_page_too():
    nothing = asked_alike([])
    assert nothing.peak == ()
    assert "No detections" in nothing._repr_html_()


def test_what_was_not_read_is_said():
    assert reading_note(read_text("a dog")) == ""
    cut = read_text("a red ball on the grass", cut="the grass")
    told = "longer than the model's context: it read 4 tokens and not 'the grass'"
    assert reading_note(cut) == told
    strange = "not in the model's vocabulary: 'red', 'ball'"
    assert reading_note(replace(cut, unknown=("red", "ball"))) == f"{told}; {strange}"
    assert reading_note(replace(cut, cut="", unknown=("red", "ball"))) == strange
    long = reading_note(replace(cut, cut="grass " * 100))
    assert long.endswith("grass '... (600 characters)")
    assert len(long) < 250


def test_texts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 detections do not fit 1 texts"):
        replace(asked_alike(TEXTS), texts=(read_text("a dog"),))
