"""Scoring from a model and data to numbers: held to the pure measures, kept, resumed, and refused in one line."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import whybox
from data import test_coco_panoptic as panoptic
from runs.small_clip import make_classifier, make_clip
from whybox.accuracy.region_classes import region_accuracy
from whybox.accuracy.retrieval import retrieve
from whybox.data.scenes import CLASSES, draw_scene, export_coco
from whybox.errors import WhyboxError
from whybox.runs.clip_scores.class_texts import embed_classes, read_templates
from whybox.runs.clip_scores.regions import dense_map, pool_boxes, pool_masks
from whybox.runs.clip_scores.score import score_clip
from whybox.runs.clip_scores.scores import read_scores
from whybox.runs.clip_scores.tasks import padded_crop

DATA = "scenes:count=4:size=96x64"
TEMPLATES = ("a photo of a {}", "a {}")


@pytest.fixture(scope="module")
def model():
    return make_clip()


@pytest.fixture(scope="module")
def scores(model):
    return score_clip(model, DATA, templates=TEMPLATES)


def means(scores):
    return {key: values.mean().mean for key, values in scores.values().items()}


def test_regions_are_classified_by_the_pooled_dense_map(model, scores):
    texts = [model.embed_texts([template.format(name) for name in CLASSES]) for template in TEMPLATES]
    classes = torch.nn.functional.normalize(sum(texts), dim=-1)
    rows, labels = {"boxes": [], "masks": []}, []
    for sample in whybox.open_data(DATA):
        trace = whybox.trace(model, sample.image)
        features = dense_map(model, trace)
        seen = pool_masks(features, sample.truth.masks, trace.frame).isfinite().all(1)
        boxes = pool_boxes(features, sample.truth.boxes, trace.frame)
        assert boxes[seen].isfinite().all()
        rows["boxes"].append(boxes[seen] @ classes.T)
        rows["masks"].append(pool_masks(features, sample.truth.masks, trace.frame)[seen] @ classes.T)
        labels += sample.truth.labels[seen].tolist()
    found = scores.values()
    told = region_accuracy(torch.cat(rows["masks"]), labels)["all"]
    for key in ("top1", "top5", "macro_top1", "macro_top5"):
        assert found[f"masks_{key}"].mean().mean == pytest.approx(getattr(told, key))
    assert len(found["masks_top1"].values) == told.regions


def test_retrieval_is_that_of_embeddings_and_captions(model, scores):
    captions = [draw_scene(i, seed=1_000_003, variant=("mixed", "crowd")[i % 2], size=(96, 64)).captions[:5] for i in range(4)]
    texts = [text for own in captions for text in own]
    images = torch.cat([whybox.trace(model, sample.image).embedding for sample in whybox.open_data(DATA)])
    similarity = torch.nn.functional.normalize(images, dim=-1) @ model.embed_texts(texts).T
    belongs = np.array([[text in own for text in texts] for own in captions])
    found = means(scores)
    for key, value in retrieve(similarity.detach(), belongs).recalls().items():
        assert found[key] == pytest.approx(value)


def test_crops_or_whole_images_are_classified(model, scores):
    assert "Classification is of the objects' boxes, cut out and padded to a square." in scores.remarks
    whole = score_clip(model, "scenes:count=3:size=96x64:variant=single", tasks=["classification"])
    assert whole.remarks == ("Classification is of whole images.",)
    classes = embed_classes(model, CLASSES, ("a photo of a {}.",))
    hits = []
    for sample in whybox.open_data("scenes:count=3:size=96x64:variant=single"):
        best = (whybox.trace(model, sample.image).embedding @ classes.T).argmax()
        hits.append(best == sample.truth.labels[0])
    assert means(whole)["classification_top1"] == pytest.approx(np.mean(hits))


def test_a_crop_is_padded_to_a_square():
    picture = Image.new("RGB", (20, 10), (255, 0, 0))
    crop = padded_crop(picture, torch.tensor([14.0, 2.0, 30.0, 4.0]), (0.0, 1.0, 0.0))
    assert crop.size == (6, 6)
    assert [crop.getpixel((3, y)) for y in (1, 2, 3, 4)] == [(0, 255, 0), (255, 0, 0), (255, 0, 0), (0, 255, 0)]
    assert padded_crop(picture, torch.tensor([25.0, 20.0, 30.0, 40.0]), (0, 0, 0)).size == (1, 1)


def test_prompts_of_the_model_are_its_classes(model):
    prompted = model.prompt([f"a {name}" for name in CLASSES])
    run = score_clip(prompted, DATA, tasks=["regions"], limit=2)
    same = score_clip(model, DATA, tasks=["regions"], limit=2, templates=["a {}"])
    assert run.folder.records == same.folder.records
    with pytest.raises(WhyboxError, match="prompted with 2 texts, and the data set has 6 classes"):
        score_clip(model.prompt(["a", "b"]), DATA)


def test_templates_from_a_file(tmp_path):
    (tmp_path / "t.txt").write_text("a {}\n\nthe {}.\n")
    assert read_templates([str(tmp_path / "t.txt"), "a {}"]) == ("a {}", "the {}.")
    (tmp_path / "t.txt").write_text("a cat\n")
    with pytest.raises(WhyboxError, match="where the class name stands, got 'a cat'"):
        read_templates([str(tmp_path / "t.txt")])


def test_a_killed_run_goes_on_and_gives_the_same(model, scores, tmp_path):
    out = tmp_path / "run"
    score_clip(model, DATA, templates=TEMPLATES, out=out, limit=2)
    # As a run leaves it that was killed while it wrote.
    with (out / "regions.jsonl").open("a") as file:
        file.write('{"image":"mixed-2","regi')
    counted = []
    again = score_clip(model, DATA, templates=TEMPLATES, out=out, on_progress=lambda name, part: counted.append(name))
    assert counted == ["mixed-0", "crowd-1", "mixed-2", "crowd-3"]
    assert means(again) == means(scores)
    assert again.folder.records == scores.folder.records == read_scores(out).folder.records
    assert len((out / "regions.jsonl").read_text().splitlines()) == 4
    told = json.loads((out / "scores.json").read_text())
    assert told["measures"]["boxes_top1"]["values"] == len(again.values()["boxes_top1"].values)


def test_nothing_is_scored_twice(model, tmp_path, monkeypatch):
    first = score_clip(model, DATA, out=tmp_path / "run", limit=2)
    monkeypatch.setattr("whybox.api.trace", None)
    assert means(score_clip(model, DATA, out=tmp_path / "run", limit=2)) == means(first)


def test_another_model_or_other_settings_are_refused(model, tmp_path):
    score_clip(model, DATA, out=tmp_path / "run", limit=1, tasks=["regions"])
    with pytest.raises(WhyboxError, match="differs in: templates; choose another folder"):
        score_clip(model, DATA, out=tmp_path / "run", limit=1, templates=["a {}"])
    other = make_clip()
    with torch.no_grad():
        other.network.visual_projection.weight.mul_(1.1)
    with pytest.raises(WhyboxError, match="differs in: weights"):
        score_clip(other, DATA, out=tmp_path / "run", limit=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(WhyboxError, match="nothing was overwritten"):
        score_clip(model, DATA, out=tmp_path / "mine")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["retrival"]}, "unknown task 'retrival'; did you mean retrieval"),
        ({"tasks": []}, "tasks must be a list"),
        ({"limit": 0}, "limit must be a whole number from 1"),
        ({"captions_per_image": 0}, "captions_per_image must be"),
        ({"templates": ["a photo"]}, "neither a text with one {}"),
        ({"templates": "a {}"}, "templates must be a list"),
    ],
)
def test_bad_settings_are_one_line(model, options, message):
    with pytest.raises(WhyboxError, match=message):
        score_clip(model, DATA, **options)


def test_a_model_without_text_is_refused():
    with pytest.raises(WhyboxError, match="matches no images with texts"):
        score_clip(make_classifier(), DATA)


def write_coco(folder, **more):
    """Two scenes with boxes alone, the first class a thing, the second stuff; the second image is broken."""
    (folder / "images").mkdir()
    annotations = []
    for number in (1, 2):
        Image.new("RGB", (48, 40), (80 * number, 90, 20)).save(folder / "images" / f"{number}.png")
        rows = [(1, [2, 2, 20, 20], 0), (2, [0, 20, 40, 20], 0), (1, [0, 0, 9, 9], 1)]
        annotations += [
            {"id": 10 * number + i, "image_id": number, "category_id": kind, "bbox": box, "iscrowd": crowd}
            for i, (kind, box, crowd) in enumerate(rows)
        ]
    content = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 48, "height": 40} for number in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "ball", "isthing": 1}, {"id": 2, "name": "tree", "isthing": 0}],
    }
    (folder / "val.json").write_text(json.dumps(content | more))
    return f"coco:{folder}"


def test_coco_with_captions_beside_it_things_and_stuff_apart(model, tmp_path):
    data = write_coco(tmp_path)
    captions = [{"image_id": 1, "caption": "a red ball"}, {"image_id": 2, "caption": "a tree"}]
    (tmp_path / "captions_val.json").write_text(json.dumps({"annotations": captions}))
    run = score_clip(model, data)
    found = run.values()
    assert {key for key in found if key.startswith("boxes")} == {
        f"boxes_{part}{macro}top{k}" for part in ("", "things_", "stuff_") for macro in ("", "macro_") for k in (1, 5)
    }
    assert set(found["boxes_stuff_top1"].ids) == {"11", "21"}
    # The crowd is left out.
    assert len(found["boxes_top1"].values) == len(found["classification_top1"].values) == 4
    assert len(found["t2i_r1"].values) == 2
    assert "The data have no masks: regions are boxes alone." in run.remarks
    renamed = score_clip(model, whybox.open_data(data, rename={"tree": "car"}), tasks=["regions"])
    assert set(renamed.values()["boxes_stuff_top1"].ids) == {"11", "21"}


def test_panoptic_data_have_stuff_and_masks(model, tmp_path):
    data = f"coco-panoptic:{panoptic.write(tmp_path, panoptic.content())}"
    captions = {"annotations": [{"image_id": 9, "caption": "a red ball"}]}
    (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps(captions))
    found = score_clip(model, data).values()
    assert [len(found[f"masks_{part}top1"].values) for part in ("", "things_", "stuff_")] == [2, 1, 1]
    assert found["t2i_r1"].values.tolist() == [1]


def test_captions_alone_are_enough_for_retrieval(model, tmp_path):
    folder = export_coco(tmp_path / "scenes", 3, seed=5)
    found = score_clip(model, f"coco-captions:{folder}", tasks=["retrieval"]).values()
    same = score_clip(model, f"coco:{folder}", tasks=["retrieval"]).values()
    assert {key: value.values.tolist() for key, value in found.items()} == {
        key: value.values.tolist() for key, value in same.items()
    }
    with pytest.raises(WhyboxError, match="has no class names to make texts of; only retrieval can be scored"):
        score_clip(model, f"coco-captions:{folder}", tasks=["regions"])


def test_coco_without_captions(model, tmp_path):
    data = write_coco(tmp_path)
    run = score_clip(model, data)
    assert not any(key.startswith("t2i") for key in run.values())
    assert run.remarks[0].startswith("No retrieval: retrieval needs captions, and there are none beside")
    with pytest.raises(WhyboxError, match="retrieval needs captions"):
        score_clip(model, data, tasks=["retrieval"])
    (tmp_path / "mine.json").write_text(json.dumps({"annotations": [{"image_id": 9, "caption": "of another image"}]}))
    with pytest.raises(WhyboxError, match="no images with these ids"):
        score_clip(model, data, captions=tmp_path / "mine.json")


def test_a_caption_that_does_not_fit_is_told(model, tmp_path):
    data = write_coco(tmp_path)
    long = " ".join(["a red ball"] * 20)
    captions = {"annotations": [{"image_id": 1, "caption": long}, {"image_id": 2, "caption": "a tree"}]}
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    run = score_clip(model, data, tasks=["retrieval"])
    assert run.remarks[-1] == "1 of 2 captions is longer than the model's context."


def test_a_broken_image_is_told_and_the_others_are_scored(model, tmp_path):
    data = whybox.open_data(write_coco(tmp_path))
    (tmp_path / "images" / "2.png").write_bytes(b"no picture")
    told = []
    run = score_clip(model, data, tasks=["regions"], on_warning=told.append)
    assert [name for name, _ in run.failed] == ["2.png"]
    assert len(told) == 1
    assert set(run.values()["boxes_top1"].images) == {"1.png"}
