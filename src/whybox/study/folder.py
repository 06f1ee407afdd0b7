"""The folder of a study: study.json, consent.md, the pictures, and the answers."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError
from whybox.files import one_line
from whybox.study.design import Design, Question
from whybox.study.designs import find_design

STUDY, CONSENT, PICTURES, ANSWERS = "study.json", "consent.md", "pictures", "answers.sqlite"
SCHEMA = 1
CONSENT_TEXT = """\
# About this study

{task}. It takes about {minutes} minutes. There are {count} questions; a few of them only check that instructions are read.

- Taking part is voluntary. You can stop at any time by closing the page; answers of people who stop are not used.
- We store your answers and how long each took, under a random code. We do not ask for your name, and we store no
  address of your device.
- You can go on later with your code, on any device.

Questions: write to the people who sent you here. (The organizers of the study edit this text before it starts.)
"""


@dataclass(frozen=True)
class Study:
    """A study, as its folder holds it.

    Attributes:
        design: Its design.
        seed: What every person's order of questions follows from.
        conditions: The methods or models that are compared; with them "image alone" where the design has it.
        per_person: Questions per person, without the attention checks.
        failures_allowed: Who fails more attention checks than this is left out of the report.
        questions: In an order that balances classes and sizes.
        checks: The attention checks; every person gets all of them.
        facts: What the questions were made from: data, models, methods, versions.
    """

    design: Design
    seed: int
    conditions: tuple[str, ...]
    per_person: int
    failures_allowed: int
    questions: tuple[Question, ...]
    checks: tuple[Question, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def by_key(self) -> dict[str, Question]:
        """All questions and checks by their key."""
        return {question.key: question for question in (*self.questions, *self.checks)}

    @property
    def pictures(self) -> frozenset[str]:
        """The names of all picture files: nothing else of the folder is shown to people."""
        asked = self.by_key.values()
        named = {file for question in asked for file in (question.picture, *question.pictures.values())}
        return frozenset(named - {""})

    def as_dict(self) -> dict[str, Any]:
        """The contents of study.json.

        Returns:
            A dict ready for JSON.
        """
        plain = {name: getattr(self, name) for name in ("seed", "per_person", "failures_allowed")}
        asked = {name: [asdict(question) for question in getattr(self, name)] for name in ("questions", "checks")}
        about = {"schema": SCHEMA, "kind": "study", "design": self.design.name, "settings": self.design.settings}
        about |= {"conditions": list(self.conditions)}
        return {**about, **plain, "facts": dict(self.facts), **asked}


def read_study(folder: Path) -> Study:
    """Read a study's folder.

    Args:
        folder: As `whybox study new` wrote it.

    Returns:
        The study.

    Raises:
        WhyboxError: It is no such folder, or its file is broken.
    """
    file = folder / STUDY
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WhyboxError(f"{file}: {one_line(error)}; `whybox study new` makes a study's folder") from None
    except ValueError as error:
        raise WhyboxError(f"{file}: not JSON ({one_line(error)})") from None
    if not isinstance(told, dict) or told.get("kind") != "study" or told.get("schema") != SCHEMA:
        raise WhyboxError(f"{file}: not a study of this version; expected kind study and schema {SCHEMA}")
    try:
        study = _study(told)
    except (KeyError, TypeError, AttributeError) as error:
        raise WhyboxError(f"{file}: incomplete or misspelled entry ({one_line(error)})") from None
    if lacking := sorted(name for name in study.pictures if not (folder / PICTURES / name).is_file()):
        raise WhyboxError(f"{folder / PICTURES}: {len(lacking)} pictures are not there, such as {lacking[0]}")
    return study


def _study(told: Mapping[str, Any]) -> Study:
    questions, checks = (tuple(map(_question, told[name])) for name in ("questions", "checks"))
    settings = {name: told[name] for name in ("seed", "per_person", "failures_allowed", "facts")}
    conditions = tuple(told["conditions"])
    design = find_design(told["design"], told.get("settings"))
    return Study(design, conditions=conditions, questions=questions, checks=checks, **settings)


def _question(told: Mapping[str, Any]) -> Question:
    # A box is a list in JSON.
    choices = tuple(tuple(choice) if isinstance(choice, list) else choice for choice in told["choices"])
    question = Question(**{**told, "choices": choices})
    # A name in the file is part of a path.
    for name in (question.picture, *question.pictures.values()):
        if name and Path(name).name != name:
            raise TypeError(f"{name!r} is no file name")
    return question


def read_consent(folder: Path) -> list[dict[str, str]]:
    """Read consent.md: headings, lists and paragraphs; any other mark of Markdown is shown as it is.

    Args:
        folder: The study's folder.

    Returns:
        Blocks, each with a "kind" (heading, item, paragraph) and its "text".

    Raises:
        WhyboxError: It cannot be read, or is empty.
    """
    file = folder / CONSENT
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise WhyboxError(f"{file}: {one_line(error)}; people must agree to a text before they take part") from None
    blocks: list[dict[str, str]] = []
    fresh = True
    for line in lines:
        text = line.strip()
        kind = "heading" if text.startswith("#") else "item" if text.startswith(("- ", "* ")) else "paragraph"
        if text and not fresh and kind == "paragraph" and blocks[-1]["kind"] != "heading":
            blocks[-1]["text"] += f" {text}"
        elif text:
            blocks.append({"kind": kind, "text": text.lstrip("#").removeprefix("- ").removeprefix("* ").strip()})
        fresh = not text
    if not blocks:
        raise WhyboxError(f"{file}: empty; people must agree to a text before they take part")
    return blocks
