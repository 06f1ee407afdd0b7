"""Hugging Face's detectors that read text: OWL-ViT, OWLv2, Grounding DINO, MM-Grounding-DINO and OmDet-Turbo."""

import inspect
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from whybox.attention import GroundingModel, Text
from whybox.errors import GradientError, WhyboxError
from whybox.frame import Frame, Size
from whybox.models._layers import Layer, find_layers, same_rows, token_layer
from whybox.models._token_values import token_leaf, token_values
from whybox.models.hf import _hub as hf
from whybox.models.hf._image_queries import ImageQueryReader
from whybox.models.hf._images import check_processor, processed
from whybox.models.hf._passes import AutogradDetector
from whybox.models.hf._prompts import READERS, OwlReader, Prompt, Reader
from whybox.models.hf._texts import check_tokenizer
from whybox.network_state import device_of, exclusive
from whybox.ops.gradients import gradients_on, recording, twice_differentiable
from whybox.ops.hooks import INPUT, capture, frozen
from whybox.types import Candidates, Detections, Target, Trace


def matches(module: nn.Module) -> bool:
    """Whether the module's class, or a base class, is one of transformers' detectors of these families."""
    package, kind = hf.package_of(module)
    return package in READERS and kind.endswith("ForObjectDetection")


def knows(config: Any) -> bool:
    """Whether a configuration is of these families."""
    return config.model_type.replace("-", "_") in READERS


def wrap(module: nn.Module, **options: Any) -> "HuggingFacePrompted":
    """A model from a transformers module; the options are those of HuggingFacePrompted."""
    return HuggingFacePrompted(module, **options)


def build(name: str, weights: str | None = "default", **options: Any) -> "HuggingFacePrompted":
    """A model from a repository on the Hugging Face hub, its local cache, or a local folder; weights None: random ones."""
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor

    if weights is None:
        module = AutoModelForZeroShotObjectDetection.from_config(hf.fetch(AutoConfig, name))
    else:
        module = hf.fetch(AutoModelForZeroShotObjectDetection, name)
    if "processor" not in options:
        options["processor"] = hf.fetch(AutoProcessor, name)
    return wrap(module, **{"name": f"{hf.PREFIX}/{name}", **options})


@dataclass(frozen=True)
class _State:
    """What a pass was made with: the texts, and a digest of the images in place of texts."""

    texts: tuple[str, ...]
    images: str = ""


class HuggingFacePrompted(AutogradDetector, GroundingModel):
    """A detector that reads text. `prompt` gives the same model with texts as its classes; its candidates are the queries, in
    OWL-ViT and OWLv2 the patches, and `raw` holds cx, cy, w, h as predicted, relative to the image (in OWLv2 to a square).

    Layers: of Grounding DINO, MM-Grounding-DINO and OmDet-Turbo "backbone", the default, is the last stage of the backbone,
    `backbone[0]` the first that the network uses. "levels" are the projected feature maps that enter the fusion with the text;
    of them (`levels[0]` ...) each detection takes the one where its score's sum |gradient o features| is largest. OWL-ViT and
    OWLv2 have "tokens" instead: the patch tokens that enter the last block. "input", and the path of any module that returns
    maps or patch tokens, work everywhere.

    Args:
        module: The network.
        processor: The whole processor, or the image processor, that belongs to the weights; None: the one kept beside them,
            or the family's default.
        tokenizer: What reads the texts; None: the processor's, or the one kept beside the weights.
        name: For reports and errors; None: from its family.
        score_threshold: `threshold` of the processor's post_process_grounded_object_detection, which is reimplemented here so
            that every detection keeps its query; None: that function's default.
    """

    kind = "prompted detector"
    gives = frozenset({"candidates", "features", "input"})

    def __init__(
        self,
        module: nn.Module,
        *,
        processor: Any = None,
        tokenizer: Any = None,
        name: str | None = None,
        score_threshold: float | None = None,
    ) -> None:
        package, kind = hf.package_of(module)
        if not matches(module):
            raise WhyboxError(
                f"{kind or type(module).__name__} is not a supported detector that reads text ({', '.join(READERS)})"
            )
        self.network: Any = module
        self.name = name or f"{hf.PREFIX}/{package}"
        processor = _kept_processor(module) if processor is None else processor
        words = getattr(processor, "tokenizer", None) if tokenizer is None else getattr(tokenizer, "tokenizer", tokenizer)
        if words is None:
            raise WhyboxError(f"{type(module).__name__} comes without a tokenizer, which reads the texts: give tokenizer=")
        self._reader: Reader = READERS[package](module, check_tokenizer(words))
        images = _default_processor(self._reader.processor) if processor is None else processor
        self.processor = check_processor(getattr(images, "image_processor", images))
        self.score_threshold = self._reader.threshold if score_threshold is None else score_threshold
        self.fixed_rows = not self._reader.chosen
        self.texts: tuple[Text, ...] = ()
        self._prompt: Prompt | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The family's layers, the default first, and "input"."""
        return (*self._reader.paths(), INPUT)

    @property
    def classes(self) -> list[str]:
        """The texts."""
        return [text.text for text in self.texts]

    @classes.setter
    def classes(self, names: Sequence[str] | None) -> None:
        """Refused: the texts are the classes."""
        raise WhyboxError(f"{self.name} has texts for its classes: leave classes out, and give text")

    def prompt(self, texts: Sequence[str]) -> "HuggingFacePrompted":
        """The same network with these texts as its classes. Grounding DINO's end at full stops: "a bottle. a banana." are two.

        Raises:
            WhyboxError: A text is empty, or longer than what the network reads.
        """
        prompted = copy(self)
        if isinstance(self._reader, ImageQueryReader):
            prompted._reader = self._reader.texts
        # Tokenizers keep settings of a call, such as the padding, where another thread's call finds them.
        with exclusive(self.network):
            prompted._prompt = prompted._reader.read(texts)
        prompted.texts = prompted._prompt.texts
        return prompted

    def prompt_with_images(self, images: Sequence[Tensor], names: Sequence[str]) -> "HuggingFacePrompted":
        """The same network, which looks for what images show: OWL-ViT's and OWLv2's image-guided detection.

        Args:
            images: K images (3,h,w) in 0..1, best crops of one object each.
            names: K names, which are the classes.

        Raises:
            WhyboxError: The network reads texts alone.
        """
        texts = self._reader.texts if isinstance(self._reader, ImageQueryReader) else self._reader
        if not isinstance(texts, OwlReader):
            raise WhyboxError(f"{self.name} reads texts alone; OWL-ViT and OWLv2 also take images of what is looked for")
        prompted = copy(self)
        prompted._reader = ImageQueryReader(texts, self._pixels, images)
        prompted.texts = tuple(Text(name, (), ()) for name in names)
        prompted._prompt = Prompt(prompted.texts, {}, ())
        return prompted

    def answer(self, trace: Trace) -> Trace:
        """A trace with this model's texts: itself where it was made with these, else a new pass, because the network reads image
        and texts together."""
        if trace.state == self._state():
            return trace
        return self.trace(trace.image, differentiable=trace.differentiable)

    def trace(self, image: Tensor, *, differentiable: bool = False) -> Trace:
        """One forward pass over an image (3,H,W) in 0..1. The processor gets the image in 8 bits."""
        return self._run(image, self.layers[0], gradients=differentiable, weights=differentiable)[0]

    def predict(self, images: Tensor) -> list[Candidates]:
        """The queries' predictions for images (B,3,H,W) in 0..1 of one size, without a graph."""
        if not len(images):
            return []
        with frozen(self.network), torch.inference_mode(False), torch.no_grad(), self._reader.running():
            return self._forward(images)[0]

    def token_values(self, trace: Trace, detections: Detections, targets: Sequence[Target]) -> list[tuple[Tensor, ...]]:
        """Gradient x input at the token embeddings that enter the text encoder's first layer, summed over the channels.

        Of OmDet-Turbo at those of the text itself; the task, in which all texts stand once more, is held as it is.
        """
        self._check_texts(trace)
        if isinstance(self._reader, ImageQueryReader):
            raise WhyboxError(f"{self.name} looks for what images show: there are no words; leave words out")
        prompt = self._needed()
        with exclusive(self.network), frozen(self.network), gradients_on(), self._reader.running():
            with token_leaf(self._reader.embeddings()) as leaves:
                live = self._forward(trace.image[None])[0][0]
            (tokens,) = leaves
            rows = same_rows(live, trace.candidates, detections.source)
            narrowed = trace.rows(live[rows.clone()], detections)
            places = [prompt.places[label] for label in detections.labels.tolist()]
            return [token_values(target(narrowed), tokens, places) for target in targets]

    def _needed(self) -> Prompt:
        if self._prompt is None:
            raise WhyboxError(f"{self.name} finds boxes for texts: say which, text='a red ball' or a list of texts")
        return self._prompt

    def _state(self) -> _State:
        return _State(tuple(self.classes), self._reader.digest if isinstance(self._reader, ImageQueryReader) else "")

    def _live(self, trace: Trace, name: str, branch: str) -> tuple[Trace, list[Layer]]:
        """The pass again, with its graph from a layer on."""
        self._check_texts(trace)
        return self._run(trace.image, name, gradients=True, weights=trace.differentiable)

    def _check_texts(self, trace: Trace) -> None:
        """Refuse a trace of other texts, whose candidates have other columns."""
        if isinstance(trace.state, _State) and trace.state != self._state():
            raise WhyboxError(f"this trace of {self.name} was made with other texts: explain the image, or model.answer(trace)")

    def _run(self, image: Tensor, name: str, *, gradients: bool, weights: bool = False) -> tuple[Trace, list[Layer]]:
        """A pass that records the modules of layer `name`. weights: whether the graph reaches down to the network's weights."""
        paths = self._reader.paths().get(name, [name])
        frozen_here, watched = frozen(self.network, weights=not weights), capture(self.network, paths, gradients=gradients)
        with frozen_here, twice_differentiable(weights), self._reader.running(), watched as captured:
            (candidates,), frame = self._forward(image[None])
        layers = self._layers(name, [tensor for path in paths for tensor in captured[path]], frame.network)
        with torch.inference_mode(False), torch.no_grad():
            detections = self._reader.detections(candidates, self.score_threshold, frame.image)
        with recording(weights):
            features = layers[-1].feature_map(graph=weights)
        trace = Trace(image, frame, (features,), candidates, detections, state=self._state(), differentiable=weights)
        return trace, layers

    def _pixels(self, images: Tensor) -> Tensor:
        """The network's input for images (B,3,H,W) of one size."""
        pixels: Tensor = processed(self.processor, images)["pixel_values"]
        return pixels

    def _forward(self, images: Tensor) -> tuple[list[Candidates], Frame]:
        """The candidates of images (B,3,H,W) of one size, and their frame."""
        prompt = self._needed()
        given = processed(self.processor, images)
        device = device_of(self.network)
        pixels, mask = given["pixel_values"].to(device, self.network.dtype), given.get("pixel_mask")
        network = (pixels.shape[-2], pixels.shape[-1])
        size = (images.shape[-2], images.shape[-1])
        frame = self._reader.frame(size, network)
        # The pixels first: layer "input" is the first tensor that the network is called with.
        inputs = {"pixel_values": pixels, **self._reader.repeated(prompt, len(images)), **self._reader.options(pixels)}
        if mask is not None and "pixel_mask" in inspect.signature(self.network.forward).parameters:
            inputs["pixel_mask"] = mask.to(device)
            # Processors pad at the bottom and on the right; the mask tells where the image ends.
            frame = Frame(size, (int(mask[0, :, 0].sum()), int(mask[0, 0].sum())), network)
        output = self._reader.output(inputs)
        rows = zip(*self._reader.answer(output, prompt), strict=True)
        return [self._candidates(logits, boxes, size) for logits, boxes in rows], frame

    def _candidates(self, logits: Tensor, boxes: Tensor, image: Size) -> Candidates:
        """Logits (M,K); boxes (M,4) as cx, cy, w, h relative to the reader's extent."""
        x, y, width, height = boxes.unbind(-1)
        corners = torch.stack([x - 0.5 * width, y - 0.5 * height, x + 0.5 * width, y + 0.5 * height], -1)
        extent = self._reader.extent(image)
        # In float32, also of half-precision networks: their numbers are too coarse for pixels.
        size = torch.tensor([extent[1], extent[0]] * 2, dtype=torch.float32, device=boxes.device)
        level = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
        return Candidates(corners * size, logits.sigmoid(), level, logits, {"cx": x, "cy": y, "w": width, "h": height})

    def _layers(self, name: str, tensors: Sequence[Tensor], network: Size) -> list[Layer]:
        """The recorded tensors as layers."""
        # Tokens of a text may be as many as some grid has cells.
        if any(part.startswith(("text", "language")) for part in name.split(".")):
            raise GradientError(f"layer {name!r} is of the text, which has no map: words=True explains its tokens")
        if len(tensors) == 1 and tensors[0].ndim == 3 and (level := self._reader.level(tensors[0], network)) is not None:
            grid, first = level
            return [token_layer(name, tensors[0], network, grid, first)]
        return find_layers(name, tensors, network)


def _kept_processor(module: Any) -> Any:
    from transformers import AutoProcessor

    return hf.kept(AutoProcessor, module)


def _default_processor(name: str) -> Any:
    import transformers

    return getattr(transformers, name)()
