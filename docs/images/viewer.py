"""Makes the picture of the viewer: scenes that whybox draws, with the detector that it ships.

pip install '.[viewer]' playwright        # and Chromium
python docs/images/viewer.py
"""

import argparse
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image

import whybox
from whybox.viewer.images import open_images
from whybox.viewer.view import viewing


def main() -> None:
    """Make the picture."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "viewer.webp")
    asked.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    given = asked.parse_args()
    from playwright.sync_api import expect, sync_playwright

    named = open_images(["scenes:count=24"])
    with viewing({"whybox/scenes": whybox.load("whybox/scenes")}, named) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=given.chromium)
        page = browser.new_page(viewport={"width": 1180, "height": 900})
        page.goto(address)
        page.locator("#threshold").fill("0.6")
        expect(page.locator("#facts")).to_contain_text("Raw values", timeout=60_000)
        page.locator("#list button").nth(3).click()
        page.mouse.move(0, 0)
        expect(page.locator("#list li:nth-child(5) .meter i")).not_to_have_attribute("style", "width: 0px;", timeout=60_000)
        page.wait_for_timeout(3000)
        Image.open(BytesIO(page.screenshot())).convert("RGB").save(given.out, quality=84)
        browser.close()


if __name__ == "__main__":
    main()
