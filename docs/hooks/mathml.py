"""Formulas between dollar signs become MathML while the site is built: pages show them without a script or a network."""

import re

from latex2mathml.converter import convert

_CODE = re.compile(r"(^```.*?^```|`[^`\n]*`)", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **kwargs: object) -> str:
    """mkdocs calls this for every page; code is left as it is."""
    parts = _CODE.split(markdown)
    return "".join(part if i % 2 else _formulas(part) for i, part in enumerate(parts))


def _formulas(text: str) -> str:
    text = re.sub(r"\$\$(.+?)\$\$", lambda found: convert(found[1].strip(), display="block"), text, flags=re.DOTALL)
    return re.sub(r"\$([^$\n]+?)\$", lambda found: f"<span>{convert(found[1])}</span>", text)
