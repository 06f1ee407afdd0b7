"""Deletion and insertion of words, on models whose answer to every shorter text is known."""

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from scipy.integrate import trapezoid

from metrics.annotated import case_of, same
from whybox.attention import Text, TokenMaps
from whybox.errors import WhyboxError
from whybox.metrics._word_curves import shorter_texts
from whybox.metrics.text_deletion import TextDeletion
from whybox.metrics.text_insertion import TextInsertion

WEIGHTS = {"a": -0.02, "red": 0.2, "ball,": 0.5, "please": 0.0}


def text_of(words, pieces=()):
    """A text of the words, one token each; a word in `pieces` has two."""
    text, spans = " ".join(words), []
    for word in words:
        start = text.index(word, spans[-1][1] if spans else 0)
        middle = start + 1 if word in pieces else start + len(word)
        spans += [(start, middle)] + ([(middle, start + len(word))] if word in pieces else [])
    return Text(text, tuple(text[a:b] for a, b in spans), tuple(spans))


class Scorer:
    """Adds up the weights of a text's words; remembers what it was asked."""

    def __init__(self, weights=WEIGHTS):
        self.weights, self.asked = weights, []

    def __call__(self, texts):
        self.asked += list(texts)
        return torch.tensor([sum(self.weights[word] for word in text.split()) for text in texts])


def case_with(values, texts, scorer=None):
    words = TokenMaps(tuple(torch.tensor(one) for one in values), tuple(texts), "made up")
    scorer = scorer or Scorer()
    return replace(case_of([0.0, 0, 5, 5], [0] * len(texts)), whole=True, words=words, score_texts=scorer), scorer


def judge(metric, case):
    return metric(torch.zeros((len(case), 40, 50)), case)


def test_a_case_worked_by_hand():
    """The map ranks ball, red, please, a."""
    case, scorer = case_with([[0.1, 0.8, 0.9, 0.3]], [text_of(WEIGHTS)])
    found = judge(TextDeletion(points=4), case)
    assert set(scorer.asked) == {"a red ball, please", "a red please", "a please", "a"}
    curve = [0.68, 0.18, -0.02, -0.02]
    same(found.curves[0], curve)
    same(found.values, [trapezoid(curve, dx=1 / 3)])
    assert found.at.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    case, scorer = case_with([[0.1, 0.8, 0.9, 0.3]], [text_of(WEIGHTS)])
    found = judge(TextInsertion(points=4), case)
    assert set(scorer.asked) == {"ball,", "red ball,", "red ball, please", "a red ball, please"}
    curve = [0.5, 0.7, 0.7, 0.68]
    same(found.curves[0], curve)
    same(found.values, [trapezoid(curve, dx=1 / 3)])


def test_a_words_value_is_the_sum_over_its_tokens():
    """0.4 + 0.4 of the two halves of "red" are more than 0.7."""
    text = text_of(WEIGHTS, pieces=("red",))
    assert text.tokens == ("a", "r", "ed", "ball,", "please")
    case, scorer = case_with([[0.1, 0.4, 0.4, 0.7, 0.2]], [text])
    judge(TextInsertion(), case)
    assert "red" in scorer.asked


def test_of_all_orders_the_weights_own_is_the_best():
    text = text_of(WEIGHTS)
    orders = list(permutations([0.0, 1.0, 2.0, 3.0]))
    case, _ = case_with([list(order) for order in orders], [text] * len(orders))
    own = torch.tensor([order == (0.0, 2.0, 3.0, 1.0) for order in orders])
    falls, rises = judge(TextDeletion(), case).values, judge(TextInsertion(), case).values
    assert falls[own].item() == falls.min()
    assert rises[own].item() == rises.max()
    assert (falls[~own] > falls[own]).all()


def test_deletion_of_an_order_is_insertion_of_its_reverse():
    values = torch.rand((5, 4), generator=torch.Generator().manual_seed(0))
    case, _ = case_with(values.tolist(), [text_of(WEIGHTS)] * 5)
    back, _ = case_with((-values).tolist(), [text_of(WEIGHTS)] * 5)
    fallen, risen = judge(TextDeletion(), case), judge(TextInsertion(), back)
    torch.testing.assert_close(fallen.curves, risen.curves.flip(1))


def test_texts_of_different_lengths_share_the_points():
    """The kept curve runs along the line through the text's own points; the area is that of the text's own."""
    case, _ = case_with([[0.9, 0.1], [0.1, 0.9, 0.5]], [text_of(["red", "ball,"]), text_of(["a", "ball,", "red"])])
    found = judge(TextDeletion(points=5), case)
    same(found.curves[0], [0.7, 0.65, 0.6, 0.55, 0.5])
    same(found.curves[1], [0.68, 0.43, 0.18, 0.08, -0.02])
    same(found.values, [0.6, (0.68 + 0.18) / 4 + (0.18 - 0.02) / 4])


def test_one_word_and_broken_values_have_no_answer():
    texts = [text_of(["red"]), text_of(["a", "red"]), text_of(["a", "red"])]
    case, scorer = case_with([[0.5], [0.5, torch.nan], [0.5, 0.1]], texts)
    for metric in (TextDeletion(), TextInsertion()):
        found = judge(metric, case)
        assert found.values.isnan().tolist() == [True, True, False]
        assert found.curves.isnan().all(1).tolist() == [True, True, False]
    assert set(scorer.asked) <= {"a", "red", "a red"}


def test_ties_fall_by_the_seed_and_in_every_order():
    texts = [text_of(WEIGHTS)] * 200
    case, _ = case_with([[1.0] * 4] * 200, texts)
    first, again = judge(TextDeletion(), case).values, judge(TextDeletion(), case).values
    assert torch.equal(first, again)
    # By chance a word is taken at each place equally often: on average the curve falls from 0.68 to the mean weight.
    assert float(first.mean()) == pytest.approx((0.68 + 0.17) / 2, abs=0.03)
    assert not torch.equal(first, judge(TextDeletion(), replace(case, seeds=case.seeds + 1000)).values)


def test_a_chunk_of_a_case_keeps_its_texts():
    texts = [text_of(["a", "red"]), text_of(["ball,", "red"]), text_of(WEIGHTS)]
    case, _ = case_with([[0.1, 0.2], [0.2, 0.1], [0.1, 0.8, 0.9, 0.3]], texts)
    whole = judge(TextInsertion(), case)
    for rows in ([2], slice(1, 3), torch.tensor([True, False, True])):
        part = judge(TextInsertion(), case[rows])
        assert torch.equal(part.values, whole.values[rows])
    assert judge(TextInsertion(), case[[]]).curves.shape == (0, 11)
    with pytest.raises(ValueError, match="2 detections and words of 3 texts"):
        replace(case[:2], words=case.words)


def test_shorter_texts_keep_the_words_order():
    assert shorter_texts(["a", "b", "c"], torch.tensor([1, 2, 0])) == ["c", "a c", "a b c"]


def test_mistakes_are_one_line():
    with pytest.raises(WhyboxError, match="needs `words` and `score_texts`"):
        judge(TextDeletion(), case_of([0.0, 0, 5, 5], [0]))
    with pytest.raises(WhyboxError, match="points must be at least 2, got 1"):
        TextInsertion(points=1)
