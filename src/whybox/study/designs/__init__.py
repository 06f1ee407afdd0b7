"""The designs of studies, one file each: what is asked, what an answer is, and how it is scored."""

from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from whybox.errors import unknown
from whybox.options import check_options, options_of
from whybox.specs import parse_spec
from whybox.study.design import Design
from whybox.study.designs.attention import Attention
from whybox.study.designs.better_detector import BetterDetector
from whybox.study.designs.discrimination import Discrimination
from whybox.study.designs.forward_simulation import ForwardSimulation
from whybox.study.designs.trust_ranking import TrustRanking

DESIGNS: Mapping[str, Design] = {
    design.name: design for design in (TrustRanking(), BetterDetector(), Discrimination(), ForwardSimulation(), Attention())
}


def find_design(text: str, settings: Mapping[str, Any] | None = None) -> Design:
    """Find a design.

    Args:
        text: Its name, with dashes or underscores, and options where it has some: "attention:kind=bubbles".
        settings: Further options.

    Returns:
        The design.

    Raises:
        WhyboxError: There is none of that name, or it has no such option.
    """
    name, options = parse_spec(text)
    plain = name.replace("-", "_")
    if plain not in DESIGNS:
        raise unknown("design", name, DESIGNS)
    design: Any = DESIGNS[plain]
    known = options_of(design) if is_dataclass(design) else {}
    checked = check_options(f"design {plain!r}", known, {**options, **(settings or {})})
    found: Design = replace(design, **checked) if checked else design
    return found
