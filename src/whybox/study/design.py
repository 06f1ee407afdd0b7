"""The nouns of a study with people, and what a design of one is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from whybox.errors import WhyboxError

# For the reader alone: a study is served without loading torch.
if TYPE_CHECKING:
    from torch import Tensor

    from whybox.truth import Truth
    from whybox.types import Detections, Trace

CONFIDENCES = 5
"""How sure a person is: 1 (guessed) to 5 (certain)."""

Row = dict[str, Any]
"""A scored answer, or a part of one: plain values by column."""


@dataclass(frozen=True)
class Seen:
    """What is annotated in one image, and what the models found.

    Attributes:
        image: The image's name.
        picture: (3,H,W) in 0..1.
        truth: Its annotated objects.
        truth_names: The class name of each; "" for one that does not count.
        traces: One per model.
        found: One per model.
        names: Per model, the class name of each detection.
        classes: Per model, the names of its score columns.
        matched: Per model, the annotated object (an index) that each detection found, -1 for none; (N,).
    """

    image: str
    picture: "Tensor"
    truth: "Truth"
    truth_names: Sequence[str]
    traces: "Sequence[Trace]"
    found: "Sequence[Detections]"
    names: Sequence[Sequence[str]]
    classes: Sequence[Sequence[str]]
    matched: "Sequence[Tensor]"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.picture.shape[-2], self.picture.shape[-1]


@dataclass(frozen=True)
class Candidate:
    """An object that a question can be about.

    Attributes:
        image: The image's name.
        item: What is unique of the object in its image.
        label: The class that is balanced.
        area: Of the object's box, in parts of the image.
        rows: Per model, its detection.
        kind: A further property that is balanced, such as "right" and "wrong"; "" for none.
        choices: What a person chooses from: boxes (x1, y1, x2, y2 in parts of the image's width and height) or class names.
        right: The index of the right choice; -1: there is none.
        details: What the design alone reads: plain values.
    """

    image: str
    item: str
    label: str
    area: float
    rows: tuple[int, ...]
    kind: str = ""
    choices: tuple[Any, ...] = ()
    right: int = -1
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A question of a study.

    Attributes:
        key: Its name, unique in the study: "q001".
        item: The object that it is about: what a bootstrap over items draws.
        image: The image's name.
        label: The object's class.
        size: "small", "medium" or "large" among the study's objects.
        pictures: The file of each condition's picture.
        picture: The file of the image without a map, or of the covered one; "" where it is not shown.
        choices: As of its candidate.
        right: As of its candidate.
        instruction: For an attention check, what to answer; "" for a question that is meant.
        expected: For an attention check, the answer that follows the instruction.
        details: As of its candidate.
    """

    key: str
    item: str
    image: str
    label: str
    size: str
    pictures: Mapping[str, str]
    picture: str = ""
    choices: tuple[Any, ...] = ()
    right: int = -1
    instruction: str = ""
    expected: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A question as one person sees it.

    Attributes:
        question: The question's key.
        condition: The one condition that is shown; "" where all of them are shown beside one another.
        order: The conditions in the order in which they are shown; () where one is.
    """

    question: str
    condition: str
    order: tuple[str, ...] = ()


class Design(ABC):
    """What a study asks. A design with options is a frozen dataclass whose fields they are.

    Attributes:
        name: Its name on the command line.
        title: A few words.
        ask: The question to the person.
        help: A sentence below it.
        task: What people will do, for the consent text.
        compares: "methods" or "models": what the conditions are; "": `own_conditions`.
        side_by_side: Whether a question shows all conditions; else each person sees one of them.
        boxed: Whether the pictures show the detected box.
        with_image: Whether the image without a map is shown beside the pictures.
        image_alone: Whether the image without a map is a condition of its own.
        confident: Whether a person also says how sure they are.
        blur: Standard deviation of the blur that covers the picture, in parts of its longest side; 0: it is not covered.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    ask: ClassVar[str]
    help: ClassVar[str] = ""
    task: ClassVar[str] = "You will see pictures with colored maps that a computer program drew, and answer questions about them"
    compares: ClassVar[str] = "methods"
    side_by_side: ClassVar[bool] = False
    boxed: ClassVar[bool] = True
    with_image: ClassVar[bool] = False
    image_alone: ClassVar[bool] = False
    confident: ClassVar[bool] = False
    blur: float = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """Its options by name: what the study's file keeps beside the design's name."""
        return {}

    @property
    def own_conditions(self) -> tuple[str, ...]:
        """The conditions of a design that compares neither methods nor models."""
        return ()

    @property
    def facts(self) -> list[tuple[str, str]]:
        """(name, text) of what a report states of its options."""
        return []

    @abstractmethod
    def candidates(self, seen: Seen, rng: np.random.Generator) -> list[Candidate]:
        """The objects of one image that a question can be about.

        Args:
            seen: What the models found in the image.
            rng: For what is drawn at random.

        Returns:
            Any number of candidates.
        """

    @abstractmethod
    def form(self, question: Question, asked: Asked) -> dict[str, Any]:
        """What the page needs to ask the question: nothing that tells the conditions or the right answer.

        Args:
            question: The question.
            asked: How it is shown to the person.

        Returns:
            "form" ("rank", "choose" or "uncover"), "picture" and its "caption", and "options", each with a "label" and a
            "picture", a "box" or neither; an "ask" or "help" here is shown in place of the design's.
        """

    @abstractmethod
    def check(self, question: Question, asked: Asked, answer: Any) -> dict[str, Any]:
        """Refuse an answer that is none.

        Args:
            question: The question.
            asked: How it was shown.
            answer: What the page sent: of any type.

        Returns:
            The answer with its known entries alone.

        Raises:
            WhyboxError: It is not an answer to this question.
        """

    @abstractmethod
    def score(self, question: Question, asked: Asked, answer: Mapping[str, Any]) -> list[Row]:
        """Score an answer that was checked.

        Args:
            question: The question.
            asked: How it was shown.
            answer: The answer.

        Returns:
            One row per rated condition.
        """

    @abstractmethod
    def instruct(self, question: Question, options: int, rng: np.random.Generator) -> tuple[str, dict[str, Any]]:
        """An attention check: an instruction that only who reads it follows.

        Args:
            question: A question of this design, whose pictures the check shows.
            options: The number of its options.
            rng: For the answer.

        Returns:
            The instruction, and the answer that follows it.
        """

    @abstractmethod
    def answer_at_random(
        self, question: Question, asked: Asked, strength: Mapping[str, float], rng: np.random.Generator
    ) -> dict[str, Any]:
        """The answer of a simulated respondent.

        Args:
            question: The question.
            asked: How it is shown.
            strength: How good each condition is to this respondent, 0 for one that tells nothing.
            rng: The respondent's own.

        Returns:
            An answer.
        """

    def follows(self, question: Question, answer: Mapping[str, Any]) -> bool:
        """Whether an answer to an attention check follows its instruction.

        Args:
            question: The check.
            answer: The answer.
        """
        return dict(question.expected) == dict(answer)

    def options(self, question: Question) -> int:
        """The number of options of a question.

        Args:
            question: The question.

        Returns:
            The number of its choices, or of its pictures where these are what is rated.
        """
        return len(question.choices) or len(question.pictures)


def whole_number(answer: Any, name: str, low: int, high: int) -> int:
    """Read a whole number of an answer.

    Args:
        answer: The answer, of any type.
        name: The entry.
        low: The lowest value.
        high: The highest value.

    Returns:
        The number.

    Raises:
        WhyboxError: There is no such entry, or it is no whole number in the range.
    """
    value = answer.get(name) if isinstance(answer, Mapping) else None
    # True is an int.
    if type(value) is not int or not low <= value <= high:
        raise WhyboxError(f"{name} must be a whole number from {low} to {high}")
    return value


def letter(place: int) -> str:
    """The label of an option.

    Args:
        place: From 0.

    Returns:
        A, B, C ...
    """
    return chr(ord("A") + place)
