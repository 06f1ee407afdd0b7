"""Images of any form a user has -> (3,H,W) float in 0..1."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from whybox.errors import ImageError

MAX_PIXELS = 100_000_000
"""Larger images are refused: the float tensor alone would take more than a gigabyte."""

ImageSource = str | Path | Image.Image | np.ndarray | Tensor


def read_image(source: ImageSource) -> Tensor:
    """An image as (3,H,W) float32 in 0..1, RGB.

    A path or PIL image of any mode (EXIF orientation applied; palette, grey and 16-bit converted; what is transparent is put on
    white), numpy (H,W,3), (H,W,4), (H,W,1) or (H,W) uint8, or a torch tensor (3,H,W) or (1,H,W), float in 0..1 or uint8.
    """
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the image")
    if isinstance(source, (str, Path)):
        return _from_path(Path(source))
    raise ImageError(f"an image must be a path, PIL image, numpy array or torch tensor, got {type(source).__name__}")


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """The RGB picture of a file whose annotations are made for `size` (W,H) in pixels.

    Such annotations mean the pixels as they are stored; the EXIF orientation is applied only where nothing else fits the
    size, or where no size is known.
    """
    with _opened(path) as image:
        _check_size(image.height, image.width, str(path))
        image.load()
        picture = _to_rgb(image if image.size == size else ImageOps.exif_transpose(image))
    if size is not None and picture.size != size:
        (width, height), (wide, high) = image.size, size
        raise ImageError(f"{path}: is {width}x{height}, but annotated as {wide}x{high}; was it resized after it was annotated?")
    picture.info = {}  # whoever reads the picture next must not turn it once more
    return picture


def _from_path(path: Path) -> Tensor:
    with _opened(path) as image:
        return _from_pil(image, str(path))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as an image, not yet decoded; whatever goes wrong with it until the end is an ImageError of one line."""
    if path.is_dir():
        raise ImageError(f"{path}: is a folder, expected an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise ImageError(f"{path}: {'the file is empty' if empty else 'not an image that can be read'}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: larger than {MAX_PIXELS // 10**6} megapixels; scale it down first") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({error})") from None


def _from_pil(image: Image.Image, name: str) -> Tensor:
    width, height = image.size
    _check_size(height, width, name)
    image.load()
    image = ImageOps.exif_transpose(image)
    return _from_array(np.asarray(_to_rgb(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        return _from_deep(image)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        page = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(page, image).convert("RGB")
    return image.convert("RGB")


def _from_deep(image: Image.Image) -> Image.Image:
    """16-bit and wider grey: PIL would clip at 255. Values over 255 are read as 16-bit, floats up to 1 as 0..1."""
    values = np.asarray(image).astype(np.float64)
    top = 65535 if values.max(initial=0) > 255 else 1 if image.mode == "F" and values.max(initial=0) <= 1 else 255
    return Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8)).convert("RGB")


def _from_array(array: np.ndarray) -> Tensor:
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"a numpy image must be (H, W, 3) uint8, got shape {array.shape}")
    if array.dtype != np.uint8:
        raise ImageError(f"a numpy image must be uint8 0..255, got {array.dtype}; pass floats as a torch tensor (3, H, W)")
    _check_size(array.shape[0], array.shape[1], "the image")
    if array.shape[2] == 4:
        return _from_array(np.asarray(_to_rgb(Image.fromarray(array))))
    pixels = torch.from_numpy(np.array(array)).permute(2, 0, 1).float() / 255
    return pixels.expand(3, -1, -1).contiguous()


def _from_tensor(tensor: Tensor) -> Tensor:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ImageError(f"a torch image must be (3, H, W), got {tuple(tensor.shape)}")
    _check_size(tensor.shape[1], tensor.shape[2], "the image")
    if tensor.dtype == torch.uint8:
        tensor = tensor.float() / 255
    if not tensor.is_floating_point():
        raise ImageError(f"a torch image must be float in 0..1 or uint8, got {tensor.dtype}")
    tensor = tensor.detach()
    if not tensor.isfinite().all():
        raise ImageError("the image holds NaN or infinity")
    low, high = tensor.min().item(), tensor.max().item()
    if low < 0 or high > 1:
        raise ImageError(f"a float image must lie in 0..1 (not normalized, not 0..255), got {low:.3g} to {high:.3g}")
    return tensor.float().expand(3, -1, -1).contiguous()


def _check_size(height: int, width: int, name: Any) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name}: has no pixels ({height}x{width})")
    if height * width > MAX_PIXELS:
        raise ImageError(f"{name}: {width}x{height} is over {MAX_PIXELS // 10**6} megapixels; scale it down first")
