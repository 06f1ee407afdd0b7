"""Fine-tune a CLIP on captioned images, by `whybox finetune-clip` or from Python."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whybox import loading
from whybox.data.coco_captions import PREFIX, CaptionedImages
from whybox.data.phrases import MOST, Tagger, phrases
from whybox.errors import WhyboxError
from whybox.losses.region_phrase import RegionPhrase
from whybox.model import Model
from whybox.progress import OnWarning, no_warning
from whybox.training import finetuned_folder
from whybox.training import fit as loop
from whybox.training.caption_batches import CaptionBatches
from whybox.training.fit import Fit
from whybox.training.launch import launch
from whybox.training.recipe import Recipe
from whybox.training.region_phrase import RegionPhraseLosses

if TYPE_CHECKING:
    from lightning_fabric import Fabric

EPOCHS = 10
"""SFF-CLIP does not state them: FineCLIP's, which has the same data and start."""
RECIPE = Recipe(steps=1, batch=128, lr=1e-5, weight_decay=0.1, warmup=1000, average=0.0)
"""SFF-CLIP's batch, rate and decay; FineCLIP's warm-up; no average of the weights. The steps follow from the data."""
READ = 200
"""Images whose captions are read for phrases before the first step, so that data without any is told in time."""


class FineTuning(Fit):
    """A fine-tuning in progress."""

    def __init__(
        self,
        model: Model,
        data: CaptionedImages,
        recipe: Recipe,
        options: RegionPhrase | None = None,
        fabric: "Fabric | None" = None,
        *,
        tagger: Tagger = "rules",
        most: int = MOST,
    ) -> None:
        """Prepare step 0.

        Args:
            model: A CLIP of `whybox.load`; its network is trained.
            data: Captioned images.
            recipe: Hyperparameters.
            options: What the losses are; None: SFF-CLIP's.
            fabric: Launched Fabric; None: one process on the CPU.
            tagger: As for `data.phrases.phrases`.
            most: The same.

        Raises:
            WhyboxError: The model or the data does not fit, the batch cannot be divided among the processes, or Fabric was
                launched with another precision.
        """
        fabric = fabric or launch(precision=recipe.precision)
        self.options = options or RegionPhrase()
        self.region_phrase = RegionPhraseLosses(model, self.options)
        prepare = self.region_phrase.model.image_encoder.prepare
        batches = CaptionBatches(data.images, prepare, recipe.part(fabric), recipe.batch, recipe.seed, tagger, most)
        if self.options.regions and not any(_has_phrase(data, tagger, row) for row in range(min(READ, len(data)))):
            raise WhyboxError(
                f"no caption of the first {min(READ, len(data))} images of {data.name} holds a phrase, an adjective and a noun: "
                "give maps none, or another tagger"
            )
        terms = {
            "region_phrase": asdict(self.options),
            "tagger": tagger,
            "phrases": most,
            "data": data.digest,
            "images": len(data),
        }
        beside = self.region_phrase.beside
        super().__init__(model.network, batches, self.region_phrase, recipe, fabric, beside=beside, terms=terms)
        self.model, self.data, self.epoch = model, data, batches.steps

    def advance(self) -> dict[str, float]:
        """Do one step of the optimizer; at the end of an epoch the momentum model follows.

        Returns:
            The step's losses by name.

        Raises:
            WhyboxError: A loss or the gradient is not finite.
        """
        losses = super().advance()
        if self.progress.step % self.epoch == 0:
            self.region_phrase.end_epoch()
        return losses


def _has_phrase(data: CaptionedImages, tagger: Tagger, row: int) -> bool:
    return any(phrases(caption, tagger, 1) for caption in data.captions[row])


def open_captions(data: str) -> CaptionedImages:
    """Open captioned images by name; without a split in the name, the split "train".

    Raises:
        WhyboxError: It is another kind of data, or as for `data.coco_captions.read_captions`.
    """
    if not data.startswith(f"{PREFIX}:"):
        raise WhyboxError(f"the data must have captions: {PREFIX}:FOLDER or {PREFIX}:FILE.json, got {data!r}")
    opened = loading.open_data(data) if ":split=" in data else loading.open_data(data, split="train")
    assert isinstance(opened, CaptionedImages)
    return opened


def begin(
    model: str,
    data: str,
    recipe: Recipe = RECIPE,
    options: RegionPhrase | None = None,
    *,
    epochs: int | None = EPOCHS,
    limit: int | None = None,
    tagger: Tagger = "rules",
    most: int = MOST,
    fabric: "Fabric | None" = None,
    log: Callable[[str], None] = lambda text: None,
) -> FineTuning:
    """Prepare a fine-tuning.

    Args:
        model: A CLIP by its name or folder, as for `whybox.load`.
        data: "coco-captions:FOLDER", as for `whybox.open_data`; without a split in its name, the split "train".
        recipe: Hyperparameters.
        options: What the losses are; None: SFF-CLIP's.
        epochs: How often every image is shown, which takes the place of the recipe's steps; None: the recipe's steps.
        limit: Only so many images; None: all.
        tagger: As for `data.phrases.phrases`.
        most: The same.
        fabric: Launched Fabric; None: one process on the CPU.
        log: Called with a line on what was left out of the data.

    Returns:
        The fine-tuning, at step 0.

    Raises:
        WhyboxError: Model, data or options do not fit.
    """
    opened = open_captions(data)
    if opened.problems:
        log(f"{opened.problems[0]} ({len(opened.problems)} in all)")
    if limit is not None:
        opened = replace(opened, images=opened.images[: max(1, limit)])
    if epochs is not None:
        if epochs < 1:
            raise WhyboxError(f"epochs must be at least 1, got {epochs}")
        recipe = replace(recipe, steps=max(1, len(opened) // recipe.batch) * epochs)
    return FineTuning(loading.load(model), opened, recipe, options, fabric, tagger=tagger, most=most)


def fit(
    run: FineTuning,
    folder: Path,
    *,
    resume: bool = False,
    every: int = 250,
    log: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
    on_warning: OnWarning = no_warning,
) -> None:
    """Train for the recipe's steps; every `every` steps write `checkpoint.pt`.

    Args:
        run: The fine-tuning, at step 0.
        folder: The folder of the checkpoint; not the model's own.
        resume: Whether to resume from the checkpoint of an earlier run of the same recipe.
        every: Steps between checkpoints.
        log: Called with a line at each checkpoint.
        on_progress: Called with the number of steps done and the losses, each step.
        on_warning: Called with a line where the result will not be bit-identical to an uninterrupted run.

    Raises:
        WhyboxError: The folder is the model's own, holds another training, cannot be written, or a loss is not finite.
    """
    finetuned_folder.check_apart(run.model, folder)
    loop.fit(run, folder, resume=resume, every=every, log=log, on_progress=on_progress, on_warning=on_warning)


def keep(run: FineTuning, folder: Path, command: str) -> dict[str, Any]:
    """Write the trained model with its card; with several processes, only the first one calls this.

    Args:
        run: The finished fine-tuning.
        folder: The folder to write to; see `finetuned_folder.save`.
        command: The command line that repeats the training.

    Returns:
        The card.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    network = run.averaged_network()
    card: dict[str, Any] = {
        "network": type(network).__name__,
        "model": run.model.name,
        "trained": {
            "command": command,
            **asdict(run.recipe),
            **run.terms["region_phrase"],
            "tagger": run.terms["tagger"],
            "phrases": run.terms["phrases"],
            "data": run.data.name,
            "digest": run.data.digest,
            "images": len(run.data),
            "steps_per_epoch": run.epoch,
            "processes": run.fabric.world_size,
            "seconds": round(run.progress.seconds),
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "torch": torch.__version__.split("+")[0],
            "history": run.progress.history,
        },
    }
    card["load"] = finetuned_folder.save(run.model, network, card, folder)
    return card
