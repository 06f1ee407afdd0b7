"""Contrastive image-text models (dual encoders): the classes are the texts that the model is prompted with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from whybox.attention import ImageTextModel, Text, Transformer, TransformerPass
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.models._whole_image import ImageEncoder, WholeImage, check_pieces, whole_image, whole_image_detections
from whybox.ops.attention_flow import chosen_texts
from whybox.ops.hooks import frozen
from whybox.ops.transformer import enter_layers, read_embedding, run_layer
from whybox.types import Candidates, Detections, Trace

_CHECKED: "WeakSet[nn.Module]" = WeakSet()
"""Networks whose text encoder, run layer by layer, was verified to reproduce its own forward pass."""


@dataclass(frozen=True)
class TokenBatch:
    """T tokenized texts.

    Attributes:
        inputs: The text encoder's input.
        row: (T,) the position that the embedding is read from.
        words: (T,N) which positions hold the text's own tokens, in order.
        texts: The T texts.
    """

    inputs: Any
    row: Tensor
    words: Tensor
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class TextEncoder:
    """The text encoder of a network, provided by its family.

    Attributes:
        transformer: The encoder layer by layer; None where this is not supported.
        tokenize: Texts, and whether to pad them to the full context -> TokenBatch.
        embed: A batch's inputs -> (T,D) by the network's own forward pass.
        scale: () -> factor and offset that turn a cosine into the network's logit.
    """

    transformer: Transformer | None
    tokenize: Callable[[Sequence[str], bool], TokenBatch]
    embed: Callable[[Any], Tensor]
    scale: Callable[[], tuple[float, float]] = lambda: (1.0, 0.0)


class ImageText(WholeImage, ImageTextModel):
    """A model of image-text similarity. The score of a text is the cosine similarity of the two embeddings, its logit the
    network's scaled cosine; `prompt` gives the same model with texts as its classes."""

    kind = "image-text"
    gives = WholeImage.gives | {"text"}

    def __init__(self, image_encoder: ImageEncoder, text_encoder: TextEncoder, name: str, texts: Sequence[str] = ()) -> None:
        super().__init__(image_encoder, name)
        self.text_encoder = text_encoder
        self.texts: tuple[Text, ...] = ()
        if texts:
            batch = text_encoder.tokenize(texts, False)
            self.texts = batch.texts
            self._embeddings = self._embed(batch.inputs)

    @property
    def classes(self) -> list[str]:
        """The texts."""
        return [text.text for text in self.texts]

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        raise WhyboxError(f"{self.name} has texts for its classes: leave classes out, and give text")

    def _own_classes(self) -> list[str] | None:
        return self.classes or None

    def _with_classes(self, names: list[str]) -> "ImageText":
        return self.prompt(names)

    def prompt(self, texts: Sequence[str]) -> "ImageText":
        """The same model with these texts as its classes. They are encoded once, here: prompt again after changing weights."""
        prompted = ImageText(self.image_encoder, self.text_encoder, self.name, texts)
        prompted.settings, prompted._made_by = self.settings, self._made_by
        return prompted

    def answer(self, trace: Trace) -> Trace:
        """A trace that was made with other prompts, with its candidates for these texts; the image is not encoded again."""
        candidates = self._candidates(self._image_embedding(trace), trace.frame)
        return replace(trace, candidates=candidates, detections=self._detections(candidates))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(K,D) L2-normalized embeddings of texts."""
        return self._embed(self.text_encoder.tokenize(texts, False).inputs)

    def _embed(self, inputs: Any) -> Tensor:
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            return normalize(self.text_encoder.embed(inputs).float(), dim=-1)

    def _candidates(self, embeddings: Tensor, frame: Frame) -> Candidates:
        unit = normalize(embeddings.float(), dim=-1)
        return self._of_cosines(unit @ self._text_embeddings(embeddings).T, frame)

    def _of_cosines(self, cosines: Tensor, frame: Frame) -> Candidates:
        """Cosines (n,T) of the image with the texts -> n candidates."""
        with torch.no_grad():
            scale, offset = self.text_encoder.scale()
        return whole_image(cosines, scale * cosines + offset, frame)

    def _text_embeddings(self, like: Tensor) -> Tensor:
        if not self.texts:
            return like.new_zeros((0, like.shape[-1]), dtype=torch.float32)
        return self._embeddings.to(like.device)

    def _detections(self, candidates: Candidates) -> Detections:
        """One detection per text, in the order of the prompts."""
        labels = torch.arange(candidates.scores.shape[1], device=candidates.scores.device)
        return whole_image_detections(candidates, labels)

    def text_transformer(self, trace: Trace, labels: Tensor | None = None, *, padded: bool = False) -> TransformerPass:
        """The text encoder's pass, whose `answer` compares with the image of the trace.

        Args:
            trace: A trace of this model.
            labels: (n,) indices of the texts, one item each; None: all.
            padded: Whether to pad to the full context, as the reference code of Grad-ECLIP does; the embedding does not depend
                on it.

        Raises:
            WhyboxError: The text encoder cannot be run layer by layer.
        """
        encoder, known = self.text_encoder.transformer, self._text_embeddings(self._image_embedding(trace))
        if encoder is None:
            raise WhyboxError(f"{self.name} has no text encoder that can be run layer by layer")
        rows = torch.arange(len(self.texts)) if labels is None else labels
        # Tokenizers take no empty batch: for no texts one is tokenized and dropped again.
        read = rows.tolist() or [0]
        batch = self.text_encoder.tokenize([self.texts[row].text for row in read], padded)
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            entering, mask = enter_layers(encoder, batch.inputs)
            embedding = read_embedding(encoder, run_layer(encoder.layers[-1], entering[-1], mask), batch.row)
            self._check_texts(batch, embedding)
        answer = partial(self._answer_texts, trace, known)
        kept = TransformerPass(encoder, entering, batch.row, embedding, answer, mask, words=batch.words)
        return kept if len(rows) else chosen_texts(kept, rows)

    def _check_texts(self, batch: TokenBatch, embedding: Tensor) -> None:
        """Once per network: its text encoder, run layer by layer, must reproduce its own forward pass."""
        if self.network not in _CHECKED:
            check_pieces(self.text_encoder.embed(batch.inputs), embedding, f"{self.name}: the text encoder")
            _CHECKED.add(self.network)

    def _answer_texts(self, trace: Trace, known: Tensor, embeddings: Tensor, detections: Detections) -> Trace:
        """The image's cosines with all texts; in row i, that of detection i's text is computed from embedding i."""
        image = normalize(self._image_embedding(trace).float(), dim=-1)
        own = (normalize(embeddings.float(), dim=-1) * image).sum(-1)
        columns = torch.arange(len(known), device=known.device)
        cosines = torch.where(columns == detections.labels.to(known.device)[:, None], own[:, None], image @ known.T)
        return trace.rows(self._of_cosines(cosines, trace.frame), detections)

    def _image_embedding(self, trace: Trace) -> Tensor:
        return self._known(trace).embedding if trace.embedding is None else trace.embedding
