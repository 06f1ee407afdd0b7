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
        return print_json({name: _describe(kind) for name, kind in known.items()})
    rows = [_describe(kind) for kind in known.values()]
    columns = ("method", "needs", "options", "source")
    cells = [(row["name"], ", ".join(row["needs"]), _options(row["options"]), row["source"]) for row in rows]
    print_table("Methods", columns, cells)


def _describe(kind: Any) -> dict[str, Any]:
    options = {option.name: _default(option) for option in fields(kind) if option.repr}
    return {"name": kind.name, "needs": sorted(kind.needs), "options": options, "source": kind.source}


def _default(option: "Field[Any]") -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return None if option.default is MISSING else option.default


def _options(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={str(value).lower() if value is None else value}" for name, value in options.items())
