"""A small Hugging Face CLIP as whybox has it, and what the network itself is given: for second implementations by hooks."""

from functools import cache

import torch
from transformers import CLIPImageProcessor

import whybox
from models import hf_models
from whybox.targets import ClassScore

SCORE = ClassScore()
TEXTS = ("a big red ball left", "tree")


@cache
def network():
    torch.manual_seed(0)
    return hf_models.stirred(hf_models.clip())


@cache
def model(texts=TEXTS):
    return whybox.load(network(), tokenizer=hf_models.tokenizer()).prompt(texts)


def image(height=32, width=44, seed=5):
    """In eight bits, so that no processor has to round."""
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)) / 255


def pixels(picture):
    """(1,3,32,32) what the network is given."""
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    eight = (picture * 255).round().to(torch.uint8)
    return processor(images=[eight], return_tensors="pt", input_data_format="channels_first")["pixel_values"]


def words(*texts):
    """The tokenizer's answer, padded to the longest text."""
    return hf_models.tokenizer()(list(texts), padding=True, return_tensors="pt")


def text_embeddings(*texts):
    """(T,D) unit, each text alone in its batch."""
    rows = [network().text_projection(network().text_model(**words(text)).pooler_output) for text in texts]
    return unit(torch.cat(rows).detach())


def unit(rows):
    return rows / rows.square().sum(-1, keepdim=True).sqrt()


def explain(method, texts=TEXTS, picture=None, target=SCORE):
    """The method's maps for all texts."""
    asked = model(texts)
    trace = asked.trace(image() if picture is None else picture)
    return method(asked, trace, trace.detections, [target])[0]
