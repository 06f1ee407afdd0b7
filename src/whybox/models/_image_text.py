"""Contrastive image-text models (dual encoders): the classes are the texts that the model is prompted with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from whybox.attention import ImageTextModel, Text, TextEmbedding, Transformer, TransformerPass
from whybox.errors import WhyboxError
from whybox.frame import Frame
from whybox.models._image_encoder import ImageEncoder
from whybox.models._whole_image import WholeImage, whole_image, whole_image_detections
from whybox.network_state import exclusive, fingerprint
from whybox.ops.attention_flow import chosen_texts
from whybox.ops.hooks import frozen
from whybox.ops.transformer import difference, entering_layers, read_embedding, run_layer, widened
from whybox.types import Candidates, Detections, Trace


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


Encoders = tuple[ImageEncoder, TextEncoder]
"""Of one network as it is now."""
Prompt = str | TextEmbedding
"""What a text may be given as."""


class ImageText(WholeImage, ImageTextModel):
    """A model of image-text similarity. The score of a text is the cosine similarity of the two embeddings, its logit the
    network's scaled cosine; `prompt` gives the same model with texts as its classes."""

    kind = "image-text"
    gives = WholeImage.gives | {"text"}

    def __init__(self, make_encoders: Callable[[], Encoders], name: str, texts: Sequence[Prompt] = ()) -> None:
        super().__init__(lambda: make_encoders()[0], name)
        self._make_encoders = make_encoders
        # Kept, because it is called for every text, and reads the network as it is then.
        self._scale = make_encoders()[1].scale
        self.texts: tuple[Text, ...] = ()
        self._prompts = tuple(texts)
        if texts:
            self._encode_prompts()

    def _encode_prompts(self) -> None:
        """Encode the texts; entries that are embeddings stay as they were given."""
        # What is made in the caller's inference mode could not be saved for a backward pass.
        with torch.inference_mode(False), torch.no_grad():
            self._encode()

    def _encode(self) -> None:
        written = [text for text in self._prompts if not isinstance(text, TextEmbedding)]
        with exclusive(self.network):
            encoder = self.text_encoder
            # Tokenizers take no empty batch.
            batch = encoder.tokenize(written, False) if written else None
            encoded = iter(() if batch is None else zip(batch.texts, self._embed(encoder, batch.inputs), strict=True))
            # After the pass, which may set attributes of its own.
            state = fingerprint(self.network)
        pairs = [
            (Text(text.name, (), ()), text.values) if isinstance(text, TextEmbedding) else next(encoded) for text in self._prompts
        ]
        width = {len(values) for _, values in pairs}
        if len(width) != 1:
            raise WhyboxError(f"{self.name}: the texts' embeddings have different widths, {sorted(width)}")
        self.texts = tuple(text for text, _ in pairs)
        like = pairs[0][1]
        self._embeddings = torch.stack([normalize(widened(_ordinary(values).to(like.device)), dim=-1) for _, values in pairs])
        self._encoded_in = state

    def _refresh(self) -> None:
        """Encode the texts anew where the network has changed since."""
        if self._prompts and fingerprint(self.network) != self._encoded_in:
            self._encode_prompts()

    @property
    def text_encoder(self) -> TextEncoder:
        """The text encoder of the network as it is now."""
        return self._make_encoders()[1]

    @property
    def classes(self) -> list[str]:
        """The texts."""
        return [text.text for text in self.texts]

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        """Refused: the texts are the classes."""
        raise WhyboxError(f"{self.name} has texts for its classes: leave classes out, and give text")

    @property
    def identity(self) -> tuple[str, ...]:
        """As every model's, with the numbers of texts that are embeddings."""
        given = [text.values for text in self._prompts if isinstance(text, TextEmbedding)]
        return (*super().identity, *(str(values.tolist()) for values in given))

    def _own_classes(self) -> list[Any] | None:
        return list(self._prompts) or None

    def _with_classes(self, names: list[Any]) -> "ImageText":
        return self.prompt(names)

    def prompt(self, texts: Sequence[Prompt]) -> "ImageText":
        """The same model with these texts as its classes. They are encoded here, and anew where the network has changed since.

        Args:
            texts: Texts, or `TextEmbedding`s.

        Raises:
            WhyboxError: An embedding has another width than the model's.
        """
        prompted = ImageText(self._make_encoders, self.name, texts)
        # What the family's `wrap` has noted on the model, for its identity and for pickling.
        prompted.settings, prompted._made_by = self.settings, self._made_by
        return prompted

    def answer(self, trace: Trace) -> Trace:
        """A trace that was made with other prompts, with its candidates for these texts; the image is not encoded again."""
        self._refresh()
        candidates = self._candidates(self._image_embedding(trace), trace.frame)
        return replace(trace, candidates=candidates, detections=self._detections(candidates))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """(K,D) L2-normalized embeddings of texts."""
        encoder = self.text_encoder
        return self._embed(encoder, encoder.tokenize(texts, False).inputs)

    def prompt_embeddings(self) -> Tensor:
        """(K,D) L2-normalized embeddings of the texts that the model is prompted with."""
        self._refresh()
        return self._embeddings

    def _embed(self, encoder: TextEncoder, inputs: Any) -> Tensor:
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            return normalize(widened(encoder.embed(inputs)), dim=-1)

    def _candidates(self, embeddings: Tensor, frame: Frame) -> Candidates:
        unit, texts = normalize(widened(embeddings), dim=-1), self._text_embeddings(embeddings)
        if texts.shape[-1] != unit.shape[-1]:
            raise WhyboxError(f"{self.name} has embeddings of {unit.shape[-1]} numbers, and the text's has {texts.shape[-1]}")
        return self._of_cosines(unit @ texts.T, frame)

    def _of_cosines(self, cosines: Tensor, frame: Frame) -> Candidates:
        """Cosines (n,T) of the image with the texts -> n candidates."""
        # Without a graph: the scale is a weight of the network, and torch warns of numbers read from those that need a gradient.
        with torch.no_grad():
            scale, offset = self._scale()
        return whole_image(cosines, scale * cosines + offset, frame)

    def _text_embeddings(self, like: Tensor) -> Tensor:
        if not self.texts:
            return like.new_zeros((0, like.shape[-1]), dtype=widened(like).dtype)
        return self._embeddings.to(like.device, widened(like).dtype)

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
        encoder, known = self.text_encoder, self._text_embeddings(self._image_embedding(trace))
        if encoder.transformer is None:
            raise WhyboxError(f"{self.name} has no text encoder that can be run layer by layer")
        rows = torch.arange(len(self.texts)) if labels is None else labels
        if wordless := [self.texts[row].text for row in rows.tolist() if not isinstance(self._prompts[row], str)]:
            raise WhyboxError(f"text {wordless[0]!r} was given as an embedding, which has no words to explain")
        # Tokenizers take no empty batch: for no texts one is tokenized and dropped again.
        read = [self.texts[row].text for row in rows.tolist()] or ["a"]
        batch = encoder.tokenize(read, padded)
        with frozen(self.network), torch.inference_mode(False), torch.no_grad():
            with entering_layers(encoder.transformer) as entered:
                embedding = encoder.embed(batch.inputs)
            tokens, mask = self._entered(entered, batch), encoder.transformer.mask(batch.inputs)
            self._check_texts(encoder.transformer, tokens[-1], mask, batch.row, embedding)
        answer = partial(self._answer_texts, trace, known)
        kept = TransformerPass(encoder.transformer, tokens, batch.row, embedding, answer, mask, words=batch.words)
        return kept if len(rows) else chosen_texts(kept, rows)

    def _entered(self, entered: Sequence[Sequence[Tensor]], batch: TokenBatch) -> tuple[Tensor, ...]:
        """What entered each layer, without the padding that the network's own forward pass may need."""
        if any(len(tokens) != 1 for tokens in entered):
            raise WhyboxError(f"{self.name}: a layer of the text encoder did not run exactly once in its own forward pass")
        # Clones, because a slice would keep the padded tensor in memory.
        return tuple(tokens[0][:, : batch.words.shape[1]].clone() for tokens in entered)

    def _check_texts(self, transformer: Transformer, tokens: Tensor, mask: Tensor | None, row: Tensor, embedding: Tensor) -> None:
        """The last layer of the text encoder, run by itself, must give the embedding of the network's own forward pass."""
        own = read_embedding(transformer, run_layer(transformer.layers[-1], tokens, mask), row)
        if reason := difference(embedding, own):
            raise WhyboxError(
                f"{self.name}: the text encoder's last layer, run by itself, does not reproduce the model's forward pass "
                f"({reason}): a hook, an adapter or a replaced module changes it, so its words cannot be explained"
            )

    def _answer_texts(self, trace: Trace, known: Tensor, embeddings: Tensor, detections: Detections) -> Trace:
        """The image's cosines with all texts; in row i, that of detection i's text is computed from embedding i."""
        image = normalize(widened(self._image_embedding(trace)), dim=-1)
        own = (normalize(widened(embeddings), dim=-1) * image).sum(-1)
        columns = torch.arange(len(known), device=known.device)
        cosines = torch.where(columns == detections.labels.to(known.device)[:, None], own[:, None], image @ known.T)
        return trace.rows(self._of_cosines(cosines, trace.frame), detections)

    def _image_embedding(self, trace: Trace) -> Tensor:
        return self._known(trace).embedding if trace.embedding is None else trace.embedding


def _ordinary(values: Tensor) -> Tensor:
    """Without a graph, and no inference tensor."""
    return values.detach().clone() if values.is_inference() else values.detach()
