"""The pages that are files, clicked through in a real browser by mouse and by keyboard, at a desktop's and at a phone's width."""

import re
from dataclasses import replace

import pytest
import torch

from report.made_up import made_up_detections, made_up_maps, made_up_photo
from report.made_up_match import made_up_match
from report.made_up_run import made_up_report
from report.test_decisions import made_up_crowd
from whybox.report import gallery
from whybox.report.album import Album
from whybox.report.decisions import make_crowd_sheet, write_decisions
from whybox.report.evaluation import write_report
from whybox.report.gallery import Tally, View, make_card, write_gallery
from whybox.report.match import write_match
from whybox.report.page import make_sheet, write_page

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def written(folder, html):
    path = folder / "index.html"
    path.write_text(html, encoding="utf-8")
    return path


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_the_page_of_a_few_images(look, narrow, tmp_path):
    path = written(tmp_path, write_page([made_up_photo(name=f"{name}.jpg") for name in ("street", "park", "beach")]))
    page = look(path)
    expect(page.locator("#question")).to_contain_text("Why cat?")
    expect(page.locator("#facts")).to_contain_text("Raw values")
    page.locator("#list button").nth(1).click()
    expect(page.locator("#list li.pinned")).to_contain_text("dog")
    press(page, "ArrowRight")
    expect(page.locator("#question")).to_contain_text("left edge of dog")
    press(page, "ArrowDown", "PageDown")
    expect(page.locator("#photo-name")).to_have_text("park.jpg")
    press(page, "Escape", "/")
    page.keyboard.type("bea")
    press(page, "Enter")
    expect(page.locator("#photo-name")).to_have_text("beach.jpg")
    expect(page.locator("#found")).to_have_text("1 of 3")
    page.get_by_text("One scale for all").click()
    page.locator("#grey").check()
    with page.expect_download() as loading:
        page.locator("#keep").click()
    assert loading.value.path().read_bytes()[:4] == b"\x89PNG"
    page.locator("#theme").click()
    narrow(page)


def test_the_page_of_many_images(look, narrow, tmp_path):
    sheet = make_sheet(made_up_photo(count=1, targets=("score",)))
    with Album(tmp_path / "pages") as album:
        for i in range(200):
            album.add(sheet._replace(name=f"{i}.jpg", body=sheet.body.replace("street", str(i))))
    path = written(tmp_path, album.page("pages", remark="Not explained: bad.jpg."))
    page = look(path)
    expect(page.locator("#photo-name")).to_have_text("0.jpg")
    expect(page.locator("#rail img").first).to_have_attribute("src", re.compile("^data:image/jpeg"))
    assert page.evaluate("document.getElementsByTagName('*').length") < 600
    press(page, "PageUp")
    expect(page.locator("#photo-name")).to_have_text("199.jpg")
    expect(page.locator("#rail [aria-current=true] img")).to_have_attribute("src", re.compile("^data:image/jpeg"))
    # What the browser's own search would not find.
    press(page, "Control+f")
    page.keyboard.type("117")
    press(page, "Enter")
    expect(page.locator("#photo-name")).to_have_text("117.jpg")
    narrow(page)
    (tmp_path / "pages" / "image-0.js").unlink()
    expect(look(path, watched=False).locator("#meaning")).to_contain_text("the folder beside this page, is missing or not whole")


def made_up_cards(count):
    maps = made_up_maps(1)
    image = torch.full((3, *maps.frame.image), 0.5)
    found = made_up_detections(1).boxes[0]
    first = {"kind": "background", "title": "cat", "sentence": "Nothing is here.", "classes": ("cat",)}
    made = [
        make_card(image, [View("why cat", maps, found, "x1")], found, name="", **first),
        make_card(image, [View("no candidate")], found, name="", **{**first, "kind": "missed", "classes": ("dog",)}),
    ]
    return [replace(made[i % 2], image=f"{i}.jpg") for i in range(count)]


def gallery_of(cards, folder):
    tallies = [Tally(kind, "what it means", sum(card.kind == kind for card in cards), 0.1) for kind in ("background", "missed")]
    return written(folder, write_gallery(cards, tallies, title="Errors", facts="toy", folder=folder))


def test_the_page_of_a_few_errors(look, narrow, tmp_path):
    path = gallery_of(made_up_cards(4), tmp_path)
    page = look(path)
    expect(page.locator(".card")).to_have_count(4)
    page.get_by_role("radio", name="missed").check()
    expect(page.locator("#shown")).to_contain_text("2 shown")
    press(page, "ArrowUp")
    expect(page.locator("#shown")).to_contain_text("2 shown")
    assert page.get_by_role("radio", name="background").is_checked()
    page.get_by_label("Class").select_option("dog")
    expect(page.locator("#shown")).to_have_text("none of these")
    page.get_by_role("radio", name="All types").check()
    page.locator("h1").click()
    press(page, "/")
    page.keyboard.type("3.JPG nothing")
    expect(page.locator(".file")).to_have_text(["3.jpg"])
    page.get_by_label("heat maps").uncheck()
    assert page.locator(".turner").count() == 0
    narrow(page)


def test_the_page_of_many_errors(look, narrow, tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "MOST_IN_FILE", 100)
    path = gallery_of(made_up_cards(101), tmp_path)
    page = look(path)
    expect(page.locator(".file").first).to_have_text("0.jpg")
    expect(page.locator(".card")).to_have_count(48)
    page.locator("h1").click()
    press(page, "ArrowRight", "ArrowRight", "ArrowRight")
    expect(page.locator(".file")).to_have_text([f"{i}.jpg" for i in range(96, 101)])
    expect(page.locator(".at").first).to_have_text("97–101 of 101")
    assert page.get_by_role("button", name="Next").first.is_disabled()
    page.get_by_role("button", name="Previous").last.click()
    expect(page.locator(".file").first).to_have_text("48.jpg")
    press(page, "Control+f")
    page.keyboard.type("77.jpg")
    expect(page.locator(".file")).to_have_text(["77.jpg"])
    page.fill("#search", "")
    page.get_by_role("radio", name="missed").check()
    expect(page.locator("#shown")).to_contain_text("50 found")
    expect(page.locator(".file").first).to_have_text("1.jpg")
    narrow(page)
    (tmp_path / "cards" / "cards-1.js").unlink()
    expect(look(path, watched=False).locator("#shown")).to_contain_text("the folder beside this page, is missing")


def test_the_evaluation_report(look, narrow, tmp_path):
    path = written(tmp_path, write_report(made_up_report()))
    page = look(path)
    names = page.locator("#scores tbody:not(.controls) .line .name")
    expect(names).to_have_text(["ODAM", "Grad-CAM"])
    page.locator(".sort").nth(1).focus()
    press(page, "Enter")
    expect(names).to_have_text(["Grad-CAM", "ODAM"])
    page.get_by_text("Relative to the control").click()
    expect(page.locator("#scores")).to_have_attribute("data-view", "relative")
    chip = page.locator(".chip").first
    chip.click()
    expect(chip).to_have_attribute("aria-pressed", "false")
    page.locator(".chart svg").first.focus()
    press(page, "ArrowRight", "ArrowRight")
    expect(page.locator(".tip:visible")).to_contain_text("at 0.5")
    press(page, "Escape")
    expect(page.locator(".tip:visible")).to_have_count(0)
    page.get_by_text("Worst", exact=True).click()
    expect(page.locator(".example:visible")).to_have_count(1)
    page.get_by_role("link", name="How").click()
    narrow(page)


def test_the_page_of_decisions(look, narrow, tmp_path):
    crowds = [make_crowd_sheet(made_up_crowd(name=name)) for name in ("street.jpg", "park.jpg")]
    path = written(tmp_path, write_decisions(crowds))
    page = look(path)
    expect(page.locator("#list .on")).to_have_count(1)
    verdict = page.locator("#verdict").inner_text()
    press(page, "ArrowDown")
    expect(page.locator("#verdict")).not_to_have_text(verdict)
    press(page, "ArrowRight", "PageDown")
    expect(page.locator("#photo-name")).to_have_text("park.jpg")
    page.locator("#film button").first.click()
    expect(page.locator("#photo-name")).to_have_text("street.jpg")
    page.locator("#all").click()
    page.locator("#list button").last.click()
    page.locator("#whole").check()
    narrow(page)


def test_the_page_about_texts(look, narrow, tmp_path):
    path = written(tmp_path, write_match(made_up_match()))
    page = look(path)
    question = page.locator("#question")
    expect(question).to_contain_text("a red ball")
    press(page, "ArrowDown")
    expect(question).to_contain_text("a dog")
    press(page, "ArrowUp", "ArrowRight", "ArrowRight")
    expect(question).to_contain_text("red")
    press(page, "Escape")
    page.get_by_text("Own scale").click()
    page.locator("#grey").check()
    with page.expect_download() as loading:
        page.locator("#keep").click()
    assert loading.value.path().read_bytes()[:4] == b"\x89PNG"
    narrow(page)
