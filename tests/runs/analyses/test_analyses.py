"""Analyses of maps of texts: each measure on a case worked by hand, on readers that read everything or nothing, and on a CLIP."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr

import whybox
from runs.small_clip import make_classifier, make_clip
from whybox.data.captions import WHERE, Phrase, color_phrases, overview
from whybox.data.scenes import CLASSES, HELD_OUT_SEED, Scene, draw_scene
from whybox.errors import WhyboxError
from whybox.files import json_text
from whybox.runs.analyses import attributes, composition, concreteness, energy, objects, run

PERSON, CAR, TREE, HOUSE, BALL, DOG = range(6)


def square(place, size=(40, 40)):
    """One of four corner squares (8x8) as pixels."""
    mask = torch.zeros(size, dtype=torch.bool)
    top, left = place // 2 * 20, place % 2 * 20
    mask[top : top + 8, left : left + 8] = True
    return mask


def scene_of(*things, captions=("",)):
    """A scene whose objects (label, color) stand in the corners."""
    masks = np.stack([square(place).numpy() for place in range(len(things))])
    boxes = np.zeros((len(things), 4), np.float32)
    labels = np.array([label for label, _ in things])
    colors = tuple(color for _, color in things)
    return Scene(Image.new("RGB", (40, 40)), labels, boxes, boxes, masks, boxes[:, 0], colors, captions, "meadow")


class Reader:
    """Answers whose maps, scores and words are given by functions of the text."""

    def __init__(self, map_of, score_of=lambda text: 0.0, words_of=lambda text: (), cut=(), seen=None):
        self.pixels = self.cells = map_of
        self.score, self.words = score_of, words_of
        self.is_cut = lambda text: text in cut
        self.peak = lambda text: float(map_of(text).max())
        self.seen = torch.ones(40, 40, dtype=torch.bool) if seen is None else seen


def observed(question, reader):
    """Mean value of every measure."""
    found = {}
    for one in question.observe(reader):
        found.setdefault(one.measure, []).append(one.value)
    return {name: np.mean(values) for name, values in found.items()}


def random_maps(seed=0, size=(6, 6)):
    """A map for every text, its own and always the same."""
    known, generator = {}, torch.Generator().manual_seed(seed)
    return lambda text: known.setdefault(text, torch.rand(size, generator=generator))


# ---- energy ---------------------------------------------------------------------------------------------------------


def test_a_map_on_one_object_has_its_share():
    own, other = square(0), square(3)
    assert energy.share_between(own.float(), own, other) == 1
    assert energy.share_between(other.float(), own, other) == 0
    assert energy.share_between(torch.zeros(40, 40), own, other) == 0.5
    assert energy.share_between(3 * own.float() + other - 5 * square(1).float(), own, other) == pytest.approx(0.75)


def test_a_larger_object_has_no_advantage():
    large = torch.zeros(40, 40, dtype=torch.bool)
    large[20:] = True
    assert energy.share_between(torch.ones(40, 40), square(0), large) == 0.5


def test_ties_are_half_a_choice():
    assert [energy.chosen(share) for share in (0.2, 0.5, 0.7)] == [0, 0.5, 1]


def test_energy_and_peak_inside_a_region():
    values = torch.tensor([[1.0, 3.0], [-4.0, 0.0]])
    left = torch.tensor([[True, False], [True, False]])
    assert energy.energy_inside(values, left) == 0.25
    assert energy.peak_inside(values, left) == 0
    assert energy.peak_inside(torch.ones(2, 2), left) == 0.5
    assert np.isnan(energy.energy_inside(-torch.ones(2, 2), left))


# ---- composition ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1, 1e-14, 1e6])
def test_a_map_made_of_known_parts_gives_them_back(scale):
    parts = np.random.default_rng(0).random((3, 50))
    share, coefficients = composition.explained_share(scale * parts, scale * (2 * parts[0] + 0.5 * parts[2]))
    assert share == pytest.approx(1)
    assert coefficients == pytest.approx([2, 0, 0.5], abs=1e-9)


def test_parts_of_different_scales():
    parts = np.random.default_rng(0).random((3, 50)) * np.array([[1e-4], [1], [1e3]])
    share, coefficients = composition.explained_share(parts, parts.sum(0))
    assert share == pytest.approx(1)
    assert coefficients == pytest.approx([1, 1, 1], rel=1e-6)


def test_a_part_that_would_have_to_be_subtracted_stays_out():
    share, coefficients = composition.explained_share([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [1.0, 0.0, 0.0])
    # The best multiple of (1, 1, 0) is 1/2: a residual of 1/2, and a spread of 2/3.
    assert coefficients == pytest.approx([0.5, 0])
    assert share == pytest.approx(1 - 0.5 / (2 / 3))


def test_nothing_explains_no_more_than_a_constant_map():
    share, coefficients = composition.explained_share(np.zeros((0, 3)), [-1.0, 0.0, 1.0])
    assert (share, coefficients.shape) == (0, (0,))
    share, coefficients = composition.explained_share(np.zeros((2, 0)), [])
    assert math.isnan(share)
    assert np.isnan(coefficients).all()


def test_a_fit_worse_than_a_flat_map_is_negative_and_a_flat_map_has_none():
    assert composition.explained_share([[0.0, 1.0]], [1.0, 0.0])[0] == pytest.approx(-1)
    assert np.isnan(composition.explained_share([[0.0, 1.0]], [1.0, 1.0])[0])
    assert composition.explained_share([[0.0, 0.0]], [1.0, 0.0])[1] == [0]


def test_the_fit_is_that_of_another_solver():
    generator = np.random.default_rng(3)
    parts, whole = generator.normal(size=(6, 40)), generator.random(40)
    other = lsq_linear(parts.T, whole, bounds=(0, np.inf), tol=1e-12)
    share, coefficients = composition.explained_share(parts, whole)
    assert coefficients == pytest.approx(other.x, abs=1e-6)
    assert share == pytest.approx(1 - 2 * other.cost / ((whole - whole.mean()) ** 2).sum(), abs=1e-9)


def test_sums_of_phrases_grow_towards_the_caption():
    parts = torch.rand((3, 4, 5), generator=torch.Generator().manual_seed(0))
    whole = parts.sum(0)
    found = composition.correlations_of_sums(parts, whole)
    expected = [np.corrcoef(parts[:step].sum(0).flatten(), whole.flatten())[0, 1] for step in (1, 2, 3)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[-1] == pytest.approx(1)


def test_a_correlation_needs_three_values_that_differ():
    assert composition.correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert np.isnan(composition.correlation([1, 2], [2, 4]))
    assert np.isnan(composition.correlation([1, 1, 1], [2, 4, 6]))


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        (
            "two people, a red car and a person in white in a meadow",
            ["two people", "a red car", "a person in white", "in a meadow"],
        ),
        ("a person in white in front of a pink ball", ["a person in white", "a pink ball"]),
        ("a dog in the snow", ["a dog", "in the snow"]),
        ("nothing at dusk", ["nothing", "at dusk"]),
    ],
)
def test_phrases_of_captions(caption, phrases):
    assert composition.phrases_of(caption) == phrases


def test_words_come_once_and_without_commas():
    assert composition.words_of("two people, a car and a dog") == ["two", "people", "a", "car", "and", "dog"]


def test_borrowed_words_are_not_the_captions_own():
    others = ["a dog and a tree", "many red cars"]
    assert composition.borrow(["a", "dog"], others, composition.words_of) == ["and", "tree"]
    assert composition.borrow(["a", "dog", "and", "tree", "x"], others, composition.words_of) == []


@pytest.fixture(scope="module")
def caption_question():
    return next(iter(composition.COMPOSITION.questions(1, 0)))


def test_a_reader_that_adds_its_phrases_up(caption_question):
    words = random_maps()
    captions = draw_scene(0, seed=HELD_OUT_SEED).captions

    def map_of(text):
        parts = composition.phrases_of(text) if text in captions else [text]
        return sum(words(part) for part in parts)

    found = observed(caption_question, Reader(map_of))
    assert found["phrases"] == pytest.approx(1)
    assert found["sum_all"] == pytest.approx(1)
    assert found["sum_1"] < found["sum_2"] < found["sum_3"] < 1
    assert found["phrases_control"] < 0.9
    assert found["sum_control"] < 0.9


def test_coefficients_that_follow_the_text(caption_question):
    maps, captions = random_maps(), draw_scene(0, seed=HELD_OUT_SEED).captions
    weight = {word: i + 1.0 for i, word in enumerate(dict.fromkeys(w for text in captions for w in composition.words_of(text)))}

    def map_of(text):
        return sum(weight[word] * maps(word) for word in composition.words_of(text)) if text in captions else maps(text)

    reader = Reader(map_of, words_of=lambda text: tuple((word, weight[word]) for word in composition.words_of(text)))
    found = observed(caption_question, reader)
    assert found["words"] == pytest.approx(1)
    assert found["coefficient"] == pytest.approx(1, abs=1e-6)
    assert 0.5 < found["part"] < 1


def test_a_caption_that_is_cut_is_only_counted(caption_question):
    captions = draw_scene(0, seed=HELD_OUT_SEED).captions
    assert observed(caption_question, Reader(random_maps(), cut=captions)) == {"cut": 1}


# ---- attributes -----------------------------------------------------------------------------------------------------


def test_pairs_are_asked_both_ways():
    pairs = attributes.pairs_of(scene_of((BALL, "red"), (BALL, "blue"), (CAR, "red")))
    asked = {(ask.sort, ask.text) for asks in pairs for ask in asks}
    assert {("color", "a red ball"), ("color", "a blue ball"), ("color_alone", "red"), ("color_alone", "blue")} <= asked
    assert {("noun", "a red ball"), ("noun", "a red car"), ("noun_alone", "ball"), ("noun_alone", "car")} <= asked
    # A blue ball and a red car stand there, so that neither phrase of the third pair is without its object.
    assert not any(sort == "conflict" for sort, _ in asked)


def test_a_noun_in_the_others_color():
    (asks,) = attributes.pairs_of(scene_of((BALL, "red"), (CAR, "blue")))
    assert [(ask.sort, ask.text) for ask in asks] == [("conflict", "a blue ball"), ("conflict", "a red car")]
    assert torch.equal(asks[0].own, square(0))
    assert torch.equal(asks[0].other, square(1))


@pytest.mark.parametrize("others", [((TREE, "pink"), (DOG, "black")), ((BALL, "red"), (BALL, "red"))])
def test_what_cannot_be_asked_is_not(others):
    assert attributes.pairs_of(scene_of(*others)) == []


def test_small_objects_are_left_out():
    scene = scene_of((BALL, "red"), (BALL, "blue"))
    scene.masks[0, 1:] = False
    scene.masks[0, :, 4:] = False
    assert [str(thing.phrase) for thing in attributes.things_of(scene)] == ["a blue ball"]


def test_the_forms_of_a_relation():
    scene = scene_of((BALL, "red"), (DOG, "black"), captions=("", "a red ball left of a black dog"))
    (one,) = attributes.relations_of(scene, [Phrase("ball", "red"), Phrase("tree", "green")])
    assert one.turned == "a red ball right of a black dog"
    assert one.swapped == "a black dog left of a red ball"
    assert one.converse == "a black dog right of a red ball"
    assert one.foreign == "a red ball left of a green tree"
    assert torch.equal(one.first.mask, square(0))


RELATED = scene_of((BALL, "red"), (BALL, "blue"), (CAR, "red"), captions=("", "a red ball left of a red car"))


def test_a_reader_that_reads_everything():
    masks = {
        str(Phrase(name, color)): torch.from_numpy(mask)
        for name, color, mask in zip(RELATED.names, RELATED.colors, RELATED.masks, strict=True)
    }

    def map_of(text):
        """The objects whose phrases hold every word of the text; of a sentence its subject alone."""
        subject = text.split(" left of ")[0].split(" right of ")[0]
        words = set(subject.split())
        return sum((mask.float() for phrase, mask in masks.items() if words <= set(phrase.split())), torch.zeros(40, 40))

    score = {"a red ball left of a red car": 1.0}
    found = observed(attributes._question(RELATED, [Phrase("tree", "green")]), Reader(map_of, lambda text: score.get(text, 0.0)))
    for name in ("color", "color_choice", "color_alone", "noun", "noun_choice", "noun_alone_choice"):
        assert found[name] == 1
    assert found["color_r"] < 0
    assert found["relation_energy"] == found["relation_subject"] == found["relation_score"] == 1
    assert found["relation_turned"] == pytest.approx(1)
    assert found["relation_swapped"] < 0


def test_a_reader_that_reads_nothing():
    flat = torch.rand((40, 40), generator=torch.Generator().manual_seed(0))
    found = observed(attributes._question(RELATED, [Phrase("tree", "green")]), Reader(lambda text: flat))
    for name in ("color", "color_choice", "color_alone", "noun", "noun_alone", "relation_score"):
        assert found[name] == pytest.approx(0.5)
    for name in ("color_r", "noun_r", "relation_turned", "relation_swapped", "relation_foreign"):
        assert found[name] == pytest.approx(1)


def test_a_conflict_decided_by_the_noun():
    question = attributes._question(scene_of((BALL, "red"), (CAR, "blue")), [])
    nouns = {"a blue ball": square(0), "a red car": square(1)}
    found = observed(question, Reader(lambda text: nouns[text].float()))
    assert found == {"conflict": 1, "conflict_choice": 1}


def test_objects_that_the_model_did_not_see():
    question = attributes._question(scene_of((BALL, "red"), (CAR, "blue")), [])
    seen = torch.ones(40, 40, dtype=torch.bool)
    seen[:, :5] = False
    assert observed(question, Reader(lambda text: torch.ones(40, 40), seen=seen)) == {}
    assert not attributes.is_cut_off(square(0), ~square(1))


def test_a_scene_without_a_pair_is_no_question():
    assert attributes._question(scene_of((BALL, "red"), (BALL, "red")), []) is None


# ---- concreteness ---------------------------------------------------------------------------------------------------


def test_every_word_of_a_caption_has_a_kind():
    texts = [str(phrase) for phrase in color_phrases()]
    texts += [overview([name] * number, ["red"] * number, place) for name in CLASSES for number in range(1, 9) for place in WHERE]
    texts += [f"{first} {how} {first}" for first in texts[:1] for how in attributes.OPPOSITES]
    words = {word for text in texts for word in composition.words_of(text)}
    assert {word for word in words if concreteness.kind_of(word) is None} == set()
    assert concreteness.kind_of("people") == concreteness.kind_of("dog") == "nouns"
    assert (concreteness.kind_of("snow"), concreteness.kind_of("behind"), concreteness.kind_of("walrus")) == (
        "places",
        "relations",
        None,
    )


def test_shares_of_weights():
    assert concreteness.shares([3.0, -1.0, 1.0]) == [0.75, 0, 0.25]
    assert np.isnan(concreteness.shares([0.0, -1.0])).all()


def test_texts_without_one_word():
    assert concreteness.left_out(["a", "red", "a"]) == ["red a", "a a", "a red"]
    assert concreteness.left_out(["a"]) == []


def test_words_that_the_score_is_a_sum_of():
    value = {"nouns": 5.0, "colors": 3.0, "function words": 0.5}

    def of(word):
        return value.get(concreteness.kind_of(composition.alone(word)), 1.0)

    question = next(iter(concreteness.CONCRETENESS.questions(1, 0)))
    reader = Reader(
        lambda text: torch.full((2, 2), sum(of(word) for word in text.split())),
        lambda text: sum(of(word) for word in text.split()),
        lambda text: tuple((word, of(word)) for word in text.split()),
    )
    found = observed(question, reader)
    assert found["drop nouns"] == found["peak nouns"] == 5
    assert found["drop colors"] == 3
    assert found["share nouns"] / found["share colors"] == pytest.approx(5 / 3, rel=0.3)
    one = next(iter(question.observe(reader)), None)
    assert one.measure == "cut"
    caption = draw_scene(0, seed=HELD_OUT_SEED).captions[0]
    weighed = [seen for seen in question.observe(reader) if seen.measure.startswith("share")][: len(caption.split())]
    assert sum(seen.value for seen in weighed) == pytest.approx(1)
    assert {seen.chance for seen in weighed} == {1 / len(caption.split())}


def test_ratings_that_the_values_follow():
    values = [
        (f"{image}", word, level + 0.01 * image) for image in range(4) for word, level in (("a", 0.1), ("red", 0.5), ("dog", 0.9))
    ]
    found = concreteness.rate([*values, ("0", "unrated", 7.0)], {"a": 1, "red": 3, "dog": 5})
    assert found == (1, 1, 1, 3, 4)
    turned = concreteness.rate(values, {"a": 5, "red": 3, "dog": 1})
    assert turned.mean == -1


def test_ratings_as_another_library_correlates_them():
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(8)]
    values = [(str(image), word, float(generator.random())) for image in range(5) for word in words]
    ratings = dict(zip(words, generator.random(8).tolist(), strict=True))
    means = [np.mean([value for _, other, value in values if other == word]) for word in words]
    found = concreteness.rate(values, ratings)
    assert found.mean == pytest.approx(spearmanr(means, list(ratings.values())).statistic)
    assert -1 <= found.low <= found.mean <= found.high <= 1


def test_two_rated_words_are_too_few():
    assert np.isnan(concreteness.rate([("0", "a", 1.0), ("0", "b", 2.0)], {"a": 1, "b": 2}).mean)


def test_ratings_from_a_file(tmp_path):
    (tmp_path / "r.csv").write_text("word,rating,sd\nRed, 4.5,1\nthe,1,1\n")
    assert concreteness.read_ratings(tmp_path / "r.csv") == {"red": 4.5, "the": 1}


@pytest.mark.parametrize("text", ["word,score\nred,4\n", "word,rating\n", "word,rating\nred,high\n", "word,rating\nred\n"])
def test_ratings_that_are_none(tmp_path, text):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(WhyboxError, match="--ratings"):
        concreteness.read_ratings(tmp_path / "r.csv")


# ---- several objects ------------------------------------------------------------------------------------------------


def test_prompts():
    assert objects.prompt_of(["a dog"]) == "a dog"
    assert objects.prompt_of(["a dog", "a car", "a tree"]) == "a dog, a car and a tree"


def test_mosaics_hold_four_nouns_and_no_scene_twice():
    source = objects.mosaics(5)
    first, second = next(source), next(source)
    for mosaic in (first, second):
        assert len({phrase.split()[-1] if " in " not in phrase else "person" for phrase in mosaic.phrases}) == 4
        assert mosaic.image.size == (320, 240)
    again = next(objects.mosaics(5))
    assert again.image.tobytes() == first.image.tobytes()
    tiles = [one.image.crop((x, y, x + 160, y + 120)).tobytes() for one in (first, second) for x in (0, 160) for y in (0, 120)]
    assert len(set(tiles)) == 8
    assert (
        draw_scene(0, seed=5, variant="single", size=(160, 120)).image.tobytes() == first.image.crop((0, 0, 160, 120)).tobytes()
    )


def test_quadrants_cover_the_image_once():
    mosaic = objects.Mosaic(Image.new("RGB", (320, 240)), ("a", "b", "c", "d"))
    assert torch.stack([mosaic.quadrant(place) for place in range(4)]).sum(0).eq(1).all()
    assert mosaic.quadrant(1)[0, 319]
    assert mosaic.quadrant(2)[239, 0]


def test_a_map_with_its_peak_on_the_second_object():
    regions = [square(0), square(1)]
    energies, anywhere, peaks = objects.judge(square(0).float() + 3 * square(1), regions)
    assert (energies, anywhere, peaks) == ([0.25, 0.75], 1, [0, 1])


def test_a_reader_that_shows_all_that_is_named():
    question = next(iter(objects.OBJECTS.questions(1, 0)))
    mosaic = next(objects.mosaics(HELD_OUT_SEED))

    def map_of(text):
        return sum(mosaic.quadrant(i).float() for i, phrase in enumerate(mosaic.phrases) if phrase in text)

    found = observed(question, Reader(map_of))
    for named in (1, 2, 3, 4):
        assert found[f"energy_{named}"] == found[f"any_{named}"] == found.get(f"weakest_{named}") == 1
        assert found[f"own_{named}"] == pytest.approx(1 / named)
        assert found[f"peak_{named}"] == pytest.approx(1 / named)
    assert found["alone_energy"] == found["alone_peak"] == 1


def test_a_reader_that_sees_one_object_only():
    question = next(iter(objects.OBJECTS.questions(1, 0)))
    one = next(objects.mosaics(HELD_OUT_SEED)).quadrant(2).float()
    found = observed(question, Reader(lambda text: one))
    assert found["weakest_2"] == found["weakest_4"] == 0
    assert found["alone_energy"] == found["alone_peak"] == 0.25


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip():
    return make_clip()


@pytest.fixture(scope="module", params=list(run.STUDIES))
def analyzed(request, clip):
    methods = ("grad_eclip",) if request.param == "concreteness" else ("grad_eclip", "gradcam")
    return run.analyze(request.param, clip, methods=methods, count=2)


def test_every_number_has_its_count_and_stands_in_its_interval(analyzed):
    assert analyzed.images == 2
    assert analyzed.result.numbers
    for found in analyzed.result.numbers.values():
        assert found.cell.count >= found.images >= 1
        if found.images > 1:
            assert found.cell.low - 1e-9 <= found.cell.mean <= found.cell.high + 1e-9
    assert {method for method, _ in analyzed.result.numbers} == set(analyzed.result.methods)


def test_the_folder_holds_numbers_table_and_page(analyzed, tmp_path):
    run.keep(analyzed, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert told["analysis"] == analyzed.name
    assert len(told["numbers"]) == len(analyzed.result.numbers)
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img") >= 4
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert analyzed.result.measures[0].title.replace("|", "") in (tmp_path / "out" / "table.md").read_text()


def test_the_same_seed_gives_the_same_numbers(clip):
    first, again, other = (json_text(run.analyze("objects", clip, count=2, seed=seed).as_dict()["numbers"]) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_a_number_as_explain_gives_it(clip):
    found = run.analyze("objects", clip, count=1).result.numbers["grad_eclip", "alone_energy"]
    mosaic = next(objects.mosaics(HELD_OUT_SEED))
    maps = whybox.explain(clip, mosaic.image, text=list(mosaic.phrases), method="grad_eclip").maps.at_image()
    parts = [maps[0, :120, :160], maps[1, :120, 160:], maps[2, 120:, :160], maps[3, 120:, 160:]]
    expected = np.mean([float(part.sum() / whole.sum()) for part, whole in zip(parts, maps, strict=True)])
    assert found.cell.mean == pytest.approx(expected, rel=1e-4)
    assert (found.cell.count, found.images, found.chance) == (4, 1, 0.25)
    assert np.isnan(found.cell.low)


def test_texts_longer_than_the_context_are_told(clip):
    result = run.analyze("objects", clip, count=2).result
    assert any("longer than the model's context" in remark for remark in result.remarks)
    assert ("grad_eclip", "energy_1") in result.numbers


def test_rated_words(clip):
    ratings = {"a": 1.0, "and": 1.2, "in": 2.0, "red": 4.0, "car": 5.0, "people": 4.9, "white": 4.2}
    result = run.analyze("concreteness", clip, count=3, ratings=ratings).result
    found = result.numbers["grad_eclip", "rated drop"]
    assert -1 <= found.cell.mean <= 1
    assert 3 <= found.cell.count <= len(ratings)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"name": "colors"}, "unknown analysis 'colors'"),
        ({"name": "objects", "count": 0}, "count is a whole number"),
        ({"name": "objects", "seed": -1}, "seed one from 0"),
        ({"name": "objects", "ratings": {"a": 1.0}}, "ratings are for the analysis concreteness"),
        ({"name": "objects", "methods": ("grad_eklip",)}, "did you mean grad_eclip"),
        ({"name": "concreteness", "methods": ("gradcam",)}, "has no maps of words"),
    ],
)
def test_mistakes(clip, arguments, line):
    with pytest.raises(WhyboxError, match=line):
        run.analyze(arguments.pop("name"), clip, **arguments)


def test_a_model_that_reads_no_text():
    with pytest.raises(WhyboxError, match="reads no text"):
        run.analyze("objects", make_classifier(), count=1)


def test_a_measure_without_a_value_is_named():
    study = SimpleNamespace(measures=[SimpleNamespace(key="x", title="of x"), SimpleNamespace(key="y", title="of y")])
    assert run._empty(study, {("m", "x"): None}) == ["Without a value in these images: of y."]
