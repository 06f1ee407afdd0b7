"""How Hugging Face's detectors that read text read it: texts to token ids, the network's output to a score per text."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from whybox.attention import Text
from whybox.errors import WhyboxError
from whybox.frame import Frame, Size
from whybox.models.hf._images import other_size
from whybox.models.hf._texts import check_texts, encode, own_tokens, read_texts
from whybox.network_state import device_of
from whybox.types import Candidates, Detections

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Prompt:
    """K texts as a network reads them.

    Attributes:
        texts: The K texts.
        inputs: What the network takes beside one image. All tensors are on the CPU.
        places: For each text, where its tokens stand in the text encoder's input (T,N): the row, and the positions (L,).
        scored: For each text, the positions (P,) of the tokens that its score is the largest of; () where a text has one score.
    """

    texts: tuple[Text, ...]
    inputs: Inputs
    places: tuple[tuple[int, Tensor], ...]
    scored: tuple[Tensor, ...] = ()


class Reader(ABC):
    """One architecture: how it reads texts, and its post-processing.

    Attributes:
        processor: The image processor's class, in transformers.
        threshold: The default of the processor's post_process_grounded_object_detection.
        chosen: Whether the queries are the best places of the encoder, so that a row is another object in another image.

    Args:
        network: The network.
        tokenizer: What reads the texts.
    """

    processor: ClassVar[str]
    threshold: ClassVar[float]
    chosen: ClassVar[bool] = True

    def __init__(self, network: Any, tokenizer: Any) -> None:
        self.network = network
        self.tokenizer = tokenizer

    @abstractmethod
    def paths(self) -> dict[str, list[str]]:
        """The layers' names and the modules behind each, the default first."""

    @abstractmethod
    def embeddings(self) -> nn.Module:
        """The module whose first output (T,N,C) in a pass enters the first layer of the text encoder."""

    @abstractmethod
    def read(self, texts: Sequence[str]) -> Prompt:
        """Texts as the network reads them.

        Raises:
            WhyboxError: A text is empty, or too long.
        """

    def output(self, inputs: dict[str, Any]) -> Any:
        """The network's output."""
        return self.network(**inputs, return_dict=True)

    @abstractmethod
    def answer(self, output: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Logits (B,M,K), and boxes (B,M,4) as cx, cy, w, h relative to `extent`, of the network's output."""

    def repeated(self, prompt: Prompt, count: int) -> Inputs:
        """The texts for a batch of `count` images."""
        # Moved here and not when the texts are read: the network may have been moved since.
        device = device_of(self.network)
        return {key: values.to(device).repeat(count, *[1] * (values.ndim - 1)) for key, values in prompt.inputs.items()}

    def options(self, pixels: Tensor) -> dict[str, Any]:
        """Further arguments of the network's forward pass."""
        return {}

    def frame(self, image: Size, network: Size) -> Frame:
        """Where an image lies in the network's input, where the processor gives no mask that tells."""
        return Frame(image, network, network)

    def extent(self, image: Size) -> Size:
        """The size in pixels of the image that the boxes are relative to."""
        return image

    def detections(self, candidates: Candidates, threshold: float, image: Size) -> Detections:
        """The processor's post_process_grounded_object_detection for one image, in its order: the best text of every query."""
        logits = candidates.logits
        assert logits is not None
        # Of the logits: scores that round to 1 have no order.
        labels = logits.max(-1).indices
        scores = candidates.scores.gather(1, labels[:, None])[:, 0]
        source = (scores > threshold).nonzero()[:, 0]
        return Detections(candidates.boxes[source], scores[source], labels[source], source)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around every pass."""
        yield

    def level(self, tensor: Tensor, network: Size) -> tuple[Size, int] | None:
        """The grid of tokens (1,N,C), and the first that lies on it; None where it has to be found by their number."""
        return None


class OwlReader(Reader):
    """OWL-ViT: every text is encoded alone, and compared with every patch."""

    processor = "OwlViTImageProcessor"
    threshold = 0.1
    chosen = False

    def paths(self) -> dict[str, list[str]]:
        """The patch tokens that enter the last block, the last ones from which information still flows between patches."""
        vision = "owlvit.vision_model" if hasattr(self.network, "owlvit") else "owlv2.vision_model"
        blocks = len(self.network.get_submodule(f"{vision}.encoder.layers"))
        return {"tokens": [f"{vision}.encoder.layers.{blocks - 2}" if blocks > 1 else f"{vision}.pre_layernorm"]}

    def embeddings(self) -> nn.Module:
        """Of CLIP's text encoder: words and positions."""
        both = self.network.owlvit if hasattr(self.network, "owlvit") else self.network.owlv2
        module: nn.Module = both.text_model.embeddings
        return module

    def read(self, texts: Sequence[str]) -> Prompt:
        """One row of tokens per text, padded as the processor pads."""
        return _rows_of_texts(self.tokenizer, texts, _context(self.embeddings()), "input_ids", "attention_mask")

    def answer(self, output: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The network's own: a row per patch, a column per text."""
        return output.logits, output.pred_boxes

    def options(self, pixels: Tensor) -> dict[str, Any]:
        """Position embeddings are interpolated where the processor makes images of another size."""
        side = self.network.config.vision_config.image_size
        own = (side, side) if isinstance(side, int) else tuple(side)
        return {"interpolate_pos_encoding": True} if other_size(pixels, own) else {}

    def level(self, tensor: Tensor, network: Size) -> tuple[Size, int] | None:
        """The patches, behind the class token."""
        patch = self.network.config.vision_config.patch_size
        height, width = (patch, patch) if isinstance(patch, int) else patch
        grid = (network[0] // height, network[1] // width)
        return (grid, 1) if tensor.shape[1] == 1 + grid[0] * grid[1] else None


class Owlv2Reader(OwlReader):
    """OWLv2: the same, on an image that is padded to a square at the bottom or on the right."""

    processor = "Owlv2ImageProcessor"

    def frame(self, image: Size, network: Size) -> Frame:
        """The image takes the part of the square that it takes of its own longer side."""
        longer = max(image)
        resized = (max(1, round(network[0] * image[0] / longer)), max(1, round(network[1] * image[1] / longer)))
        return Frame(image, resized, network)

    def extent(self, image: Size) -> Size:
        """The square."""
        return max(image), max(image)


class GroundingReader(Reader):
    """Grounding DINO and MM-Grounding-DINO: all texts as one, "a bottle. a banana.", that the image features attend to.

    A phrase's logit is the largest of its tokens', its full stop among them, which reads the phrase as the others do: the
    post-processing takes the largest of all tokens.
    """

    processor = "GroundingDinoImageProcessor"
    threshold = 0.25

    def paths(self) -> dict[str, list[str]]:
        """The last stage of the backbone, and the levels that enter the fusion with the text."""
        levels = [f"model.input_proj_vision.{i}" for i in range(len(self.network.model.input_proj_vision))]
        return {"backbone": ["model.backbone.conv_encoder"], "levels": levels}

    def embeddings(self) -> nn.Module:
        """Of BERT: words, positions and types, behind their norm."""
        module: nn.Module = self.network.model.text_backbone.embeddings
        return module

    def read(self, texts: Sequence[str]) -> Prompt:
        """The phrases between full stops, in lower case, joined as the processor joins a list of labels."""
        check_texts(texts)
        phrases = [phrase.strip() for text in texts for phrase in text.split(".") if phrase.strip()]
        if not phrases:
            raise WhyboxError(f"the text {texts[0]!r} has no words between its full stops: write what to look for")
        lower = [phrase.lower() for phrase in phrases]
        encoded = self.tokenizer(". ".join(lower) + ".", return_tensors="pt", return_token_type_ids=True, verbose=False)
        ids, most = encoded["input_ids"][0], self.network.config.max_text_len
        if len(ids) > most:
            raise WhyboxError(
                f"the texts have {len(ids)} tokens together, and the network reads {most}: give fewer or shorter ones"
            )
        starts, pieces = self._starts(lower, ids)
        alone = self.tokenizer(
            lower, padding=len(lower) > 1, add_special_tokens=False, return_special_tokens_mask=True, return_tensors="pt"
        )
        read = read_texts(self.tokenizer, lower, alone)
        # As the user wrote it, where its tokens stand at the same places.
        named = [
            replace(text, text=phrase) if len(phrase) == len(text.text) else text
            for text, phrase in zip(read, phrases, strict=True)
        ]
        inputs = {key: encoded[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
        spans = [(start, start + len(piece)) for start, piece in zip(starts, pieces, strict=True)]
        places = tuple((0, torch.arange(start, end)) for start, end in spans)
        return Prompt(tuple(named), inputs, places, tuple(torch.arange(start, end + 1) for start, end in spans))

    def _starts(self, phrases: Sequence[str], ids: Tensor) -> tuple[list[int], list[list[int]]]:
        """Where each phrase's tokens begin in the ids (N,) of all, and the tokens of each."""
        numbers = partial(self.tokenizer, add_special_tokens=False)
        stop = numbers(".")["input_ids"]
        pieces = [list(numbers(phrase)["input_ids"]) for phrase in phrases]
        joined = [number for piece in pieces for number in (*piece, *stop)]
        given = ids.tolist()
        first = next((at for at in range(len(given)) if given[at : at + len(joined)] == joined), None)
        if first is None:
            raise WhyboxError(f"{type(self.tokenizer).__name__} reads phrases otherwise in a sentence than alone: give BERT's")
        starts = [first]
        for piece in pieces[:-1]:
            starts.append(starts[-1] + len(piece) + len(stop))
        return starts, pieces

    def answer(self, output: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The largest of each phrase's tokens."""
        logits = torch.stack([output.logits[..., tokens.to(output.logits.device)].amax(-1) for tokens in prompt.scored], -1)
        return logits, output.pred_boxes


class OmDetReader(Reader):
    """OmDet-Turbo: every text is encoded alone, and all together once more in a task, "Detect a bottle, a banana."."""

    processor = "DetrImageProcessor"
    threshold = 0.3
    overlap: ClassVar[float] = 0.5
    """The IoU of its non-maximum suppression."""

    def paths(self) -> dict[str, list[str]]:
        """The last stage of the backbone, and the levels that the decoder reads."""
        levels = [f"decoder.channel_projection_layers.{i}" for i in range(len(self.network.decoder.channel_projection_layers))]
        return {"backbone": ["vision_backbone"], "levels": levels}

    def embeddings(self) -> nn.Module:
        """Of CLIP's text encoder, which reads the classes first and then the task."""
        encoder = self.network.language_backbone.model
        module: nn.Module = getattr(encoder, "text_model", encoder).embeddings
        return module

    def read(self, texts: Sequence[str]) -> Prompt:
        """The classes, a row each, and the task; a long task is cut, as the processor cuts it."""
        context = _context(self.embeddings())
        prompt = _rows_of_texts(self.tokenizer, texts, context, "classes_input_ids", "classes_attention_mask")
        task = encode(self.tokenizer, [f"Detect {', '.join(texts)}."], context, full=True, side="right")
        inputs = prompt.inputs | {
            "tasks_input_ids": task["input_ids"],
            "tasks_attention_mask": task["attention_mask"],
            "classes_structure": torch.tensor([len(texts)]),
        }
        return replace(prompt, inputs=inputs)

    def answer(self, output: Any, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """The network's own."""
        return output.decoder_class_logits, output.decoder_coord_logits

    def detections(self, candidates: Candidates, threshold: float, image: Size) -> Detections:
        """The processor's: the best pairs of query and text, as many as queries, then non-maximum suppression per text."""
        texts = candidates.scores.shape[1]
        # Unsorted, as there, so that equal scores come in its order.
        scores, pair = candidates.scores.flatten().topk(len(candidates), sorted=False)
        pair, scores = pair[scores > threshold], scores[scores > threshold]
        source, labels = pair // texts, pair % texts
        boxes = candidates.boxes[source]
        # Of one type, where the network computes in half precision.
        kept = batched_nms(boxes, scores.to(boxes.dtype), labels, self.overlap)
        height, width = image
        inside = boxes[kept].clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        return Detections(inside, scores[kept], labels[kept], source[kept])

    @contextmanager
    def running(self) -> Iterator[None]:
        """With empty caches: the network keeps the embeddings of texts, without a graph and also those of older weights, and
        anchors that may be inference tensors."""
        names = ("language_cache_class", "language_cache_prompt")
        kept = {name: getattr(self.network, name) for name in names}
        decoder = self.network.decoder
        whole = getattr(type(decoder).generate_anchors, "__wrapped__", None)
        try:
            for name, cache in kept.items():
                setattr(self.network, name, type(cache)(cache.capacity))
            if whole is not None:
                decoder.generate_anchors = partial(whole, decoder)
            yield
        finally:
            for name, cache in kept.items():
                setattr(self.network, name, cache)
            vars(decoder).pop("generate_anchors", None)


READERS: dict[str, type[Reader]] = {
    "owlvit": OwlReader,
    "owlv2": Owlv2Reader,
    "grounding_dino": GroundingReader,
    "mm_grounding_dino": GroundingReader,
    "omdet_turbo": OmDetReader,
}
"""By the name of the package in transformers.models."""


def _context(embeddings: Any) -> int:
    """The number of tokens that a text encoder of CLIP's kind reads."""
    return int(embeddings.position_embedding.num_embeddings)


def _rows_of_texts(tokenizer: Any, texts: Sequence[str], context: int, ids: str, mask: str) -> Prompt:
    """Texts that are encoded alone, a row of tokens each, padded to the full context. ids, mask: the inputs' names."""
    check_texts(texts)
    encoded = encode(tokenizer, texts, context, full=True, side="right")
    read, own = read_texts(tokenizer, texts, encoded), own_tokens(encoded)
    for text in read:
        if text.cut:
            raise WhyboxError(f"text {text.text!r} is longer than the {context} tokens that the network reads: shorten it")
    inputs = {ids: encoded["input_ids"], mask: encoded["attention_mask"]}
    return Prompt(read, inputs, tuple((row, own[row].nonzero()[:, 0]) for row in range(len(texts))))
