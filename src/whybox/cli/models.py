"""`whybox models`: the model families, and the names that load one."""

from whybox.cli.options import AsJson
from whybox.cli.output import say_json, say_table


def models(as_json: AsJson = False) -> None:
    """List the models that can be loaded by name, and the families a module of yours may belong to."""
    from whybox import registry
    from whybox.catalog import shipped_models

    names = dict.fromkeys(shipped_models(), "comes with the package")
    names |= {f"{prefix}/...": _summary(loader) for prefix, loader in registry.loaders().items()}
    families = {name: _summary(family) for name, family in registry.models().items()}
    if as_json:
        return say_json({"names": names, "families": families})
    say_table("Names for --model", ("name", "what"), list(names.items()))
    say_table("Families, for modules in Python", ("family", "what"), list(families.items()))


def _summary(module: object) -> str:
    """The first sentence of a module's docstring, in one line."""
    return " ".join((module.__doc__ or "").strip().split("\n\n")[0].split())
