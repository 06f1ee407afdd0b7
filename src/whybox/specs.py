"""Names with settings as one string: "drise:masks=500", "deletion:fill=blurred:extent=image"."""

from collections.abc import Mapping
from typing import Any

from whybox.errors import WhyboxError


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its settings; numbers, true, false and none are converted."""
    name, options = split_spec(text)
    return name, {key: parse_value(value) for key, value in options.items()}


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """A name and its settings as strings."""
    name, *settings = text.strip().split(":")
    options: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise WhyboxError(f"{text!r}: expected name:key=value, got {setting!r} after the name")
        # Dashes, as people write options on a command line.
        options[key.strip().replace("-", "_")] = value.strip()
    return name.strip(), options


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `parse_spec`."""
    return ":".join([name, *(f"{key}={_text(value)}" for key, value in options.items())])


def parse_value(text: str) -> Any:
    """A number, true, false, none, or else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    # int first, so that 3 stays a whole number.
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
