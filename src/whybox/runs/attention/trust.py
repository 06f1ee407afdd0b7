"""Does a map's agreement with where people look predict the trust that people give it?

Source: Zhao, Hsiao, Chan (ODAM), the journal version, Fig. 14: a regression of trust on agreement. The paper gives no interval;
ours are for other people and other objects.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from whybox.errors import WhyboxError, unknown
from whybox.files import new_folder
from whybox.metric_choice import make_metric
from whybox.report.scatter import Band, Group, draw_scatter
from whybox.report.table import markdown_line
from whybox.runs.attention.answers import Answer, Answers
from whybox.runs.attention.regression import Line, centered, crossed_line
from whybox.runs.evaluation.compare import read_run
from whybox.runs.evaluation.plan import titles
from whybox.runs.evaluation.results import Results, write_json
from whybox.runs.statistics import Estimate
from whybox.truth import DataSet

Floats = NDArray[np.float64]

WAYS: Mapping[str, str] = {
    "all": "all answers",
    "item": "among the maps of one object, as one person saw them",
    "method": "among the maps of one method",
}
"""What the lines are fitted to, with their titles: to everything; to what is left when each person's mean of an object is taken
off agreement and trust; and with an intercept for each method."""
COUNTED = re.compile(r"(.+) object [0-9]+")
"""How `whybox study` names an item: the image, and which of its objects, counted from 0."""
GRID = 50
"""Points of the line in the figure."""


class Judged(NamedTuple):
    """The answers that could be linked with a map, (n,) each: agreement and trust are higher for more of it."""

    agreement: Floats
    trust: Floats
    people: Sequence[str]
    objects: Sequence[int]
    methods: Sequence[str]


@dataclass(frozen=True)
class Prediction:
    """How agreement with people predicts trust.

    Attributes:
        metric: The metric of agreement, its title, and whether its sign was turned so that higher is more agreement.
        scale: What trust is: "rank" (k + 1 - rank of k maps) or "score".
        judged: The answers.
        named: The methods' titles.
        objects: By an object's number, its image and annotation.
        lines: By a key of `WAYS`, the line.
        deviation: Standard deviation of the agreement over the answers.
        simulated: Whether respondents were simulated.
        remarks: Sentences on what was left out.
    """

    metric: tuple[str, str, bool]
    scale: str
    judged: Judged
    named: Mapping[str, str]
    objects: Mapping[int, str]
    lines: Mapping[str, Line]
    deviation: float
    simulated: bool
    remarks: Sequence[str]

    def table(self) -> str:
        """The lines as Markdown."""
        head = ["", "trust per standard deviation of agreement", "Pearson's r", "answers"]
        rows = [head, ["---"] * len(head)]
        for way, line in self.lines.items():
            rows.append([WAYS[way], _words(line.slope, self.deviation), _words(line.correlation), str(line.rows)])
        return "\n".join(markdown_line(row) for row in rows)

    def means(self) -> str:
        """The methods' means as Markdown."""
        head = ["method", f"agreement ({self._agreement_title})", f"trust ({self._trust_title})", "answers"]
        rows = [head, ["---"] * len(head)]
        for method in self.named:
            chosen = np.asarray([name == method for name in self.judged.methods])
            each = (self.judged.agreement[chosen], self.judged.trust[chosen])
            rows.append([self.named[method], *(f"{values.mean():.4g}" for values in each), str(int(chosen.sum()))])
        return "\n".join(markdown_line(row) for row in rows)

    @property
    def _agreement_title(self) -> str:
        _, title, turned = self.metric
        return f"{title}, sign turned" if turned else title

    @property
    def _trust_title(self) -> str:
        return "1 for the last rank" if self.scale == "rank" else "score"

    @property
    def facts(self) -> list[str]:
        """Sentences on what was measured."""
        people, objects = len(set(self.judged.people)), len(set(self.judged.objects))
        said = [f"{len(self.judged.people)} answers of {people} people about {objects} objects; 95 % intervals for other people "]
        said[0] += "and other objects."
        if self.simulated:
            said.append("SIMULATED respondents: no person was asked.")
        return [*said, *self.remarks]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        lines = {
            way: {"slope": line.slope._asdict(), "correlation": line.correlation._asdict(), "intercept": line.intercept}
            | {"answers": line.rows}
            for way, line in self.lines.items()
        }
        points = [
            {"object": self.objects[self.judged.objects[rows[0]]], "method": self.judged.methods[rows[0]]}
            | {"agreement": float(self.judged.agreement[rows[0]]), "trust": float(self.judged.trust[rows].mean())}
            | {"answers": len(rows)}
            for rows in _by_map(self.judged)
        ]
        about = {"metric": self.metric[0], "sign_turned": self.metric[2], "trust": self.scale, "simulated": self.simulated}
        return {**about, "deviation": self.deviation, "lines": lines, "facts": self.facts, "points": points}


def predict_trust(
    run: Path,
    answers: Answers,
    *,
    metric: str = "attention_cosine",
    data: DataSet | None = None,
    out: Path | None = None,
    seed: int = 0,
) -> Prediction:
    """Fit trust to agreement.

    Args:
        run: The folder of an evaluation with the metric.
        answers: The answers of a study about objects and methods of the evaluation.
        metric: The metric of agreement, as the evaluation names it.
        data: The evaluation's data set: for answers of `whybox study`, whose items count the objects of an image.
        out: A new folder for the table, the figure and the numbers; None: nothing is written.
        seed: Of the bootstrap.

    Returns:
        The lines, and what they are fitted to.

    Raises:
        WhyboxError: The evaluation lacks the metric, or no answer is about a map of it.
    """
    results = read_run(run).results
    if metric not in results.columns:
        raise unknown("metric", metric, results.columns)
    judged, remarks = _link(results, answers, metric, data, run)
    named = titles([row for row in results.rows if row in set(judged.methods)])
    people, objects = judged.people, judged.objects
    questions = [f"{person}\n{item}" for person, item in zip(people, objects, strict=True)]
    within = [centered(values, questions) for values in judged[:2]]
    lines = {
        "all": crossed_line(*judged[:2], people, objects, seed=seed),
        "item": crossed_line(within[0], within[1], people, objects, seed=seed),
        "method": crossed_line(*judged[:2], people, objects, judged.methods, seed=seed),
    }
    made = make_metric(metric)
    about = metric, made.title, not made.higher_is_better
    deviation = float(judged.agreement.std())
    which = {row: f"{results.objects[row]['image']}/{results.objects[row]['annotation']}" for row in sorted(set(objects))}
    prediction = Prediction(about, answers.scale, judged, named, which, lines, deviation, answers.simulated, remarks)
    if out is not None:
        _write(prediction, out)
    return prediction


def _link(results: Results, answers: Answers, metric: str, data: DataSet | None, run: Path) -> tuple[Judged, list[str]]:
    """The answers with the agreement of the map that they judge, and sentences on those without."""
    places, methods = _places(results, data), _methods(results.rows)
    sign = 1.0 if make_metric(metric).higher_is_better else -1.0
    found: list[tuple[Answer, int, str, float]] = []
    lost: dict[str, int] = {}
    for answer in answers.rows:
        place, method = _place(answer, places), methods.get(_letters(answer.method))
        if place is None or method is None:
            what = f"method {answer.method!r}" if method is None else f"item {answer.item!r}"
            lost[what] = lost.get(what, 0) + 1
            continue
        value = float(results.of(method, metric)[place])
        if np.isfinite(value):
            found.append((answer, place, method, sign * value))
        else:
            lost["map without a value"] = lost.get("map without a value", 0) + 1
    if not found:
        reason = f"{run}: no answer is about a map of it; the first is about {answers.rows[0].item!r}, {answers.rows[0].method!r}"
        if data is None and all(COUNTED.fullmatch(answer.item) for answer in answers.rows):
            reason += ". Its items count the objects of an image: give the run's data set, too (--data)"
        raise WhyboxError(reason)
    remarks = []
    if lost:
        worst = sorted(lost, key=lambda what: -lost[what])[:3]
        few = ", ".join(f"{what} ({lost[what]})" for what in worst)
        remarks = [f"{sum(lost.values())} answers are about no map of the evaluation and are left out: {few}."]
    judged = Judged(
        np.asarray([agreement for *_, agreement in found]),
        np.asarray([answer.trust for answer, *_ in found]),
        [answer.person for answer, *_ in found],
        [place for _, place, *_ in found],
        [method for *_, method, _ in found],
    )
    return judged, remarks


def _places(results: Results, data: DataSet | None) -> dict[str, list[int]]:
    """The objects by every way to name one: the annotation's id, with the image or alone, or its number in the image."""
    places: dict[str, list[int]] = {}
    numbers: dict[int, dict[str, int]] = {}
    for row, entry in enumerate(results.objects):
        image, name = entry["image"], entry["annotation"]
        if name is None:
            continue
        keys = [name, *(f"{image}{between}{name}" for between in ("/", " ", "#", ":"))]
        if data is not None:
            index = int(entry["index"])
            if index not in numbers:
                numbers[index] = {key: number for number, key in enumerate(data[index].truth.ids)}
            keys += [f"{image} object {numbers[index][name]}"] if name in numbers[index] else []
        for key in dict.fromkeys(keys):
            places.setdefault(key, []).append(row)
    return places


def _place(answer: Answer, places: Mapping[str, Sequence[int]]) -> int | None:
    """The object that an answer is about; None for none, and for a name that several have."""
    keys = (f"{answer.image}/{answer.item}", answer.item) if answer.image else (answer.item,)
    return next((places[key][0] for key in keys if len(places.get(key, ())) == 1), None)


def _methods(rows: Sequence[str]) -> dict[str, str]:
    """The methods by the letters of their names with settings, their titles, and their names where only one has it."""
    found = {_letters(title): row for row, title in titles(rows).items()}
    plain = [row.partition(":")[0] for row in rows]
    found |= {_letters(name): row for name, row in zip(plain, rows, strict=True) if plain.count(name) == 1}
    return found | {_letters(row): row for row in rows}


def _letters(text: str) -> str:
    return re.sub(r"[^0-9a-z.=:]", "", text.lower().replace("++", "pp"))


def _by_map(judged: Judged) -> list[list[int]]:
    """The rows of each map."""
    maps: dict[tuple[int, str], list[int]] = {}
    for row, key in enumerate(zip(judged.objects, judged.methods, strict=True)):
        maps.setdefault(key, []).append(row)
    return list(maps.values())


def _words(estimate: Estimate, scale: float = 1.0) -> str:
    mean, low, high = (scale * number for number in estimate)
    if not np.isfinite(mean):
        return "not defined"
    return f"{mean:.3f}" + (f" ({low:.3f}, {high:.3f})" if np.isfinite(low) else "")


def _write(prediction: Prediction, out: Path) -> None:
    title = "Does agreement with people predict their trust?"
    with new_folder(out) as draft:
        parts = [f"# {title}", prediction.table(), prediction.means(), "\n".join(f"- {fact}" for fact in prediction.facts)]
        (draft / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        write_json(prediction.as_dict(), draft / "regression.json")
        judged, line = prediction.judged, prediction.lines["all"]
        maps = _by_map(judged)
        groups = []
        for method, name in prediction.named.items():
            chosen = [rows for rows in maps if judged.methods[rows[0]] == method]
            x = np.asarray([judged.agreement[rows[0]] for rows in chosen])
            groups.append(Group(name, x, np.asarray([judged.trust[rows].mean() for rows in chosen])))
        heading = f"{title} (simulated)" if prediction.simulated else title
        labels = prediction._agreement_title, f"mean trust ({prediction._trust_title})"
        draw_scatter(groups, _band(line, judged.agreement), heading, labels, [draft / "figure.png", draft / "figure.svg"])


def _band(line: Line, agreement: Floats) -> Band:
    """The line over the range of agreement, with pointwise intervals."""
    x = np.linspace(agreement.min(), agreement.max(), GRID)
    low, high = np.full((2, GRID), np.nan)
    if len(line.drawn):
        low, high = np.quantile(line.drawn[:, :1] + line.drawn[:, 1:] * x, [0.025, 0.975], axis=0)
    return Band(x, line.intercept + line.slope.mean * x, low, high)
