"""Images of any form a user has -> (3,H,W) float in 0..1."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from whybox.errors import ImageError

MAX_PIXELS = 100_000_000
"""Larger images are refused: the float tensor alone would take more than a gigabyte."""

TOLERANCE = 1e-3
"""How far floats may lie outside 0..1: what resizing, half precision and color conversions add."""

WHITE = {torch.uint8: 255, torch.uint16: 65535}
"""The value of white by dtype."""

PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
"""PIL's modes whose colors are multiplied by their alpha, and the only modes that it converts them to."""

BITS_PER_SAMPLE = 258
"""The number of this tag of TIFF files."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

ImageSource = str | Path | Image.Image | np.ndarray | Tensor


_GREY = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey, of ITU-R BT.601, as PIL has them."""


def read_image(source: ImageSource, channels: int = 3) -> Tensor:
    """Read an image.

    The bit depth is that of the file, the mode, or the dtype, never guessed from the values: a dark 16-bit image stays dark.

    Args:
        source: One of

            - a path or a PIL image of any mode: the EXIF orientation is applied, transparent pixels are put on white, mode "I"
              is read as 16-bit, mode "F" as 0..1;
            - numpy, uint8 or uint16: (H,W,3), (H,W,4), (H,W,1) or (H,W);
            - torch, uint8, uint16, or float in 0..1: (3,H,W) or (1,H,W).

            Floats outside 0..1 by at most `TOLERANCE` are clamped.
        channels: What the network takes. 1: colors become grey. Any other number than 3: only a torch tensor (channels,H,W) or
            a numpy array (H,W,channels) has them.

    Returns:
        (channels,H,W) float32 in 0..1; three channels are RGB.

    Raises:
        ImageError: It cannot be read, or its values or its shape are not those of an image.
    """
    if channels != 3:
        return _of_channels(source, channels)
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        with _one_line("the image"):
            return _from_pil(source, "the image")
    if isinstance(source, (str, Path)):
        return _from_path(Path(source))
    raise ImageError(f"an image must be a path, PIL image, numpy array or torch tensor, got {type(source).__name__}")


def _of_channels(source: ImageSource, channels: int) -> Tensor:
    """An image for a network that does not take three channels."""
    if isinstance(source, Tensor) and source.ndim == 3 and source.shape[0] == channels:
        return _from_tensor(source, channels)
    if isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] == channels and channels != 1:
        # Band by band, because four bands are read as transparency otherwise, and five not at all.
        return torch.cat([_from_array(source[:, :, band])[:1] for band in range(channels)])
    if channels != 1:
        shape = tuple(source.shape) if isinstance(source, Tensor | np.ndarray) else type(source).__name__
        raise ImageError(
            f"the network takes images of {channels} channels: pass a torch tensor ({channels}, H, W) in 0..1, or numpy (H, W, "
            f"{channels}) uint8; got {shape}"
        )
    return (read_image(source) * torch.tensor(_GREY)[:, None, None]).sum(0, keepdim=True)


def as_picture(image: Tensor) -> Tensor:
    """An image (C,H,W) of any number of channels as people can look at it, (3,H,W): grey where it has one or two, the first
    three of more."""
    if len(image) == 3:
        return image
    return image[:3] if len(image) > 3 else image[:1].expand(3, -1, -1)


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Read the picture of a file whose annotations are made for a known size.

    Such annotations mean the pixels as they are stored; the EXIF orientation is applied only where nothing else fits the
    size, or where no size is known.

    Args:
        path: The file.
        size: (W,H) in pixels, or None where it is not known.

    Returns:
        The picture in RGB, of this size.

    Raises:
        ImageError: It cannot be read, or has another size.
    """
    with _opened(path) as image:
        # Before the picture is decoded: its head tells the size.
        _check_size(image.height, image.width, str(path))
        image.load()
        picture = _to_rgb(image if image.size == size else ImageOps.exif_transpose(image), str(path))
    if size is not None and picture.size != size:
        (width, height), (wide, high) = image.size, size
        raise ImageError(f"{path}: is {width}x{height}, but annotated as {wide}x{high}; was it resized after it was annotated?")
    picture.info = {}  # whoever reads the picture next must not turn it once more
    return picture


def stored_sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Read the size of a picture from the head of its file.

    Args:
        path: The file.

    Returns:
        (W,H) in pixels as stored, and (W,H) after the EXIF orientation is applied.

    Raises:
        ImageError: It is no picture, or too large.
    """
    with _opened(path) as image:
        _check_size(image.height, image.width, str(path))
        return image.size, size_upright(image)


def size_upright(image: Image.Image) -> tuple[int, int]:
    """(W,H) of a picture after its EXIF orientation is applied, as `read_image` does."""
    width, height = image.size
    return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in SIDEWAYS else (width, height)


def _from_path(path: Path) -> Tensor:
    with _opened(path) as image:
        return _from_pil(image, str(path))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as an image, not yet decoded; whatever goes wrong with it until the end is an ImageError of one line."""
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, expected an image file")
    with _one_line(str(path)), Image.open(path) as image:
        yield image


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Whatever goes wrong with the image is an ImageError of one line; `name` begins it, and is the path where it is a file."""
    try:
        with warnings.catch_warnings():
            # MAX_PIXELS is the limit here; beyond twice its own limit Pillow raises an error, which is told below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    # Once ultralytics is imported, Image.open asks for another package where Pillow does not know the format.
    except (UnidentifiedImageError, ImportError):
        empty = Path(name).stat().st_size == 0
        raise ImageError(f"{name}: {'the file is empty' if empty else 'not an image that can be read'}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: larger than {MAX_PIXELS // 10**6} megapixels; scale it down first") from None
    except Exception as error:  # a damaged file makes PIL's decoders raise almost anything: struct.error, KeyError, ...
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(f"{name}: cannot be read ({first})") from None


def _from_pil(image: Image.Image, name: str) -> Tensor:
    width, height = image.size
    _check_size(height, width, name)
    image.load()
    image = ImageOps.exif_transpose(image)
    if (grey := _deep_grey(image, name)) is not None:
        return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
    return _from_array(np.asarray(_to_rgb(image, name)))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """The picture in RGB, 8 bits a color."""
    if (grey := _deep_grey(image, name)) is not None:
        return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in PREMULTIPLIED:
        image = image.convert(PREMULTIPLIED[image.mode])
    if image.mode.endswith("A") or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image, name: str) -> np.ndarray | None:
    """Grey (H,W) float32 in 0..1 of a mode with more than 8 bits, which PIL would clip at 255; None for the other modes.

    Mode "I" is what PIL makes of 16-bit PNG and PGM files, as is "I;16". TIFF files can have fewer bits than their mode.
    """
    if image.mode == "F":
        # np.array copies: torch warns of arrays that cannot be written to, which asarray gives of an image.
        return _in_range(torch.from_numpy(np.array(image, dtype=np.float32)), name).numpy()
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return None
    values = np.asarray(image).astype(np.int64)
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
    # At most 16: the samples of mode "I" have 32 bits, of which 16-bit files fill the lower half.
    white = 2 ** min(bits, 16) - 1
    low, high = values.min(initial=0), values.max(initial=0)
    if low < 0 or high > white:
        raise ImageError(
            f"{name}: grey of mode {image.mode} must lie in 0..{white}, got {low} to {high}; save it as 16-bit or 8-bit"
        )
    # In float32, as _from_array divides, so that a file and the array of its values give the same image.
    return values.astype(np.float32) / np.float32(white)


def _from_array(array: np.ndarray) -> Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"a numpy image must be (H, W, 3) uint8, got shape {array.shape}")
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ImageError(
            f"a numpy image must be uint8 0..255 or uint16 0..65535, got {array.dtype}; pass floats as a torch tensor (3, H, W)"
        )
    _check_size(array.shape[0], array.shape[1], "the image")
    # Converted by NumPy, because torch takes no array of another byte order.
    pixels = torch.from_numpy(array.astype(np.float32)) / np.iinfo(array.dtype).max
    if array.shape[2] == 4:
        if array.dtype.itemsize == 1:
            # By Pillow, so that an array and a file of the same picture give the same values.
            return _from_array(np.asarray(_to_rgb(Image.fromarray(np.ascontiguousarray(array)), "the image")))
        pixels = pixels[..., :3] * pixels[..., 3:] + 1 - pixels[..., 3:]
    return pixels.permute(2, 0, 1).expand(3, -1, -1).contiguous()


def _from_tensor(tensor: Tensor, channels: int = 3) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, channels):
        raise ImageError(f"a torch image must be (3, H, W), got {tuple(tensor.shape)}")
    _check_size(tensor.shape[1], tensor.shape[2], "the image")
    if tensor.device.type == "meta":
        raise ImageError("a torch image on the device 'meta' holds no pixels")
    if tensor.dtype in WHITE:
        tensor = tensor.float() / WHITE[tensor.dtype]
    if not tensor.is_floating_point():
        raise ImageError(
            f"a torch image must be float in 0..1, uint8 or uint16, got {tensor.dtype}; for values in 0..255 use .to(torch.uint8)"
        )
    return _in_range(tensor.detach(), "the image").expand(channels, -1, -1).contiguous()


def _in_range(values: Tensor, name: str) -> Tensor:
    """Float values as float32 in 0..1; what lies outside by a rounding error is clamped."""
    if not values.isfinite().all():
        raise ImageError(f"{name} holds NaN or infinity")
    low, high = values.min().item(), values.max().item()
    slack = TOLERANCE * 1.001  # 1.001 is a little more than that in float32, and 0.001 in float16
    if low < -slack or high > 1 + slack:
        raise ImageError(f"{name}: a float image must lie in 0..1 (not normalized, not 0..255), got {low:.7g} to {high:.7g}")
    return values.float().clamp(0, 1)


def _check_size(height: int, width: int, name: str) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name}: has no pixels ({height}x{width})")
    if height * width > MAX_PIXELS:
        raise ImageError(f"{name}: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels; scale it down first")
