"""Studies that no model was asked for: their pictures are colors."""

import json
from dataclasses import replace

from PIL import Image

from whybox.study.design import Question
from whybox.study.designs import find_design
from whybox.study.folder import CONSENT, PICTURES, STUDY, Study

BOXES = ((0.0, 0.1, 0.4, 0.9), (0.3, 0.2, 0.6, 0.8), (0.7, 0.1, 0.9, 0.5))
NAMES = ("cat", "dog", "tree")
METHODS = ("odam", "gradcam", "drise:masks=500")
CONSENT_TEXT = "# Hello\n\nRead this,\nplease.\n\n- You can stop\n- at any time\n  and go on.\n"


def make_study(folder, name, *, count=6, conditions=None, checks=1, sizes=("small",), **settings):
    """Write a study's folder and return the study."""
    design = find_design(name)
    conditions = conditions or design.own_conditions or (("old", "new") if design.compares == "models" else METHODS)
    (folder / PICTURES).mkdir(parents=True)

    def picture(*words):
        file = f"{abs(hash(words)):x}.jpg"
        Image.new("RGB", (60, 40), (len(words[0]) * 20, 90, 160)).save(folder / PICTURES / file)
        return file

    questions = []
    for i in range(count):
        pictures = {condition: picture(condition, str(i)) for condition in conditions}
        choices = {"discrimination": BOXES, "forward_simulation": NAMES}.get(name, ())
        right = i % 3 if choices else -1
        size = sizes[i % len(sizes)]
        image = picture("image", str(i)) if design.with_image or design.blur else ""
        details = {"annotation_id": str(i + 1), "size": [60, 40], "box": list(BOXES[0])} if design.blur else {}
        about = (f"{i}.png", "cat", size, pictures, image, choices, right)
        questions.append(Question(f"q{i}", f"item {i}", *about, details=details))
    told = {"trust_ranking": {"ranks": [2, 3, 1][: len(conditions)]}, "better_detector": {"choice": 1}}
    told["attention"] = {"samples": [[0, 0.25, 0.25]], "end": 1000}
    expected = told.get(design.name, {"choice": 2, "confidence": 5})
    first = replace(questions[0], size="small", instruction="Follow this.", expected=expected)
    asked = [replace(first, key=f"check{i}") for i in range(checks)]
    settings = {"seed": 3, "per_person": count, "failures_allowed": 0, **settings}
    study = Study(design, conditions=tuple(conditions), questions=tuple(questions), checks=tuple(asked), **settings)
    (folder / STUDY).write_text(json.dumps(study.as_dict()))
    (folder / CONSENT).write_text(CONSENT_TEXT)
    return study
