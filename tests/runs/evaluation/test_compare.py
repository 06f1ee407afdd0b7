"""Two evaluations side by side."""

import numpy as np
import pytest
from scipy.stats import binomtest

from runs.small import PLAN, make_model
from whybox.errors import WhyboxError
from whybox.runs.evaluation.compare import compare
from whybox.runs.evaluation.evaluate import evaluate

SMALL = {**PLAN, "methods": ("odam", "gradcam"), "metrics": ("energy_pointing_game:region=box", "deletion:points=3")}


@pytest.fixture(scope="module")
def runs(annotated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = [
        evaluate(make_model(), annotated, out=folder / "a", **SMALL),
        evaluate(make_model(), annotated, out=folder / "b", **{**SMALL, "target": "x1"}),
    ]
    return folder / "a", folder / "b", done


def test_differences_are_those_of_the_common_objects(runs):
    a, b, (first, second) = runs
    found = compare(a, b)
    pair = found.pairs["odam", "deletion:points=3"]
    ours, theirs = (run.results.of("odam", "deletion:points=3") for run in (first, second))
    known = np.isfinite(ours) & np.isfinite(theirs)
    assert pair.difference.mean == pytest.approx((theirs - ours)[known].mean())
    assert pair.difference.count == known.sum()
    assert pair.a.mean == pytest.approx(ours[known].mean())


def test_p_is_the_exact_sign_flip_of_few_images(runs):
    """Four images: with all differences of one sign p is 2 / 2^4, as in the sign test on four of four."""
    a, _, (first, _) = runs
    found, exact = compare(a, a, methods=[("odam", "control_blob")]), 0
    for (_, column), pair in found.pairs.items():
        ours, theirs = first.results.of("odam", column), first.results.of("control_blob", column)
        known = np.isfinite(ours) & np.isfinite(theirs)
        sums = [(theirs - ours)[known & (first.results.images == image)].sum() for image in set(first.results.images[known])]
        if all(value > 0 for value in sums) or all(value < 0 for value in sums):
            assert pair.p == pytest.approx(binomtest(len(sums), len(sums)).pvalue)
            exact += 1
        assert pair.p <= pair.p_holm <= 1
    assert exact


def test_a_row_names_both_methods_where_they_differ(runs):
    found = compare(runs[0], runs[0], methods=[("odam", "control_blob"), ("odam", "gradcam"), ("gradcam", "gradcam")])
    assert [row.title for row in found.rows] == ["ODAM → Control: blob", "ODAM → Grad-CAM", "Grad-CAM"]
    assert "with 4 images" in found.remarks[1] or "in 4 images" in found.remarks[1]
    assert "below 0.125" in found.remarks[1]


def test_a_run_beside_itself_differs_in_nothing(runs):
    found = compare(runs[0], runs[0])
    assert all(pair.difference.mean == 0 and pair.p == 1 for pair in found.pairs.values())


def test_the_page_is_written_whole_and_once(runs, tmp_path):
    compare(runs[0], runs[1], out=tmp_path / "page")
    assert {path.name for path in (tmp_path / "page").iterdir()} == {"index.html", "table.md", "comparison.json"}
    with pytest.raises(WhyboxError, match="not empty"):
        compare(runs[0], runs[1], out=tmp_path / "page")


def test_runs_that_cannot_be_compared_say_why(runs, tmp_path):
    with pytest.raises(WhyboxError, match="no evaluation"):
        compare(runs[0], tmp_path)
    with pytest.raises(WhyboxError, match="has no method 'drise'"):
        compare(runs[0], runs[1], methods=[("drise", "odam")])
    with pytest.raises(WhyboxError, match="must be pairs of names"):
        compare(runs[0], runs[1], methods="odam=gradcam")
    evaluate(make_model(), "scenes:count=2:size=96x64", out=tmp_path / "c", **SMALL)
    with pytest.raises(WhyboxError, match="measured different data"):
        compare(runs[0], tmp_path / "c")
