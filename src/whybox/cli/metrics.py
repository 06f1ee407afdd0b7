"""`whybox metrics`: the heat map metrics, with their direction, requirements, options and sources."""

from dataclasses import fields
from typing import Any

from whybox.cli.options import AsJson
from whybox.cli.output import print_json, print_table


def metrics(as_json: AsJson = False) -> None:
    """List the metrics: direction, range, requirements, options and source; and the groups."""
    from whybox import registry
    from whybox.metric_choice import metric_sets

    rows = [_describe(metric_class()) for metric_class in registry.metrics().values()]
    groups = metric_sets()
    if as_json:
        return print_json({"metrics": {row["name"]: row for row in rows}, "groups": groups})
    columns = ("metric", "better", "range", "needs", "options", "source")
    cells = [(row["name"], _arrow(row), _range(row), ", ".join(row["needs"]), _options(row), row["source"]) for row in rows]
    print_table("Metrics", columns, cells)
    print_table("Groups", ("group", "metrics"), [(name, ", ".join(members)) for name, members in groups.items()])


def _describe(metric: Any) -> dict[str, Any]:
    return {
        "name": metric.name,
        "title": metric.title,
        "group": metric.group,
        "higher_is_better": metric.higher_is_better,
        "range": list(metric.range),
        "needs": sorted(metric.needs),
        "options": {option.name: getattr(metric, option.name) for option in fields(metric)},
        "source": metric.source,
    }


def _arrow(row: dict[str, Any]) -> str:
    return "higher" if row["higher_is_better"] else "lower"


def _range(row: dict[str, Any]) -> str:
    return " to ".join(f"{end:.3g}" for end in row["range"])


def _options(row: dict[str, Any]) -> str:
    # "none" in lower case, as the command line takes it.
    return " ".join(f"{name}={str(value).lower() if value is None else value}" for name, value in row["options"].items())
