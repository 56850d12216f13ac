"""Limits: how often something may happen, as a bucket of tokens that fills slowly; until when; and how many at most."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, Protocol, TypeVar

K = TypeVar("K")


@dataclass(slots=True)
class Bucket:
    """Holds at most *burst* tokens and gains *rate* of them a second."""

    rate: float
    burst: float
    _spent: float = 0.0
    _since: float = 0.0

    def spend(self, now: float) -> None:
        """Take a token, also one that is not there: then ``empty`` is true for longer."""
        self._fill(now)
        self._spent = min(self._spent + 1, 2 * self.burst)

    def empty(self, now: float) -> bool:
        """Tell whether there is no token left."""
        self._fill(now)
        return self._spent + 1 > self.burst

    def _fill(self, now: float) -> None:
        self._spent = max(self._spent - max(now - self._since, 0) * self.rate, 0.0)
        self._since = now


class Buckets(Generic[K]):
    """A bucket for each of the *most* keys that were used last."""

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._buckets: OrderedDict[K, Bucket] = OrderedDict()

    def spend(self, key: K, now: float) -> None:
        """Take a token of *key*."""
        self._buckets.setdefault(key, Bucket(self._rate, self._burst, 0.0, now)).spend(now)
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)

    def empty(self, key: K, now: float) -> bool:
        """Tell whether *key* has no token left."""
        bucket = self._buckets.get(key)
        return bucket is not None and bucket.empty(now)


class Recent(Generic[K]):
    """The *most* things that were noted last. Threads may share it: each step of it is one of the interpreter's own."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._things: dict[K, None] = {}

    def __contains__(self, thing: K) -> bool:
        return thing in self._things

    def note(self, thing: K) -> None:
        """Remember *thing*, longer than what was noted before."""
        self._things.pop(thing, None)
        self._things[thing] = None
        while len(self._things) > self._most:
            with suppress(RuntimeError, StopIteration):  # another thread was faster
                self._things.pop(next(iter(self._things)), None)

    def forget(self, thing: K) -> None:
        """Forget *thing*, if it is remembered."""
        self._things.pop(thing, None)


class _CanBeOver(Protocol):
    over: bool


D = TypeVar("D", bound=_CanBeOver)


class Deadlines(Generic[D]):
    """Things that end at a time, unless they are over before."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, D]] = []
        self._numbers = 0

    def add(self, deadline: float, thing: D) -> None:
        """Remember when *thing* ends."""
        self._numbers += 1
        heappush(self._heap, (deadline, self._numbers, thing))

    def expired(self, now: float) -> list[D]:
        """Return what has ended by *now*, once."""
        ended = []
        while self.due() <= now:
            ended.append(heappop(self._heap)[2])
        return ended

    def due(self) -> float:
        """Return when the next one ends."""
        while self._heap and self._heap[0][2].over:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")
