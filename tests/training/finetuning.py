"""Two small CLIPs, of transformers and of open_clip, as tests of fine-tuning have them, and captioned images."""

import json

import torch
from PIL import Image

import whybox
from methods import small_clip
from models import open_clip_models
from models.hf_models import stirred

CAPTIONS = [
    "a red ball left of a green car",
    "the tree of the photo",
    "a red ball and a green tree, a red car",
    "a photo of a wooden car",
    "a green car",
    "a red tree",
]


def hf():
    return small_clip.load_small(small_clip.make_clip())


def open_clip():
    torch.manual_seed(0)
    # As CLIP's tokenizer and context are: phrases of a prompt have more than 16 tokens of bytes with none.
    return whybox.load(stirred(open_clip_models.clip(text={"context_length": 24}), 0.05))


FAMILIES = {"hf": hf, "open_clip": open_clip}


def pictures(count=6):
    """(count,3,80,120), in eight bits."""
    return torch.randint(0, 256, (count, 3, 80, 120), generator=torch.Generator().manual_seed(1)) / 255


def write_captions(folder, captions=CAPTIONS, name="captions.json"):
    """A folder of captioned images, one caption each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content = {"images": [], "annotations": []}
    for i, (picture, caption) in enumerate(zip(pictures(len(captions)), captions, strict=True)):
        file = f"{i}.png"
        Image.fromarray((picture * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(folder / "images" / file)
        content["images"].append({"id": i + 1, "file_name": file})
        content["annotations"].append({"id": i + 1, "image_id": i + 1, "caption": caption})
    (folder / name).write_text(json.dumps(content))
    return folder
