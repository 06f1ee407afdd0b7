"""The demo: newly generated scenes, explained into a folder that the next demo may replace."""

import json
from dataclasses import replace
from pathlib import Path

from whybox import api
from whybox.data.captions import class_phrases, with_article
from whybox.data.scenes import BOTH, Scene, draw_scene
from whybox.files import check_new_folder, new_folder
from whybox.model import Model
from whybox.progress import OnProgress, OnWarning, no_progress, no_warning
from whybox.runs.explaining.images import Outcome, Question, explain_images

MARK = "demo.json"
MATCH = "match"
"""The folder with the scene that is matched with texts."""
MOST_OBJECTS = 3


def check_demo_folder(out: Path) -> bool:
    """Check that a folder can be written.

    Args:
        out: The folder.

    Returns:
        Whether it holds an earlier demo, which may be replaced.

    Raises:
        WhyboxError: It is neither new nor an earlier demo.
    """
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
    reader: Model | None = None,
    on_progress: OnProgress = no_progress,
    on_warning: OnWarning = no_warning,
) -> Outcome:
    """Generate scenes, mixed ones and crowds in turn, and explain them.

    Args:
        model: The detector.
        question: What is explained of every scene.
        out: The folder for pages and pictures; an earlier demo there is replaced.
        count: Number of scenes.
        seed: Seed of the scenes.
        reader: An image-text model that matches the first scene with texts; None: no scene is matched.
        on_progress: Called with a scene's name and the newly done fraction of its map sets.
        on_warning: Called with a line for each scene that cannot be explained.

    Returns:
        The pages, the explained scenes and the failures.
    """
    with new_folder(out, replace=check_demo_folder(out)) as draft:
        variants = [BOTH[index % len(BOTH)] for index in range(count)]
        scenes = [draw_scene(index, seed=seed, variant=variant) for index, variant in enumerate(variants)]
        names = [f"{variant}-{index + 1}.png" for index, variant in enumerate(variants)]
        sources = [(name, scene.image) for name, scene in zip(names, scenes, strict=True)]
        outcome = explain_images(model, sources, question, draft / "results", on_progress=on_progress, on_warning=on_warning)
        page = draft / "results" / "index.html"
        # Up to the folder's top: the page is one file with everything in it, no link of it can break.
        page.rename(draft / "index.html")
        for name, image in sources:
            image.save(draft / name)
        if reader is not None:
            texts = texts_of(scenes[0])
            match = api.explain(reader, scenes[0].image, text=texts, name=names[0], words=True, single_words=True)
            match.save(draft / MATCH)
        (draft / MARK).write_text(json.dumps({"kind": "demo", "scenes": count, "seed": seed}), encoding="utf-8")
    # The draft was renamed to `out` on leaving.
    kept = tuple(replace(image, folder=out / image.folder.relative_to(draft)) for image in outcome.kept)
    return Outcome(out / "index.html", kept, outcome.failed, None if reader is None else out / MATCH / "index.html")


def texts_of(scene: Scene) -> list[str]:
    """The texts that a scene is matched with: its caption, some of its objects, and one object that is absent.

    Args:
        scene: A generated scene.

    Returns:
        The texts, the caption first.
    """
    objects = list(dict.fromkeys(with_article(phrase) for phrase in scene.phrases))
    absent = [str(phrase) for phrase in class_phrases() if phrase.name not in scene.names]
    return [scene.captions[0], *objects[:MOST_OBJECTS], *absent[:1]]
