"""`whybox targets`: what can be explained."""

from whybox.cli.options import AsJson
from whybox.cli.output import say_json, say_table


def targets(as_json: AsJson = False) -> None:
    """List what can be explained of a detection."""
    from whybox import registry

    known = dict(registry.targets())
    if as_json:
        return say_json(known)
    say_table("Targets", ("target", "what"), list(known.items()))
