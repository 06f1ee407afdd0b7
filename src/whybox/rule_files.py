"""Rules of duplicate removal with their settings as JSON files."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whybox.errors import WhyboxError
from whybox.files import json_text, write_whole
from whybox.rule import Rule

SUFFIX = ".json"


def save_rule(rule: Rule, file: Path, about: Mapping[str, Any]) -> None:
    """Write a rule.

    Args:
        rule: The rule.
        file: The file, which ends in .json.
        about: What it was fitted to and how well, for people.

    Raises:
        WhyboxError: The file cannot be written.
    """
    content = {"rule": rule.name, "options": asdict(rule), "about": dict(about)}
    write_whole(file, (json_text(content) + "\n").encode())


def read_rule(file: Path) -> tuple[str, dict[str, Any]]:
    """Read the name and the options of a rule.

    Raises:
        WhyboxError: There is no such file, or it holds no rule.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WhyboxError(f"cannot read the rule {file}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rule"), str) or not isinstance(content.get("options"), dict):
        raise WhyboxError(f'{file} is no rule: expected {{"rule": NAME, "options": {{...}}}}, as `whybox fit-nms` writes')
    return content["rule"], content["options"]
