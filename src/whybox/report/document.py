"""Rendering of self-contained pages: a template of this folder with its style and script inside; nothing is fetched."""

import json
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader
from markupsafe import Markup
from PIL import Image

from whybox.report.overlay import jpeg_bytes
from whybox.versions import version_of


def render(template: str, *, styles: str, script: str, **values: Any) -> str:
    """Render a page from three files of this folder.

    Args:
        template: The Jinja template.
        styles: The style sheet.
        script: The script.
        **values: The template's values; text among them is escaped.

    Returns:
        The page as HTML.
    """
    # Style and script are files of this package, so they are not escaped.
    return fill(template, css=Markup(_text(styles)), js=Markup(_text(script)), version=version_of("whybox"), **values)


def fill(template: str, **values: Any) -> str:
    """Render a file of this folder, which may be a part of a page.

    Args:
        template: The Jinja template.
        **values: Its values; text among them is escaped.

    Returns:
        HTML.
    """
    return str(_environment().get_template(template).render(**values))


def data_url(picture: Image.Image, quality: int = 82) -> str:
    """Encode a picture as JPEG in a data URL.

    Args:
        picture: The picture.
        quality: JPEG quality, 1 to 95.

    Returns:
        The URL, for the `src` of an image element.
    """
    return f"data:image/jpeg;base64,{b64encode(jpeg_bytes(picture.convert('RGB'), quality)).decode('ascii')}"


def script_json(value: Any) -> Markup:
    """Encode a value as JSON for a script element: no character of it can end the element or open a comment.

    Args:
        value: Of JSON's types; without NaN.

    Returns:
        JSON that is not escaped again.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def texts_of(*names: str) -> str:
    """Files of this folder, one after the other: a style sheet or a script that is served on its own.

    Args:
        *names: Their names.
    """
    return "\n".join(_text(name) for name in names)


def _text(name: str) -> str:
    return (files("whybox.report") / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    # Names of images, classes and models are the user's: everything is escaped that is not marked as safe.
    return Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_text))
