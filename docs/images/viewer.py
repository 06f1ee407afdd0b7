"""Makes the picture of the viewer: scenes that whybox draws, with the detector that it ships.

pip install '.[viewer]' playwright        # and Chromium
python docs/images/viewer.py
"""

from browsing import open_page, read_arguments, save_picture

import whybox
from whybox.viewer.images import open_images
from whybox.viewer.view import viewing


def main() -> None:
    """Make the picture."""
    given = read_arguments(__doc__, "viewer.webp")
    from playwright.sync_api import expect

    named = open_images(["scenes:count=24"])
    models = {"whybox/scenes": whybox.load("whybox/scenes")}
    with viewing(models, named) as address, open_page(given.chromium, 1180, 900) as page:
        page.goto(address)
        page.locator("#threshold").fill("0.6")
        expect(page.locator("#facts")).to_contain_text("Raw values", timeout=60_000)
        page.locator("#list button").nth(3).click()
        page.mouse.move(0, 0)
        expect(page.locator("#list li:nth-child(5) .meter i")).not_to_have_attribute("style", "width: 0px;", timeout=60_000)
        page.wait_for_timeout(3000)
        save_picture(page, given.out)


if __name__ == "__main__":
    main()
