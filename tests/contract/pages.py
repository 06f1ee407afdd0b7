"""The Python that the pages of the documentation show."""

import re
from pathlib import Path
from types import SimpleNamespace

DOCS = Path(__file__).parents[2] / "docs"


def python_blocks(page):
    """The page's blocks of Python, in their order."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def defined_by(page, blocks=None, **names):
    """What the page's blocks, or some of them, define when they run one after the other; beside `names`."""
    names = {"__name__": "page", **names}
    for block in python_blocks(page) if blocks is None else blocks:
        exec(compile(block, str(page), "exec"), names)
    return SimpleNamespace(**names)
