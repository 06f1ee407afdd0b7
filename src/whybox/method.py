"""What a method is to whybox: options in a frozen dataclass, and maps for every target that is asked for."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from whybox.attention import Text, TokenMaps
from whybox.frame import Frame
from whybox.model import Kind, Model
from whybox.types import Detections, HeatMaps, Target, Trace, target_name


class Method(ABC):
    """A method that draws heat maps: a frozen dataclass whose fields are its options, the paper's constants as defaults.

    name: in the registry, the file's name. title: as people write it; "" for the name. needs: of what a model gives.
    source: authors, venue, year, equation.
    same_for_all: the maps do not depend on the target. targets: the names of the targets that it can explain; None: all.
    not_for: kinds of model on which it makes no sense. frozen_allowed: whether a gradient with frozen normalization
    statistics may serve it on route "auto".
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    title: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]]
    source: ClassVar[str]
    same_for_all: ClassVar[bool] = False
    targets: ClassVar[frozenset[str] | None] = None
    not_for: ClassVar[frozenset[Kind]] = frozenset()

    @classmethod
    def serves(cls, model: Model) -> bool:
        """Whether the model gives what the method needs, and is of a kind on which it makes sense."""
        return cls.needs <= model.gives and model.kind not in cls.not_for

    @property
    def frozen_allowed(self) -> bool:
        """Most maps are close with statistics held fixed; a method that sums gradients over the grid says no."""
        return True

    @abstractmethod
    def __call__(self, model: Any, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """One HeatMaps per target, each with N maps.

        Args:
            model: A `Model` that gives what the method needs.
            trace: One pass of the model over the image.
            detections: N detections whose `source` is a row of the trace's candidates.
            targets: What is explained.
        """

    def heat_maps(
        self,
        native: Sequence[Tensor],
        frame: Frame,
        target: Target,
        *,
        options: Mapping[str, Any] | None = None,
        routes: tuple[str, ...] = (),
    ) -> HeatMaps:
        """N maps, each on its own grid, as this method's for a target. options: None for the fields of the method."""
        settings = asdict(self) if options is None else options
        crop = bool(getattr(self, "crop_padding", True))
        title = self.title or self.name
        return HeatMaps(
            tuple(native), frame, target_name(target), self.name, settings, routes, crop_padding=crop, method_title=title
        )

    def token_maps(
        self, values: Sequence[Tensor], texts: Sequence[Text], target: Target, *, options: Mapping[str, Any] | None = None
    ) -> TokenMaps:
        """Maps of texts, one number per token, as this method's for a target. options: None for the fields of the method."""
        settings = asdict(self) if options is None else options
        return TokenMaps(tuple(values), tuple(texts), self.name, target_name(target), settings)


@runtime_checkable
class TextMethod(Protocol):
    """A method that also draws maps of texts: a number for every token."""

    def explain_text(self, model: Any, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[TokenMaps]:
        """One TokenMaps per target, each with N maps.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; the labels are columns of texts.
            targets: What is explained.
        """
        ...
