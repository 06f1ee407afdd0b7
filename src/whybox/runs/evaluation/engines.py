"""Who measures the images: this process, several processes of this machine, or a Ray cluster. The results are the same."""

import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from typing import Any

import torch

from whybox.errors import FATAL, WhyboxError, reason_of
from whybox.model import Model
from whybox.runs.evaluation.measure import ImageRecord, Measurer
from whybox.runs.evaluation.plan import Plan
from whybox.truth import DataSet

ENGINES = ("local", "ray")
AHEAD = 2
"""Images handed out ahead for every worker, so that none waits and finished results do not pile up."""


@dataclass(frozen=True)
class Setup:
    """What a worker makes its measurer of: the loaded things themselves, so that no worker can load others."""

    model: Model
    data: DataSet
    plan: Plan

    def make(self) -> Measurer:
        """The measurer, on as many threads as the plan says."""
        torch.set_num_threads(self.plan.threads)
        return Measurer.of(self.model, self.data, self.plan)


def measure_here(setup: Setup, indices: Sequence[int]) -> Iterator[ImageRecord]:
    """One image after the other in this process, which has its number of threads back at the end."""
    before = torch.get_num_threads()
    measurer = setup.make()
    try:
        for index in indices:
            yield attempt(measurer, index)
    finally:
        torch.set_num_threads(before)


def attempt(measurer: Measurer, index: int) -> ImageRecord:
    """One image measured, or why it could not be. What is wrong with every image, such as bad weights, is raised."""
    try:
        return measurer(index)
    except FATAL:
        raise
    except Exception as error:
        return {"index": index, "image": measurer.data.names[index], "failed": reason_of(error)}


def measure_in_processes(setup: Setup, indices: Sequence[int], workers: int) -> Iterator[ImageRecord]:
    """On `workers` processes of this machine, in the order in which they are done.

    The model goes to each as bytes: tensors in shared memory would let one worker's randomized weights reach the others.
    """
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (_packed(setup),))
    try:
        yield from _in_flight(pool.submit, indices, AHEAD * workers)
    except BrokenProcessPool:
        raise WhyboxError(
            "a worker process died, most often because memory ran out; start again with fewer workers to resume"
        ) from None
    finally:
        begun = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        # Whoever leaves early does not want to wait for images that are under way.
        for worker in begun:
            worker.terminate()


def _in_flight(submit: Callable[..., "Future[ImageRecord]"], indices: Sequence[int], most: int) -> Iterator[ImageRecord]:
    """Results as they come, with at most `most` images under way."""
    left = iter(indices)
    with _interrupted_later():
        running = {submit(_measure, index) for _, index in zip(range(most), left, strict=False)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
            running |= {submit(_measure, index) for _, index in zip(range(1), left, strict=False)}


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """While workers begin, Ctrl-C waits: one that was sent half of its setup would print a traceback. They inherit the mask."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has none
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_own: list[Measurer | str] = []
"""The one measurer of a worker process, or why it could not be made."""


def _begin(packed: bytes) -> None:
    """An interruption is the parent's business. An error here would only break the pool: the first image reports it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        setup = pickle.loads(packed)
    except Exception as error:
        _own[:] = [f"a worker cannot read what it was sent ({error}): define classes in a module, or use one worker"]
        return
    try:
        _own[:] = [setup.make()]
    except Exception as error:
        _own[:] = [f"a worker cannot begin: {error}"]


def _leave_with_parent() -> None:
    """A worker whose parent was killed has nobody to work for."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure(index: int) -> ImageRecord:
    measurer = _own[0]
    if isinstance(measurer, str):
        raise WhyboxError(measurer)
    return attempt(measurer, index)


def measure_on_ray(setup: Setup, indices: Sequence[int], workers: int, address: str | None) -> Iterator[ImageRecord]:
    """On `workers` actors of a Ray cluster: the one at `address` ("auto", "ray://host:10001"), or one begun here.

    Every actor asks for as many processors as the plan has threads, and for a GPU where the model is on one.
    """
    try:
        import ray
    except ImportError:
        raise WhyboxError("the engine ray needs the package ray: pip install 'whybox[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, address, workers * setup.plan.threads)
    try:
        needs = {"num_cpus": setup.plan.threads, "num_gpus": int(_on_gpu(setup.model))}
        _check_room(ray, needs, workers)
        packed = ray.put(_packed(setup))
        actors = [ray.remote(_RayWorker).options(**needs).remote(packed) for _ in range(workers)]
        yield from _from_actors(ray, actors, indices)
    except ray.exceptions.RayError as error:
        raise WhyboxError(f"ray: {str(error).strip().splitlines()[-1]}; start again to resume") from error
    finally:
        if ours:
            ray.shutdown()


class _RayWorker:
    def __init__(self, packed: bytes) -> None:
        self.measurer = pickle.loads(packed).make()

    def measure(self, index: int) -> ImageRecord:
        return attempt(self.measurer, index)


def _connect(ray: Any, address: str | None, processors: int) -> None:
    _check_address(address)
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": processors, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WhyboxError(f"no Ray cluster at {address or 'this machine'}: {str(error).strip().splitlines()[0]}") from error


def _check_room(ray: Any, needs: dict[str, int], workers: int) -> None:
    """An actor that finds no room would wait for ever, and with it the images handed to it."""
    room = ray.cluster_resources()
    for need, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted, given = workers * needs[need], int(room.get(name, 0))
        if wanted > given:
            raise WhyboxError(
                f"{workers} workers need {wanted} {name}s, the Ray cluster has {given}: give fewer workers or threads"
            )


def _check_address(address: str | None) -> None:
    """Whether anybody answers at host:port; Ray itself would ask for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise WhyboxError(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _from_actors(ray: Any, actors: Sequence[Any], indices: Sequence[int]) -> Iterator[ImageRecord]:
    """Results as they come; an actor that is done gets the next image."""
    left = iter(indices)
    running = {actor.measure.remote(index): actor for actor, index in zip(list(actors) * AHEAD, left, strict=False)}
    while running:
        done, _ = ray.wait(list(running), num_returns=1)
        actor = running.pop(done[0])
        yield ray.get(done[0])
        running |= {actor.measure.remote(index): actor for _, index in zip(range(1), left, strict=False)}


def _packed(setup: Setup) -> bytes:
    try:
        return pickle.dumps(setup)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise WhyboxError(
            f"the model or the data set cannot be sent to workers ({error}): define its class and functions in a module, "
            "or work with one worker"
        ) from error


def _on_gpu(model: Model) -> bool:
    network = model.network
    return isinstance(network, torch.nn.Module) and any(weight.is_cuda for weight in network.parameters())
