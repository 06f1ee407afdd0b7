"""The data of an explanation: the detections of one image with one heat map each and, for texts, maps of their words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from whybox.attention import Text, TokenMaps
from whybox.errors import WhyboxError
from whybox.report.match import PER_TEXT
from whybox.report.texts import distinct_words
from whybox.types import Detections, HeatMaps, rows_of


@dataclass(frozen=True, eq=False, repr=False)
class Explained:
    """N detections of one image and their heat maps, without the model: it can be copied, pickled, saved and put in a set.

    Attributes:
        detections: N detections.
        maps: N heat maps.
        image: (3,H,W) float in 0..1.
        model: The model's name.
        classes: Class names by label, or None.
        name: The image's file name, or "image".
        notes: N remarks, "" where there is none; or ().
        seconds: How long each step took, by name.
        whole_image: Whether every box is the image: the detections are texts, or a classifier's classes.
        texts: N, as the model read them; () for models without texts.
        token_maps: One number per token of the N texts; None where not requested.
        single_words: The distinct words of all texts, each explained alone; None where not requested.
        keypoints: The names of the detections' keypoints; () for models without.
    """

    detections: Detections
    maps: HeatMaps
    image: Tensor
    model: str
    classes: Sequence[str] | None = None
    name: str = "image"
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    whole_image: bool = False
    texts: tuple[Text, ...] = ()
    token_maps: TokenMaps | None = None
    single_words: Self | None = None
    keypoints: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.detections)
        if len(self.maps) != count or len(self.notes) not in (0, count):
            raise ValueError(f"{count} detections do not fit {len(self.maps)} maps and {len(self.notes)} notes")
        if len(self.texts) not in (0, count):
            raise ValueError(f"{count} detections do not fit {len(self.texts)} texts")
        if self.token_maps is not None and len(self.token_maps) != count:
            raise ValueError(f"{count} detections do not fit {len(self.token_maps)} maps of texts")

    def __repr__(self) -> str:
        what = "texts or classes" if self.whole_image else "detections"
        return f"<Explanation of {self.name}: {len(self)} {what} of {self.model}, {self.maps.method} {self.maps.target}>"

    def __len__(self) -> int:
        return len(self.detections)

    def __getitem__(self, index: Any) -> Self:
        """The explanation of some of the detections.

        Args:
            index: A number, a slice, a list of numbers, or a tensor of numbers or booleans.
        """
        chosen = rows_of(index, len(self))
        texts = tuple(self.texts[i] for i in chosen) if self.texts else ()
        return replace(
            self,
            detections=self.detections[torch.tensor(chosen, dtype=torch.long, device=self.detections.boxes.device)],
            maps=_some_maps(self.maps, chosen),
            notes=tuple(self.notes[i] for i in chosen) if self.notes else (),
            texts=texts,
            token_maps=None if self.token_maps is None else _some_token_maps(self.token_maps, chosen),
            single_words=None if self.single_words is None else self.single_words._of_words(distinct_words(texts)),
        )

    def __iter__(self) -> Iterator[Self]:
        """An explanation of each detection alone."""
        return (self[i] for i in range(len(self)))

    def _of_words(self, words: Sequence[str]) -> Self:
        return self[[i for i, name in enumerate(self.names) if name in words]]

    @property
    def names(self) -> tuple[str, ...]:
        """N class names; "class 7" where the model has no name for it."""
        return tuple(class_name(label, self.classes) for label in self.detections.labels.tolist())

    @property
    def peak(self) -> tuple[float, ...]:
        """The largest raw value of each map: the strength that min-max scaling hides."""
        return tuple(float(values.detach().max()) for values in self.maps.native)

    @property
    def tokens(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each text its tokens, each with its raw value.

        Raises:
            WhyboxError: They were not requested.
        """
        maps = self._token_maps("tokens")
        pairs = zip(maps.texts, maps.values, strict=True)
        return tuple(tuple(zip(text.tokens, values.tolist(), strict=True)) for text, values in pairs)

    @property
    def words(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each text its words, each with the sum over its tokens.

        Raises:
            WhyboxError: They were not requested.
        """
        maps = self._token_maps("words")
        return tuple(tuple(zip(text.words, maps.word_values(i).tolist(), strict=True)) for i, text in enumerate(maps.texts))

    def _token_maps(self, what: str) -> TokenMaps:
        if self.token_maps is None:
            way = "whybox.explain(..., words=True) computes them" if self.texts else "only texts have them"
            raise WhyboxError(f"this explanation holds no {what}: {way}")
        return self.token_maps


def class_name(label: int, classes: Sequence[str] | None) -> str:
    """The name of a label; "class 7" where there is none."""
    known = classes or ()
    return known[label] if 0 <= label < len(known) else f"class {label}"


def _some_maps(maps: HeatMaps, chosen: Sequence[int]) -> HeatMaps:
    """The maps of some rows, with the same rows of options that hold one number per text."""
    options = {
        name: [value[i] for i in chosen] if name in PER_TEXT and isinstance(value, (list, tuple)) else value
        for name, value in maps.options.items()
    }
    return replace(maps[list(chosen)], options=options)


def _some_token_maps(maps: TokenMaps, chosen: Sequence[int]) -> TokenMaps:
    return replace(maps, values=tuple(maps.values[i] for i in chosen), texts=tuple(maps.texts[i] for i in chosen))
