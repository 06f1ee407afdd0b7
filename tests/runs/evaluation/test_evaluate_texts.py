"""Evaluations of models that answer for the whole image: what is asked, what it is judged against, and the numbers."""

import pickle
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cosine_similarity

import whybox
from runs.small import make_model
from runs.small_clip import DATA, PLAN, make_classifier, make_clip, make_tokenizer
from whybox import api
from whybox.attention import TokenMaps
from whybox.data.scenes import CLASSES
from whybox.errors import UnknownNameError, WhyboxError
from whybox.metric_choice import metric_sets
from whybox.metrics.insertion import Insertion
from whybox.metrics.pixel_ap import PixelAp
from whybox.metrics.text_deletion import TextDeletion
from whybox.runs.evaluation.compare import compare
from whybox.runs.evaluation.evaluate import evaluate
from whybox.runs.evaluation.measure import Measurer
from whybox.runs.evaluation.plan import METHODS_OF_WHOLE, Plan
from whybox.runs.evaluation.texts import fill_template, group_by_text
from whybox.truth import MetricInput, Truth

CHEAP = {"methods": "grad_eclip", "metrics": "pixel_ap,text_deletion"}
ARTICLES = ["a photo of a person", "a photo of a car", "a photo of a tree", "a photo of a house", "a photo of a ball"]


@pytest.fixture(scope="module")
def model():
    return make_clip()


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """One unbroken run in this process."""
    return evaluate(model, DATA, out=tmp_path_factory.mktemp("texts") / "run", **PLAN)


class Changed:
    """A data set whose truths are changed."""

    def __init__(self, change, data=DATA):
        self.inner, self.change = api.open_data(data), change
        self.name, self.classes, self.names, self.problems = "changed", self.inner.classes, self.inner.names, ()

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        sample = self.inner[index]
        return replace(sample, truth=self.change(sample.truth))


def grouped_by_hand(truth):
    """By column: the union of the masks, pixel by pixel."""
    found = {}
    for label, mask in zip(truth.labels.tolist(), truth.masks, strict=True):
        found[label] = found[label] | mask if label in found else mask
    return dict(sorted(found.items()))


def test_values_are_those_of_the_metrics_called_by_hand(whole, model):
    sample = api.open_data(DATA)[1]
    groups = grouped_by_hand(sample.truth)
    asked = model.prompt([*ARTICLES, "a photo of a dog"])
    result = whybox.explain(asked, sample.image, method="grad_eclip", detections={"labels": list(groups)}, words=True)
    labels, masks = torch.tensor(list(groups)), torch.stack(list(groups.values()))
    boxes = torch.zeros((len(groups), 4))
    truth = Truth(boxes, labels, tuple(map(str, groups)), torch.zeros(len(groups), dtype=torch.bool), masks)
    seeds = torch.tensor(_seeds(sample.name, len(groups)))
    case = MetricInput(result.image, result.maps.frame, result.detections, truth, torch.arange(len(groups)), seeds, asked.predict)
    image = asked.trace(result.image).embedding
    case = replace(
        case,
        whole=True,
        words=result.token_maps,
        score_texts=lambda texts: cosine_similarity(image, model.embed_texts(texts)),
    )
    rows = [i for i, one in enumerate(whole.results.objects) if one["image"] == sample.name]
    assert [whole.results.objects[i]["label"] for i in rows] == list(groups)
    for metric, column in (
        (PixelAp(), "pixel_ap"),
        (TextDeletion(), "text_deletion"),
        (Insertion(points=3, extent="image", score="top1"), "insertion:points=3:extent=image:score=top1"),
    ):
        by_hand = metric(result.maps.at_image(), case).values.numpy()
        assert np.allclose(whole.results.of("grad_eclip", column)[rows], by_hand, rtol=1e-4, atol=1e-6), column


def _seeds(name, count):
    import hashlib

    return [int.from_bytes(hashlib.sha256(f"0/{name}/{i}".encode()).digest()[:7], "big") for i in range(count)]


def test_what_is_explained_is_told(whole):
    one = whole.results.objects[0]
    assert one["class"] in [*ARTICLES, "a photo of a dog"]
    assert one["box"] == [0.0, 0.0, 96.0, 64.0]
    assert one["iou"] is None
    truth = api.open_data(DATA)[0].truth
    own = truth.labels == one["label"]
    assert one["annotation"] == "+".join(truth[own].ids)
    assert one["truth_box"] == [*truth.boxes[own, :2].amin(0).tolist(), *truth.boxes[own, 2:].amax(0).tolist()]
    facts = dict(whole.report.facts)
    assert facts["Selection"] == "“a photo of a {}” of the classes in each image, among 6"
    assert facts["Texts"].endswith("in 2 of 2 images")
    assert "Detector's AP50" not in facts
    table = pq.read_table(whole.folder / "results.parquet").to_pylist()
    assert {row["class"] for row in table} == {one["class"] for one in whole.results.objects}


def test_ranks_are_those_among_all_columns(whole, model):
    scores = whybox.trace(model.prompt([*ARTICLES, "a photo of a dog"]), api.open_data(DATA)[0].image).candidates.scores[0]
    order = scores.argsort(descending=True).tolist()
    own = [one for one in whole.results.objects if one["index"] == 0]
    assert [one["rank"] for one in own] == [order.index(one["label"]) + 1 for one in own]
    ranks = [one["rank"] for one in whole.results.objects]
    assert whole.accuracy == {"top1": np.mean([rank == 1 for rank in ranks]), "top5": np.mean([rank <= 5 for rank in ranks])}
    assert dict(whole.report.facts)["Rank of what is explained"].startswith(f"{whole.accuracy['top1']:.3f} first")


def test_methods_without_words_are_named_and_random_words_are_a_control(whole):
    assert np.isfinite(whole.results.of("control_box", "text_deletion")).all()
    assert np.isnan(whole.results.of("gradcam", "text_deletion")).all()
    told = [line for line in whole.report.remarks if "maps of words" in line]
    assert told == ["No maps of words, so no value for text_deletion, text_insertion: Grad-CAM, Control: blob."]
    assert whole.mean("grad_eclip", "text_insertion").count == len(whole.results)


def test_the_control_values_all_words_alike_however_many_tokens_they_have(model):
    from whybox.methods.control_box import ControlBox

    asked = model.prompt(["red ball", "a photo of a dog"])
    passed = asked.trace(torch.full((3, 32, 32), 0.5))
    (found,) = ControlBox().explain_text(asked, passed, passed.detections, ["score"])
    assert isinstance(found, TokenMaps)
    assert [found.word_values(i).tolist() for i in range(2)] == [[1.0, 1.0], [1.0] * 5]
    halved = [replace(text, tokens=("r", *text.tokens), spans=((0, 1), *text.spans)) for text in asked.texts]
    asked.texts = tuple(halved)
    (found,) = ControlBox().explain_text(asked, passed, passed.detections, ["score"])
    assert found.word_values(0).tolist() == [1.0, 1.0]


def test_the_page_shows_seconds_a_map(whole):
    page = (whole.folder / "index.html").read_text()
    assert page.count("Seconds per map") == 2
    assert set(whole.report.seconds) == {"grad_eclip", "gradcam", "control_blob", "control_box"}
    assert "seconds" not in (whole.folder / "summary.json").read_text().lower()


def test_a_run_goes_on_and_comes_to_the_same(whole, model, tmp_path):
    evaluate(model, DATA, out=tmp_path / "run", **PLAN, limit=1)
    evaluate(model, DATA, out=tmp_path / "run", **PLAN)
    for name in ("results.parquet", "curves.parquet", "summary.json", "table.md"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompts": "phrase"}, "differs in: prompts"),
        ({"template": "{}"}, "differs in: template"),
        ({"seed": 3}, "differs in: seed"),
    ],
)
def test_other_texts_do_not_mix_into_a_folder(whole, model, change, told):
    with pytest.raises(WhyboxError, match=told):
        evaluate(model, DATA, out=whole.folder, **{**PLAN, **change})


def test_a_run_compares_with_another_of_other_prompts(whole, model, tmp_path):
    evaluate(model, DATA, out=tmp_path / "bare", **{**PLAN, "template": "{}", "metrics": "pixel_ap,text_deletion"})
    found = compare(whole.folder, tmp_path / "bare")
    assert found.pairs["grad_eclip", "pixel_ap"].a.count == len(whole.results)


def test_phrases_are_asked_among_those_of_the_image(model):
    done = evaluate(model, DATA, **CHEAP, prompts="phrase")
    data = api.open_data(DATA)
    for index in range(2):
        own = [one for one in done.results.objects if one["index"] == index]
        phrases = list(dict.fromkeys(data[index].truth.phrases))
        assert [one["class"] for one in own] == phrases
        for one, phrase in zip(own, phrases, strict=True):
            ids = [name for name, said in zip(data[index].truth.ids, data[index].truth.phrases, strict=True) if said == phrase]
            assert one["annotation"] == "+".join(ids)
    assert np.isfinite(done.results.of("grad_eclip", "text_deletion")).all()


def test_data_without_phrases_is_told_at_once(model):
    with pytest.raises(UnknownNameError, match="needs objects with phrases, and this data set has none; use prompts class"):
        evaluate(model, Changed(lambda truth: replace(truth, phrases=())), **CHEAP, prompts="phrase")


def test_without_masks_boxes_stand_for_them(model):
    done = evaluate(model, Changed(lambda truth: replace(truth, masks=None)), **CHEAP, limit=1)
    assert any("boxes instead" in line for line in done.report.remarks)
    assert np.isfinite(done.results.of("grad_eclip", "pixel_ap")).all()


def test_texts_of_one_word_have_no_value_in_the_columns_of_words(model):
    done = evaluate(model, DATA, **CHEAP, template="{}", limit=1)
    assert "Not in the table (no object has a value): text_deletion." in done.report.remarks


def test_images_without_an_object_are_no_failure(model):
    done = evaluate(model, Changed(lambda truth: truth[truth.labels > 9]), **CHEAP)
    assert not len(done.results)
    assert done.report.remarks == ["No image contains an annotated object to explain, so nothing was measured."]
    phrases = evaluate(model, Changed(lambda truth: truth[truth.labels > 9]), **CHEAP, prompts="phrase", limit=1)
    assert not len(phrases.results)


def test_only_the_top_texts(model):
    every, best = (evaluate(model, DATA, **CHEAP, limit=1, top=top).results.objects for top in (100, 2))
    kept = sorted(every, key=lambda one: -one["score"])[:2]
    assert [one["label"] for one in best] == sorted(one["label"] for one in kept)


def test_a_classifier_is_asked_for_the_classes_that_it_knows():
    told = []
    classes = ("dog", "lamp", "car", "person")
    plan = {"methods": ["grad_eclip"], "metrics": "deletion:points=3:extent=image,pointing_game:region=mask,text_deletion"}
    done = evaluate(make_classifier(classes), DATA, on_warning=told.append, **plan)
    assert {one["class"] for one in done.results.objects} <= {"dog", "car", "person"}
    assert told == ["hf/vit does not know tree, house, ball: objects of these classes are left out"]
    assert dict(done.report.facts)["Target"] == "logit"
    assert "the classes in each image, among 4" in dict(done.report.facts)["Selection"]
    first = done.results.curves["grad_eclip", "deletion:points=3:extent=image"][:, 0]
    assert np.allclose(first, 1.0)
    assert [line for line in done.report.remarks if "text_deletion" in line] == [
        "Not in the table (not available: an image-text model and a method that gives maps of words): text_deletion."
    ]


def test_what_is_not_named_follows_the_model(model):
    done = evaluate(model, DATA, limit=1)
    assert done.results.rows == (*METHODS_OF_WHOLE, "control_blob", "control_box")
    assert done.results.columns == metric_sets()["matching"]
    assert all((row, "pixel_ap") in done.report.cells for row in done.results.rows)


def test_the_sanity_checks_randomize_texts_too(model):
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    done = evaluate(model, DATA, methods="grad_eclip", metrics="randomization,stability:draws=1", limit=1)
    curves = done.results.curves["grad_eclip", "randomization"]
    assert np.isfinite(curves).all()
    # The text encoder comes last: had the texts been kept, its stages would change nothing.
    assert (curves[:, -1] != curves[:, -2]).any()
    assert np.isfinite(done.results.of("grad_eclip", "stability:draws=1")).all()
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())


def test_changed_texts_are_scored_as_the_model_scores_its_own(model):
    data = api.open_data(DATA)
    measurer = Measurer.of(model, data, Plan(methods=("grad_eclip",), metrics=("pixel_ap",)))
    passed = api.trace(measurer.model, data[0].image)
    scores = measurer._score_texts(passed, measurer.model.classes)
    torch.testing.assert_close(scores, passed.candidates.scores[0], atol=1e-6, rtol=1e-5)
    assert measurer.model.classes == [*ARTICLES, "a photo of a dog"]
    with pytest.raises(WhyboxError, match="keeps no image embedding"):
        measurer._score_texts(replace(passed, embedding=None), ["a dog"])


def test_workers_come_to_the_same(whole, model, tmp_path):
    evaluate(model, DATA, out=tmp_path / "run", workers=2, **PLAN)
    for name in ("results.parquet", "curves.parquet", "summary.json", "table.md"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize("make", [make_clip, make_classifier])
def test_a_model_is_sent_with_what_it_was_made_of(make):
    """The parts of a network taken apart are functions, which cannot be sent; the network and the options can."""
    model = make()
    sent = pickle.loads(pickle.dumps(model.prompt(["a red ball", "a dog"]) if "text" in model.gives else model))
    asked = model.prompt(["a red ball", "a dog"]) if "text" in model.gives else model
    picture = api.open_data(DATA)[0].image
    assert sent.network is not model.network
    assert (sent.name, sent.classes, sent.settings) == (asked.name, asked.classes, asked.settings)
    assert torch.equal(whybox.trace(sent, picture).candidates.scores, whybox.trace(asked, picture).candidates.scores)


def test_another_size_of_the_same_weights_is_another_model(whole, model):
    other = whybox.load(model.network, tokenizer=make_tokenizer(), size=(64, 96))
    with pytest.raises(WhyboxError, match="differs in: model settings"):
        evaluate(other, DATA, out=whole.folder, **PLAN)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompts": "classes"}, "unknown prompts 'classes'; did you mean class"),
        ({"template": "a photo"}, "template must be a text with one {} where the class name stands, got 'a photo'"),
        ({"template": "{} and {}"}, "template must be a text with one {}"),
        ({"template": 3}, "template must be a text with one {}"),
        ({"select": "failures"}, "select failures is for detectors"),
        ({"methods": "grad_eclp"}, "did you mean grad_eclip"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(change, told, model, tmp_path):
    with pytest.raises(WhyboxError, match=told):
        evaluate(model, DATA, out=tmp_path / "run", **{**PLAN, **change})
    assert not (tmp_path / "run").exists()


def test_prompts_are_for_models_that_read():
    for silent in (make_model(), make_classifier()):
        with pytest.raises(WhyboxError, match="prompts and template are for image-text models"):
            evaluate(silent, DATA, template="a drawing of a {}")


def test_what_is_of_texts_is_left_out_of_a_detectors_table():
    plan = {"methods": "odam", "metrics": "leakage,text_deletion,deletion:score=top1", "select": "all", "score_threshold": 0.0}
    done = evaluate(make_model(), DATA, limit=1, top=2, **plan)
    assert done.report.seconds == {}
    assert "Not in the table (not available: a whole-image model): deletion:score=top1." in done.report.remarks
    assert any("maps of words): text_deletion" in line for line in done.report.remarks)


@pytest.mark.parametrize(
    ("template", "name", "text"),
    [
        ("a photo of a {}", "dog", "a photo of a dog"),
        ("a photo of a {}", "orange", "a photo of an orange"),
        ("A {} in the rain", "umbrella", "An umbrella in the rain"),
        ("a sofa {}", "apple", "a sofa apple"),
        ("{}", "apple", "apple"),
        ("the {}.", "ice cream", "the ice cream."),
    ],
)
def test_templates(template, name, text):
    assert fill_template(template, name) == text


def two_kinds(masks=True):
    """Two of the column 3, one of the column 1, and an ignored one; one box reaches beyond the image of 8x10."""
    boxes = torch.tensor([[0.0, 0, 3, 3], [8, 6, 14, 9], [4, 4, 6, 6], [0, 6, 2, 8]])
    drawn = torch.zeros((4, 8, 10), dtype=torch.bool)
    drawn[0, :2, :2], drawn[1, 6:, 8:], drawn[2, 4:6, 4:6], drawn[3, 6:, :2] = True, True, True, True
    ignore = torch.tensor([False, False, False, True])
    return Truth(boxes, torch.tensor([3, 3, 1, 3]), ("a", "b", "c", "crowd"), ignore, drawn if masks else None)


def test_objects_of_one_text_are_one():
    found = group_by_text(two_kinds(), (8, 10))
    assert found.labels.tolist() == [1, 3, 3]
    assert found.ids == ("c", "a+b", "crowd")
    assert found.ignore.tolist() == [False, False, True]
    assert found.boxes.tolist() == [[4, 4, 6, 6], [0, 0, 10, 8], [0, 6, 2, 8]]
    assert found.masks.sum((1, 2)).tolist() == [4, 4 + 4, 4]
    assert torch.equal(found.masks[1], two_kinds().masks[:2].any(0))


def test_objects_without_masks_are_their_boxes_together():
    found = group_by_text(two_kinds(masks=False), (8, 10))
    assert found.masks.sum((1, 2)).tolist() == [4, 9 + 4, 4]
    assert found.masks[1, :3, :3].all()
    assert found.masks[1, 6:, 8:].all()


def test_no_object_makes_no_group():
    found = group_by_text(two_kinds()[torch.zeros(4, dtype=torch.bool)], (8, 10))
    assert (len(found), found.masks.shape) == (0, (0, 8, 10))
    only_ignored = group_by_text(two_kinds()[torch.tensor([3])], (8, 10))
    assert (only_ignored.ids, only_ignored.ignore.tolist()) == (("crowd",), [True])


def test_scenes_say_their_phrases():
    sample = api.open_data(DATA)[0]
    assert len(sample.truth.phrases) == len(sample.truth)
    for phrase, label in zip(sample.truth.phrases, sample.truth.labels.tolist(), strict=True):
        assert CLASSES[label] in phrase
    assert sample.truth[torch.tensor([1])].phrases == sample.truth.phrases[1:2]
    with pytest.raises(ValueError, match="2 phrases"):
        replace(sample.truth, phrases=("a", "b"))
