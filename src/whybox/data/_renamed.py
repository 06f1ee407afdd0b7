"""A data set with other names for its classes, such as those that a model uses."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from whybox.errors import WhyboxError, unknown
from whybox.truth import DataSet, Sample


class Renamed:
    """A data set whose classes have other names; classes that get one name become one class.

    Attributes:
        inner: The data set as it was opened.
        rename: New names by the data set's own.
    """

    def __init__(self, inner: DataSet, rename: Mapping[str, str]) -> None:
        self.inner, self.rename = inner, dict(rename)
        new = [self.rename.get(name, name) for name in inner.classes]
        self.name, self.problems, self.classes = inner.name, inner.problems, tuple(dict.fromkeys(new))
        # New labels by the old ones, so that a label is looked up by indexing.
        self._labels = torch.tensor([self.classes.index(name) for name in new], dtype=torch.long)
        # Without a digest of the annotations an evaluation is known by its class names, which are the new ones.
        digest, terms = getattr(inner, "digest", ""), json.dumps(sorted(self.rename.items()))
        self.digest = digest and hashlib.sha256(f"{digest} {terms}".encode()).hexdigest()[:16]

    @property
    def names(self) -> Sequence[str]:
        """The images' names."""
        return self.inner.names

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        sample = self.inner[index]
        return replace(sample, truth=replace(sample.truth, labels=self._labels[sample.truth.labels]))


def renamed(data: DataSet, rename: Any) -> DataSet:
    """Give classes of a data set other names.

    Args:
        data: The data set.
        rename: New names by the data set's own: {"motorbike": "motorcycle"}.

    Returns:
        The data set with the new names; `data` itself where there are none.

    Raises:
        UnknownNameError: The data set has no class of a name.
        WhyboxError: `rename` is not a mapping of names.
    """
    if not isinstance(rename, Mapping) or not all(isinstance(name, str) for pair in rename.items() for name in pair):
        raise WhyboxError(f'rename must give new class names by old ones, {{"motorbike": "motorcycle"}}, got {rename!r}')
    for name in rename:
        if name not in data.classes:
            raise unknown("class of the data in rename", name, data.classes)
    return Renamed(data, rename) if rename else data
