"""Which images may be shown."""

import pytest
from PIL import Image

from whybox.data.scenes import draw_scene
from whybox.errors import WhyboxError
from whybox.viewer import images
from whybox.viewer.images import Images, open_images


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "inside"
    (inside / "deep").mkdir(parents=True)
    for place in (tmp_path / "secret.png", inside / "b.png", inside / "deep" / "a.JPG", inside / ".hidden.png"):
        Image.new("RGB", (300, 200), "red").save(place)
    (inside / "notes.txt").write_text("private")
    (inside / "away.png").symlink_to(tmp_path / "secret.png")
    (inside / "within.png").symlink_to(inside / "b.png")
    (inside / "up").symlink_to(tmp_path)
    return inside


def test_a_folder_shows_its_images_and_no_link_out_of_it(folder):
    found = open_images([str(folder)])
    assert found.names == ["b.png", "within.png", "deep/a.JPG"]
    assert found.outside == 1


def test_files_folders_and_data_sets(folder):
    both = open_images([str(folder / "b.png"), str(folder / "deep")])
    assert both.names == ["b.png", "a.JPG"]
    data = open_images(["scenes:count=3"])
    assert len(data.names) == 3
    assert data.source(0).size == draw_scene(0).image.size
    assert open_images([]).names == []


@pytest.mark.parametrize(
    ("what", "words"), [("gone.png", "gone.png: no such file"), ("gone", "unknown data 'gone'"), ("empty", "holds no image")]
)
def test_what_is_not_there_is_said(tmp_path, monkeypatch, what, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WhyboxError, match=words):
        open_images([what])


def test_small_pictures_and_damaged_files(folder):
    (folder / "bad.png").write_bytes(b"no picture")
    shown = Images(open_images([str(folder)]))
    names = list(shown.named.names)
    for name in ("b.png", "deep/a.JPG"):
        assert shown.thumb(str(names.index(name)))[:2] == b"\xff\xd8"
        assert len(shown.thumb(str(names.index(name)))) < len(shown.photo(str(names.index(name)))) + 1000
    with pytest.raises(WhyboxError, match="not an image that can be read"):
        shown.thumb(str(names.index("bad.png")))


def test_what_was_sent_first_goes_first(monkeypatch, tmp_path):
    Image.effect_noise((40, 40), 50).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(images, "UPLOADS", 2 * len(data))
    shown = Images(open_images([]))
    sent = [shown.add(data, "a.png") for _ in range(3)]
    assert len(set(sent)) == 3
    with pytest.raises(WhyboxError, match="no longer in memory"):
        shown.source(sent[0])
    assert shown.source(sent[2])[0] == "a.png"
