"""Train a tiny CLIP on captioned scenes."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whybox.data.scenes import CLASSES, HELD_OUT_SEED
from whybox.errors import WhyboxError
from whybox.progress import OnWarning, no_warning
from whybox.training import captioned_scenes as scenes
from whybox.training import clip_folder
from whybox.training import fit as loop
from whybox.training.captioned_scenes import Drawn
from whybox.training.clip_batches import CaptionedBatches
from whybox.training.clip_network import Matcher, Plan, start
from whybox.training.clip_scores import score
from whybox.training.clip_words import hugging_face
from whybox.training.fit import Fit
from whybox.training.launch import launch
from whybox.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Scenes are rendered larger than the network's input, so that a crop of a scene is not blurred.
FINER = 1.25
# Subfolder of the rendered scenes while the training runs.
DRAWN = "drawn"
# The range of the crops' sides in training, as shares of a scene's.
ZOOM = (0.7, 1.1)


class Matching(Fit):
    """A training of a Matcher in progress."""

    def __init__(
        self,
        matcher: Matcher,
        processor: Any,
        drawn: Drawn,
        recipe: Recipe,
        fabric: "Fabric | None" = None,
        *,
        zoom: tuple[float, float] = ZOOM,
        before: Sequence[Any] = (),
    ) -> None:
        """Prepare step 0.

        Args:
            matcher: The network with its losses.
            processor: The processor of its images and texts.
            drawn: The scenes to train on.
            recipe: Hyperparameters.
            fabric: Launched Fabric; None: one process on the CPU.
            zoom: The range of the crops' sides, as shares of a scene's.
            before: The earlier trainings of the weights, for the card.

        Raises:
            WhyboxError: The batch cannot be divided among the processes, or Fabric was launched with another precision.
        """
        fabric = fabric or launch(precision=recipe.precision)
        vision = matcher.clip.config.vision_config
        grid = vision.image_size // vision.patch_size if matcher.patches else 0
        size = recipe.part(fabric)
        batch = CaptionedBatches(drawn, processor.tokenizer, size, recipe.seed, vision.image_size, grid, zoom)

        def losses(batch: tuple[dict[str, Tensor], dict[str, Tensor]]) -> Mapping[str, Tensor]:
            by_name: Mapping[str, Tensor] = matcher(*batch)
            return by_name

        terms = {"zoom": zoom, "classes": CLASSES, "images": len(drawn), "patches": matcher.patches}
        super().__init__(matcher, batch, losses, recipe, fabric, terms=terms)
        self.processor, self.drawn, self.before = processor, drawn, before
        self.clip = matcher.clip


def begin(
    data: str,
    recipe: Recipe,
    count: int,
    patches: float,
    folder: Path,
    *,
    fabric: "Fabric | None" = None,
    init: Path | None = None,
    log: Callable[[str], None] = lambda text: None,
) -> Matching:
    """Prepare the training of a CLIP.

    Args:
        data: "scenes", the only data with annotations of which texts are true of which images.
        recipe: Hyperparameters.
        count: Number of scenes; they are rendered into the folder, or read from it where an earlier run has rendered them.
        patches: Weight of the second loss, on the patches of objects; 0: without it.
        folder: The folder of the training.
        fabric: Launched Fabric; None: one process on the CPU.
        init: A folder that `keep` wrote, whose weights are the initial ones; None: random weights.
        log: Called with one line per stage.

    Returns:
        The training, at step 0.

    Raises:
        WhyboxError: Invalid data, seed, count or patches, `init` without a CLIP, or transformers is not installed.
    """
    if data != "scenes":
        raise WhyboxError(f"data must be scenes, the only data that annotates which texts are true of which images, got {data!r}")
    if recipe.seed == HELD_OUT_SEED:
        raise WhyboxError(f"seed {recipe.seed} is reserved for the held-out scenes; choose another")
    if count < 1 or patches < 0:
        raise WhyboxError(f"count must be at least 1 and patches at least 0, got {count} and {patches}")
    fabric = fabric or launch(precision=recipe.precision)
    network, processor = clip_folder.read(init) if init else start(Plan(), recipe.seed)
    side: int = processor.image_processor.size["height"]
    log(f"rendering {count} scenes into {folder / DRAWN}")
    # One process renders, the others read its files.
    with fabric.rank_zero_first():
        drawn = scenes.draw(count, recipe.seed, round(side * FINER), folder / DRAWN)
    before = clip_folder.read_trainings(init) if init else ()
    return Matching(Matcher(network, patches), processor, drawn, recipe, fabric, before=before)


def fit(
    run: Matching,
    folder: Path,
    *,
    resume: bool = False,
    every: int = 250,
    interim: int = 60,
    log: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
    on_warning: OnWarning = no_warning,
) -> None:
    """Train for the recipe's steps; every `every` steps compute scores and write `checkpoint.pt`.

    Args:
        run: The training, at step 0.
        folder: The folder of the checkpoint.
        resume: Whether to resume from the checkpoint of an earlier run of the same recipe, with the result of an
            uninterrupted run.
        every: Steps between checkpoints.
        interim: Held-out scenes of each variant to score on at a checkpoint; 0: none.
        log: Called with a line at each checkpoint.
        on_progress: Called with the number of steps done and the losses, each step.
        on_warning: Called with a line where the result will not be bit-identical to an uninterrupted run.

    Raises:
        WhyboxError: The folder holds another training, cannot be written, or a loss is not finite.
    """

    def scores(averaged: Any) -> dict[str, float]:
        return {name: round(value, 4) for name, value in score(averaged.clip, run.processor, interim).items()}

    loop.fit(
        run,
        folder,
        resume=resume,
        every=every,
        score=scores if interim else None,
        log=log,
        on_progress=on_progress,
        on_warning=on_warning,
    )


def keep(run: Matching, folder: Path, command: str, held_out: int) -> dict[str, Any]:
    """Write the averaged network with its card, and score what was written; the rendered scenes are removed.

    With several processes, only the first one calls this.

    Args:
        run: The finished training.
        folder: The folder to write to; see `clip_folder.save`.
        command: The command line that repeats the training.
        held_out: Held-out scenes of each variant to score on.

    Returns:
        The card.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    clip = run.averaged_network().clip
    card: dict[str, Any] = {"network": "CLIPModel", "classes": list(CLASSES)}
    # Written before it is scored: what is scored is the file, in half precision.
    clip_folder.save(clip, run.processor, card, folder)
    card["trained"] = {
        "command": command,
        **asdict(run.recipe),
        "zoom": run.terms["zoom"],
        "processes": run.fabric.world_size,
        "patches": run.terms["patches"],
        "images": len(run.drawn),
        "seconds": round(run.progress.seconds),
        "parameters": sum(weight.numel() for weight in clip.parameters()),
        "torch": torch.__version__.split("+")[0],
        "transformers": hugging_face().__version__,
        "history": run.progress.history,
        "held_out": held_out,
        "scores": {name: round(value, 4) for name, value in score(*clip_folder.read(folder), held_out).items()},
    }
    card |= {"before": list(run.before)} if run.before else {}
    clip_folder.save(clip, run.processor, card, folder)
    # Last, and without an error: the training is done, whether or not its scenes can be removed.
    shutil.rmtree(folder / DRAWN, ignore_errors=True)
    return card
