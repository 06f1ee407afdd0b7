"""What the network sees, and where: the frame is held to a bright block that is looked for in the network's input."""

from types import SimpleNamespace

import pytest
import torch
import transformers

from models import hf_versions
from models.hf_versions import on_pillow, on_torchvision
from whybox.errors import WhyboxError
from whybox.models.hf._images import check_processor, mean_color, patch_preparation, preparation, to_patches

NET = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)
PLAIN = {"do_normalize": False}
TORCHVISION, PILLOW = on_torchvision("CLIPImageProcessor"), on_pillow("CLIPImageProcessor")
SHAPES = [(40, 60), (61, 37), (97, 101), (20, 90)]


def square(edge, crop, kind=TORCHVISION, **more):
    return kind(size={"shortest_edge": edge}, crop_size={"height": crop, "width": crop}, **PLAIN, **more)


def to_size(height, width):
    return transformers.SiglipImageProcessor(size={"height": height, "width": width}, **PLAIN)


PROCESSORS = {
    "crop": square(32, 32),
    "crop, Pillow": square(32, 32, PILLOW),
    "odd crop": square(35, 24),
    "odd crop, Pillow": square(35, 24, PILLOW),
    "crop of the image as it is": square(1, 16, do_resize=False),
    "padded": square(16, 48),
    "padded by an odd number": square(15, 32),
    "padded by an odd number, Pillow": square(15, 32, PILLOW),
    "squeezed": to_size(32, 32),
    "no whole patches": to_size(38, 45),
}


def block(shape, center, half=2):
    """A black image with a white block of 2*half pixels around the center (row, column)."""
    image = torch.zeros(1, 3, *shape)
    row, column = center
    image[..., row - half : row + half, column - half : column + half] = 1
    return image


def centroid(pixels):
    """(x, y) of the brightness of (1,3,H,W), a pixel's center at .5."""
    light = pixels[0].mean(0).double()
    rows, columns = (torch.arange(extent, dtype=torch.float64) + 0.5 for extent in light.shape)
    return torch.stack([(light.sum(0) * columns).sum(), (light.sum(1) * rows).sum()]) / light.sum()


def check(prepare, shape):
    """A block in the middle, and one a few pixels from it, are where the frame says."""
    middle = (shape[0] // 2, shape[1] // 2)
    for center in (middle, (middle[0] + 2, middle[1] - 3)):
        pixels, frame = prepare(block(shape, center))
        assert tuple(pixels.shape[-2:]) == frame.network
        assert frame.image == shape
        expected = frame.points_to_network(torch.tensor([center[1], center[0]], dtype=torch.float64))
        assert torch.allclose(centroid(pixels), expected, atol=0.12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)
def test_a_block_is_where_the_frame_says(processor, shape):
    check(preparation(NET, processor, (8, 8), None), shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["keep", (24, 56)])
def test_a_block_is_where_the_frame_says_at_other_sizes(size, shape):
    check(preparation(NET, PROCESSORS["crop"], (8, 8), size), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_is_where_the_frame_says_with_patches_on_a_budget(shape):
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=24, **PLAIN)
    check(patch_preparation(NET, processor, 8), shape)


@pytest.mark.parametrize("shape", [(40, 60), (61, 37), (33, 1000), (224, 225), (7, 5), (641, 480), (333, 500)])
@pytest.mark.parametrize("edge", [32, 35, 224])
@pytest.mark.parametrize("kind", [TORCHVISION, PILLOW])
def test_the_resized_size_is_the_processors(kind, edge, shape):
    processor = square(edge, 24, kind)
    image = torch.zeros(1, 3, *shape)
    alone = processor(images=list(image), do_center_crop=False, return_tensors="pt", input_data_format="channels_first")
    _, frame = preparation(NET, processor, (8, 8), None)(image)
    assert frame.resized == tuple(alone["pixel_values"].shape[-2:])


@pytest.mark.parametrize("name", ["crop", "crop, Pillow", "padded", "squeezed"])
def test_pixels_are_the_processors_own(name):
    processor = PROCESSORS[name]
    picture = torch.randint(0, 256, (3, 50, 77), dtype=torch.uint8)
    own = processor(images=picture.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    pixels, _ = preparation(NET, processor, (8, 8), None)((picture / 255)[None])
    assert torch.equal(pixels, own)


def test_sides_are_rounded_to_patches():
    # 640 x 478 pixels become 30 x 40 patches of 16, as the Grad-ECLIP paper's example image does.
    pixels, frame = preparation(NET, PROCESSORS["crop"], (16, 16), "keep")(torch.zeros(1, 3, 478, 640))
    assert frame.resized == frame.network == (480, 640) == tuple(pixels.shape[-2:])
    assert frame.offset == (0, 0)
    assert preparation(NET, PROCESSORS["crop"], (16, 16), "keep")(torch.zeros(1, 3, 3, 40))[1].network == (16, 48)


def test_what_no_patch_covers_is_cut_off():
    pixels, frame = preparation(NET, PROCESSORS["no whole patches"], (8, 8), None)(torch.rand(1, 3, 38, 45))
    assert frame.network == (32, 40) == tuple(pixels.shape[-2:])
    assert frame.resized == (38, 45)
    seen = frame.maps_to_image(torch.ones(1, 4, 5))[0]
    assert seen[:31, :39].min() == 1
    assert seen[33:].max() == 0
    assert seen[:, 41:].max() == 0


def test_patches_come_in_the_processors_order():
    processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=24, **PLAIN)
    image = torch.rand(1, 3, 40, 60)
    given = processor(images=[(image[0] * 255).round().to(torch.uint8)], return_tensors="pt")
    pixels, _ = patch_preparation(NET, processor, 8)(image)
    patches, shapes = to_patches(pixels, 8)
    assert torch.equal(shapes, given["spatial_shapes"])
    count = int(shapes.prod())
    assert torch.equal(patches, given["pixel_values"][:, :count])
    assert given["pixel_attention_mask"].sum() == count


def test_several_images_at_once():
    images = torch.rand(3, 3, 40, 60)
    prepare = preparation(NET, PROCESSORS["crop"], (8, 8), None)
    together = prepare(images)[0]
    assert torch.equal(together, torch.cat([prepare(one[None])[0] for one in images]))


def test_the_color_that_the_network_sees_as_zero():
    processor = transformers.CLIPImageProcessor()
    red, green, blue = mean_color(processor)
    image = torch.tensor([red, green, blue])[None, :, None, None].expand(1, 3, 224, 224)
    assert preparation(NET, processor, (16, 16), None)(image)[0].abs().max() < 0.01
    assert mean_color(PROCESSORS["crop"]) == (0, 0, 0)


@pytest.mark.parametrize("size", ["large", 224, (224,), (0, 32), (32.0, 32), (4, 32), (True, 32)])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(WhyboxError, match=r'size must be None, "keep" or \(height, width\) of at least a patch'):
        preparation(NET, PROCESSORS["crop"], (8, 8), size)


@pytest.mark.parametrize("processor", [3, transformers.CLIPTokenizer])
def test_what_is_no_image_processor_is_refused(processor):
    with pytest.raises(WhyboxError, match="processor must be one of transformers' image processors, got"):
        check_processor(processor)


def test_processors_of_patches_and_of_images_are_not_mixed():
    with pytest.raises(WhyboxError, match="SigLIP 2 takes images in patches: give its Siglip2ImageProcessor, not Siglip"):
        patch_preparation(NET, PROCESSORS["squeezed"], 8)
    with pytest.raises(WhyboxError, match=r"an image processor with size \{\} is not known"):
        preparation(NET, transformers.Siglip2ImageProcessor(), (8, 8), None)(torch.rand(1, 3, 40, 60))


def test_processors_whose_settings_say_too_little_are_refused():
    other = transformers.CLIPImageProcessor(size={"shortest_edge": 32, "longest_edge": 64}, do_center_crop=False)
    with pytest.raises(WhyboxError, match=r"an image processor with size .* is not known: give size="):
        preparation(NET, other, (8, 8), None)(torch.rand(1, 3, 40, 60))
    assert preparation(NET, other, (8, 8), "keep")(torch.rand(1, 3, 40, 60))[1].network == (40, 64)


@pytest.mark.skipif(not hf_versions.NEW, reason="before transformers 5 these processors pad nothing")
def test_processors_that_do_otherwise_than_their_settings_say_are_refused():
    padding = transformers.CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False, do_pad=True, pad_size=32)
    with pytest.raises(WhyboxError, match=r"gave .* pixels where its settings say"):
        preparation(NET, padding, (8, 8), None)(torch.rand(1, 3, 40, 60))
