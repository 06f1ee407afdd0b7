"""The python blocks of README and docs run, top to bottom, page by page."""

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest

from contract.pages import defined_by, python_blocks
from models.hf_versions import NEW
from whybox.data.scenes import draw_scene

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OFFLINE = "torchvision/fcos_resnet50_fpn"
"""Blocks that load these weights are shown, not run: they are a download."""


def blocks(page: Path) -> list[str]:
    return [text for text in python_blocks(page) if f'load("{OFFLINE}")' not in text]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    if not NEW and "DetrConfig(" in page.read_text():
        pytest.skip("before transformers 5 a configuration with a backbone of one's own takes more words")
    if find_spec("ultralytics") is None and "from ultralytics import" in page.read_text():
        pytest.skip("ultralytics is not installed")
    monkeypatch.chdir(tmp_path)
    draw_scene(3, seed=1).image.save("street.jpg")
    defined_by(page, blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_pictures_are_small_and_shown():
    pictures = [path for path in (ROOT / "docs" / "images").iterdir() if path.suffix in (".webp", ".png", ".jpg")]
    assert pictures
    pages = "".join(page.read_text() for page in PAGES)
    for picture in pictures:
        assert picture.stat().st_size < 300_000, f"{picture.name} is slow to load"
        assert f"images/{picture.name})" in pages, f"no page shows {picture.name}"


@pytest.mark.parametrize("script", ["make.py", "crowds.py", "viewer.py", "attention.py"])
def test_the_scripts_behind_the_pictures_still_fit_the_library(script, monkeypatch):
    # Where Python looks first for what a script imports.
    monkeypatch.syspath_prepend(ROOT / "docs" / "images")
    runpy.run_path(str(ROOT / "docs" / "images" / script), run_name="pictures")


def test_every_method_rule_and_family_has_its_page():
    from whybox import registry

    for name in registry.methods():
        page = "controls" if name.startswith("control_") else name
        assert (ROOT / "docs" / "methods" / f"{page}.md").is_file()
    for name in registry.rules():
        assert (ROOT / "docs" / "suppression" / f"{name}.md").is_file()
    for name in registry.models():
        page = name.removesuffix("_onestage").removesuffix("_twostage")
        assert (ROOT / "docs" / "models" / f"{page}.md").is_file()


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert str(page.relative_to(ROOT / "docs")) in menu, f"{page} has no line under nav in mkdocs.yml"
