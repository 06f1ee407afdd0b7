"""One job after the other; a job that is no longer wanted ends, and what it raises is its own."""

from threading import Event

import pytest
import torch

from whybox.viewer.jobs import Cancelled, Job, Worker, cancellable


def test_jobs_come_in_order_and_fail_alone():
    worker = Worker()
    done = []
    jobs = [worker.submit(lambda job, i=i: done.append(i) or 1 // i) for i in range(3)]
    assert [jobs[1].future.result(10), jobs[2].future.result(10)] == [1, 0]
    assert isinstance(jobs[0].future.exception(), ZeroDivisionError)
    assert done == [0, 1, 2]
    worker.close()


def test_a_cancelled_job_does_not_begin_or_ends_at_its_next_word():
    worker, begun, go = Worker(), Event(), Event()

    def work(job):
        begun.set()
        go.wait(10)
        job.progress(1, 2)

    first, second = worker.submit(work), worker.submit(work)
    begun.wait(10)
    first.cancel()
    second.cancel()
    go.set()
    assert all(isinstance(job.future.exception(10), Cancelled) for job in (first, second))
    assert (first.share, second.share) == (0, 0)
    worker.close()


def test_work_that_tells_no_progress_ends_at_its_next_call_of_torch():
    job = Job(lambda job: None)
    with cancellable(job):
        values = torch.ones(2) + 1
        job.cancel()
        with pytest.raises(Cancelled):
            torch.relu(values)
        # Tidying up is not interrupted once more.
        assert values.requires_grad_(True).requires_grad
