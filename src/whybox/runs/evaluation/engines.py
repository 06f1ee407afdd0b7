"""Engines that measure the images, with the same results: this process, a pool of processes, or a Ray cluster."""

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
"""Images submitted per worker, so that none waits and finished results do not pile up."""


@dataclass(frozen=True)
class Setup:
    """What a worker needs to measure images: the loaded objects themselves, so that no worker can load different ones.

    Attributes:
        model: The loaded model.
        data: The opened data set.
        plan: The settings of the run.
    """

    model: Model
    data: DataSet
    plan: Plan

    def make(self) -> Measurer:
        """Make the measurer, and set this process to the plan's number of threads.

        Returns:
            The measurer.
        """
        # The number of threads decides the order of sums, and with it their last bits.
        torch.set_num_threads(self.plan.threads)
        return Measurer.of(self.model, self.data, self.plan)


def measure_here(setup: Setup, indices: Sequence[int]) -> Iterator[ImageRecord]:
    """Measure one image after the other in this process, whose number of threads is restored at the end.

    Args:
        setup: The model, the data and the plan.
        indices: The images' indices in the data set.

    Yields:
        One record per image, in the given order.
    """
    before = torch.get_num_threads()
    measurer = setup.make()
    try:
        for index in indices:
            yield attempt(measurer, index)
    finally:
        torch.set_num_threads(before)


def attempt(measurer: Measurer, index: int) -> ImageRecord:
    """Measure one image.

    Args:
        measurer: Measures it.
        index: Its index in the data set.

    Returns:
        The image's record, or a record with the reason under "failed".

    Raises:
        WhyboxError: One of `FATAL`, errors that every other image would raise too.
    """
    try:
        return measurer(index)
    except FATAL:
        raise
    except Exception as error:
        return {"index": index, "image": measurer.data.names[index], "failed": reason_of(error)}


def measure_in_processes(setup: Setup, indices: Sequence[int], workers: int) -> Iterator[ImageRecord]:
    """Measure images in several processes of this machine.

    Args:
        setup: The model, the data and the plan.
        indices: The images' indices in the data set.
        workers: Number of processes.

    Yields:
        One record per image, in the order of completion.

    Raises:
        WhyboxError: The setup cannot be pickled, or a worker died.
    """
    # Spawned, because CUDA cannot be used in a forked process. Sent as bytes, because multiprocessing would put tensors in
    # shared memory, where one worker's randomized weights would reach the others.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (_packed(setup),))
    try:
        yield from _in_flight(pool.submit, indices, AHEAD * workers)
    except BrokenProcessPool:
        raise WhyboxError(
            "a worker process died, most often because memory ran out; start again with fewer workers to resume"
        ) from None
    finally:
        # A private attribute: the pool's own shutdown waits for running images, and Ctrl-C should not. Read before shutdown,
        # which deletes it.
        processes = list((getattr(pool, "_processes", None) or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in processes:
            worker.terminate()


def _in_flight(submit: Callable[..., "Future[ImageRecord]"], indices: Sequence[int], most: int) -> Iterator[ImageRecord]:
    """Yield results in the order of completion, with at most `most` images submitted."""
    # The ranges below come first in `zip`, which then takes no index that it does not use.
    left = iter(indices)
    # The pool starts its processes on submit.
    with _sigint_blocked():
        running = {submit(_measure, index) for _, index in zip(range(most), left, strict=False)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
            running |= {submit(_measure, index) for _, index in zip(range(1), left, strict=False)}


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Delay Ctrl-C while workers start: one that has received half of its setup would print a traceback."""
    # Spawned processes inherit the mask; Windows has none.
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_measurer: list[Measurer | str] = []
"""The only measurer of a worker process, or why it could not be made; empty in the main process."""


def _start_worker(packed: bytes) -> None:
    """Unpack the setup in a worker process. An error is kept for the first image: raised here it would only break the pool."""
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        setup = pickle.loads(packed)
    except Exception as error:
        _measurer[:] = [f"a worker cannot unpickle the setup ({error}): define classes in a module, or use one worker"]
        return
    try:
        _measurer[:] = [setup.make()]
    except Exception as error:
        _measurer[:] = [f"a worker cannot start: {error}"]


def _exit_with_parent() -> None:
    """End this worker when its parent ends, also when that was killed and cleaned nothing up."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        # sys.exit would only end this thread.
        os._exit(1)


def _measure(index: int) -> ImageRecord:
    measurer = _measurer[0]
    if isinstance(measurer, str):
        raise WhyboxError(measurer)
    return attempt(measurer, index)


def measure_on_ray(setup: Setup, indices: Sequence[int], workers: int, address: str | None) -> Iterator[ImageRecord]:
    """Measure images on the actors of a Ray cluster.

    Every actor requests as many CPUs as the plan has threads, and a GPU where the model is on one.

    Args:
        setup: The model, the data and the plan.
        indices: The images' indices in the data set.
        workers: Number of actors.
        address: Of a running cluster ("auto", "ray://host:10001"); None: a cluster is started on this machine.

    Yields:
        One record per image, in the order of completion.

    Raises:
        WhyboxError: Ray is not installed, no cluster answers, it is too small, or it failed.
    """
    try:
        import ray
    except ImportError:
        raise WhyboxError("the engine ray needs the package ray: pip install 'whybox[ray]'") from None
    # A connection that the caller opened is the caller's to close.
    connects = not ray.is_initialized()
    if connects:
        _connect(ray, address, workers * setup.plan.threads)
    try:
        needs = {"num_cpus": setup.plan.threads, "num_gpus": int(_on_gpu(setup.model))}
        _check_resources(ray, needs, workers)
        packed = ray.put(_packed(setup))
        actors = [ray.remote(_RayWorker).options(**needs).remote(packed) for _ in range(workers)]
        yield from _from_actors(ray, actors, indices)
    except ray.exceptions.RayError as error:
        raise WhyboxError(f"ray: {str(error).strip().splitlines()[-1]}; start again to resume") from error
    finally:
        if connects:
            ray.shutdown()


class _RayWorker:
    """An actor that measures images."""

    def __init__(self, packed: bytes) -> None:
        self.measurer = pickle.loads(packed).make()

    def measure(self, index: int) -> ImageRecord:
        """The record of the image of this index, or of its failure."""
        return attempt(self.measurer, index)


def _connect(ray: Any, address: str | None, processors: int) -> None:
    _check_address(address)
    options: dict[str, Any] = {"address": address} if address else {"num_cpus": processors, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise WhyboxError(f"no Ray cluster at {address or 'this machine'}: {str(error).strip().splitlines()[0]}") from error


def _check_resources(ray: Any, needs: dict[str, int], workers: int) -> None:
    """Refuse more actors than the cluster has resources for: Ray would keep them, and their images, waiting for ever."""
    resources = ray.cluster_resources()
    for need, name in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        wanted, available = workers * needs[need], int(resources.get(name, 0))
        if wanted > available:
            raise WhyboxError(
                f"{workers} workers need {wanted} {name}s, the Ray cluster has {available}: give fewer workers or threads"
            )


def _check_address(address: str | None) -> None:
    """Refuse host:port where nothing answers within seconds; Ray itself would retry for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    # Ray has no option for how long it tries (ray-project/ray#46863). "auto" and the like are for Ray to resolve.
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise WhyboxError(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _from_actors(ray: Any, actors: Sequence[Any], indices: Sequence[int]) -> Iterator[ImageRecord]:
    """Yield results in the order of completion; an actor that is done gets the next image."""
    left = iter(indices)
    # Every actor gets its first image before any gets its second.
    running = {actor.measure.remote(index): actor for actor, index in zip(list(actors) * AHEAD, left, strict=False)}
    while running:
        done, _ = ray.wait(list(running), num_returns=1)
        actor = running.pop(done[0])
        yield ray.get(done[0])
        running |= {actor.measure.remote(index): actor for _, index in zip(range(1), left, strict=False)}


def _packed(setup: Setup) -> bytes:
    """The setup pickled once, for all workers."""
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
