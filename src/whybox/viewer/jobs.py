"""One thread that does all work with the models, one job after the other; a job tells how far it is, and can be cancelled."""

from collections.abc import Callable
from concurrent.futures import Future
from queue import Full, Queue
from threading import Thread
from typing import Any

from torch.overrides import TorchFunctionMode

from whybox.errors import WhyboxError

MOST_WAITING = 500


class Cancelled(Exception):
    """The work is no longer wanted. No error: nobody is told."""


class Job:
    """A piece of work.

    Attributes:
        future: Its result, or its exception.
        share: How much of it is done, 0 to 1.
        cancelled: Whether it is no longer wanted.
    """

    def __init__(self, work: Callable[["Job"], Any]) -> None:
        """See the attributes; `work` gets the job."""
        self.future: Future[Any] = Future()
        self.share = 0.0
        self.cancelled = False
        self._work = work

    def cancel(self) -> None:
        """Say that it is no longer wanted: it does not begin, or ends when it next tells how far it is."""
        self.cancelled = True

    def progress(self, done: int, total: int) -> None:
        """Tell how far the work is.

        Raises:
            Cancelled: It is no longer wanted.
        """
        if self.cancelled:
            raise Cancelled
        self.share = done / max(1, total)

    def run(self) -> None:
        """Do the work; whatever it raises is the future's."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.progress(0, 1)
            self.future.set_result(self._work(self))
        # Also what a model's own code raises to end the process: the server stays.
        except BaseException as error:
            self.future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


class cancellable(TorchFunctionMode):
    """Inside, work that is no longer wanted ends at its next call of torch, also where its method tells no progress.

    Once: what tidies up after it, such as putting flags of the network back, may call torch, too.
    """

    def __init__(self, job: Job) -> None:
        super().__init__()
        self._job, self._ended = job, False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._job.cancelled and not self._ended:
            self._ended = True
            raise Cancelled
        return function(*args, **(kwargs or {}))


class Worker:
    """The thread. Its jobs are done in the order in which they came."""

    def __init__(self) -> None:
        """Start it."""
        self._jobs: Queue[Job | None] = Queue(MOST_WAITING)
        self._thread = Thread(target=self._run, name="whybox-models", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Put a piece of work at the end of the queue.

        Args:
            work: Gets its job.

        Raises:
            WhyboxError: The queue is full.
        """
        job = Job(work)
        try:
            self._jobs.put_nowait(job)
        except Full:
            raise WhyboxError("too much is waiting for the model; try again in a moment") from None
        return job

    def close(self) -> None:
        """End the thread after the jobs that are there."""
        self._jobs.put(None)
        self._thread.join(20)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
