"""What the scripts behind the pictures of pages share: arguments, a page in Chromium, and its picture."""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"


def read_arguments(about: str | None, out: str) -> argparse.Namespace:
    """The arguments of a script that makes one picture: `out`, a Path, and `chromium`.

    Args:
        about: The script's docstring.
        out: The picture's usual name.
    """
    asked = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / out)
    asked.add_argument("--chromium", default=CHROMIUM)
    return asked.parse_args()


@contextmanager
def open_page(chromium: str, width: int, height: int) -> Iterator[Any]:
    """Playwright's page of this size, in pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium)
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def save_picture(page: Any, out: Path) -> None:
    """What the page shows."""
    Image.open(BytesIO(page.screenshot())).convert("RGB").save(out, quality=84)
