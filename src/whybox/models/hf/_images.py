"""Images as a Hugging Face model sees them, and the frame of it, read from the image processor's settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.network_state import device_of

SizeOption = Literal["keep"] | Size | None
"""None: as the processor has it. "keep": every side rounded to whole patches, nothing cropped. (h,w): resized to it."""


@dataclass(frozen=True)
class _Placing:
    """resized: the image scaled. canvas: what the processor gives. offset: of the image on it. settings: for the call."""

    resized: Size
    canvas: Size
    offset: Size = (0, 0)
    settings: Mapping[str, Any] = field(default_factory=dict)


def check_processor(processor: Any) -> Any:
    """Refuse what is no image processor."""
    if not hasattr(processor, "image_mean"):
        raise WhyboxError(f"processor must be one of transformers' image processors, got {type(processor).__name__}")
    return processor


def preparation(net: Any, processor: Any, patch: Size, size: SizeOption) -> Callable[[Tensor], tuple[Tensor, Frame]]:
    """A function that makes the network's input of images (B,3,H,W) in 0..1, and its frame.

    Of sides that are no multiple of the patch, the network's convolution leaves the rest out; it is cut off here, so that
    the frame tells of it.
    """
    check_size(size, patch)

    def prepare(images: Tensor) -> tuple[Tensor, Frame]:
        """Pixels (B,3,h,w) as the network takes them, of images (B,3,H,W) in 0..1, and where the image lies in them."""
        image = (images.shape[-2], images.shape[-1])
        placing = _own_placing(processor, image) if size is None else _resized_to(_target(image, patch, size), processor)
        pixels = processed(processor, images, **placing.settings)["pixel_values"].to(device_of(net), net.dtype)
        if tuple(pixels.shape[-2:]) != placing.canvas:
            raise WhyboxError(
                f"{type(processor).__name__} gave {tuple(pixels.shape[-2:])} pixels where its settings say {placing.canvas}: "
                'give size="keep" or size=(height, width), which need only its resizing'
            )
        height, width = ((extent // cell) * cell for extent, cell in zip(placing.canvas, patch, strict=True))
        return pixels[..., :height, :width], Frame(image, placing.resized, (height, width), placing.offset)

    return prepare


def patch_preparation(net: Any, processor: Any, patch: int) -> Callable[[Tensor], tuple[Tensor, Frame]]:
    """The same for a processor that cuts every image into as many patches as fit a budget (NaFlex), padding left out."""
    if not hasattr(processor, "max_num_patches"):
        raise WhyboxError(f"SigLIP 2 takes images in patches: give its Siglip2ImageProcessor, not {type(processor).__name__}")

    def prepare(images: Tensor) -> tuple[Tensor, Frame]:
        """Pixels (B,3,h,w), the patches put back in their places, of images (B,3,H,W) in 0..1; and their frame."""
        given = processed(processor, images)
        rows, columns = given["spatial_shapes"][0].tolist()
        # The patches of an image come first and its padding after them; images of one size have one grid.
        patches = given["pixel_values"][:, : rows * columns].to(device_of(net), net.dtype)
        cells = patches.reshape(len(patches), rows, columns, patch, patch, -1)
        pixels = cells.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)
        network = (rows * patch, columns * patch)
        return pixels, Frame((images.shape[-2], images.shape[-1]), network, network)

    return prepare


def to_patches(pixels: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """(B,3,H,W) -> patches (B,h*w,patch*patch*3), row by row, and their grids (B,2)."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    # Within a patch rows, columns, then channels, as Siglip2ImageProcessor flattens it.
    cells = pixels.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(batch, rows * columns, -1), torch.tensor([[rows, columns]] * batch, device=pixels.device)


def other_size(pixels: Tensor, own: Size) -> bool:
    """Whether the input is of another size than the network was made for: its position embeddings are interpolated then."""
    size = (pixels.shape[-2], pixels.shape[-1])
    if size != own and own[0] != own[1]:
        raise WhyboxError(
            f"this network was made for images of {own[0]}x{own[1]} pixels, no square, and transformers interpolates position "
            f"embeddings of squares alone: it cannot take {size[0]}x{size[1]}; leave size out, with a processor that fits"
        )
    return size != own


def mean_color(processor: Any) -> tuple[float, float, float]:
    """The color in 0..1 that the network sees as zero."""
    if not processor.do_normalize:
        return 0.0, 0.0, 0.0
    red, green, blue = processor.image_mean
    return float(red), float(green), float(blue)


def check_size(size: Any, patch: Size) -> None:
    """Refuse what is no size for images."""
    if size is None or size == "keep":
        return
    pair = isinstance(size, (tuple, list)) and len(size) == 2
    if not pair or any(type(extent) is not int or extent < cell for extent, cell in zip(size, patch, strict=True)):
        raise WhyboxError(f'size must be None, "keep" or (height, width) of at least a patch, {patch}, got {size!r}')


def _target(image: Size, patch: Size, size: SizeOption) -> Size:
    """Source of "keep": Zhao et al., Grad-ECLIP, ICML 2024, reference code: int(side / patch + .5) patches a side."""
    if size != "keep":
        height, width = size  # type: ignore[misc]
        return int(height), int(width)
    rows, columns = (max(1, int(extent / cell + 0.5)) for extent, cell in zip(image, patch, strict=True))
    return rows * patch[0], columns * patch[1]


def _resized_to(size: Size, processor: Any) -> _Placing:
    settings: dict[str, Any] = {"size": {"height": size[0], "width": size[1]}, "do_resize": True}
    if getattr(processor, "do_center_crop", False):  # those that never crop warn of the setting before transformers 5
        settings["do_center_crop"] = False
    return _Placing(size, size, settings=settings)


def _own_placing(processor: Any, image: Size) -> _Placing:
    resized = _resized(getattr(processor, "size", None), image) if processor.do_resize else image
    if not getattr(processor, "do_center_crop", False):
        return _Placing(resized, resized)
    canvas = (processor.crop_size["height"], processor.crop_size["width"])
    top, left = (_crop_offset(extent, side, processor) for extent, side in zip(canvas, resized, strict=True))
    return _Placing(resized, canvas, (top, left))


def _on_torchvision(processor: Any) -> bool:
    """Before transformers 5 a processor does not tell its backend, but the name of its class does."""
    return getattr(processor, "backend", None) == "torchvision" or type(processor).__name__.endswith("Fast")


def _crop_offset(canvas: int, resized: int, processor: Any) -> int:
    """Where a centered image starts. An odd padding has its larger half before the image in the processors that run on
    Pillow. Before transformers 5 the others crop by torchvision's function, which rounds halves to the even number."""
    torchvision = _on_torchvision(processor)
    if resized >= canvas:
        spare = resized - canvas
        return -round(spare / 2) if torchvision and not hasattr(processor, "backend") else -(spare // 2)
    return (canvas - resized + (not torchvision)) // 2


def _resized(size: Any, image: Size) -> Size:
    """The size of an image after the processor's resizing."""
    wanted = {key: value for key, value in dict(size or {}).items() if value is not None}
    if wanted.keys() == {"height", "width"}:
        return wanted["height"], wanted["width"]
    if wanted.keys() != {"shortest_edge"}:
        raise WhyboxError(f'an image processor with size {wanted} is not known: give size="keep" or size=(height, width)')
    short, long = sorted(image)
    # Cut off and not rounded, as transformers' get_resize_output_image_size does.
    scaled = int(wanted["shortest_edge"] * long / short)
    return (scaled, wanted["shortest_edge"]) if image[0] > image[1] else (wanted["shortest_edge"], scaled)


def processed(processor: Any, images: Tensor, **settings: Any) -> Any:
    """What the processor makes of images (B,3,H,W) in 0..1. It gets eight bits, because that is what it is given elsewhere."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8) if processor.do_rescale else images
    if not _on_torchvision(processor):
        # Processors on Pillow convert to NumPy, which reads no tensor of another device.
        pixels = pixels.cpu()
    return processor(images=list(pixels), return_tensors="pt", input_data_format="channels_first", **settings)
