"""Makes the picture of the page that records where people look: a scene that whybox draws, and a lens over it.

pip install '.[viewer]' playwright        # and Chromium
python docs/images/attention.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from browsing import open_page, read_arguments, save_picture

import whybox
from whybox.study.answers import Answers
from whybox.study.designs import find_design
from whybox.study.making import Recipe, make_study
from whybox.study.server import StudyServer
from whybox.web.serving import serving


def main() -> None:
    """Make the picture."""
    given = read_arguments(__doc__, "attention.webp")
    data = whybox.open_data("scenes:count=3:size=640x480:variant=mixed")
    with TemporaryDirectory() as folder, open_page(given.chromium, 900, 760) as page:
        root = Path(folder) / "study"
        # A larger lens than the default: the page is shown small.
        study = make_study(find_design("attention:radius=0.08:blur=0.025"), data, {}, (), root, Recipe(1, checks=0, seed=4))
        with Answers(root / "answers.sqlite") as answers, serving(StudyServer(study, root, answers).app) as address:
            page.goto(address)
            page.locator("#agree").check()
            page.get_by_role("button", name="Begin", exact=True).click()
            page.wait_for_selector("#body[data-ready=yes]", state="attached")
            stage = page.locator(".stage").bounding_box()
            x1, y1, x2, y2 = study.questions[0].details["box"]
            x, y = x1 + 0.45 * (x2 - x1), y1 + 0.4 * (y2 - y1)
            page.mouse.move(stage["x"] + x * stage["width"], stage["y"] + y * stage["height"])
            page.wait_for_timeout(2500)
            save_picture(page, given.out)


if __name__ == "__main__":
    main()
