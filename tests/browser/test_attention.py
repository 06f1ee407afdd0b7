"""A covered picture in a real browser: what is recorded is where the pointer was, in pixels of the image."""

import json
from io import BytesIO

import pytest
from PIL import Image

from study.made_up import make_study
from whybox import api
from whybox.study.answers import Answers
from whybox.study.recordings import recordings
from whybox.study.scored import score_answers
from whybox.study.server import StudyServer
from whybox.web.serving import serving

BLURRED, SHARP = (100, 90, 160), (80, 90, 160)
"""The colors of both made-up pictures."""


@pytest.fixture
def visit(browser, tmp_path):
    """Serve a study of one picture, 60 x 40 pixels, and open it: gives a function that makes the page, and the answers."""
    opened, problems = [], []

    def make(design, **settings):
        study = make_study(tmp_path / "study", design, count=1, checks=0)
        answers = Answers(tmp_path / "answers.sqlite")
        served = serving(StudyServer(study, tmp_path / "study", answers).app)
        context = browser.new_context(**{"viewport": {"width": 900, "height": 700}, **settings})
        opened.extend([(answers.close,), (served.__exit__, None, None, None), (context.close,)])
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda line: problems.append(line.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(served.__enter__())
        page.locator("#agree").check()
        page.get_by_role("button", name="Begin", exact=True).click()
        page.wait_for_selector("#body[data-ready=yes]", state="attached")
        return page, study, answers

    yield make
    for close, *arguments in reversed(opened):
        close(*arguments)
    assert problems == []


def place_of(page, x, y):
    """Page pixels of a place given in parts of the picture."""
    box = page.locator(".stage").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def end(page):
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector("#done:not([hidden])")


def looked(study, answers, folder):
    """The fixations as an evaluation reads them from the report's file: x, y in image pixels, and seconds."""
    (folder / "looked.jsonl").write_text(recordings(study, score_answers(study, answers)))
    image = {"id": 1, "file_name": "0.png", "width": 60, "height": 40}
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 40]}
    (folder / "val.json").write_text(
        json.dumps({"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "cat"}]})
    )
    Image.new("RGB", (60, 40)).save(folder / "0.png")
    truth = api.open_data(f"coco:{folder / 'val.json'}:images={folder}:fixations={folder / 'looked.jsonl'}")[0].truth
    assert set(truth.viewers[0]) == {"people-0"}
    return truth.fixations[0].tolist()


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_lens_is_recorded_where_the_pointer_was(visit, tmp_path, ratio):
    page, study, answers = visit("attention:radius=0.1", device_scale_factor=ratio)
    first, second = (0.3, 0.4), (0.8, 0.75)
    page.mouse.move(*place_of(page, *first))
    page.wait_for_timeout(300)
    shown = Image.open(BytesIO(page.locator(".stage").screenshot())).convert("RGB")
    # Sharp inside the radius, a tenth of the width, and nowhere else.
    for part, color in ((first, SHARP), ((0.385, 0.4), SHARP), ((0.415, 0.4), BLURRED), (second, BLURRED)):
        pixel = shown.getpixel((round(part[0] * shown.width), round(part[1] * shown.height)))
        assert pixel == pytest.approx(color, abs=4)
    # The window changes its size meanwhile.
    before = page.locator(".stage").bounding_box()["width"]
    page.set_viewport_size({"width": 500, "height": 650})
    assert page.locator(".stage").bounding_box()["width"] < before
    page.mouse.move(*place_of(page, *second))
    page.wait_for_timeout(300)
    end(page)
    found = looked(study, answers, tmp_path)
    assert found[0][:2] == pytest.approx([18, 16], abs=0.1)
    assert found[-1][:2] == pytest.approx([48, 30], abs=0.2)
    assert found[0][2] > 0.25 < found[-1][2]


def test_discs_by_touch(visit, tmp_path):
    page, study, answers = visit(
        "attention:kind=bubbles", device_scale_factor=3, viewport={"width": 400, "height": 700}, has_touch=True, is_mobile=True
    )
    page.get_by_role("button", name="Next").tap()
    assert page.get_by_role("alert").inner_text() == "Uncover a part of the picture first."
    for part in ((0.25, 0.5), (0.75, 0.25)):
        page.touchscreen.tap(*place_of(page, *part))
        page.wait_for_timeout(100)
    end(page)
    (one, two) = looked(study, answers, tmp_path)
    assert one[:2] == pytest.approx([15, 20], abs=0.2)
    assert two[:2] == pytest.approx([45, 10], abs=0.2)


@pytest.mark.parametrize(("kind", "keys"), [("lens", ()), ("bubbles", ("Space",))])
def test_a_keyboard_moves_and_uncovers(visit, kind, keys):
    page, _, answers = visit(f"attention:kind={kind}:radius=0.1")
    page.get_by_role("application", name="Blurred picture").focus()
    # From the middle, by a radius: a tenth of the width, and 6 of 40 pixels.
    for key in ("ArrowRight", "ArrowDown", *keys):
        page.keyboard.press(key)
    assert page.locator(".says").inner_text() == "60 % from the left, 65 % from the top: uncovered"
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#done:not([hidden])")
    samples = answers.places(0)[0].answer["samples"]
    assert samples[-2][1:] == pytest.approx([0.6, 0.65], abs=1e-4)
    assert samples[-1][1:] == [None, None]


def test_the_picture_is_covered_when_the_time_is_over(visit):
    page, _, answers = visit("attention:seconds=1")
    page.mouse.move(*place_of(page, 0.5, 0.5))
    page.get_by_text("The time is over.").wait_for()
    assert page.evaluate("document.activeElement.id") == "send"
    page.mouse.move(*place_of(page, 0.2, 0.2))
    assert page.locator(".sharp").evaluate("one => one.style.clipPath") == "circle(0px)"
    end(page)
    answer = answers.places(0)[0].answer
    assert answer["end"] == 1000
    assert {tuple(sample[1:]) for sample in answer["samples"]} == {(0.5, 0.5)}
