"""The time of things that are compared, measured in one run."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def timed(run: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> float:
    """Seconds by a clock; by default of processor time: what else runs on the machine does not count."""
    start = clock()
    run()
    return clock() - start


def timed_in_turn(
    runs: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each run, as `timed`. They take turns, so that a machine whose speed drifts treats them alike; the first round
    is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            seconds[name].append(timed(run, clock))
    return {name: values[1:] for name, values in seconds.items()}


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median of each run."""
    return {name: statistics.median(values) for name, values in seconds.items()}
