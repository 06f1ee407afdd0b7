"""The demo: scenes that nobody has seen, explained into a folder that the next demo may replace."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from whybox.data.scenes import BOTH, draw_scene
from whybox.report.folder import check_new_folder, new_folder
from whybox.runs.images import Outcome, Question, Tick, explain_images
from whybox.types import Model

MARK = "demo.json"


def check_demo_folder(out: Path) -> bool:
    """Whether `out` is a former demo's folder; an error where it is neither that nor new."""
    if (out / MARK).is_file():
        return True
    check_new_folder(out)
    return False


def explain_scenes(
    model: Model,
    question: Question,
    out: Path,
    count: int,
    seed: int,
    *,
    tick: Tick = lambda name, part: None,
    warn: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Draw `count` scenes, mixed ones and crowds in turn, and explain them into `out`; their pictures lie beside."""
    with new_folder(out, replace=check_demo_folder(out)) as draft:
        sources = []
        for index in range(count):
            variant = BOTH[index % len(BOTH)]
            sources.append((f"{variant}-{index + 1}.png", draw_scene(index, seed=seed, variant=variant).image))
        outcome = explain_images(model, sources, question, draft / "results", tick=tick, warn=warn)
        page = draft / "results" / "index.html"
        page.rename(draft / "index.html")
        for name, image in sources:
            image.save(draft / name)
        (draft / MARK).write_text(json.dumps({"kind": "demo", "scenes": count, "seed": seed}), encoding="utf-8")
    kept = tuple(replace(one, folder=out / one.folder.relative_to(draft)) for one in outcome.kept)
    return Outcome(out / "index.html", kept, outcome.failed)
