"""`whybox models`: the names for --model, and the model families."""

from whybox.cli.options import AsJson
from whybox.cli.output import print_json, print_table


def models(as_json: AsJson = False) -> None:
    """List the models that can be loaded by name, and the supported model families."""
    from whybox import registry
    from whybox.catalog import shipped_models

    names = dict.fromkeys(shipped_models(), "ships with the package")
    names |= {f"{prefix}/...": _summary(loader) for prefix, loader in registry.loaders().items()}
    families = {name: _summary(family) for name, family in registry.models().items()}
    if as_json:
        return print_json({"names": names, "families": families})
    print_table("Names for --model", ("name", "what"), list(names.items()))
    print_table("Families, for modules in Python", ("family", "what"), list(families.items()))


def _summary(module: object) -> str:
    """The first sentence of a module's docstring, in one line."""
    return " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())
