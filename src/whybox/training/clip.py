"""Fit a tiny CLIP on captioned scenes."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from whybox import zoo
from whybox.data.scenes import CLASSES, HELD_OUT_SEED
from whybox.errors import WhyboxError
from whybox.files import write_whole
from whybox.models.hf._hub import fetch
from whybox.training import captioned_scenes as scenes
from whybox.training.captioned_scenes import PHRASES, Drawn
from whybox.training.clip_scores import score
from whybox.training.clip_words import hugging_face, tokenizer
from whybox.training.detector import Example, Examples, Fit, Recipe, Task

# Drawn finer than the network looks, so that a window of a scene is not blurred.
FINER = 1.25
MEAN, SPREAD = 0.5, 0.25
# Where the drawn scenes lie until the training is done.
DRAWN = "drawn"
# The sides of the windows that training sees, as parts of a scene's.
ZOOM = (0.7, 1.1)


@dataclass(frozen=True)
class Plan:
    """The sizes of the network: image and patch side in pixels; width, depth and heads of both towers; the texts' length."""

    side: int = 112
    patch: int = 8
    width: int = 128
    depth: int = 4
    text_width: int = 96
    text_depth: int = 3
    heads: int = 4
    shared: int = 96
    context: int = 48


def start(plan: Plan, seed: int) -> tuple[nn.Module, Any]:
    """A CLIPModel of this plan with random weights, and the processor of its images and texts."""
    hf = hugging_face()
    words = tokenizer(plan.context)
    special = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    text = {
        "vocab_size": len(words),
        "hidden_size": plan.text_width,
        "intermediate_size": 4 * plan.text_width,
        "num_hidden_layers": plan.text_depth,
        "num_attention_heads": plan.heads,
        "max_position_embeddings": plan.context,
        "projection_dim": plan.shared,
        **special,
    }
    vision = {
        "hidden_size": plan.width,
        "intermediate_size": 4 * plan.width,
        "num_hidden_layers": plan.depth,
        "num_attention_heads": plan.heads,
        "image_size": plan.side,
        "patch_size": plan.patch,
        "projection_dim": plan.shared,
    }
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=plan.shared, logit_scale_init_value=2.3)
    # transformers before 4.56 calls it torch_dtype.
    setattr(config, "dtype" if hasattr(config, "dtype") else "torch_dtype", torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = hf.CLIPModel(config)
    size = {"height": plan.side, "width": plan.side}
    pixels = hf.CLIPImageProcessor(size=size, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[SPREAD] * 3)
    return network, hf.CLIPProcessor(pixels, words)


class Matcher(nn.Module):
    """A CLIPModel with the pairwise sigmoid loss on its cosines.

    Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, eq. 1. Theirs has one true text an image;
    here the scenes say which texts are true of which images, and pairs of which they do not say so are left out.
    """

    def __init__(self, network: nn.Module, patches: float) -> None:
        super().__init__()
        self.clip: Any = network
        self.patches = patches
        # About the log odds that a text is true of an image and a phrase of a patch: the first steps need not learn them.
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.patch_bias = nn.Parameter(torch.tensor(-5.0))

    def forward(self, batch: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch; truth holds "texts" and "sure" (B,T), and "patches" (B,P,T') of the first T' texts."""
        seen = self.clip.vision_model(pixel_values=batch["pixel_values"])
        read = self.clip.text_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        texts = functional.normalize(self.clip.text_projection(read).float(), dim=-1)
        images = functional.normalize(self.clip.visual_projection(seen.pooler_output).float(), dim=-1)
        losses = {"match": self._loss(images @ texts.T, self.bias, truth["texts"], truth["sure"]) / len(images)}
        if "patches" in truth:
            cells = self.clip.vision_model.post_layernorm(seen.last_hidden_state[:, 1:])
            cells = functional.normalize(self.clip.visual_projection(cells).float(), dim=-1)
            among = truth["patches"]
            loss = self._loss(cells @ texts[: among.shape[-1]].T, self.patch_bias, among, torch.ones_like(among))
            losses["patches"] = self.patches * loss / (among.shape[0] * among.shape[1])
        return losses

    def _loss(self, cosines: Tensor, bias: Tensor, truth: Tensor, sure: Tensor) -> Tensor:
        logits = cosines * self.clip.logit_scale.exp() + bias
        return functional.binary_cross_entropy_with_logits(logits, truth, sure, reduction="sum")


class Matching(Fit):
    """A training of a Matcher in progress."""

    def __init__(self, network: Matcher, processor: Any, drawn: Drawn, recipe: Recipe, before: Sequence[Any] = ()) -> None:
        super().__init__(network, Task(CLASSES, Examples(len(drawn), _no_boxes), {}), recipe)
        self.processor, self.drawn, self.patches = processor, drawn, network.patches
        self.before = before
        self.clip = network.clip
        self.side: int = self.clip.config.vision_config.image_size
        self.grid = self.side // self.clip.config.vision_config.patch_size

    def _batch(self, step: int) -> Any:
        """The images, texts and truth of a step, a function of seed and step alone."""
        rng = np.random.default_rng((self.recipe.seed, 1, step))
        rows = rng.integers(len(self.drawn), size=self.recipe.batch).tolist()
        words = [self.drawn.words[row] for row in rows]
        windows = [scenes.random_window(rng, self.recipe.zoom) for _ in rows]
        kept = [w.kept(self.drawn.owners[row], len(known.names)) for w, row, known in zip(windows, rows, words, strict=True)]
        phrases = scenes.match_phrases(words, kept, rng)
        few = len(rows) // 4
        texts = scenes.join(
            phrases, scenes.match_captions(words, kept, few), scenes.match_relations(words, windows, phrases.truth, few, rng)
        )
        images = recolor(scenes.take_windows(self.drawn.images[rows], windows, self.side), rng)
        read = self.processor.tokenizer(texts.texts, padding=True, return_tensors="pt")
        batch = {"pixel_values": (images - MEAN) / SPREAD, **read}
        truth = {"texts": texts.truth, "sure": texts.sure}
        if self.patches:
            places = zip(windows, rows, words, strict=True)
            cells = [(window.cells(self.drawn.owners[row], self.grid), known) for window, row, known in places]
            truth["patches"] = torch.stack([patch_truth(owners, known) for owners, known in cells])
        return batch, truth

    def scores(self, count: int) -> dict[str, float]:
        """The averaged weights' scores on `count` held-out scenes of each kind."""
        current = {key: value.clone() for key, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.averaged)
        found = {name: round(value, 4) for name, value in score(self.clip, self.processor, count).items()}
        self.network.load_state_dict(current)
        return found

    def _terms(self) -> dict[str, Any]:
        return {**super()._terms(), "patches": self.patches}


def _no_boxes(index: int) -> Example:
    raise WhyboxError("a CLIP learns from texts, not from boxes")


def recolor(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Images (B,3,h,w) with contrast, tint and brightness changed a little, too little to turn one color into another."""
    count = len(images)
    gain = torch.from_numpy(rng.uniform(0.88, 1.14, (count, 1, 1, 1)) * rng.uniform(0.96, 1.04, (count, 3, 1, 1))).float()
    shift = torch.from_numpy(rng.uniform(-0.06, 0.06, (count, 1, 1, 1))).float()
    middle = images.mean((1, 2, 3), keepdim=True)
    return ((images - middle) * gain + middle + shift).clamp(0, 1)


def patch_truth(cells: NDArray[np.int8], known: scenes.Words) -> Tensor:
    """Which of the phrases (P) are true of what is seen in each cell of a grid: (h*w,P)."""
    table = torch.zeros(len(known.names) + 1, len(PHRASES))
    for row, pair in enumerate(zip(known.names, known.colors, strict=True)):
        table[row, scenes.COLUMNS[pair]] = 1
    return table[torch.from_numpy(cells.astype(np.int64)).flatten()]


def begin(
    data: str,
    recipe: Recipe,
    count: int,
    patches: float,
    folder: Path,
    *,
    init: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Matching:
    """A training on `count` scenes, drawn into the folder, or read there where an earlier run has drawn them.

    init: a folder that `keep` wrote, to start from its weights; None: random ones.
    """
    if data != "scenes":
        raise WhyboxError(f"data is scenes, not {data!r}: only they say which texts are true of which images")
    if recipe.seed == HELD_OUT_SEED:
        raise WhyboxError(f"seed {recipe.seed} is kept for the held-out scenes; choose another")
    if count < 1 or patches < 0:
        raise WhyboxError(f"count is at least 1 and patches at least 0, not {count} and {patches}")
    network, processor = read(init) if init else start(Plan(), recipe.seed)
    side: int = processor.image_processor.size["height"]
    say(f"drawing {count} scenes into {folder / DRAWN}")
    drawn = scenes.draw(count, recipe.seed, round(side * FINER), folder / DRAWN)
    return Matching(Matcher(network, patches), processor, drawn, recipe, _trained(init) if init else ())


def _trained(folder: Path) -> list[Any]:
    """How the weights of a folder came to be: the trainings of its card, the first one first."""
    file = folder / "card.json"
    card = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return [*card.get("before", []), *([card["trained"]] if "trained" in card else [])]


def fit(
    run: Matching,
    folder: Path,
    *,
    resume: bool = False,
    every: int = 250,
    interim: int = 60,
    say: Callable[[str], None] = lambda text: None,
    tick: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
) -> None:
    """Train to the recipe's end; every `every` steps write `checkpoint.pt` and score on `interim` held-out scenes of each kind.

    `say` gets a line at each checkpoint, `tick` each step's losses. With `resume`, an earlier run of the same recipe goes on
    from its checkpoint and ends as the unbroken run would have.
    """
    file = folder / "checkpoint.pt"
    run.begin(file, resume=resume)
    while run.progress.step < run.recipe.steps:
        losses = run.advance()
        tick(run.progress.step, losses)
        if run.progress.step % every == 0 or run.progress.step == run.recipe.steps:
            scores = run.scores(interim) if interim else {}
            run.progress.history.append({"step": run.progress.step, **scores})
            run.write(file)
            shown = " ".join(f"{name} {value:.3f}" for name, value in [*losses.items(), *scores.items()])
            say(f"step {run.progress.step} of {run.recipe.steps}, {run.progress.seconds:.0f} s: {shown}")


def save(network: nn.Module, processor: Any, card: Mapping[str, Any], folder: Path) -> None:
    """Write a folder that `CLIPModel.from_pretrained` and `AutoProcessor.from_pretrained` take, with a card."""
    clip: Any = network
    zoo.save(network, card, folder)
    with tempfile.TemporaryDirectory() as draft:
        clip.config.save_pretrained(draft)
        processor.tokenizer.save_pretrained(draft)
        processor.image_processor.save_pretrained(draft)
        for file in sorted(Path(draft).iterdir()):
            write_whole(folder / file.name, file.read_bytes())


def read(folder: Path) -> tuple[nn.Module, Any]:
    """The network, in evaluation mode, and the processor that a folder holds."""
    hf = hugging_face()
    if not (folder / "config.json").is_file():
        raise WhyboxError(f"{folder} holds no CLIP: name a folder that whybox train-clip has written")
    network: nn.Module = fetch(hf.CLIPModel, str(folder))
    return network.eval(), fetch(hf.CLIPProcessor, str(folder))


def keep(run: Matching, folder: Path, command: str, held_out: int) -> dict[str, Any]:
    """Write the averaged network with its card, score what was written on `held_out` scenes of each kind; returns the card."""
    run.network.load_state_dict(run.averaged)
    clip = run.clip
    card: dict[str, Any] = {"network": "CLIPModel", "classes": list(CLASSES)}
    save(clip, run.processor, card, folder)
    card["trained"] = {
        "command": command,
        **asdict(run.recipe),
        "patches": run.patches,
        "images": len(run.drawn),
        "seconds": round(run.progress.seconds),
        "parameters": sum(weight.numel() for weight in clip.parameters()),
        "torch": torch.__version__.split("+")[0],
        "transformers": hugging_face().__version__,
        "history": run.progress.history,
        "held_out": held_out,
        "scores": {name: round(value, 4) for name, value in score(*read(folder), held_out).items()},
    }
    card |= {"before": list(run.before)} if run.before else {}
    save(clip, run.processor, card, folder)
    shutil.rmtree(folder / DRAWN, ignore_errors=True)
    return card
