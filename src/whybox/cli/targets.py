"""`whybox targets`: the targets, that is, the outputs that can be explained."""

from whybox.cli.options import AsJson
from whybox.cli.output import print_json, print_table


def targets(as_json: AsJson = False) -> None:
    """List the targets: the outputs of a model that can be explained."""
    from whybox import registry

    known = dict(registry.targets())
    if as_json:
        return print_json(known)
    print_table("Targets", ("target", "what"), list(known.items()))
