import numpy as np
import pytest
import torch
from PIL import Image

from whybox.data.images import MAX_PIXELS, read_image, read_picture
from whybox.errors import ImageError


def pixels(height=5, width=7):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_all_forms_of_one_picture_read_alike(tmp_path):
    array = pixels()
    expected = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    Image.fromarray(array).save(tmp_path / "a.png")
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array), array, expected, (expected * 255).byte()]
    for form in forms:
        assert torch.allclose(read_image(form), expected)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(pixels(4, 6))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "turned.png"), read_image(pixels(4, 6)).rot90(-1, (1, 2)))


def test_palette_grey_alpha_and_deep_images():
    grey = Image.fromarray(pixels()[:, :, 0])
    assert torch.equal(read_image(grey)[0], read_image(grey)[2])
    palette = Image.fromarray(pixels()).quantize(16)
    assert torch.equal(read_image(palette), read_image(palette.convert("RGB")))
    clear = Image.new("RGBA", (3, 3), (255, 0, 0, 0))
    assert read_image(clear).min() == 1
    deep = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert read_image(deep)[0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=0.01)
    real = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert read_image(real)[0, 0].tolist() == pytest.approx([0, 0.5, 1], abs=0.01)


def test_bad_files_are_one_line(tmp_path):
    Image.fromarray(pixels(60, 60)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:400])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    expected = {"absent.png": "no such file", "cut.jpg": "(?i)truncated", "empty.png": "empty", "text.png": "not an image"}
    for name, message in expected.items():
        with pytest.raises(ImageError, match=message) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
    with pytest.raises(ImageError, match="folder"):
        read_image(tmp_path)


def test_huge_images_are_refused_before_they_are_decoded(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "huge.png")
    with pytest.raises(ImageError, match="megapixels"):
        read_image(tmp_path / "huge.png")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.rand(3, 4, 4) * 255, "0..1"),
        (torch.full((3, 4, 4), float("nan")), "NaN"),
        (torch.rand(1, 3, 4, 4), "3, H, W"),
        (torch.zeros(3, 0, 4), "no pixels"),
        (np.zeros((4, 4, 3)), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (12, "path"),
    ],
)
def test_other_mistakes_say_what_came(source, message):
    with pytest.raises(ImageError, match=message):
        read_image(source)


def turned(folder, orientation):
    image = Image.fromarray(pixels(4, 6))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(folder / "turned.png", exif=exif)
    return folder / "turned.png"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_only_where_its_stored_size_does_not_fit(tmp_path, orientation):
    file = turned(tmp_path, orientation)
    stored = read_picture(file, (6, 4))
    assert np.array_equal(np.asarray(stored), pixels(4, 6))
    assert torch.equal(read_image(stored), read_image(pixels(4, 6))), "nobody turns it once more"
    assert torch.equal(read_image(read_picture(file)), read_image(file)), "as any viewer where no size is known"
    if orientation < 5:
        with pytest.raises(ImageError, match="is 6x4, but annotated as 4x6"):
            read_picture(file, (4, 6))
    else:
        assert torch.equal(read_image(read_picture(file, (4, 6))), read_image(file))


def test_a_picture_of_any_mode_is_what_read_image_makes_of_it(tmp_path):
    deep = np.array([[0, 32768, 65535]], dtype=np.uint16)
    forms = [Image.new("RGBA", (3, 3), (255, 0, 0, 0)), Image.fromarray(deep), Image.fromarray(pixels()).quantize(16)]
    for image in forms:
        image.save(tmp_path / "a.png")
        picture = read_picture(tmp_path / "a.png", image.size)
        assert picture.mode == "RGB"
        # A picture has 8 bits; read_image keeps the depth of the file.
        assert torch.allclose(read_image(picture), read_image(tmp_path / "a.png"), atol=0.5 / 255 + 1e-6)


def test_a_broken_picture_is_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"text.png: not an image that can be read"):
        read_picture(tmp_path / "text.png", (3, 3))
    with pytest.raises(ImageError, match="no such file"):
        read_picture(tmp_path / "absent.png")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floats_a_rounding_error_outside_are_clamped(dtype):
    values = torch.tensor([-1e-3, 0.5, 1.001]).expand(3, 1, 3).to(dtype)
    assert read_image(values)[0, 0].tolist() == [0, 0.5, 1]
    assert read_image(values).dtype == torch.float32
    for low, high, words in ((0, 1.002, "1.00(2|19)"), (-0.002, 1, "-0.00(2|199)"), (0, 1.5, "to 1.5"), (-2, 2, "-2 to 2")):
        with pytest.raises(ImageError, match=words):
            read_image(torch.tensor([low, high]).expand(3, 1, 2).to(dtype))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_the_bit_depth_is_that_of_the_file(tmp_path, suffix):
    dark = np.array([[0, 100, 200]], dtype=np.uint16)
    if suffix == "pgm":
        # Older releases of Pillow read such a file and write none. Its samples are big-endian.
        (tmp_path / "dark.pgm").write_bytes(b"P5 3 1 65535\n" + dark.astype(">u2").tobytes())
    else:
        Image.fromarray(dark).save(tmp_path / f"dark.{suffix}")
    assert read_image(tmp_path / f"dark.{suffix}").max() <= 1 / 255
    assert read_image(torch.from_numpy(dark.astype(np.int32)).to(torch.uint16)[None]).max().item() == pytest.approx(200 / 65535)
    assert read_image(dark).max().item() == pytest.approx(200 / 65535)
    assert read_image(dark.astype(">u2")).max().item() == pytest.approx(200 / 65535)
    assert read_image(Image.fromarray(dark.astype(np.int32))).max() <= 1 / 255, "mode I"


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"]
)
def test_every_mode_is_read(mode):
    assert read_image(Image.new(mode, (4, 3))).shape == (3, 3, 4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.fromarray(np.array([[0, 1.5]], np.float32)), "0..1 .*got 0 to 1.5"),
        (Image.fromarray(np.array([[0, np.nan]], np.float32)), "NaN"),
        (Image.fromarray(np.array([[-1, 70000]], np.int32)), "must lie in 0..65535, got -1 to 70000"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), r"got torch.int64; .*\.to\(torch.uint8\)"),
        (torch.zeros(3, 4, 4, dtype=torch.bool), "got torch.bool"),
        (torch.full((3, 4, 4), 1e300, dtype=torch.float64), "got 1e.300"),
        (np.zeros((4, 4, 3), np.int64), "uint8 0..255 or uint16"),
        (np.zeros((4, 4, 3), object), "got object"),
    ],
)
def test_values_of_no_known_depth_are_refused(source, message):
    with pytest.raises(ImageError, match=message):
        read_image(source)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_stay_sixteen_bits_in_a_file_as_in_an_array(tmp_path, suffix):
    """64 levels of a dark image: 8 bits would keep 2 of them."""
    levels = (np.arange(64, dtype=np.uint16) * 5).reshape(8, 8)
    Image.fromarray(levels).save(tmp_path / f"dark.{suffix}")
    for read in (read_image(tmp_path / f"dark.{suffix}"), read_image(Image.fromarray(levels))):
        assert torch.equal(read, read_image(levels))
        assert len(read.unique()) == 64


def test_an_image_open_that_asks_for_a_package_is_no_other_error(tmp_path, monkeypatch):
    """Ultralytics replaces Pillow's: it wants a decoder of HEIF for whatever Pillow does not know."""
    (tmp_path / "text.png").write_text("no picture")

    def image_open(path):
        raise ModuleNotFoundError("No module named 'pi_heif'")

    monkeypatch.setattr(Image, "open", image_open)
    with pytest.raises(ImageError, match=r"text.png: not an image that can be read"):
        read_image(tmp_path / "text.png")
