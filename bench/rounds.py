"""Interleaved rounds: every contender takes its turn in every round, so that a slow minute hits all of them.

Rule 1: numbers are compared only within one round. Differences and ratios are taken there, and then their median.
Rule 2: a batch that did not do its work raises Broken. A broken run must not look fast.
Rule 3: the collector of garbage stays on, as it is in a server.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


class Broken(Exception):
    """A contender did not do what is being measured."""


def check(holds: object, what: str) -> None:
    """Raise Broken unless *holds*. Not an assert: ``python -O`` must not make a benchmark blind."""
    if not holds:
        raise Broken(what)


@dataclass(frozen=True, slots=True)
class Sample:
    """Microseconds that one operation took on average over one batch."""

    cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of all rounds, and the quartiles around it."""

    low: float
    median: float
    high: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


Batch = Callable[[], Sample]


class Rounds:
    """What every contender took in every round."""

    def __init__(self, samples: Mapping[str, Sequence[Sample]]) -> None:
        self._samples = samples

    def cpu(self, name: str) -> Spread:
        """Return the CPU time of *name*."""
        return spread([sample.cpu for sample in self._samples[name]])

    def least(self, name: str) -> float:
        """Return the CPU time of *name* in the round that was disturbed least."""
        return min(sample.cpu for sample in self._samples[name])

    def wall(self, name: str) -> Spread:
        """Return the time that *name* took on the wall's clock."""
        return spread([sample.wall for sample in self._samples[name]])

    def added(self, name: str, base: str) -> Spread:
        """Return the CPU time of *name* less that of *base* in the same round."""
        return spread(self._added(name, base))

    def share(self, name: str, base: str, peer: str) -> Spread:
        """Return what *name* adds to *base* as a share of what *peer* adds to it in the same round."""
        pairs = zip(self._added(name, base), self._added(peer, base), strict=True)
        return spread([ours / theirs for ours, theirs in pairs if theirs > 0])

    def ratio(self, name: str, other: str) -> Spread:
        """Return the CPU time of *name* as a multiple of that of *other* in the same round."""
        pairs = zip(self._samples[name], self._samples[other], strict=True)
        return spread([ours.cpu / theirs.cpu for ours, theirs in pairs if theirs.cpu > 0])

    def _added(self, name: str, base: str) -> list[float]:
        return [ours.cpu - bare.cpu for ours, bare in zip(self._samples[name], self._samples[base], strict=True)]


def interleave(contenders: Mapping[str, Batch], rounds: int) -> Rounds:
    """Run one batch of each contender in each of *rounds*, in another order each time, after one to warm up."""
    shuffled = random.Random(2)
    samples: dict[str, list[Sample]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in shuffled.sample(list(contenders), len(contenders)):
            sample = contenders[name]()
            if number:
                samples[name].append(sample)
    return Rounds(samples)


class Stopwatch:
    """CPU time of this process and time on the wall, from here to :meth:`per`."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter_ns(), time.process_time_ns()

    def per(self, times: int) -> Sample:
        """Return the microseconds since the start, for each of *times* operations."""
        cpu, wall = time.process_time_ns() - self._cpu, time.perf_counter_ns() - self._wall
        return Sample(cpu / times / 1000, wall / times / 1000)


def repeated(operation: Callable[[], int], answer: int, times: int) -> Batch:
    """Return the batch that calls *operation* so many times. Each call answers with *answer*, or it is Broken."""

    def batch() -> Sample:
        total, each = 0, range(times)
        watch = Stopwatch()
        for _ in each:
            total += operation()
        sample = watch.per(times)
        check(total == answer * times, f"{times} operations answered {total}, not {answer} each")
        return sample

    return batch


def fitting(operation: Callable[[], object], milliseconds: float = 8.0) -> int:
    """Return how many calls of *operation* take about so many milliseconds: between 5 and 20,000."""
    times, took = 1, 0.0
    while took < milliseconds / 4 and times < 20_000:
        times *= 2
        start = time.perf_counter()
        for _ in range(times):
            operation()
        took = (time.perf_counter() - start) * 1000
    return max(5, min(20_000, round(times * milliseconds / max(took, 0.001))))


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of *values*."""
    check(len(values) > 1, "too few rounds for quartiles")
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(low, median, high)


def _short(number: float) -> str:
    """Write a number with about three digits."""
    size = abs(number)
    return f"{number:,.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"
