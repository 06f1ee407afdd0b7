"""The folder listing is the registry: a file in models/, methods/, metrics/ or suppression/ is registered by its name.

Other packages register theirs through the entry points "whybox.models" (a module with `matches` and `wrap`), "whybox.methods",
"whybox.metrics" and "whybox.suppression" (a class each), and "whybox.data" (a module with `PREFIX` and `open_data`).
"""

import pkgutil
import re
import warnings
from collections.abc import Container, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, TypeVar

import whybox.data
import whybox.losses
import whybox.methods
import whybox.metrics
import whybox.models
import whybox.suppression
from whybox.errors import WhyboxError, did_you_mean, unknown
from whybox.files import one_line
from whybox.method import Method
from whybox.rule import Rule
from whybox.targets import COMBINED, DESCRIPTIONS, TARGETS
from whybox.truth import Metric


@cache
def models() -> Mapping[str, ModuleType]:
    """Model families by name: modules with `matches(module)` and `wrap(module, **options)`."""
    # Files without it only build models by name.
    own = {name: module for name, module in _files(whybox.models) if hasattr(module, "matches")}
    return own | _from_outside("whybox.models", own)


@cache
def loaders() -> Mapping[str, ModuleType]:
    """Modules that build a model from a name, by the name's prefix: `build(name, weights, **options)`."""
    # By way of models(), so that the entry points are read once, and one that cannot be used is told once.
    files = [*(module for _, module in _files(whybox.models)), *models().values()]
    return {module.PREFIX: module for module in files if hasattr(module, "PREFIX")}


@cache
def methods() -> Mapping[str, type[Method]]:
    """Method classes by name; each file in methods/ holds one whose `name` is the file's."""
    own: dict[str, type[Method]] = {name: _class_in(module, name) for name, module in _files(whybox.methods)}
    return own | _from_outside("whybox.methods", own, Method)


@cache
def metrics() -> Mapping[str, type[Metric]]:
    """Metric classes by name; each file in metrics/ holds one whose `name` is the file's."""
    own: dict[str, type[Metric]] = {name: _class_in(module, name) for name, module in _files(whybox.metrics)}
    return own | _from_outside("whybox.metrics", own, Metric)


@cache
def rules() -> Mapping[str, type[Rule]]:
    """Rules of duplicate removal by name; each file in suppression/ holds one whose `name` is the file's."""
    own: dict[str, type[Rule]] = {name: _class_in(module, name) for name, module in _files(whybox.suppression)}
    return own | _from_outside("whybox.suppression", own, Rule)


@cache
def losses() -> Mapping[str, type]:
    """Classes of the losses by name; each file in losses/ holds one whose `name` is the file's.

    Those with `needs_teacher` compare a student with its teacher (`whybox distill`), those with a `command` are that command's,
    the others are for `whybox train`.
    """
    return {name: _class_in(module, name) for name, module in _files(whybox.losses)}


@cache
def data_sets() -> Mapping[str, ModuleType]:
    """Modules that open a data set, by the prefix of its name: `open_data(rest, on_problem=..., **options)`."""
    files = [*(module for _, module in _files(whybox.data)), *_from_outside("whybox.data").values()]
    return {module.PREFIX: module for module in files if hasattr(module, "PREFIX")}


Named = TypeVar("Named")


def named(kind: str, name: str, known: Mapping[str, Named]) -> tuple[str, Named]:
    """Look up an entry by its key, or by another spelling of its key or title ("Grad-CAM++" for gradcam_pp).

    Args:
        kind: What is looked up, for the error: "method", "metric".
        name: As the user wrote it. Case, dashes and spaces do not matter.
        known: Classes by name; those with a `title` are found by it, too.

    Returns:
        The key and the entry.

    Raises:
        UnknownNameError: Nothing has this name; the closest names are listed.
    """
    key = _find(name, known)
    if key is None:
        raise unknown(kind, name, known)
    return key, known[key]


def _find(name: str, known: Mapping[str, Any]) -> str | None:
    """The key that is meant by a name; None: there is none."""
    if name in known:
        return name
    wanted = _letters(name)
    return next((key for key, entry in known.items() if wanted and wanted in (_letters(key), _letters(_title(entry)))), None)


def loss_named(name: str, *, needs_teacher: bool) -> tuple[str, type]:
    """Look up a loss of one of both commands.

    Args:
        name: As the user wrote it, see `named`.
        needs_teacher: Whether it is one of `whybox distill`; else of `whybox train`.

    Returns:
        The key and the class.

    Raises:
        WhyboxError: No loss has this name, or it is the other command's.
    """
    here = _command(needs_teacher=needs_teacher)
    fitting = {key: kind for key, kind in losses().items() if _command_of(kind) == here}
    if (found := _find(name, losses())) and found not in fitting:
        theirs = _command_of(losses()[found])
        what = {"whybox train": "needs no teacher", "whybox distill": "compares a student with a teacher"}.get(
            theirs, "needs captions"
        )
        raise WhyboxError(f"loss {found!r} {what}: it is a loss of `{theirs}`, not of `{here}`")
    return named("loss", name, fitting)


def _command(*, needs_teacher: bool) -> str:
    return "whybox distill" if needs_teacher else "whybox train"


def _command_of(kind: type) -> str:
    """The command whose loss a class is."""
    return str(getattr(kind, "command", _command(needs_teacher=getattr(kind, "needs_teacher", False))))


def _letters(text: str) -> str:
    """Lower-case letters and digits alone; "++" becomes "pp" as in the registry's names, a times sign "x"."""
    return re.sub(r"[\W_]", "", text.lower().replace("++", "pp").replace("×", "x"))


def _title(entry: Any) -> str:
    """The title of a class; where it depends on the options, that of the default ones without what stands in brackets."""
    title = getattr(entry, "title", "")
    if isinstance(title, property):
        try:
            title = entry().title
        except TypeError:
            # It has options without a default.
            return ""
    return title.split(" (")[0] if isinstance(title, str) else ""


def targets() -> Mapping[str, str]:
    """Target names, with what each is."""
    return DESCRIPTIONS


def check_targets(method: Any) -> None:
    """Refuse a method whose `targets` misspell the name of a target.

    A name that resembles no known one is accepted: it may be a raw output of another package's model, or a user's own target.

    Args:
        method: A method or its class.

    Raises:
        WhyboxError: One of the names is close to a target's name, and is not one.
    """
    owner = f"method {method.name!r}"
    if not isinstance(method.targets, frozenset | set | None):
        raise WhyboxError(f"{owner}: targets must be a set of names, such as {{'score'}}, or None, got {method.targets!r}")
    known = sorted({*TARGETS, COMBINED, *(word for names in DESCRIPTIONS for word in names.split())})
    for name in sorted(map(str, set(method.targets or ()) - set(known))):
        if len(name) > _SHORT and get_close_matches(name, known, n=1, cutoff=0.75):
            raise WhyboxError(f"{owner}: targets has no {name!r}; {did_you_mean(name, known)} (known: {', '.join(known)})")


_SHORT = 2
"""Names of up to this many letters resemble one another ("x1", "dx") without being misspelled."""

FAMILY = "family"
"""A file of this name in a folder stands for the folder: models/open_clip/family.py is the family "open_clip"."""


def _files(package: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    """The public files of a package and of its folders, by name: hf/detection.py is "hf_detection"."""
    # Sorted, because the first family that matches a module wraps it.
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        if entry.name.startswith("_"):
            continue
        module = import_module(f"{package.__name__}.{entry.name}")
        if not entry.ispkg:
            yield entry.name, module
            continue
        for name, inner in _files(module):
            yield entry.name if name == FAMILY else f"{entry.name}_{name}", inner


def _class_in(module: ModuleType, name: str) -> type:
    classes = [value for value in vars(module).values() if isinstance(value, type) and getattr(value, "name", None) == name]
    if len(classes) != 1:
        raise WhyboxError(f"{module.__name__} must hold one class named {name!r} (its ClassVar `name`), found {len(classes)}")
    return classes[0]


def _from_outside(group: str, taken: Container[str] = (), base: type | None = None) -> dict[str, Any]:
    """What other packages bring in by the entry points of a group, by name.

    One that cannot be loaded, or that would stand in the place of something else, is left out with a warning: it must not
    take the commands with it that have nothing to do with it.
    """
    brought: dict[str, Any] = {}
    for entry in entry_points(group=group):
        package = entry.dist.name if entry.dist is not None else "another package"
        try:
            value = entry.load()
            if entry.name in taken or entry.name in brought:
                raise WhyboxError(f"{entry.name!r} is taken")
            if base is not None and not (isinstance(value, type) and issubclass(value, base)):
                raise WhyboxError(f"it must be a class that derives from whybox.{base.__name__}")
            if base is not None:
                # Own classes are checked when an object is made; these before their names are offered.
                value.check_class()
            if base is Method:
                check_targets(value)
            if getattr(value, "name", entry.name) != entry.name:
                raise WhyboxError(f"its class is named {value.name!r}; the entry point and the class must have one name")
        except Exception as error:  # whatever another package's import raises
            warnings.warn(f"{group} {entry.name!r} of {package} was left out: {one_line(error)}", stacklevel=2)
            continue
        brought[entry.name] = value
    return brought
