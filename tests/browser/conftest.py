"""A browser for the tests of a module, and pages in it that are watched."""

import shutil
from urllib.parse import unquote, urlsplit

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


# Not of the whole session: Playwright keeps an event loop running, in which other tests could start none of their own.
@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def look(browser):
    """Open a page of the disk: its console stays empty, and all that it asks for lies in its own folder."""
    contexts, problems = [], []

    def open_page(path, watched=True):
        contexts.append(browser.new_context(viewport={"width": 1400, "height": 800}, accept_downloads=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        if watched:
            page.on("console", lambda message: problems.append(message.text))
            page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend(outside(request.url, path.parent)))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def outside(url, folder):
    """The address, where it does not lie in a folder."""
    parts = urlsplit(url)
    inside = parts.scheme == "file" and unquote(parts.path).startswith(f"{folder}/")
    return [] if parts.scheme in ("data", "blob") or inside else [url]


UNNAMED = """() => [...document.querySelectorAll("button, input, select, textarea")].filter((control) =>
    control.offsetParent && !control.labels?.length && !control.getAttribute("aria-label") && !control.textContent.trim()
).map((control) => control.outerHTML)"""


@pytest.fixture
def narrow():
    """Load a page anew on a phone in the dark: no bar below, the dark colors, and every control has a name."""

    def check(page):
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 400, "height": 800})
        page.reload()
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        assert max(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).map(Number)")) < 60
        assert page.evaluate(UNNAMED) == []

    return check
