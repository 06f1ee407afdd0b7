"""Trust on agreement: lines against SciPy and resamples written out, and the command's parts on made-up answers."""

import csv
import json

import numpy as np
import pytest
from scipy import stats

import whybox
from runs.small import make_model
from whybox.errors import WhyboxError
from whybox.runs.attention.answers import Answer, read_answers
from whybox.runs.attention.regression import _fit, _sums, centered, crossed_line
from whybox.runs.attention.trust import predict_trust


@pytest.fixture
def rated():
    """Six people, five items, three methods; a slope of 2 and an effect of each person and method."""
    rng = np.random.default_rng(4)
    agreement, person_effect, method_effect = rng.normal(size=(5, 3)), rng.normal(size=6), np.array([0.0, 1.0, -2.0])
    rows = [(p, i, m) for p in range(6) for i in range(5) for m in range(3) if rng.random() < 0.8]
    x = np.array([agreement[i, m] for _, i, m in rows])
    noise = rng.normal(scale=0.3, size=len(rows))
    y = 2 * x + np.array([person_effect[p] + method_effect[m] for p, _, m in rows]) + noise + 70
    people, items, methods = zip(*rows, strict=True)
    return x, y, people, items, methods


def test_the_line_is_scipys(rated):
    x, y, people, items, _ = rated
    expected, line = stats.linregress(x, y), crossed_line(x, y, people, items, draws=50)
    assert line.slope.mean == pytest.approx(expected.slope)
    assert line.correlation.mean == pytest.approx(expected.rvalue)
    assert line.intercept == pytest.approx(expected.intercept)
    assert line.rows == len(x)


def test_a_line_with_an_intercept_for_each_method_is_least_squares(rated):
    x, y, people, items, methods = rated
    design = np.column_stack([x, *(np.array(methods) == m for m in range(3))])
    line = crossed_line(x, y, people, items, methods, draws=50)
    assert line.slope.mean == pytest.approx(np.linalg.lstsq(design, y, rcond=None)[0][0])
    assert line.slope.mean == pytest.approx(stats.linregress(centered(x, methods), centered(y, methods)).slope)
    assert line.slope.low < 2 < line.slope.high


def test_a_resample_is_the_answers_as_often_as_their_person_times_their_item(rated):
    x, y, people, items, methods = rated
    rng = np.random.default_rng(0)
    of_people, of_items = rng.multinomial(6, np.full(6, 1 / 6)), rng.multinomial(5, np.full(5, 1 / 5))
    times = of_people[list(people)] * of_items[list(items)]
    again = [np.repeat(np.asarray(values), times) for values in (x, y, methods)]
    middle = x.mean(), y.mean()
    drawn = of_people[None].astype(float), of_items[None].astype(float)
    fitted = _fit(_sums(x - middle[0], y - middle[1], people, items, None), *drawn, middle)
    expected = stats.linregress(again[0], again[1])
    assert [float(part[0]) for part in fitted] == pytest.approx([expected.intercept, expected.slope, expected.rvalue])
    fitted = _fit(_sums(x - middle[0], y - middle[1], people, items, methods), *drawn, middle)
    assert fitted[1][0] == pytest.approx(stats.linregress(*(centered(values, again[2]) for values in again[:2])).slope)


def test_intervals_cover_a_slope_of_nothing_and_see_one_that_is_there():
    """Answers share their person's and their item's luck, so that an interval over answers alone would be far too narrow."""
    rng, covered, count = np.random.default_rng(1), 0, 40
    people, items = (part.ravel() for part in np.mgrid[0:12, 0:15])
    for _ in range(count):
        x = rng.normal(size=15)[items]
        y = rng.normal(size=15)[items] + rng.normal(size=12)[people] + rng.normal(scale=0.5, size=len(x))
        line = crossed_line(x, y, people, items, draws=200)
        covered += line.slope.low <= 0 <= line.slope.high
    assert covered / count > 0.8
    assert crossed_line(x, y + 3 * x, people, items, draws=200).slope.low > 0


def test_what_has_no_line_is_not_defined():
    alone = crossed_line([1.0, 2, 3], [1.0, 2, 4], ["a"] * 3, [1, 2, 3])
    assert alone.slope.mean == pytest.approx(1.5)
    assert np.isnan([alone.slope.low, alone.correlation.high]).all()
    flat = crossed_line([0.3] * 4, [1.0, 2, 3, 4], [0, 0, 1, 1], [0, 1, 0, 1], draws=20)
    assert np.isnan([flat.slope.mean, flat.slope.low, flat.correlation.mean]).all()
    assert np.isnan(crossed_line([], [], [], []).slope.mean)


def write(file, head, rows):
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([head, *rows])
    return file


def test_ranks_and_scores_become_trust(tmp_path):
    head = ["participant", "item", "method", "rank"]
    read = read_answers(write(tmp_path / "a.csv", head, [["p", 7, "odam", 1], ["p", 7, "gradcam", 3], ["p", 7, "drise", 2]]))
    assert [row.trust for row in read.rows] == [3, 1, 2]
    assert read.rows[0] == Answer("p", "", "7", "odam", 3.0)
    assert (read.scale, read.simulated) == ("rank", False)
    head = ["respondents", "person", "item", "image", "condition", "score"]
    read = read_answers(write(tmp_path / "b.csv", head, [["simulated", "p", 7, "one.png", "odam", "2.5"]]))
    assert read.rows[0] == Answer("p", "one.png", "7", "odam", 2.5)
    assert (read.scale, read.simulated) == ("score", True)


@pytest.mark.parametrize(
    ("head", "row", "reason"),
    [
        (["person", "item", "method"], ["p", 1, "odam"], "lacks rank or score"),
        (["person", "rank"], ["p", 1], "lacks item, method"),
        (["person", "item", "method", "rank"], ["p", 1, "odam", ""], "line 2: a rank or score must be a number, got ''"),
        (["person", "item", "method", "rank"], ["p", 1, "odam", "nan"], "must be a number, got 'nan'"),
    ],
)
def test_a_table_that_is_no_table_of_answers(tmp_path, head, row, reason):
    with pytest.raises(WhyboxError, match=reason):
        read_answers(write(tmp_path / "a.csv", head, [row]))
    with pytest.raises(WhyboxError, match="cannot be read"):
        read_answers(tmp_path / "none.csv")


def test_a_map_that_is_ranked_twice_is_refused(tmp_path):
    file = write(tmp_path / "a.csv", HEAD, [["p", 7, "odam", 1], ["q", 7, "odam", 1], ["p", 7, "odam", 2]])
    with pytest.raises(WhyboxError, match="'p' ranked the map of 'odam' for item '7' more than once"):
        read_answers(file)


@pytest.fixture(scope="module")
def measured(gazed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "r"
    settings = {"methods": ["odam", "gradcam"], "metrics": ["attention_cosine", "attention_divergence"]}
    settings |= {"iou": 0.9, "score_threshold": 0.0, "objects_per_image": 2, "limit": 3}
    return folder, whybox.evaluate(make_model(), gazed, out=folder, **settings)


def ranked(done, name=lambda entry: entry["annotation"], people=6):
    """People who rank the two methods by their agreement, and err at times."""
    rng, rows = np.random.default_rng(3), []
    values = done.results.values[:2, 0]
    for person in range(people):
        for place, entry in enumerate(done.results.objects):
            order = np.argsort(-(values[:, place] + rng.normal(scale=0.02, size=2)))
            rows += [[f"p{person}", name(entry), ["odam", "Grad-CAM"][method], rank + 1] for rank, method in enumerate(order)]
    return rows


HEAD = ["person", "item", "method", "rank"]


def test_a_runs_agreement_and_a_studys_answers(tmp_path, measured):
    folder, done = measured
    file = write(tmp_path / "a.csv", HEAD, [*ranked(done), ["p0", "none", "odam", 1], ["p0", "1", "other", 1]])
    prediction = predict_trust(folder, read_answers(file), out=tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "regression.json").read_text())
    assert set(prediction.judged.methods) == {"odam", "gradcam"}
    assert kept["lines"]["item"]["correlation"]["mean"] > 0.5
    assert kept["lines"]["item"]["slope"]["mean"] == pytest.approx(prediction.lines["item"].slope.mean)
    assert "2 answers are about no map of the evaluation and are left out" in prediction.remarks[0]
    assert len(kept["points"]) == 2 * len(done.results)
    text = (tmp_path / "out" / "table.md").read_text()
    assert all(title in text for title in ("ODAM", "Grad-CAM", "among the maps of one object", "6 people"))
    assert (tmp_path / "out" / "figure.png").stat().st_size > 5000
    assert (tmp_path / "out" / "figure.svg").is_file()


def test_lower_is_better_is_turned(tmp_path, measured):
    folder, done = measured
    answers = read_answers(write(tmp_path / "a.csv", HEAD, ranked(done)))
    prediction = predict_trust(folder, answers, metric="attention_divergence")
    assert (prediction.judged.agreement <= 0).all()
    assert "sign turned" in prediction.means()
    with pytest.raises(WhyboxError, match="unknown metric 'attention_nss'"):
        predict_trust(folder, answers, metric="attention_nss")


def test_items_of_whybox_study_count_the_objects_of_an_image(tmp_path, measured, gazed):
    folder, done = measured
    data = whybox.open_data(gazed)
    number = lambda entry: data[entry["index"]].truth.ids.index(entry["annotation"])
    answers = read_answers(
        write(tmp_path / "a.csv", HEAD, ranked(done, lambda entry: f"{entry['image']} object {number(entry)}"))
    )
    with pytest.raises(WhyboxError, match=r"give the run's data set, too \(--data\)"):
        predict_trust(folder, answers)
    assert len(predict_trust(folder, answers, data=data).judged.people) == len(answers.rows)
    with pytest.raises(WhyboxError, match=r"no answer is about a map of it; the first is about '7', 'lime'$"):
        predict_trust(folder, read_answers(write(tmp_path / "b.csv", HEAD, [["p", 7, "lime", 1]])))
