"""What a summary says of the routes that the gradients took."""

from whybox.runs.evaluation.results import gather
from whybox.runs.evaluation.summary import count_routes, routes_in_words


def record(index, routes):
    """An image with two objects, explained by a method with gradients and by one without."""
    method = {"seconds": 0.1, "metrics": {}}
    rows = {"odam": method if routes is None else {**method, "routes": routes}, "drise": method}
    return {"image": f"{index}.png", "index": index, "objects": [{"label": 0}, {"label": 0}], "rows": rows}


def test_routes_are_counted_by_method():
    # The last is of a version that kept no routes.
    records = [record(0, ["exact", "windows"]), record(1, ["windows", "windows"]), record(2, None)]
    results = gather(records, ("odam", "drise"), (), ("cat",))
    assert results.routes == {"odam": ("exact", "windows", "windows", "windows", "", "")}
    counts = count_routes(results)
    assert counts == {"odam": {"windows": 3, "exact": 1}}
    assert routes_in_words({**counts, "gradcam": {"exact": 4}}) == "odam: windows 3, exact 1; gradcam: exact 4"


def test_methods_without_gradients_take_no_route():
    results = gather([record(0, None)], ("odam", "drise"), (), ("cat",))
    assert count_routes(results) == {}
    assert routes_in_words({}) == ""
