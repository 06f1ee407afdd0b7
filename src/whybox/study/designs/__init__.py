"""The designs of studies, one file each: what is asked, what an answer is, and how it is scored."""

from collections.abc import Mapping

from whybox.errors import unknown
from whybox.study.design import Design
from whybox.study.designs.better_detector import BetterDetector
from whybox.study.designs.discrimination import Discrimination
from whybox.study.designs.forward_simulation import ForwardSimulation
from whybox.study.designs.trust_ranking import TrustRanking

DESIGNS: Mapping[str, Design] = {
    design.name: design for design in (TrustRanking(), BetterDetector(), Discrimination(), ForwardSimulation())
}


def find_design(name: str) -> Design:
    """Find a design.

    Args:
        name: Its name, with dashes or underscores.

    Returns:
        The design.

    Raises:
        WhyboxError: There is none of that name.
    """
    plain = name.replace("-", "_")
    if plain not in DESIGNS:
        raise unknown("design", name, DESIGNS)
    return DESIGNS[plain]
