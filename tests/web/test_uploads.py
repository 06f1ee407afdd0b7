"""What is sent as a picture: few formats, few pixels, and one line for everything else."""

from io import BytesIO

import pytest
from PIL import Image

from whybox.data.images import read_image
from whybox.errors import ImageError
from whybox.web.uploads import open_upload


def bytes_of(picture, kind, **options):
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


PICTURE = Image.linear_gradient("L").resize((20, 12)).convert("RGB")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_pictures_of_browsers_are_read(kind):
    assert open_upload(bytes_of(PICTURE, kind)).size == (20, 12)


def test_the_orientation_is_applied_as_to_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytes_of(PICTURE, "JPEG", exif=exif)
    (tmp_path / "turned.jpg").write_bytes(data)
    sent = read_image(open_upload(data))
    assert tuple(sent.shape) == (3, 20, 12)
    assert sent.equal(read_image(tmp_path / "turned.jpg"))


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "EPS", "PDF"])
def test_other_formats_are_not_tried(kind):
    with pytest.raises(ImageError, match="not a picture that can be read"):
        open_upload(bytes_of(PICTURE, kind))


def test_broken_pictures_are_one_line():
    whole = bytes_of(PICTURE, "PNG")
    for data in (b"", b"x", b"<svg/>", whole[:20], whole[:60], b"\xff\xd8\xff" + bytes(100), b"GIF89a" + b"\xff" * 40):
        with pytest.raises(ImageError) as told:
            open_upload(data)
        assert "\n" not in str(told.value)


def test_the_head_tells_too_many_pixels_before_they_are_decoded():
    large = bytes_of(Image.new("1", (1000, 1000)), "PNG")
    with pytest.raises(ImageError, match="1000x1000 is over 0 megapixels"):
        open_upload(large, most_pixels=999_999)
    # As a bomb has it: a head that claims far more than follows.
    claimed = large[:16] + (60_000).to_bytes(4, "big") * 2 + large[24:]
    with pytest.raises(ImageError, match=r"megapixels|not a picture"):
        open_upload(claimed)
