"""Waiters: who waits until what was written on this host is on others, and when each may go on.

A host has a write once its *level* for this host's log has passed it (see ``wire.Progress``), not when it has read so
far: while it catches up it reads later entries before it has all the earlier ones. Nobody waits for a host that cannot
answer now; where that leaves too few, the wait ends at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Generic, NamedTuple, TypeVar

from sojourn.cluster.limits import Deadlines

T = TypeVar("T")

MOST_WAITERS = 65_536


class Verdict(NamedTuple, Generic[T]):
    """A wait is over."""

    who: T
    hosts: int
    """How many other hosts have the write."""
    enough: bool


@dataclass(slots=True)
class _Waiter(Generic[T]):
    who: T
    needed: int
    have: int
    awaited: set[str]
    """Hosts that may still answer."""
    over: bool = False


@dataclass(slots=True)
class Waiters(Generic[T]):
    """All waits of one host. A method that may end some returns how they ended."""

    _by_host: dict[str, list[tuple[int, int, _Waiter[T]]]] = field(default_factory=dict)
    _deadlines: Deadlines[_Waiter[T]] = field(default_factory=Deadlines)
    _open: dict[T, _Waiter[T]] = field(default_factory=dict)
    _numbers: int = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(
        self, who: T, time: int, needed: int, have: int, awaited: Collection[str], deadline: float
    ) -> Verdict[T] | None:
        """Begin to wait for *needed* hosts to reach *time*; *have* of them are there, the *awaited* may come.

        Returns the verdict where there is nothing to wait for. *deadline* is in seconds of the node's clock.
        """
        full = len(self._open) >= MOST_WAITERS or who in self._open
        if have >= needed or have + len(awaited) < needed or full:
            return Verdict(who, have, have >= needed)
        self._numbers += 1
        waiter = _Waiter(who, needed, have, set(awaited))
        self._open[who] = waiter
        self._deadlines.add(deadline, waiter)
        for host in awaited:
            heappush(self._swept(host), (time, self._numbers, waiter))
        return None

    def _swept(self, host: str) -> list[tuple[int, int, _Waiter[T]]]:
        """Return the heap of a host, without waits that are over where these are most of it: it may lag for long."""
        heap = self._by_host.setdefault(host, [])
        if len(heap) > 2 * len(self._open) + 1024:
            heap[:] = [entry for entry in heap if not entry[2].over]
            heapify(heap)
        return heap

    def reached(self, host: str, level: int) -> list[Verdict[T]]:
        """A host has everything that was written up to *level*."""
        return list(self._reached(self._by_host.get(host, []), host, level))

    def _reached(self, heap: list[tuple[int, int, _Waiter[T]]], host: str, level: int) -> Iterator[Verdict[T]]:
        while heap and heap[0][0] <= level:
            waiter = heappop(heap)[2]
            if host not in waiter.awaited:
                continue
            waiter.awaited.discard(host)
            waiter.have += 1
            if not waiter.over and waiter.have >= waiter.needed:
                yield self._end(waiter)

    def lost(self, host: str) -> list[Verdict[T]]:
        """A host cannot answer any more: who cannot have enough without it goes on at once."""
        ended = []
        for _, _, waiter in self._by_host.pop(host, []):
            waiter.awaited.discard(host)
            if not waiter.over and waiter.have + len(waiter.awaited) < waiter.needed:
                ended.append(self._end(waiter))
        return ended

    def only(self, who: T, may: Callable[[str], bool]) -> Verdict[T] | None:
        """Have one wait go on for no other hosts than those of which *may* is true; return how it ended, if it has."""
        waiter = self._open[who]
        waiter.awaited = {host for host in waiter.awaited if may(host)}
        return self._end(waiter) if waiter.have + len(waiter.awaited) < waiter.needed else None

    def expired(self, now: float) -> list[Verdict[T]]:
        """End the waits whose time is over."""
        return [self._end(waiter) for waiter in self._deadlines.expired(now)]

    def due(self) -> float:
        """Return when the next wait is over."""
        return self._deadlines.due()

    def forget(self, who: T) -> None:
        """Nobody wants to know any more."""
        if waiter := self._open.get(who):
            self._end(waiter)

    def _end(self, waiter: _Waiter[T]) -> Verdict[T]:
        waiter.over = True
        del self._open[waiter.who]
        return Verdict(waiter.who, waiter.have, waiter.have >= waiter.needed)
