"""The viewer, clicked through in a real browser: its console stays empty, and no request leaves the page."""

import json
import re
from base64 import b64encode
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

import whybox
from whybox.data.scenes import draw_scene
from whybox.viewer.view import viewing

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect

MANY = 10_000


class Scenes:
    """Ten thousand images, of which each is one of two."""

    def __init__(self):
        self.names = [f"{'crowd' if i % 2 else 'mixed'}-{i}.png" for i in range(MANY)]
        self.pictures = [draw_scene(i, seed=1).image for i in range(2)]

    def source(self, index):
        return self.pictures[index % 2]


GIVE = """([kind, names, picture]) => {
    const bytes = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0));
    const given = new DataTransfer();
    for (const name of names) given.items.add(new File([bytes], name, { type: "image/png" }));
    const told = { dataTransfer: given, clipboardData: given };
    document.dispatchEvent(kind === "drop" ? new DragEvent(kind, told) : new ClipboardEvent(kind, told));
}"""


@pytest.fixture(scope="module")
def address(browser):
    scenes, after = whybox.load("whybox/scenes"), whybox.load("whybox/scenes")
    with torch.no_grad():
        # The class "house" is no longer found.
        after.network.head.classification_head.cls_logits.bias[4] = -20
    with viewing({"before": scenes, "after": after, "clip": whybox.load("whybox/scenes-clip")}, Scenes()) as served:
        yield served


@pytest.fixture
def page(browser, address):
    context = browser.new_context(viewport={"width": 1400, "height": 900}, accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    complaints, asked = [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#list .on")
    yield opened
    context.close()
    assert complaints == []
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("blob:", "data:"))} == {urlsplit(address).netloc}


def says(page, place, words):
    """Wait until an element's text holds some words."""
    expect(page.locator(place)).to_contain_text(words, timeout=60_000)


def drawn(page, question):
    """Wait for a question and the map that answers it."""
    says(page, "#question", question)
    says(page, "#facts", "Raw values")


def test_a_detection_its_targets_methods_and_layers(page):
    drawn(page, "Why ")
    page.select_option("#pick-target", "x1")
    drawn(page, "Why does the left edge of")
    page.select_option("#pick-method", "gradcam")
    page.select_option("#pick-layer", index=1)
    says(page, "#facts", "layer fpn")
    page.select_option("#pick-target", "contrast:")
    page.select_option("#pick-contrast", "dog")
    drawn(page, "and not dog?")
    # By keyboard: the next detection, and another image.
    page.locator("h1").click()
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#list li:nth-child(2).pinned")
    page.keyboard.press("PageDown")
    says(page, "#photo-name", "crowd-1.png")
    page.wait_for_selector("#list .on")
    count = page.locator("#list li:visible").count()
    page.locator("#threshold").fill("0.7")
    assert 0 < page.locator("#list li:visible").count() < count
    assert page.locator("#boxes g:visible").count() == page.locator("#list li:visible").count()


def test_ten_thousand_images_are_there_at_once(page):
    assert page.inner_text("#found") == f"{MANY} images"
    assert page.locator("#rail button").count() < 40
    page.keyboard.press("/")
    page.keyboard.type("crowd 99.")
    says(page, "#found", f" of {MANY}")
    page.keyboard.press("Enter")
    says(page, "#photo-name", "crowd-99.png")
    page.fill("#search", "")
    page.evaluate("() => { document.getElementById('film').scrollLeft = 1e9; }")
    page.wait_for_selector(f"#rail button[title='crowd-{MANY - 1}.png']")
    assert page.locator("#rail button").count() < 40


def test_slow_work_is_cancelled_and_a_box_is_drawn_and_asked_about(page):
    page.select_option("#pick-method", "drise")
    page.wait_for_selector("#working-share[value]")
    page.click("#cancel")
    page.wait_for_selector("#working", state="hidden")
    page.select_option("#pick-method", "odam")
    drawn(page, "Why ")
    page.locator("h1").click()
    page.keyboard.press("b")
    stage = page.locator("#stage").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * 0.6, stage["y"] + stage["height"] * 0.1)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.8, stage["y"] + stage["height"] * 0.4, steps=3)
    page.mouse.up()
    page.select_option("#box-class", "dog")
    page.click("#box-form button")
    says(page, "#advice", "best candidate: IoU")
    drawn(page, "Why dog?")
    page.locator("#advice button").first.click()
    drawn(page, "What speaks against dog?")


def test_texts_and_two_models_side_by_side(page):
    page.select_option("#pick-other", "after")
    says(page, "#beside-says", "correlation of the maps 1.00")
    page.locator("#pairs tbody button").last.click()
    page.wait_for_selector("#pairs tbody tr:last-child.on")
    page.select_option("#pick-other", "")
    page.select_option("#pick-model", "clip")
    says(page, "#question", "What should be looked for?")
    page.fill("#texts", "a red car\na dog")
    page.click("#asking button")
    says(page, "#words", "car")
    words = page.locator("#words .word").evaluate_all("nodes => nodes.map((node) => node.firstChild.textContent)")
    assert words == ["a", "red", "car"]
    assert page.locator("#list b").all_inner_texts() == ["a red car", "a dog"]
    assert page.locator("#pick-target option").last.inner_text() == "This text and not another"
    assert page.locator("#photo").get_attribute("alt") == "mixed-0.png, 2 texts"


def test_the_biggest_changes_of_two_models_come_first(page):
    page.select_option("#pick-other", "after")
    page.click("#changes-first")
    expect(page.locator("#changes-says")).to_have_text(re.compile(rf"^([3-9]|\d\d+) of {MANY} compared"), timeout=60_000)
    page.click("#changes-stop")
    says(page, "#changes-stop", "Go on")
    stopped = page.inner_text("#changes-says")
    marks = [float(mark) for mark in page.locator("#rail em").all_inner_texts()]
    assert len(marks) >= 3
    assert marks == sorted(marks, reverse=True)
    assert marks[0] > 2 > marks[-1]
    first = page.locator("#rail button").first.get_attribute("title")
    page.click("#rail button")
    says(page, "#photo-name", first)
    says(page, "#pairs", "house")
    assert page.inner_text("#changes-says") == stopped
    page.click("#changes-stop")
    expect(page.locator("#changes-says")).not_to_have_text(stopped, timeout=60_000)
    page.click("#changes-first")
    assert page.locator("#rail em").count() == 0
    assert page.locator("#rail button").first.get_attribute("title") == "mixed-0.png"
    assert page.inner_text("#changes-says") == ""


def test_pictures_are_added_and_what_is_seen_is_taken_away(page, tmp_path):
    Image.effect_noise((90, 60), 60).convert("RGB").save(tmp_path / "noise.png")
    kept = {}
    drawn(page, "Why ")
    for button in ("keep", "keep-json", "keep-page"):
        with page.expect_download() as loading:
            page.click(f"#{button}")
        kept[button] = loading.value.suggested_filename, loading.value.path().read_bytes()
    assert kept["keep"][1][:4] == b"\x89PNG"
    assert json.loads(kept["keep-json"][1])["method"] == "odam"
    assert kept["keep-page"][0] == "mixed-0.html"
    assert b"one file, nothing is fetched" in kept["keep-page"][1]
    page.set_input_files("#upload", tmp_path / "noise.png")
    says(page, "#photo-name", "noise.png")
    assert page.inner_text("#found") == f"{MANY + 1} images"
    for kind, names in (("drop", ("one.png", "two.png")), ("paste", ("three.png",))):
        page.evaluate(GIVE, [kind, list(names), b64encode((tmp_path / "noise.png").read_bytes()).decode()])
        says(page, "#photo-name", names[-1])
    assert page.inner_text("#found") == f"{MANY + 4} images"


def test_a_narrow_page_has_everything_and_no_bar_below(page):
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 400, "height": 800})
    page.reload()
    page.wait_for_selector("#list .on")
    assert page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("() => document.documentElement.scrollWidth") == 400
    unnamed = """() => [...document.querySelectorAll("button, input, select, textarea")].filter((control) =>
        control.offsetParent && !control.labels?.length && !control.getAttribute("aria-label") && !control.textContent.trim()
    ).map((control) => control.outerHTML)"""
    assert page.evaluate(unnamed) == []
