"""The interface of an explanation method: its options in a frozen dataclass, and a call that draws maps for every target."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, Self, get_args, runtime_checkable

from torch import Tensor

from whybox.attention import Text, TokenMaps
from whybox.class_checks import check_class, check_known, check_takes
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.model import GIVES, Kind, Model
from whybox.types import Detections, HeatMaps, Target, Trace, target_name


class Method(ABC):
    """A method that draws heat maps: a frozen dataclass whose fields are its options, with the paper's constants as defaults.

    Attributes:
        name: Its name in the registry, which is its file's name.
        title: Its name as people write it; "" for `name`.
        needs: What it needs of `Model.gives`.
        source: Authors, venue, year, equation.
        same_for_all: Whether the maps do not depend on the target.
        targets: Names of the targets that it can explain; None: all.
        not_for: Kinds of model on which it makes no sense.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]
    title: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]]
    source: ClassVar[str]
    same_for_all: ClassVar[bool] = False
    targets: ClassVar[frozenset[str] | None] = None
    not_for: ClassVar[frozenset[Kind]] = frozenset()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse an incomplete or misspelled class before anything runs with it."""
        # Not in __init_subclass__, which runs before the decorator that makes the class a dataclass and its fields options.
        cls.check_class()
        return super().__new__(cls)

    @classmethod
    def check_class(cls) -> None:
        """Refuse a class that lacks an attribute, misspells one, or names something that no model gives.

        Raises:
            WhyboxError: What is wrong with the class, in one line.
        """
        examples = {"name": '"my_method"', "needs": 'frozenset({"features"})', "source": '"authors, year"'}
        kinds = {"name": str, "title": str, "source": str, "same_for_all": bool}
        owner = check_class(cls, Method, examples, kinds)
        check_takes(owner, cls, "__call__", "model, trace, detections, targets")
        check_known(owner, "needs", cls.needs, GIVES)
        check_known(owner, "not_for", cls.not_for, get_args(Kind))
        if not hasattr(cls, "__dataclass_params__"):
            raise WhyboxError(f"{owner} must be a dataclass: add @dataclass(frozen=True)")

    @classmethod
    def serves(cls, model: Model) -> bool:
        """Whether the method works with the model: it gives what the method needs, and is of a kind on which it makes sense."""
        return cls.needs <= model.gives and model.kind not in cls.not_for

    @property
    def frozen_allowed(self) -> bool:
        """Whether route "auto" may use gradients with normalization statistics held fixed.

        Most maps change little with them; methods that sum gradients over the whole grid return False.
        """
        return True

    def remark(self, trace: Trace) -> str:
        """What a reader of the maps of this pass has to know: it joins the explanation's notes and the evaluation's report.

        Args:
            trace: The pass that is explained.

        Returns:
            A sentence without a full stop; "" for nothing.
        """
        return ""

    @abstractmethod
    def __call__(self, model: Any, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[HeatMaps]:
        """One HeatMaps per target, each with N maps.

        Args:
            model: A `Model` that gives what the method needs.
            trace: One pass of the model over the image.
            detections: N detections whose `source` is a row of the trace's candidates.
            targets: The scalars to explain.
        """

    def heat_maps(
        self,
        native: Sequence[Tensor],
        frame: Frame,
        target: Target,
        *,
        options: Mapping[str, Any] | None = None,
        routes: tuple[str, ...] = (),
        layers: tuple[str, ...] = (),
    ) -> HeatMaps:
        """Wrap N maps as this method's heat maps for a target.

        Args:
            native: N maps, each (h,w) on its own grid.
            frame: Where the image lies on the canvas that the maps cover.
            target: The target that was explained.
            options: The settings to record; None: the method's fields.
            routes: N names of how each gradient was taken; () for methods without gradients.
            layers: N names of the layer whose features each map is drawn on; () for methods without one.
        """
        settings = asdict(self) if options is None else options
        # An option of those methods alone whose reference code stretches the padded map over the image.
        crop = bool(getattr(self, "crop_padding", True))
        title = self.title or self.name
        return HeatMaps(
            tuple(native),
            frame,
            target_name(target),
            self.name,
            settings,
            routes,
            crop_padding=crop,
            method_title=title,
            layers=layers,
        )

    def token_maps(
        self, values: Sequence[Tensor], texts: Sequence[Text], target: Target, *, options: Mapping[str, Any] | None = None
    ) -> TokenMaps:
        """Wrap token values as this method's maps of texts for a target.

        Args:
            values: T tensors (L,), one number per token of each text.
            texts: The T texts.
            target: The target that was explained.
            options: The settings to record; None: the method's fields.
        """
        settings = asdict(self) if options is None else options
        return TokenMaps(tuple(values), tuple(texts), self.name, target_name(target), settings)


@runtime_checkable
class TextMethod(Protocol):
    """A method that also draws maps of texts: one number per token."""

    def explain_text(self, model: Any, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[TokenMaps]:
        """One TokenMaps per target, each with N maps.

        Args:
            model: An image-text model.
            trace: One pass of the model over the image.
            detections: N detections; their labels are indices of texts.
            targets: The scalars to explain.
        """
        ...
