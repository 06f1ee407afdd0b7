"""What `explain` returns: the detections of one image with a heat map each, to look at, to keep and to pass on."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from whybox.attention import Text, TokenMaps
from whybox.errors import WhyboxError
from whybox.files import file_stem, new_folder, one_line
from whybox.frame import Frame
from whybox.report.match import Asked, Match, distinct_words, write_match
from whybox.report.overlay import overlay, picture_of, png_bytes, shrink, tensor_of, value_range
from whybox.report.page import Layer, Photo, write_page
from whybox.types import Detections, HeatMaps
from whybox.versions import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kept = TypeVar("Kept")
LONGEST_OVERLAY = 1024
LONGEST_QUOTE = 120
WORD = "word."
"""Before the names of tensors that belong to the words asked alone."""
SCHEMA = 1
"""Of the manifest; it rises when a reader of the former one would misread the files."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """N detections of one image and their heat maps.

    image: (3,H,W) float in 0..1. model: its name. classes: names by label. name: the image's file name, or "image".
    notes: N remarks, "" where there is nothing to say. seconds: what the steps took, by name.
    whole_image: every box is the image: the detections are texts, or a classifier's classes.
    For texts: texts, N as the model read them; read_words draws their tokens' maps when `token_maps` is first asked for;
    ask explains other texts of the same image in the same way.
    """

    detections: Detections
    maps: HeatMaps
    image: Tensor
    model: str
    classes: Sequence[str] | None = None
    name: str = "image"
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    read_words: Callable[[], TokenMaps] | None = field(default=None, repr=False, compare=False)
    whole_image: bool = False
    texts: tuple[Text, ...] = ()
    ask: "Callable[[Sequence[str]], Explanation] | None" = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        count = len(self.detections)
        if len(self.maps) != count or len(self.notes) not in (0, count):
            raise ValueError(f"{count} detections do not fit {len(self.maps)} maps and {len(self.notes)} notes")
        if len(self.texts) not in (0, count):
            raise ValueError(f"{count} detections do not fit {len(self.texts)} texts")

    def __len__(self) -> int:
        return len(self.detections)

    def __repr__(self) -> str:
        what = "texts or classes" if self.whole_image else "detections"
        return f"<Explanation of {self.name}: {len(self)} {what} of {self.model}, {self.maps.method} {self.maps.target}>"

    @property
    def names(self) -> tuple[str, ...]:
        """N class names; "class 7" where the model has no name for it."""
        return tuple(class_name(label, self.classes) for label in self.detections.labels.tolist())

    @property
    def peak(self) -> tuple[float, ...]:
        """The largest raw value of each map: how much there is to see, where a scaled map always looks like something."""
        return tuple(float(values.max()) for values in self.maps.native)

    @cached_property
    def token_maps(self) -> TokenMaps:
        """For an image-text model: which tokens of each text made the match. Computed when it is first read."""
        if self.read_words is None:
            raise WhyboxError(f"{self.maps.method} gives no maps of words for {self.model}")
        return self.read_words()

    @property
    def tokens(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each text its tokens, each with its value, raw."""
        maps = self.token_maps
        pairs = zip(maps.texts, maps.values, strict=True)
        return tuple(tuple(zip(text.tokens, values.tolist(), strict=True)) for text, values in pairs)

    @property
    def words(self) -> tuple[tuple[tuple[str, float], ...], ...]:
        """For each text its words, each with the sum over its tokens."""
        maps = self.token_maps
        return tuple(tuple(zip(text.words, maps.word_values(i).tolist(), strict=True)) for i, text in enumerate(maps.texts))

    @cached_property
    def single_words(self) -> "Explanation | None":
        """The distinct words of all texts, each asked alone of the same image; None where the method has no maps of words.
        Computed when it is first read."""
        if self.read_words is None or self.ask is None or not len(self):
            return None
        return replace(self.ask(distinct_words(self.token_maps.texts)), read_words=None, ask=None)

    def overlay(self, index: int, *, longest: int = LONGEST_OVERLAY, opacity: float = 0.85) -> Image.Image:
        """Detection `index` as a picture: its map over the image, on the map's own scale, its box, class and score; of a text
        no box, and as much of it as fits."""
        return self._lay(shrink(self.image, longest), index, opacity)

    def _lay(self, picture: Image.Image, index: int, opacity: float = 0.85) -> Image.Image:
        name, score = self.names[index], float(self.detections.scores[index])
        if self.whole_image:
            return overlay(picture, self.maps[index], caption=f"{score:.2f} {name}", opacity=opacity)
        caption = f"{name} {score:.2f}"
        return overlay(picture, self.maps[index], self.detections.boxes[index], caption, opacity=opacity)

    def plot(self, index: int | Sequence[int] | None = None, *, columns: int = 4, opacity: float = 0.85) -> "Figure":
        """A matplotlib figure with an overlay for each of the detections `index`; None: the first 16."""
        from matplotlib.figure import Figure

        indices = [index] if isinstance(index, int) else list(range(min(len(self), 16)) if index is None else index)
        across = max(1, min(columns, len(indices)))
        rows = max(1, -(-len(indices) // across))
        aspect = self.image.shape[-2] / self.image.shape[-1]
        figure = Figure(figsize=(4 * across, (4 * aspect + 0.5) * rows), layout="constrained")
        cells = figure.subplots(rows, across, squeeze=False).flatten()
        for cell in cells:
            cell.axis("off")
        picture = shrink(self.image, 800)
        for cell, i in zip(cells, indices, strict=False):
            cell.imshow(self._lay(picture, i, opacity))
            low, high = value_range(self.maps[i].native)
            cell.set_title(f"{self.maps.method} {self.maps.target}: {low:.3g} to {high:.3g}", fontsize=9)
        if not indices:
            cells[0].imshow(picture)
            cells[0].set_title("no detection", fontsize=9)
        return figure

    def _repr_html_(self) -> str:
        """For notebooks: the page in a frame of its own, which may run its script and nothing else."""
        page = html.escape(page_of(self))
        style = "width:100%;height:760px;border:0;border-radius:12px"
        return f'<iframe title="whybox" sandbox="allow-scripts allow-downloads" style="{style}" srcdoc="{page}"></iframe>'

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, as plain numbers and text: what the manifest holds."""
        return {
            "name": self.name,
            "height": self.image.shape[-2],
            "width": self.image.shape[-1],
            "model": self.model,
            "method": self.maps.method,
            "target": self.maps.target,
            "options": {name: _plain(value) for name, value in self.maps.options.items()},
            "seconds": dict(self.seconds),
            "detections": self._rows(),
        }

    def _rows(self) -> list[dict[str, Any]]:
        rows = [self._row(i, name) for i, name in enumerate(self.names)]
        columns: dict[str, Sequence[Any]] = {"peak": self.peak} if self.whole_image else {}
        columns |= {"text": [asdict(text) for text in self.texts]} if self.texts else {}
        columns |= {"tokens": self.tokens, "words": self.words} if self.read_words is not None else {}
        return [row | {name: column[i] for name, column in columns.items()} for i, row in enumerate(rows)]

    def _row(self, index: int, name: str) -> dict[str, Any]:
        native = self.maps.native[index]
        low, high = value_range([native])
        return {
            "name": name,
            "label": int(self.detections.labels[index]),
            "score": float(self.detections.scores[index]),
            "box": self.detections.boxes[index].tolist(),
            "source": int(self.detections.source[index]),
            "note": self.notes[index] if self.notes else "",
            "route": self.maps.routes[index] if self.maps.routes else "",
            "map": {"height": native.shape[0], "width": native.shape[1], "low": low, "high": high},
        }

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """COCO's result form, one dict a detection: bbox is x, y, width, height; category_id is the label."""
        return [
            {"image_id": image_id, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), label, score in zip(
                self.detections.boxes.tolist(),
                self.detections.labels.tolist(),
                self.detections.scores.tolist(),
                strict=True,
            )
        ]

    def to_supervision(self) -> Any:
        """supervision.Detections, with the class names and the candidates' rows in `data`."""
        try:
            import supervision
        except ImportError:
            raise WhyboxError("to_supervision needs the package supervision: pip install supervision") from None
        import numpy as np

        found = self.detections
        return supervision.Detections(
            xyxy=found.boxes.detach().cpu().float().numpy(),
            confidence=found.scores.detach().cpu().float().numpy(),
            class_id=found.labels.detach().cpu().numpy().astype(int),
            data={"class_name": np.array(self.names, dtype=str), "source": found.source.detach().cpu().numpy()},
        )

    def save(self, directory: str | Path) -> Path:
        """Keep everything in a new folder and give its path: raw maps, overlays, a manifest, the page and the image.

        A folder that holds something is refused. All files are there at the end, or none.
        """
        with new_folder(directory) as folder:
            (folder / "maps.safetensors").write_bytes(save(self._tensors()))
            (folder / "image.png").write_bytes(png_bytes(picture_of(self.image)))
            (folder / "overlays").mkdir()
            manifest = self._manifest()
            picture = shrink(self.image, LONGEST_OVERLAY)
            for i, row in enumerate(manifest["detections"]):
                (folder / row["overlay"]).write_bytes(png_bytes(self._lay(picture, i)))
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
            (folder / "index.html").write_text(page_of(self), encoding="utf-8")
        return Path(directory)

    def _tensors(self) -> dict[str, Tensor]:
        found = {"boxes": self.detections.boxes, "scores": self.detections.scores}
        found |= {"labels": self.detections.labels, "source": self.detections.source}
        found |= {f"map.{i}": values for i, values in enumerate(self.maps.native)}
        if self.read_words is not None:
            found |= {f"tokens.{i}": values for i, values in enumerate(self.token_maps.values)}
        if self.single_words is not None:
            found |= {f"{WORD}{name}": values for name, values in self.single_words._tensors().items()}
        return {name: values.detach().cpu().clone().contiguous() for name, values in found.items()}

    def _manifest(self) -> dict[str, Any]:
        manifest = {"schema": SCHEMA, "kind": "explanation", "versions": versions(), **self._facts()}
        digits = max(2, len(str(len(self) - 1)))
        for i, row in enumerate(manifest["detections"]):
            row["overlay"] = f"overlays/{i:0{digits}d}_{file_stem(row['name'])}.png"
        return manifest

    def _facts(self) -> dict[str, Any]:
        """All but the tensors that `load` needs."""
        facts = {**self.to_dict(), "frame": asdict(self.maps.frame), "crop_padding": self.maps.crop_padding}
        facts |= {"scaled": self.maps.scaled, "classes": None if self.classes is None else list(self.classes)}
        if self.whole_image:
            facts["whole_image"] = True
        if self.read_words is not None:
            drawn = self.token_maps
            options = {name: _plain(value) for name, value in drawn.options.items()}
            facts["token_maps"] = {"method": drawn.method, "target": drawn.target, "options": options}
        if self.single_words is not None:
            facts["single_words"] = self.single_words._facts()
        return facts

    @classmethod
    def load(cls, directory: str | Path) -> "Explanation":
        """What `save` kept: maps and detections bit by bit, the image with 8 bits a channel."""
        folder = Path(directory)
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            if manifest.get("schema") != SCHEMA or manifest.get("kind") != "explanation":
                raise WhyboxError(f"{folder}: expected an explanation of schema {SCHEMA}, got {manifest.get('schema')}")
            tensors = load_file(folder / "maps.safetensors")
            with Image.open(folder / "image.png") as picture:
                image = tensor_of(picture)
            return cls._from_parts(manifest, tensors, image)
        except FileNotFoundError as error:
            raise WhyboxError(f"{folder}: no saved explanation, {Path(error.filename or '').name} is missing") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise WhyboxError(f"{folder}: damaged explanation ({one_line(error)})") from error

    @classmethod
    def _from_parts(cls, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], image: Tensor) -> "Explanation":
        rows = manifest["detections"]
        maps = HeatMaps(
            tuple(tensors[f"map.{i}"] for i in range(len(rows))),
            Frame(**{name: tuple(size) for name, size in manifest["frame"].items()}),
            manifest["target"],
            manifest["method"],
            manifest["options"],
            tuple(row["route"] for row in rows) if any(row["route"] for row in rows) else (),
            manifest["scaled"],
            manifest["crop_padding"],
        )
        found = Detections(*(tensors[name] for name in ("boxes", "scores", "labels", "source")))
        notes = tuple(row["note"] for row in rows)
        model, classes, name = manifest["model"], manifest["classes"], manifest["name"]
        texts = tuple(_text(row["text"]) for row in rows if "text" in row)
        read_words = ask = None
        if "token_maps" in manifest:
            values = tuple(tensors[f"tokens.{i}"] for i in range(len(rows)))
            read_words = _always(TokenMaps(values, texts, **manifest["token_maps"]))
        if "single_words" in manifest:
            own = {name.removeprefix(WORD): values for name, values in tensors.items() if name.startswith(WORD)}
            ask = _always(cls._from_parts(manifest["single_words"], own, image))
        whole = manifest.get("whole_image", False)
        return cls(found, maps, image, model, classes, name, notes, manifest["seconds"], read_words, whole, texts, ask)


def _always(value: Kept) -> Callable[..., Kept]:
    """What gives a kept value, in place of what once computed it."""
    return lambda *_: value


def class_name(label: int, classes: Sequence[str] | None) -> str:
    """The name of a label; "class 7" where there is none."""
    known = classes or ()
    return known[label] if 0 <= label < len(known) else f"class {label}"


def page_of(explanation: Explanation) -> str:
    """The page about one explanation: of boxes, or of texts and classes that the image was asked for."""
    if explanation.whole_image and len(explanation):
        return write_match(match_of(explanation))
    return write_page([photo_of([explanation])])


def match_of(explanation: Explanation) -> Match:
    """What the page about texts, or a classifier's classes, shows."""
    words = explanation.single_words
    return Match(
        explanation.name,
        explanation.image,
        Asked(explanation.names, explanation.detections.scores, explanation.maps),
        explanation.texts,
        None if explanation.read_words is None else explanation.token_maps,
        None if words is None else Asked(words.names, words.detections.scores, words.maps),
        explanation.notes,
        explanation.model,
        explanation.seconds,
    )


def reading_note(text: Text) -> str:
    """What the model did not read of a text, because it was too long or is not in its vocabulary; "" where it read all."""
    told = []
    if text.cut:
        count = len(text.tokens)
        told.append(f"longer than the model's context: it read {count} token{'s' * (count != 1)} and not {_quoted(text.cut)}")
    if text.unknown:
        told.append(f"not in the model's vocabulary: {', '.join(_quoted(one) for one in text.unknown)}")
    return "; ".join(told)


def _quoted(text: str) -> str:
    """In quotes, and of a long text the start alone."""
    return repr(text) if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]!r}... ({len(text)} characters)"


def photo_of(explanations: Sequence[Explanation]) -> Photo:
    """One photo for the page from explanations of the same detections of one image, a layer each."""
    first = explanations[0]
    layers = [Layer(one.maps.method, one.maps.target, one.maps, one.seconds.get("maps", 0.0)) for one in explanations]
    seconds = {name: value for name, value in first.seconds.items() if name != "maps"}
    return Photo(first.name, first.image, first.detections, first.names, layers, first.notes, first.model, seconds)


def _text(row: Mapping[str, Any]) -> Text:
    spans = tuple((start, end) for start, end in row["spans"])
    return Text(row["text"], tuple(row["tokens"]), spans, row["cut"], tuple(row["unknown"]))


def _plain(value: Any) -> Any:
    """An option as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return str(value)
