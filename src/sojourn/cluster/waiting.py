"""Waiting: how many hosts must have a write, which of them may be expected to, and who is told when they have it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple, TypeAlias

from sojourn.cluster.host import Host
from sojourn.cluster.local import Await, Settled
from sojourn.cluster.shipping import Shipping
from sojourn.cluster.waiters import Verdict, Waiters

Who: TypeAlias = tuple[int, int]
"""A worker and the number of its request; or -1 and a number, for a write that was made for another host."""

REPORT_EVERY = 10.0  # seconds between two lines about writes that too few hosts have
FOR_ANOTHER = 0.8  # of the wait: whoever forwarded the write must hear of it before its own wait is over
_ELSEWHERE = -1


class _Wait(NamedTuple):
    name: bytes
    time: int
    tell: Callable[[Verdict[Who]], None]


class Waiting:
    """The waits of one host."""

    def __init__(self, host: Host, shipping: Shipping) -> None:
        self.host, self._shipping = host, shipping
        self.under_replicated = 0
        self._waiters: Waiters[Who] = Waiters()
        self._told: dict[Who, _Wait] = {}
        self._numbers = 0
        self._reported_at = -REPORT_EVERY
        self._reported = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def begin(self, worker: int, request: Await, deadline: float) -> None:
        """A worker waits. With ``acks=0`` it does so now and then only, to be no faster than one other host."""
        number = request.number

        def tell(verdict: Verdict[Who]) -> None:
            self.host.reply(worker, Settled(number, verdict.hosts, verdict.enough, self._is_minority()))

        self._add((worker, number), request.name, request.time, deadline, tell)

    def for_another(self, name: bytes, time: int, told: Callable[[bool], None]) -> None:
        """Wait as a worker of this host would, for a write that it has made for another host."""
        if self.host.settings.acks == 0:
            told(True)
            return
        self._numbers += 1
        deadline = self.host.now + FOR_ANOTHER * self.host.settings.wait
        self._add((_ELSEWHERE, self._numbers), name, time, deadline, lambda verdict: told(verdict.enough))

    def _add(self, who: Who, name: bytes, time: int, deadline: float, tell: Callable[[Verdict[Who]], None]) -> None:
        others = self.host.others_of(name)
        sure = [other for other in others if not self._shipping.may_lack(other, time)]
        there = [other for other in sure if self._shipping.level(other) >= time]
        awaited = [other for other in sure if other not in there and self._shipping.is_waited_for(other)]
        verdict = self._waiters.add(who, time, self._needed(others), len(there), awaited, deadline)
        if verdict:
            self.count(not verdict.enough)
            tell(verdict)
        else:
            self._told[who] = _Wait(name, time, tell)

    def _needed(self, others: Collection[str]) -> int:
        """Return how many other hosts must have a write: never more than are to hold it, were all of them there."""
        settings = self.host.settings
        expected = self.host.expected
        most = expected if settings.copies is None else min(settings.copies - 1, expected)
        if settings.acks is None:
            return max(len(others), min(1, most))
        return min(max(settings.acks, 1), most)

    def _is_minority(self) -> bool:
        others = self.host.members.others()
        return 2 * sum(self.host.reachable(name) for name in others) < len(others)

    # -- what happens ------------------------------------------------------------------------------------------------

    def reached(self, name: str) -> None:
        """A host has more than before."""
        self._end(self._waiters.reached(name, self._shipping.level(name)))

    def reconsider(self) -> None:
        """Give up on hosts that will not be sent what is waited for.

        A host's level passes what it is not to hold any more: it would seem to have a write that it was never sent.
        """
        if self.host.settings.copies is not None:
            ended = [self._waiters.only(who, partial(self._is_sent, wait)) for who, wait in self._told.items()]
            self._end([verdict for verdict in ended if verdict])

    def _is_sent(self, wait: _Wait, name: str) -> bool:
        """Tell whether a host that was to hold a write is sent it: it is on its way by now, or the host still is."""
        return self._shipping.read(name) >= wait.time or name in self.host.owners(wait.name)

    def lost(self, name: str) -> None:
        """A host cannot be waited for any more."""
        self._end(self._waiters.lost(name))

    def expired(self) -> None:
        """Time has passed."""
        self._end(self._waiters.expired(self.host.now))

    def due(self) -> float:
        """Return when the next wait is over."""
        return self._waiters.due()

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        for who in [who for who in self._told if who[0] == worker]:
            self._waiters.forget(who)
            del self._told[who]

    def _end(self, verdicts: list[Verdict[Who]]) -> None:
        for verdict in verdicts:
            self.count(not verdict.enough)
            self._told.pop(verdict.who).tell(verdict)

    def count(self, writes: int) -> None:
        """Count so many writes as being on too few hosts, as far as is known."""
        self.under_replicated += writes
        if writes and self._reported_at + REPORT_EVERY <= self.host.now:
            new = self.under_replicated - self._reported
            self._reported_at, self._reported = self.host.now, self.under_replicated
            self.host.report("warning", f"{new} writes are on fewer hosts than acks= asks for")
