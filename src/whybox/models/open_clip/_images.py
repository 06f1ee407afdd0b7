"""open_clip's preprocessing of images, at the model's own or another size, with the resulting frame."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from whybox.errors import WhyboxError
from whybox.frame import Frame, Size

LARGEST = 640
"""The largest shorter side with size "keep": as in the evaluation of Grad-ECLIP's reference code."""

WantedSize = Literal["keep"] | Size | None


@dataclass(frozen=True)
class Preparation:
    """Images (B,3,H,W) in 0..1 of one size -> the network's input and its frame.

    Attributes:
        settings: open_clip's PreprocessCfg.
        patch: (height, width) of a patch, in pixels.
        like: Returns a tensor of the network, for the device and dtype of its input.
        size: None: that of the settings; "keep": the image's own, rounded to whole patches; or (h, w).
    """

    settings: Any
    patch: Size
    like: Callable[[], Tensor]
    size: WantedSize = None

    def __call__(self, images: Tensor) -> tuple[Tensor, Frame]:
        image = (images.shape[-2], images.shape[-1])
        resize, *rest = self._steps(image)
        prepared = []
        # In 8 bits and by Pillow, as open_clip's transforms have it: Pillow's bicubic resizing is antialiased, torch's is not.
        for pixels in (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy():
            resized = resize(Image.fromarray(pixels))
            height, width = resized.height, resized.width
            for step in rest:
                resized = step(resized)
            prepared.append(resized)
        batch, like = torch.stack(prepared), self.like()
        canvas = (batch.shape[-2], batch.shape[-1])
        offset = (_offset(height, canvas[0]), _offset(width, canvas[1]))
        # The patch embedding ignores pixels beyond the last whole patch.
        network = (canvas[0] // self.patch[0] * self.patch[0], canvas[1] // self.patch[1] * self.patch[1])
        return batch.to(like.device, like.dtype), Frame(image, (height, width), network, offset)

    def _steps(self, image: Size) -> Any:
        """open_clip's own transforms: the first resizes, the others crop or pad, and normalize."""
        from open_clip.transform import image_transform_v2

        settings = self.settings
        if self.size is not None:
            size = keep_size(image, self.patch) if self.size == "keep" else self.size
            other = {"size": size, "resize_mode": "squash", "interpolation": "bicubic"}
            # A copy, because every pass starts from the same settings.
            settings = type(settings)(**{**vars(settings), **other})
        return image_transform_v2(settings, is_train=False).transforms


def keep_size(image: Size, patch: Size) -> Size:
    """The image's own size, each side to the nearest multiple of the patch, at least one; where its shorter side is larger than
    640 pixels, scaled down to that first.

    Source: the reference code of Grad-ECLIP (Zhao et al., ICML 2024), which scales large images in a step of its own; here
    the image is resized once.
    """
    scale = min(1.0, LARGEST / min(image))
    height, width = (max(1, int(side * scale / step + 0.5)) * step for side, step in zip(image, patch, strict=True))
    return height, width


def _offset(resized: int, network: int) -> int:
    """The offset of a centered side on the canvas: negative where it is cropped, as torchvision rounds it; else its padding."""
    return (network - resized) // 2 if network > resized else -round((resized - network) / 2)


def settings_of(visual: Any, preprocess: Any) -> Any:
    """open_clip's PreprocessCfg for an image tower: its own settings, updated with the user's."""
    from open_clip.transform import PreprocessCfg

    if preprocess is not None and not isinstance(preprocess, Mapping):
        raise WhyboxError(
            "preprocess must be settings of open_clip's preprocessing, {'mean': ..., 'std': ..., 'resize_mode': 'squash', "
            f"'interpolation': 'bicubic', 'size': 224}}; got {type(preprocess).__name__}"
        )
    given = {"size": visual.image_size, **getattr(visual, "preprocess_cfg", {}), **(preprocess or {})}
    known = set(vars(PreprocessCfg()))
    for name in given.keys() - known:
        raise WhyboxError(f"preprocess has no setting {name!r}; it takes {', '.join(sorted(known))}")
    try:
        return PreprocessCfg(**given)
    except (TypeError, AssertionError) as error:
        raise WhyboxError(f"preprocess cannot be used: {error}") from error


def check_size(size: Any, patch: Size) -> WantedSize:
    """None, "keep", or (height, width) in whole patches."""
    if size is None or size == "keep":
        return size  # type: ignore[no-any-return]
    pair = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise WhyboxError(f"size must be None (the model's own), 'keep' (the image's) or (height, width), got {size!r}")
    if any(side % step for side, step in zip(pair, patch, strict=True)):
        raise WhyboxError(f"size {pair} must be multiples of the patch, {patch}; the nearest is {keep_size(pair, patch)}")
    return pair
