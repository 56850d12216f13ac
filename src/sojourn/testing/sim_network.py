"""SimNetwork: time, streams and faults of a whole cluster in one thread, all of it from one seed.

Time is virtual: a heap of events, each with its moment; whoever is to wait is called back. A stream is FIFO, as TCP is:
what a cut withholds comes when it heals, unless the stream broke meanwhile; what was under way on a broken one is lost.
A cut has a direction. A paused host does nothing, and what is for it waits. A killed one takes no more; its streams
are closed by its kernel, or, when the power went, by nobody.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Protocol

from sojourn.cluster import wire

SLOWEST_DIAL = 1.0  # seconds until a dial into the void fails
FULL = 64  # messages under way in one direction of a stream beyond which its writer is told to wait
REPEATABLE = (wire.Changes, wire.Stored, wire.Ping, wire.Names, wire.Digests, wire.Fetch, wire.Pull)


class End(Protocol):
    """What the network tells a host. Links are numbers that the network gives out."""

    name: str
    up: bool
    asleep_until: float
    """Paused until then; what is for it waits."""

    def dialed(self, link: int, name: str) -> None:
        """Say that a dial has become a stream."""

    def unreachable(self, name: str) -> None:
        """Say that a dial has failed."""

    def accepted(self, link: int, name: str) -> None:
        """Say that a host has opened a stream."""

    def received(self, link: int, message: wire.Message) -> None:
        """Hand over a message."""

    def closed(self, link: int) -> None:
        """Say that a stream has broken."""

    def blocked(self, link: int) -> None:
        """Say that what was sent on a stream does not get away."""

    def drained(self, link: int) -> None:
        """Say that it has got away."""


class Clock:
    """Virtual time, and what is to happen when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._number = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have *event* called at *when*; those of one moment in the order in which they were asked for."""
        self._number += 1
        heapq.heappush(self._events, (when if when > self.now else self.now, self._number, event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Have *event* called in so many seconds."""
        self.at(self.now + seconds, event)

    def run(self, until: float) -> None:
        """Let everything happen that is due by *until*."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, event = heapq.heappop(events)
            event()
        self.now = max(self.now, until)


class _Half:
    """One direction of a stream."""

    def __init__(self, writer: str, writes: int, reader: str, reads: int) -> None:
        self.writer, self.writes, self.reader, self.reads = writer, writes, reader, reads
        self.clear_at = 0.0  # when the last of what was sent arrives
        self.under_way = 0
        self.held: deque[wire.Message] = deque()  # behind a cut
        self.is_blocked = False
        self.closes = False
        self.frames = wire.Frames()


class SimNetwork:
    """Hosts by their names, and the streams between them.

    *delay* is the usual time of a message in seconds; a share of ``slow`` takes ten times as long. *repeats* is the
    share of messages that arrive once more, later: for those that must bear it. *framed* sends them as bytes, as
    between real hosts.
    """

    def __init__(self, random: Random, *, delay: float = 0.0005, repeats: float = 0.0, framed: bool = False) -> None:
        self.clock = Clock()
        self.random = random
        self.hosts: dict[str, End] = {}
        self.sent = 0
        self.bytes = 0
        self.slow = 0.03
        """The share of messages that take ten times as long."""
        self._delay, self._repeats, self._framed = delay, repeats, framed
        self._cuts: set[tuple[str, str]] = set()
        self._outgoing: dict[int, _Half] = {}
        self._incoming: dict[int, _Half] = {}
        self._links = 0

    def latency(self) -> float:
        """Return how long a message takes, this time."""
        spread = 0.5 + self.random.random()
        return self._delay * spread * (10 if self.random.random() < self.slow else 1)

    # -- streams -------------------------------------------------------------------------------------------------

    def dial(self, dialer: str, name: str) -> None:
        """Open a stream from *dialer* to the host of a *name*; tells it in a while what came of it."""
        if self._is_cut(dialer, name):
            self.clock.after(SLOWEST_DIAL, lambda: self._told(dialer, lambda end: end.unreachable(name)))
            return
        self.clock.after(2 * self.latency(), lambda: self._connect(dialer, name))

    def _connect(self, dialer: str, name: str) -> None:
        other = self.hosts.get(name)
        if other is None or not other.up or self._is_cut(dialer, name):
            self._told(dialer, lambda end: end.unreachable(name))
            return
        if (near_end := self.hosts.get(dialer)) is None or not near_end.up:  # it may have left meanwhile
            return
        near, far = self._links + 1, self._links + 2
        self._links = far
        self._add(_Half(dialer, near, name, far))
        self._add(_Half(name, far, dialer, near))
        self._told(dialer, lambda end: end.dialed(near, name))
        if far in self._incoming:  # the dialer may have thought better of it
            self._told(name, lambda end: end.accepted(far, dialer))

    def _add(self, half: _Half) -> None:
        self._outgoing[half.writes] = half
        self._incoming[half.reads] = half

    def _is_cut(self, one: str, other: str) -> bool:
        return (one, other) in self._cuts or (other, one) in self._cuts

    def _told(self, name: str, tell: Callable[[End], None]) -> None:
        end = self.hosts.get(name)
        if end and end.asleep_until > self.clock.now:
            self.clock.at(end.asleep_until, lambda: self._told(name, tell))
        elif end and end.up:
            tell(end)

    # -- messages ------------------------------------------------------------------------------------------------

    def send(self, link: int, message: wire.Message) -> None:
        """Put a message into a stream; one that is broken loses it."""
        half = self._outgoing.get(link)
        if half is None:
            return
        self.sent += 1
        half.under_way += 1
        if (half.writer, half.reader) in self._cuts:
            half.held.append(message)
        else:
            self._carry(half, message)
        if half.under_way > FULL and not half.is_blocked:
            half.is_blocked = True
            self.clock.after(0.0, lambda: self._told(half.writer, lambda end: end.blocked(link)))

    def _carry(self, half: _Half, message: wire.Message) -> None:
        body = wire.to_frame(message) if self._framed else None
        if body:
            self.bytes += len(body)
        half.clear_at = max(half.clear_at, self.clock.now + self.latency())
        self.clock.at(half.clear_at, lambda: self._deliver(half, message, body))
        if self._repeats and isinstance(message, REPEATABLE) and self.random.random() < self._repeats:
            again = half.clear_at + 20 * self.latency()
            self.clock.at(again, lambda: self._hand_over(half, message))

    def _deliver(self, half: _Half, message: wire.Message, body: bytes | None) -> None:
        reader = self.hosts.get(half.reader)
        if reader and reader.asleep_until > self.clock.now:
            self.clock.at(reader.asleep_until, lambda: self._deliver(half, message, body))
            return
        half.under_way -= 1
        if half.is_blocked and half.under_way <= FULL // 2 and half.writes in self._outgoing:
            half.is_blocked = False
            self._told(half.writer, lambda end: end.drained(half.writes))
        if body is None:
            self._hand_over(half, message)
        elif half.reads in self._incoming:
            for read in half.frames.feed(body):
                half.frames.greeted = True
                self._hand_over(half, read)

    def _hand_over(self, half: _Half, message: wire.Message) -> None:
        if half.reads in self._incoming:
            self._told(half.reader, lambda end: end.received(half.reads, message))

    def close(self, link: int) -> None:
        """Close a stream from one side, once what was sent is out. That side is told nothing more."""
        outgoing, incoming = self._outgoing.pop(link, None), self._incoming.pop(link, None)
        if incoming:
            incoming.held.clear()
        if outgoing is None:
            return
        if (outgoing.writer, outgoing.reader) in self._cuts:
            outgoing.closes = True
            self._outgoing[link] = outgoing  # until the cut heals
        else:
            self._close_later(outgoing)

    def _close_later(self, half: _Half) -> None:
        half.clear_at = max(half.clear_at, self.clock.now + self.latency())
        self.clock.at(half.clear_at, lambda: self._closed(half.reads))

    def _closed(self, link: int) -> None:
        """Tell one side that its stream is broken."""
        incoming = self._incoming.pop(link, None)
        self._outgoing.pop(link, None)
        if incoming:
            self._told(incoming.reader, lambda end: end.closed(link))

    # -- faults --------------------------------------------------------------------------------------------------

    def cut(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Let nothing through from the first to the second host of each pair."""
        self._cuts |= {*pairs}

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut."""
        return not self._cuts

    def heal(self) -> None:
        """Let everything through again: also what streams have withheld."""
        self._cuts.clear()
        for half in [*self._outgoing.values()]:
            while half.held:
                self._carry(half, half.held.popleft())
            if half.closes:
                self._outgoing.pop(half.writes, None)
                self._close_later(half)

    def break_stream(self, one: str, other: str) -> None:
        """Break the streams between two hosts; what is under way is lost."""
        for half in [*self._incoming.values()]:
            if {half.writer, half.reader} == {one, other}:
                self._closed(half.reads)

    def forget(self, name: str, *, politely: bool) -> None:
        """Do away with the streams of a host that has died: *politely*, where its kernel lives on and closes them."""
        for half in [half for half in self._outgoing.values() if half.writer == name]:
            if politely:
                self.close(half.writes)
            else:
                self._outgoing.pop(half.writes, None)
                self._incoming.pop(half.writes, None)

    def reset(self, name: str) -> None:
        """Have a host that is up again answer streams of its former life: their other ends break."""
        for half in [half for half in self._incoming.values() if half.writer == name]:
            if half.writes not in self._incoming:
                self.clock.after(self.latency(), lambda link=half.reads: self._closed(link))  # type: ignore[misc]
