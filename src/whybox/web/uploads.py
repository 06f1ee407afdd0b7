"""Pictures that a browser sends: bytes that nobody vouches for, opened as one of a few formats and within limits."""

import warnings
from io import BytesIO

from PIL import Image

from whybox.errors import ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats that browsers show. Others, such as EPS, which an interpreter reads, are not even tried."""

MOST_PIXELS = 50_000_000


def open_upload(data: bytes, *, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decode a picture that was sent.

    Args:
        data: The file's bytes.
        most_pixels: The largest width times height; a picture's head tells them before it is decoded.

    Returns:
        The decoded picture as it is stored; its EXIF orientation is for `read_image` to apply.

    Raises:
        ImageError: It is none of the formats, too large, or damaged; in one line.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():
            # `most_pixels` is the limit here; far beyond Pillow's own it raises an error, which is told below.
            warnings.simplefilter("ignore")
            picture = Image.open(BytesIO(data), formats=FORMATS)
            width, height = picture.size
            if width * height > most_pixels:
                raise ImageError(f"{width}x{height} is over {most_pixels // 10**6} megapixels; scale it down first")
            picture.load()
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"larger than {most_pixels // 10**6} megapixels; scale it down first") from None
    except Exception:  # a damaged file makes Pillow's decoders raise almost anything
        raise ImageError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    return picture
