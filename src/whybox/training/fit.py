"""The training loop: steps, an exponential moving average of the weights, checkpoints, and resuming.

The task is given by two functions: `batch` makes a step's input, `losses` computes its losses.
"""

import copy
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from whybox.errors import WhyboxError
from whybox.files import one_line, write_whole
from whybox.progress import OnWarning, no_warning
from whybox.training.recipe import Recipe, fabric_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT = "checkpoint.pt"
Losses = Callable[[Any], Mapping[str, Tensor]]
"""A batch -> scalars by name."""


@dataclass
class Progress:
    """The progress of a training.

    Attributes:
        step: Steps done.
        seconds: Seconds spent.
        history: Interim scores: the step, and numbers by name.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class _AsItIs:
    """A batch whose tensors Fabric does not find."""

    # Not a dataclass or a tuple: Fabric looks into these.
    def __init__(self, batch: Any) -> None:
        self.batch = batch


class _Trained(nn.Module):
    """All trained modules as one, with the losses as its forward pass."""

    # As one module, because Fabric handles precision and the synchronization of gradients in a module's forward: this way it
    # does so for every network, however often the losses run it.

    def __init__(self, network: nn.Module, beside: Mapping[str, nn.Module], losses: Losses) -> None:
        super().__init__()
        self.network = network
        self.beside = nn.ModuleDict(beside)
        # In a tuple, because nn.Module registers attributes that are modules, and this one is registered already.
        self.losses = (losses,)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return dict(self.losses[0](batch.batch if isinstance(batch, _AsItIs) else batch))


class Fit:
    """A training in progress: network, its moving average (which is the result), optimizer, progress."""

    def __init__(
        self,
        network: nn.Module,
        batch: Callable[[int], Any],
        losses: Losses,
        recipe: Recipe,
        fabric: "Fabric",
        *,
        beside: Mapping[str, nn.Module] | None = None,
        terms: Mapping[str, Any] | None = None,
    ) -> None:
        """Move the network to its device and prepare step 0.

        Args:
            network: The network to train; its average is kept.
            batch: Number -> a batch of `recipe.part(fabric)` examples, a function of that number alone, so that a resumed run
                continues identically. Step s takes the numbers from s x parts on, parts being processes x accumulate. Tensors in
                lists, tuples and mappings are moved to the device.
            losses: A batch -> scalars by name, the same names every time; their sum is minimized. It may run the network and the
                modules beside it as often as it needs.
            recipe: How to train.
            fabric: Launched Fabric, with the recipe's precision.
            beside: Further modules to train, by name; they are in the checkpoint, not in the average.
            terms: Further settings that must be the same when a run is resumed.

        Raises:
            WhyboxError: Fabric was launched with another precision.
        """
        launched = fabric.strategy.precision.precision
        if launched != fabric_precision(recipe.precision):
            raise WhyboxError(
                f"the recipe's precision is {recipe.precision}, but Fabric was launched with {launched}; use the same for both"
            )
        self.network, self.recipe, self.fabric = network, recipe, fabric
        self.beside = dict(beside or {})
        self.batch, self.terms = batch, {**asdict(recipe), **(terms or {})}
        self._trained = fabric.setup_module(_Trained(network, self.beside, losses))
        # After `setup_module`, which moves the network: the average lies on its device.
        self.averaged = {key: _precise(value) for key, value in network.state_dict().items()}
        parameters = list(chain(network.parameters(), *(module.parameters() for module in self.beside.values())))
        # Decay would only shift biases and the scales of normalizations: it is for matrices and kernels.
        weights = [weight for weight in parameters if weight.ndim > 1]
        others = [weight for weight in parameters if weight.ndim <= 1]
        groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = fabric.setup_optimizers(torch.optim.AdamW(groups, lr=recipe.lr))
        self.progress = Progress()

    @property
    def parts(self) -> int:
        """Calls of `batch` that make one step, over all processes."""
        return int(self.fabric.world_size) * self.recipe.accumulate

    def advance(self) -> dict[str, float]:
        """Do one step of the optimizer.

        Returns:
            The step's losses by name, means over its parts.

        Raises:
            WhyboxError: A loss or the gradient is not finite; the weights are then those of the step before.
        """
        started, step = time.perf_counter(), self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(step)
        # Every step: a loss, or the caller between two steps, may have left the network in evaluation mode.
        self._trained.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._mean([self._run_part(step, part) for part in range(self.recipe.accumulate)])
        # Before the optimizer's step, so that the weights stay those of the step before.
        if not math.isfinite(total := sum(losses.values())):
            raise WhyboxError(f"the loss of step {step} is {total}; lower the learning rate, or check the data")
        self._clip(step)
        self.optimizer.step()
        self._follow(step)
        self.progress.step += 1
        self.progress.seconds += time.perf_counter() - started
        return losses

    def _run_part(self, step: int, part: int) -> dict[str, Tensor]:
        """Losses and gradients of one part of a step."""
        # Interleaved: the numbers of a step follow one another, whatever its division.
        number = (step * self.recipe.accumulate + part) * self.fabric.world_size + self.fabric.global_rank
        with _seeded(self.recipe.seed, number, self.fabric.device):
            batch = self._unrounded(self.fabric.to_device(self.batch(number)))
            # Gradients are exchanged once a step, with its last part.
            with self.fabric.no_backward_sync(self._trained, enabled=part + 1 < self.recipe.accumulate):
                losses: dict[str, Tensor] = self._trained(batch)
                self.fabric.backward(torch.stack(list(losses.values())).sum() / self.recipe.accumulate)
        # Detached, so that the graph of a part is freed before the next.
        return {name: loss.detach() for name, loss in losses.items()}

    def _unrounded(self, batch: Any) -> Any:
        """The batch, kept from being rounded where autocast rounds what each operation takes, and that alone."""
        # Fabric rounds every tensor that it finds in a forward's arguments, target boxes included: 301.3 to 302 in bfloat16.
        # Where the weights themselves are in half precision ("bf16-true"), the images have to be.
        return _AsItIs(batch) if self.fabric.strategy.precision.precision.endswith("-mixed") else batch

    def _mean(self, parts: list[dict[str, Tensor]]) -> dict[str, float]:
        """The mean of each loss over parts and processes: every process sees the same, and stops at the same NaN."""
        names = list(parts[0])
        values = torch.stack([torch.stack([losses[name] for name in names]) for losses in parts]).mean(0)
        return dict(zip(names, self.fabric.all_reduce(values, reduce_op="mean").tolist(), strict=True))

    def _clip(self, step: int) -> None:
        norm = self.fabric.clip_gradients(self._trained, self.optimizer, max_norm=self.recipe.clip, error_if_nonfinite=False)
        # A gradient scaler (16-mixed) expects overflows: it skips the step and lowers its scale.
        if getattr(self.fabric.strategy.precision, "scaler", None) is None and not norm.isfinite():
            raise WhyboxError(f"the gradient of step {step} is {norm.item()}; lower the learning rate, or check the data")

    def _follow(self, step: int) -> None:
        """Update the moving average; its decay is smaller during the first steps."""
        # min(decay, (1 + n) / (10 + n)) as in TensorFlow's ExponentialMovingAverage: the random initial weights would otherwise
        # dominate the average of a short training.
        keep = min(self.recipe.average, (1 + step) / (10 + step))
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.averaged[key].lerp_(value.to(self.averaged[key].dtype), 1 - keep)
            else:
                # Counters, such as a normalization's num_batches_tracked, have no mean.
                self.averaged[key].copy_(value)

    def averaged_network(self) -> Any:
        """A copy of the network with the averaged weights, in evaluation mode and in single precision.

        Returns:
            The copy.
        """
        network = copy.deepcopy(self.network).float().eval()
        network.load_state_dict(self.averaged)
        return network

    def begin(self, file: Path, *, resume: bool, on_warning: OnWarning = no_warning) -> None:
        """Resume from a checkpoint, or write the first one.

        Args:
            file: The checkpoint.
            resume: Whether to resume where it exists.
            on_warning: Called with a line where the result will not be bit-identical to an uninterrupted run.

        Raises:
            WhyboxError: It exists and `resume` is False, it cannot be resumed, or it cannot be written.
        """
        # A first checkpoint, so that a folder that cannot be written to fails now, not after hours.
        there = self.fabric.broadcast(file.exists())
        if there and not resume:
            raise WhyboxError(f"{file} is from an earlier run; resume it, or use another folder")
        if there:
            self.read(file, on_warning)
        else:
            self.on_first(lambda: self.write(file))

    def on_first(self, action: Callable[[], None]) -> None:
        """Run an action in the first process while the others wait.

        Args:
            action: Called without arguments.

        Raises:
            WhyboxError: The action's error, in every process, so that none keeps waiting.
        """
        failed: WhyboxError | None = None
        if self.fabric.is_global_zero:
            try:
                action()
            except WhyboxError as error:
                failed = error
        if failed := self.fabric.broadcast(failed):
            raise failed

    def write(self, file: Path) -> None:
        """Write a checkpoint atomically; see `on_first`.

        Args:
            file: The checkpoint.

        Raises:
            WhyboxError: It cannot be written.
        """
        buffer = io.BytesIO()
        state = {
            "recipe": self.terms,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "beside": {name: module.state_dict() for name, module in self.beside.items()},
            "parts": self.parts,
            # Empty without a gradient scaler.
            "scaler": self.fabric.strategy.precision.state_dict(),
        }
        torch.save(state, buffer)
        write_whole(file, buffer.getvalue())

    def read(self, file: Path, on_warning: OnWarning = no_warning) -> None:
        """Restore the state of a checkpoint.

        Args:
            file: The checkpoint.
            on_warning: Called with a line where a step is now divided differently.

        Raises:
            WhyboxError: The file is damaged, or belongs to another recipe or network.
        """
        # The first versions wrote no "beside", "parts" and "scaler": theirs are those of one process without other modules.
        broken = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError, UnpicklingError)
        try:
            # weights_only: a checkpoint from elsewhere cannot run code.
            state = torch.load(file, weights_only=True, map_location="cpu")
            changed = self._changes(state["recipe"])
            if not changed:
                self._restore(state)
        except broken as error:
            why = str(error).splitlines()[0] if str(error) else one_line(error)
            raise WhyboxError(f"cannot resume from {file}: {why}; start a new training in another folder") from error
        if changed:
            words = f"it was started with another {', '.join(changed)}; use the same settings, or another folder"
            raise WhyboxError(f"cannot resume from {file}: {words}")
        if (parts := state.get("parts", 1)) != self.parts:
            on_warning(f"a step was divided into {parts} parts and now into {self.parts}: the weights will differ slightly")

    def _changes(self, earlier: Mapping[str, Any]) -> list[str]:
        """The settings in which an earlier run differs, except those that it did not have, and `accumulate`."""
        # The first versions wrote no "loss", and had none.
        known = {"loss": None, **earlier, "precision": fabric_precision(earlier["precision"])}
        current = {**self.terms, "precision": fabric_precision(self.recipe.precision)}
        return [key for key, value in current.items() if key != "accumulate" and key in known and known[key] != value]

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for name, module in self.beside.items():
            module.load_state_dict(state["beside"][name])
        self.averaged = {key: value.to(self.fabric.device) for key, value in state["averaged"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.progress = Progress(**state["progress"])


def _precise(value: Tensor) -> Tensor:
    """A copy in float32 or better."""
    # In half precision the updates of a moving average would be rounded away.
    precision = torch.promote_types(value.dtype, torch.float32) if value.is_floating_point() else value.dtype
    return value.detach().to(precision, copy=True)


@contextmanager
def _seeded(seed: int, number: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's random numbers (dropout) are a function of seed and number; afterwards the generators are restored."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng((seed, 2, number)).integers(2**63)))
        yield


def fit(
    run: Fit,
    folder: Path,
    *,
    resume: bool = False,
    every: int = 250,
    score: Callable[[Any], Mapping[str, float]] | None = None,
    log: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, Mapping[str, float]], None] = lambda step, losses: None,
    on_warning: OnWarning = no_warning,
) -> Fit:
    """Train for the recipe's steps; every `every` steps compute scores and write `checkpoint.pt`.

    Args:
        run: The training, at step 0.
        folder: The folder of the checkpoint.
        resume: Whether to resume from the checkpoint of an earlier run of the same recipe, with the result of an
            uninterrupted run.
        every: Steps between checkpoints, and the most that are lost when the training is killed.
        score: The averaged network -> numbers by name, stored in the history; called by the first process alone.
        log: Called with a line at each checkpoint.
        on_progress: Called with the number of steps done and the losses, each step.
        on_warning: Called with one line per warning.

    Returns:
        The finished training.

    Raises:
        WhyboxError: The folder holds another training, cannot be written, or a loss is not finite.
    """
    if every < 1:
        raise WhyboxError(f"every must be at least 1 step, got {every}")
    file = folder / CHECKPOINT
    run.begin(file, resume=resume, on_warning=on_warning)
    while run.progress.step < run.recipe.steps:
        losses = run.advance()
        on_progress(run.progress.step, losses)
        if run.progress.step % every == 0 or run.progress.step == run.recipe.steps:
            run.on_first(partial(_pause, run, file, losses, score, log))
    return run


def _pause(
    run: Fit,
    file: Path,
    losses: Mapping[str, float],
    score: Callable[[Any], Mapping[str, float]] | None,
    log: Callable[[str], None],
) -> None:
    """Compute the scores, write the checkpoint, and log it."""
    scores = dict(score(run.averaged_network())) if score else {}
    run.progress.history.append({"step": run.progress.step, **scores})
    run.write(file)
    shown = " ".join(f"{name} {value:.3f}" for name, value in [*losses.items(), *scores.items()])
    log(f"step {run.progress.step} of {run.recipe.steps}, {run.progress.seconds:.0f} s: {shown}")
