"""Fit a tiny CLIP on captioned scenes."""

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

# Drawn finer than the network looks, so that a window of a scene is not blurred.
FINER = 1.25
# Where the drawn scenes lie until the training is done.
DRAWN = "drawn"
# The sides of the windows that training sees, as parts of a scene's.
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
        """Begin at step 0.

        Args:
            matcher: The network with its losses.
            processor: Of its images and texts.
            drawn: The scenes to learn from.
            recipe: How to train.
            fabric: Launched; by default one process on the CPU.
            zoom: The sides of the windows, least and most, as parts of a scene's.
            before: The trainings that the weights come from, for the card.

        Raises:
            WhyboxError: The batch cannot be shared by the processes, or Fabric runs in another precision.
        """
        fabric = fabric or launch(precision=recipe.precision)
        vision = matcher.clip.config.vision_config
        grid = vision.image_size // vision.patch_size if matcher.patches else 0
        size = recipe.part(fabric)
        batch = CaptionedBatches(drawn, processor.tokenizer, size, recipe.seed, vision.image_size, grid, zoom)

        def losses(batch: tuple[dict[str, Tensor], dict[str, Tensor]]) -> Mapping[str, Tensor]:
            found: Mapping[str, Tensor] = matcher(*batch)
            return found

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
    """A training of a CLIP, at its beginning.

    Args:
        data: "scenes": no other data says which texts are true of which images.
        recipe: How to train.
        count: Scenes; they are drawn into the folder, or read there where an earlier run has drawn them.
        patches: Weight of the second loss, on the patches of objects; 0: none.
        folder: Where to draw.
        fabric: Launched; by default one process on the CPU.
        init: A folder that `keep` wrote, to start from its weights; None: random ones.
        log: Gets a line on what is done.

    Returns:
        The training.

    Raises:
        WhyboxError: Data, seed, count or patches make no sense, `init` holds no CLIP, or transformers is not installed.
    """
    if data != "scenes":
        raise WhyboxError(f"data is scenes, not {data!r}: only they say which texts are true of which images")
    if recipe.seed == HELD_OUT_SEED:
        raise WhyboxError(f"seed {recipe.seed} is kept for the held-out scenes; choose another")
    if count < 1 or patches < 0:
        raise WhyboxError(f"count is at least 1 and patches at least 0, not {count} and {patches}")
    fabric = fabric or launch(precision=recipe.precision)
    network, processor = clip_folder.read(init) if init else start(Plan(), recipe.seed)
    side: int = processor.image_processor.size["height"]
    log(f"drawing {count} scenes into {folder / DRAWN}")
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
    """Train to the recipe's end; every `every` steps score, and write `checkpoint.pt`.

    Args:
        run: The training, at its beginning.
        folder: Where the checkpoint goes.
        resume: Go on from the checkpoint of an earlier run of the same recipe: it ends as the unbroken run would have.
        every: Steps between checkpoints.
        interim: Held-out scenes of each kind to score on at a checkpoint; 0: none.
        log: Gets a line at each checkpoint.
        on_progress: Gets the steps done and the losses, each step.
        on_warning: Gets a line where going on will not give the very bits of an unbroken run.

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
    """Write the averaged network with its card, and score what was written; the drawn scenes are removed.

    With several processes the first alone calls this.

    Args:
        run: The training, at its end.
        folder: Where to; see `clip_folder.save`.
        command: The command line that does this again.
        held_out: Held-out scenes of each kind to score on.

    Returns:
        The card.

    Raises:
        WhyboxError: The folder cannot be written.
    """
    clip = run.averaged_network().clip
    card: dict[str, Any] = {"network": "CLIPModel", "classes": list(CLASSES)}
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
    shutil.rmtree(folder / DRAWN, ignore_errors=True)
    return card
