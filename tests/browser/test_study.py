"""A study in a real browser: by keyboard alone on a desktop, by touch on a phone, and after a closed tab."""

import pytest

from study.made_up import make_study
from whybox.study.answers import Answers
from whybox.study.server import StudyServer
from whybox.web.serving import serving

SIZES = {"desktop": {"width": 1400, "height": 900}, "phone": {"width": 400, "height": 800}}


@pytest.fixture
def visit(browser, tmp_path):
    """Serve a study and open its page: gives a function that makes a page in a browser of its own, and the answers."""
    contexts, problems, asked = [], [], set()

    def watch(page):
        page.on("console", lambda line: problems.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.add(request.url))
        page.set_default_timeout(15_000)
        return page

    def make(size, scheme):
        touch = {"has_touch": True, "is_mobile": True} if size == "phone" else {}
        contexts.append(browser.new_context(viewport=SIZES[size], color_scheme=scheme, **touch))
        return lambda: watch(contexts[-1].new_page())

    yield make, asked
    for context in contexts:
        context.close()
    assert problems == []


def serve(study, folder, answers):
    return serving(StudyServer(study, folder, answers).app)


def wait_for(page, number):
    page.get_by_text(f"Question {number} of 4").wait_for()
    page.wait_for_selector("#body[data-ready=yes]", state="attached")


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def focused(page):
    return page.evaluate("document.activeElement.id || document.activeElement.name")


def test_a_ranking_by_keyboard_alone(visit, tmp_path):
    make, asked = visit
    folder = tmp_path / "study"
    study = make_study(folder, "trust_ranking", count=3)
    with Answers(folder / "answers.sqlite") as answers, serve(study, folder, answers) as address:
        page = make("desktop", "light")()
        page.goto(address)
        page.wait_for_selector("#consent:not([hidden])")
        assert page.get_by_text("Read this, please.").is_visible()
        # Who has not agreed is not let in.
        press(page, "Tab", "Tab", "Tab", "Enter")
        assert answers.people() == []
        page.locator("#agree").focus()
        press(page, "Space", "Tab", "Enter")
        wait_for(page, 1)
        assert focused(page) == "ask", "a screen reader goes on with the question"
        for number in range(1, 5):
            wait_for(page, number)
            if number == 1:
                page.locator("#send").focus()
                press(page, "Enter")
                assert page.get_by_role("alert").inner_text() == "Give every map a rank first."
            page.locator("#ask").focus()
            # Tab leads into a map's ranks; Space takes the first, arrows go on, a number key gives a rank at once.
            press(page, "Tab", "Space", "Tab", "Space", "ArrowRight", "Tab", "3")
            chosen = page.locator("#form input:checked").evaluate_all("all => all.map((one) => one.name + one.value)")
            assert chosen == ["rank01", "rank12", "rank23"]
            assert focused(page) == "rank2"
            if number == 2:
                press(page, "2", "Enter")
                assert page.get_by_role("alert").inner_text() == "Give every rank once."
                assert page.get_by_text("The same rank as map B").is_visible()
                press(page, "3")
                assert page.locator(".twice").count() == 0
            press(page, "Enter")
        page.wait_for_selector("#done:not([hidden])")
        assert focused(page) == "thanks"
        kept = answers.places(0)
        assert [place.answer for place in kept] == [{"ranks": [1, 2, 3]}] * 4
        assert all(0 < place.milliseconds < 60_000 for place in kept)
    assert all(url.startswith((address, "data:")) for url in asked)


def test_boxes_on_a_phone_in_the_dark_and_a_closed_tab(visit, tmp_path):
    make, asked = visit
    folder = tmp_path / "study"
    study = make_study(folder, "discrimination", count=3)
    with Answers(folder / "answers.sqlite") as answers, serve(study, folder, answers) as address:
        open_page = make("phone", "dark")
        page = open_page()
        page.goto(address)
        page.get_by_label("I have read this").tap()
        page.get_by_role("button", name="Begin", exact=True).tap()
        for number in (1, 2):
            wait_for(page, number)
            # The middle of the third box, of which the picture's size is not told.
            picture = page.locator(".shown").bounding_box()
            page.touchscreen.tap(picture["x"] + 0.8 * picture["width"], picture["y"] + 0.3 * picture["height"])
            assert page.get_by_label("Box 3").is_checked()
            page.get_by_role("button", name="Next").tap()
            assert page.get_by_role("alert").inner_text() == "Say how sure you are first."
            page.get_by_label("How sure: 5 of 5").tap()
            page.get_by_role("button", name="Next").tap()
        wait_for(page, 3)
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Light or dark").tap()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
        code = page.locator("#mine").inner_text()
        page.close()
        # The same device knows its code; another one is told it.
        page = open_page()
        page.goto(address)
        wait_for(page, 3)
        other = make("desktop", "light")()
        other.goto(address)
        other.get_by_label("You began before?").fill(code.lower())
        other.keyboard.press("Enter")
        wait_for(other, 3)
        for number in (3, 4):
            wait_for(other, number)
            other.get_by_label("Box 3").check()
            other.get_by_label("How sure: 5 of 5").check()
            other.get_by_role("button", name="Next").click()
        other.wait_for_selector("#done:not([hidden])")
        assert [place.answer for place in answers.places(0)] == [{"choice": 2, "confidence": 5}] * 4
        assert len(answers.people()) == 1
    assert all(url.startswith((address, "data:")) for url in asked)
