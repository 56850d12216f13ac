"""One host among others that are played: its rules and its storage, and the CPU time that they take. No socket.

The others answer as hosts do that hold the same: they store what they are sent, and find no digest that differs. So the
time is that of one agent in a quiet cluster of so many, without TLS and the kernel, for which see ``replication``.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench.rounds import check
from bench.sessions import Records, key_of
from sojourn.cluster import wire
from sojourn.cluster.effects import Effect, Send
from sojourn.cluster.host import rules_of
from sojourn.cluster.local import Await, Forward
from sojourn.cluster.node import Node
from sojourn.cluster.settings import Settings
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store.peers.tables import HostTables
from sojourn.store.peers.tables_base import BaseTables

LIFE = 86400.0  # seconds
OTHERS = 1 << 40  # the first number of the sessions that another host creates
TURNS = 200_000  # messages after which a host that never comes to rest is taken for broken


def names_of(hosts: int) -> tuple[str, ...]:
    """Return the names of *hosts*, as long as names are."""
    return tuple(f"app{number:02d}.shop.example:7946" for number in range(hosts))


def settings_of(names: Sequence[str], me: str, copies: int | None, path: str = "/simulated") -> Settings:
    """Return the settings of one of the hosts: all that can be left out is."""
    return Settings(seeds=tuple(names), me=me, listen=me, path=path, copies=copies, tls="/simulated")


def begin(tables: BaseTables, key: bytes, record: Record, now: float) -> None:
    """Create a session as a worker does."""
    record = record._replace(created_at=now, accessed_at=now)
    check(tables.perform("create", (key, record)).answer is Written.DONE, "a session begins")


def count_up(tables: BaseTables, key: bytes) -> int:
    """Write into a session as a worker does, and return its place in the log. Nobody counts this time: it is not the
    agent's."""
    record = tables.load(key)
    check(record is not None, "the session is there")
    assert record
    values = {**record.values, "count": os.urandom(4)}
    changed = record._replace(values=values, version=record.version + 1)
    done = tables.perform("update", (key, changed, record.version))
    check(done.answer is Written.DONE, "an update is done")
    return done.time


class Spent:
    """The CPU time of what this host was called for."""

    def __init__(self) -> None:
        self.cpu = 0.0  # µs

    def frames(self, effects: Sequence[Effect]) -> list[tuple[int, wire.Message]]:
        """Encode what is sent, as the engine does."""
        out = [(effect.link, effect.message) for effect in effects if isinstance(effect, Send)]
        before: wire.Message | None = None
        for _, message in out:
            if message is not before:  # one that goes to everybody is encoded once
                before = message
                wire.to_frame(message)
        return out


class Played:
    """A host on real tables; links to the others have even numbers where it has dialed them."""

    def __init__(self, path: Path, hosts: int, copies: int | None) -> None:
        self.names = names_of(hosts)
        self.settings = settings_of(self.names, self.names[0], copies, str(path))
        self.tables, self.writer = HostTables(path / "here"), HostTables(path / "there")
        self.origins = {name: number.to_bytes(4, "big") for number, name in enumerate(self.names, 1)}
        self.origins[self.names[1]] = self.writer.origin  # the one of the others that writes
        self._shipped = wire.Progress()
        self.now = 1000.0
        self.spent = Spent()
        self.node = Node(self.settings, self.tables, self.now, os.urandom)
        self.records = Records(2048)
        self._elsewhere = msgspec.to_builtins(self.records.make(0, LIFE), builtin_types=(bytes,))
        self._decoders: dict[int, wire.Frames] = {}
        self._unanswered: deque[tuple[int, wire.Message]] = deque()
        self._answering = False

    def meet(self) -> None:
        """Open all streams, and have everything compared once."""
        self._run(lambda: self.node.started(self.now))
        for number, name in enumerate(self.names[1:], 1):
            self._run(partial(self.node.dialed, 2 * number, name, self.now))
            host = frozenset({name.rpartition(":")[0]})
            self._run(partial(self.node.accepted, 2 * number + 1, host, self.now))
            self.hear(2 * number + 1, self._hello(name))
        for _ in range(20):
            self.pass_time(0.25)
        view = self.node._status()
        check(view["ready"], "the host is ready")

    def fill(self, sessions: int) -> list[bytes]:
        """Create sessions that belong on this host; return their keys."""
        return self._begin(self.tables, sessions, 0)

    def _begin(self, tables: BaseTables, sessions: int, first: int) -> list[bytes]:
        keys, number, now = list[bytes](), first, time.time()
        while len(keys) < sessions:
            key, number = key_of(number), number + 1
            if self.node.host.is_here(key):
                begin(tables, key, self.records.make(number, now + LIFE), now)
                keys.append(key)
        return keys

    def receive(self, keys: Sequence[bytes], *, together: bool) -> None:
        """Have another host count up in sessions, and ship what it has written: one by one, or all together."""
        for key in keys:
            count_up(self.writer, key)
            if not together:
                self._receive()
        self._receive()

    def _receive(self) -> None:
        """Hear the next piece of the log of another host."""
        before = self._shipped
        piece = self.writer.log(self.writer.origin, before.cursor, before.level, 512)
        if piece.changes:
            self._shipped = piece.progress
            self.hear(3, msgspec.structs.replace(piece, after=before.cursor))
            progress = self.node.host.known.get(self.writer.origin)
            check(progress == piece.progress, "what another host has written is stored")

    def ask(self, key: bytes) -> None:
        """Have a worker look at a session that is on other hosts only."""
        self._run(partial(self.node.asked, 1, Forward(1, key, "load", (key,), 1000), self.now))

    def serve(self, key: bytes) -> None:
        """Have another host ask for a session that is here."""
        self.hear(3, wire.Do(1, "load", (key,)))

    def fill_other(self, sessions: int) -> list[bytes]:
        """Have another host create sessions, and ship them."""
        keys = self._begin(self.writer, sessions, OTHERS)
        for _ in range(sessions // 128 + 1):
            self._receive()
        return keys

    def wrote(self, *written: tuple[bytes, int]) -> None:
        """Have workers wait for what they wrote: keys, and places in the log."""
        for number, (key, place) in enumerate(written):
            self._run(partial(self.node.asked, 1, Await(number, key, place, 1000), self.now))
        self._run(lambda: self.node.written(self.now))
        check(not self.node.waiting, "all that was written is acknowledged")

    def pass_time(self, seconds: float) -> None:
        """Let nothing happen but time, and the pings of the others."""
        end = self.now + seconds
        while (due := max(self.node.due(), self.now + 0.001)) <= end:
            self.now = due
            self._run(lambda: self.node.tick(self.now))
        self.now = end
        self._others_ping()

    def _others_ping(self) -> None:
        """Hear a ping of each other host, and from each in its turn, every ten seconds, all that it knows."""
        members, beat = self.node.host.members.all(), round(self.now * 4)
        for number, name in enumerate(self.names[1:], 1):
            if name in self.node.host.peers:
                full = beat % 40 == number % 40
                known = (members, self._progress(name)) if full else ((), {})
                self.hear(2 * number + 1, wire.Ping(int(self.now * 1000), *known))

    def lose(self, name: str) -> None:
        """Break the streams of another host."""
        number = self.names.index(name)
        for link in (2 * number, 2 * number + 1):
            self._run(partial(self.node.closed, link, self.now))

    # -- the others --------------------------------------------------------------------------------------------------

    def hear(self, link: int, message: wire.Message) -> None:
        """Let a message of another host arrive, as bytes."""
        frames = self._decoders.setdefault(link, wire.Frames())
        body = wire.to_frame(message)

        def read() -> list[Effect]:
            effects = list[Effect]()
            for one in frames.feed(body):
                frames.greeted = True
                effects += self.node.received(link, one, self.now)
            return effects

        self._run(read)

    def _run(self, work: Callable[[], list[Effect]]) -> None:
        """Do it, on the clock, with all that the others answer."""
        self._unanswered.extend(self._timed(work))
        if self._answering:
            return
        self._answering = True
        for _ in range(TURNS):
            if not self._unanswered:
                self._answering = False
                return
            link, message = self._unanswered.popleft()
            if (answer := self._answer(link, message)) is not None:
                self.hear(link, answer)
        check(False, "a host comes to rest")

    def _timed(self, work: Callable[[], list[Effect]]) -> list[tuple[int, wire.Message]]:
        start = time.process_time_ns()
        out = self.spent.frames(work())
        self.spent.cpu += (time.process_time_ns() - start) / 1000
        return out

    def _answer(self, link: int, message: wire.Message) -> wire.Message | None:
        name = self.names[link // 2]
        match message:
            case wire.Hello() if link % 2 == 0:
                return self._hello(name)
            case wire.Changes():
                return wire.Stored(message.origin, message.progress)
            case wire.Digests() if link % 2 == 0:
                return wire.Digests({})
            case wire.Do():
                return wire.Did(message.number, self._elsewhere)
            case wire.Offer():
                return wire.Lacks(message.number, ())
            case wire.Copies() if message.number and link % 2 == 0:
                return wire.Took(message.number)
        return None

    def _hello(self, name: str) -> wire.Hello:
        members = tuple(wire.Member(one, 0, "alive", self.origins[one], True) for one in self.names[1:])
        origin = self.origins[name]
        return wire.Hello(
            wire.VERSIONS, "sojourn", rules_of(self.settings), name, origin, self._progress(name), members
        )

    def _progress(self, name: str) -> dict[bytes, wire.Progress]:
        mine = self.tables.origin
        if name == self.names[1]:
            return {self.writer.origin: self._shipped, mine: wire.Progress()}
        flow = self.node.shipping.flows.get(name)
        return {
            **{one: wire.Progress() for one in self.origins.values()},
            mine: flow.stored if flow else wire.Progress(),
        }

    def take(self) -> Spent:
        """Return what was spent since the last time."""
        spent, self.spent = self.spent, Spent()
        return spent

    def close(self) -> None:
        """Close the storage."""
        self.tables.close()
        self.writer.close()


class Unit(NamedTuple):
    """What one agent's rules, storage and frames cost with so many hosts. Times are µs of CPU."""

    sends: float
    """A write of a worker of this host, which waits for one other host; alone."""
    sends_many: float
    """One of fifty that are sent together."""
    stores: float
    """A write that another host ships, alone."""
    stores_many: float
    asks: float
    """A look of a worker of this host at a session that is on others only; 0 where all is here."""
    serves: float
    """A look from another host."""
    rest: float
    """A second in which nobody writes, and the others ping."""
    rest_empty: float
    """The same where there are no sessions to compare."""
    lost: float
    """For each session here: what follows when a host dies and the others hold the same."""


WRITES = 50


def unit_of(path: Path, hosts: int, copies: int | None, sessions: int) -> Unit:
    """Measure a host with so many *sessions*."""
    played = Played(path, hosts, copies)
    try:
        played.meet()
        played.take()
        _pass(played, 10.0)  # in which everything is said once more
        empty = played.take().cpu / 10
        keys, others = played.fill(sessions), played.fill_other(WRITES)
        _pass(played, 2.0)
        sends, sends_many = _alone(played, keys), _together(played, keys)
        stores, stores_many = _received(played, others)
        asks, serves = _asked(played, keys)
        _pass(played, 10.0)
        rest = played.take().cpu / 10
        return Unit(sends, sends_many, stores, stores_many, asks, serves, rest, empty, _lost(played, rest) / sessions)
    finally:
        played.close()


def _alone(played: Played, keys: Sequence[bytes]) -> float:
    played.wrote()
    played.take()
    for key in keys[:WRITES]:
        played.wrote((key, count_up(played.tables, key)))
    return played.take().cpu / WRITES


def _together(played: Played, keys: Sequence[bytes]) -> float:
    played.wrote(*((key, count_up(played.tables, key)) for key in keys[:WRITES]))
    return played.take().cpu / WRITES


def _received(played: Played, keys: Sequence[bytes]) -> tuple[float, float]:
    costs = []
    for together in (False, True):
        played.receive(keys, together=together)
        costs.append(played.take().cpu / WRITES)
    return costs[0], costs[1]


def _asked(played: Played, keys: Sequence[bytes]) -> tuple[float, float]:
    costs = [0.0, 0.0]
    if played.settings.copies is not None:
        away = [key for key in map(key_of, range(OTHERS)[: 100 * WRITES]) if not played.node.host.is_here(key)]
        for place, (look, them) in enumerate(((played.ask, away), (played.serve, keys))):
            for key in them[:WRITES]:
                look(key)
            costs[place] = played.take().cpu / WRITES
    return costs[0], costs[1]


def _lost(played: Played, rest: float) -> float:
    """Lose a host for good: what it costs when its streams break, and when it is dead, beyond the time *rest* costs."""
    played.lose(played.names[-1])
    _pass(played, 1.5)
    lost = played.take().cpu
    _pass(played, 8.0)
    played.take()
    _pass(played, 4.0)
    return max(lost + played.take().cpu - 5.5 * rest, 0.0)


def _pass(played: Played, seconds: float) -> None:
    for _ in range(round(seconds * 4)):
        played.pass_time(0.25)
