"""`whybox methods`: the methods, with their requirements, options and sources."""

from dataclasses import MISSING, Field, fields
from typing import Any

from whybox.cli.options import AsJson
from whybox.cli.output import print_json, print_table


def methods(as_json: AsJson = False) -> None:
    """List the explanation methods: what each needs from a model, its options with defaults, and its source."""
    from whybox import registry

    known = registry.methods()
    if as_json:
        return print_json({name: _describe(method_class) for name, method_class in known.items()})
    rows = [_describe(method_class) for method_class in known.values()]
    columns = ("method", "needs", "options", "source")
    cells = [(row["name"], ", ".join(row["needs"]), _options(row["options"]), row["source"]) for row in rows]
    print_table("Methods", columns, cells)


def _describe(method_class: Any) -> dict[str, Any]:
    # Fields outside repr are callbacks, not settings that a command line can give.
    options = {option.name: _default(option) for option in fields(method_class) if option.repr}
    return {"name": method_class.name, "needs": sorted(method_class.needs), "options": options, "source": method_class.source}


def _default(option: "Field[Any]") -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return None if option.default is MISSING else option.default


def _options(options: dict[str, Any]) -> str:
    # "none" in lower case, as the command line takes it.
    return " ".join(f"{name}={str(value).lower() if value is None else value}" for name, value in options.items())
