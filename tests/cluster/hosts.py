"""Hosts that follow each other's compacted logs, in miniature, and a judge who has seen every write.

No sockets, no storage, no time: a schedule of steps says who writes, ships, pulls and fails when. After each step the
judge compares every copy with what the writes that its marks name must have made of it, worked out from the history
alone. ``Rules`` are what is judged, and can be replaced one by one: that is how mutants are made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

import msgspec

from sojourn.cluster import clock, replica
from sojourn.cluster.clock import Origin, Stamp
from sojourn.cluster.replica import Mark, Replica
from sojourn.core.record import Record

HOSTS, NAMES, KEYS = 3, 4, "abc"
KEEP_MS = 10**9


class Rules:
    """What the hosts go by. A mutant overrides one."""

    merge = staticmethod(replica.merge)
    since = staticmethod(replica.since)
    received = staticmethod(replica.received)
    updated = staticmethod(replica.updated)
    ended = staticmethod(replica.ended)
    tick = staticmethod(clock.tick)
    keeps_tombstones = True
    waits_for_wanted = True
    cuts_at_the_level = True
    caps_foreign_levels = True
    keeps_cursors_apart = True
    level_is_the_clock = True
    follows = True


class Progress(NamedTuple):
    cursor: int = 0
    level: int = 0


class Piece(NamedTuple):
    """A piece of the log of *origin* on its way to one life of one host; *sender* answers for what is wanted."""

    origin: Origin
    sender: int
    to: Origin
    cut: int
    progress: Progress
    changes: tuple[tuple[str, Replica, bool], ...]


class Write(NamedTuple):
    """What the judge knows of a write: what it set or removed, which writes its writer had seen, and what it counts."""

    stamp: Stamp
    values: Mapping[str, bytes | None]
    seen: frozenset[Stamp]
    raised: int
    ends: bool = False


class Step(NamedTuple):
    """One thing that happens; what the numbers mean depends on the kind."""

    kind: str
    host: int
    other: int
    name: int
    key: int
    number: int


KINDS = {
    "write": 8,
    "remove": 2,
    "principal": 1,
    "touch": 2,
    "end": 1,
    "renew": 1,
    "send": 12,
    "ship": 2,
    "deliver": 4,
    "pull": 6,
    "copy": 1,
    "jump": 1,
    "wipe": 1,
}


class Host:
    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.clock = 0
        self.wall_ms = 1_000
        self.copies: dict[str, Replica] = {}
        self.progress: dict[Origin, Progress] = {}
        self.pulling: dict[tuple[Origin, Origin], tuple[Progress, int]] = {}

    def positions(self, origin: Origin) -> list[tuple[int, str]]:
        found = ((each.time, name) for name, copy in self.copies.items() for each in replica.positions(copy)
                 if each.origin == origin)  # fmt: skip
        return sorted(found)

    def end(self, origin: Origin, rules: type[Rules]) -> int:
        last = max((time for time, _ in self.positions(origin)), default=0)
        return max(last, self.clock) if origin == self.origin and rules.level_is_the_clock else last


class Cluster:
    """All hosts, what is on the way between them, and the judge's notes."""

    def __init__(self, rules: type[Rules] = Rules, hosts: int = HOSTS) -> None:
        self.rules = rules
        self.lives = 0
        self.hosts = [Host(self._new_origin()) for _ in range(hosts)]
        self.pieces: list[Piece] = []
        self.history: dict[str, list[Write]] = {}
        self.touches: dict[str, list[Stamp]] = {}
        self.values = 0
        self.ever_ended: set[tuple[Origin, str]] = set()

    def _new_origin(self) -> Origin:
        self.lives += 1
        return self.lives.to_bytes(4, "big")

    # -- steps ---------------------------------------------------------------------------------------------------

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.take(step)
            self.judge()
        self.settle()
        self.judge()
        self.judge_quiet()

    def take(self, step: Step) -> None:
        host, other = self.hosts[step.host % len(self.hosts)], step.other % len(self.hosts)
        host.wall_ms += step.number % 3
        getattr(self, step.kind)(host, other, f"session{step.name % NAMES}", KEYS[step.key % len(KEYS)], step.number)

    def _stamp(self, host: Host) -> Stamp:
        own = max((time for time, _ in host.positions(host.origin)), default=0)
        return Stamp(self.rules.tick(max(own, host.clock), host.wall_ms), host.origin)

    def write(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        self._change(host, name, {key: self._new_value()})

    def remove(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        self._change(host, name, {key: None})

    def principal(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        self._change(host, name, {}, principal=str(number))

    def renew(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        self._change(host, name, {}, retired=True, successor=self._new_value())

    def _new_value(self) -> bytes:
        self.values += 1
        return str(self.values).encode()

    def _change(self, host: Host, name: str, values: Mapping[str, bytes | None], **rest: Any) -> None:
        stored, stamp = host.copies.get(name), self._stamp(host)
        if stored is None:
            if name in self.history or rest or None in values.values():
                return  # ids are drawn by one host, once
            record = Record({key: data for key, data in values.items() if data}, 1.0, 1.0, 9.0)
            after = replica.created(record, stamp, KEEP_MS)
        elif stored.has_ended:
            return
        else:
            seen = replica.to_record(stored)
            values = {key: data for key, data in values.items() if data != seen.values.get(key)}
            merged = {key: data for key, data in {**seen.values, **values}.items() if data}
            if rest.get("retired"):
                merged = {}
            record = seen._replace(values=merged, version=seen.version + 1, **rest)
            after = self.rules.updated(stored, record, stamp, seen.version, KEEP_MS)
        self._note(host, name, stamp, values, ends="successor" in rest)
        self._keep(host, name, after)

    def end(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        stored = host.copies.get(name)
        if stored and not stored.has_ended:
            stamp = self._stamp(host)
            self._note(host, name, stamp, {}, ends=True)
            self._keep(host, name, self.rules.ended(stored, stamp, KEEP_MS))

    def touch(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        stored = host.copies.get(name)
        if stored and not stored.has_ended:
            stamp = self._stamp(host)
            self.touches.setdefault(name, []).append(stamp)
            host.copies[name] = replica.touched(stored, number, number + 1, stamp)

    def _note(self, host: Host, name: str, stamp: Stamp, values: Mapping[str, bytes | None], ends: bool) -> None:
        stored = host.copies.get(name)
        seen = frozenset(write.stamp for write in self.contained(name, stored)) if stored else frozenset()
        self.history.setdefault(name, []).append(Write(stamp, values, seen, 1, ends))

    def _keep(self, host: Host, name: str, copy: Replica) -> None:
        host.copies[name] = copy
        for stamp in replica.positions(copy):
            host.clock = max(host.clock, stamp.time if stamp.origin != host.origin else 0)
        if copy.has_ended and not self.rules.keeps_tombstones:
            del host.copies[name]

    def ship(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Read a piece of the own log for another host, from where that says it is; it may arrive late or never."""
        to = self.hosts[other]
        if to is not host:
            self.pieces.append(
                self.piece(host, host.origin, to, to.progress.get(host.origin, Progress()), 1 + number % 2)
            )

    def piece(self, host: Host, origin: Origin, to: Host, at: Progress, limit: int) -> Piece:
        behind = [(time, name) for time, name in host.positions(origin) if time > at.cursor]
        cut = at.level if self.rules.cuts_at_the_level else at.cursor
        cursor, level = (behind[limit - 1][0], at.level) if len(behind) > limit else (host.end(origin, self.rules),) * 2
        changes = []
        for _, name in behind[:limit]:
            delta = self.rules.since(host.copies[name], cut)
            changes.append((name, delta, delta is host.copies[name]))
        progress = Progress(max(cursor, at.cursor), max(level, at.level))
        return Piece(origin, self.hosts.index(host), to.origin, cut, progress, tuple(changes))

    def send(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Ship a piece that arrives at once."""
        self.ship(host, other, name, key, number)
        self.deliver(host, other, name, key, 0)

    def deliver(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Let one of the pieces arrive, once more or for the first time, whatever arrived meanwhile."""
        if self.pieces:
            piece = self.pieces[-1 - number % min(len(self.pieces), 6)]
            self.store(piece)

    def store(self, piece: Piece) -> None:
        to = next((host for host in self.hosts if host.origin == piece.to), None)
        if to is None:
            return  # that life of the host is over
        wanted = self.apply(to, piece)
        if wanted and self.rules.waits_for_wanted:
            sender = self.hosts[piece.sender]
            if sender.origin == piece.origin:
                copies = tuple((name, sender.copies[name], True) for name in wanted if name in sender.copies)
                self.pieces.append(piece._replace(changes=copies))
            return
        old = to.progress.get(piece.origin, Progress())
        to.progress[piece.origin] = Progress(*map(max, old, piece.progress))

    def apply(self, to: Host, piece: Piece) -> list[str]:
        """Store the changes of *piece*, and return the names that are wanted whole."""
        wanted = []
        for name, change, complete in piece.changes:
            stored = to.copies.get(name)
            after: Replica | None
            if complete:
                after = self.rules.merge(stored, change) if stored else change
            else:
                after = (
                    self.rules.received(stored, change, piece.origin, piece.cut, self.rules.follows) if stored else None
                )
            if after is None:
                wanted.append(name)
            else:
                self._keep(to, name, after)
        if piece.origin != to.origin:
            to.clock = max(to.clock, piece.progress.level)
        return wanted

    def pull(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Read one page of a log from somebody who is not its writer: of a host that is dead, or out of reach."""
        source, origin = self.hosts[other], (number % self.lives + 1).to_bytes(4, "big")
        if source is not host and origin not in (source.origin, host.origin):
            self._page(host, source, origin, 1 + number % 2)

    def _page(self, host: Host, source: Host, origin: Origin, limit: int) -> bool:
        """Return whether it was the last."""
        known = host.progress.get(origin, Progress())
        start = Progress(known.level, known.level)
        cap = source.progress.get(origin, Progress()).level
        at, cap = host.pulling.pop((source.origin, origin), (start, cap))
        piece = self.piece(source, origin, host, at, limit)
        for wanted in self.apply(host, piece):
            self.copy(host, self.hosts.index(source), wanted, "", 0)
        if piece.progress.level == at.level and piece.changes:
            host.pulling[source.origin, origin] = (piece.progress, cap)
            if not self.rules.keeps_cursors_apart:
                host.progress[origin] = Progress(max(known.cursor, piece.progress.cursor), known.level)
            return False
        level = min(cap, piece.progress.level) if self.rules.caps_foreign_levels else piece.progress.level
        level = max(level, known.level)
        host.progress[origin] = Progress(max(known.cursor, level), level)
        return True

    def copy(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Fetch one session whole, as anti-entropy and questions do."""
        if whole := self.hosts[other].copies.get(name):
            stored = host.copies.get(name)
            self._keep(host, name, self.rules.merge(stored, whole) if stored else whole)

    def drop(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Forget a copy that another host has all of, as where each session belongs to some hosts only."""
        mine, theirs = host.copies.get(name), self.hosts[other].copies.get(name)
        if self.hosts[other] is not host and mine and theirs and self.rules.merge(theirs, mine) == theirs:
            del host.copies[name]

    def jump(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        host.wall_ms += (-500, 500, 5_000)[number % 3]

    def wipe(self, host: Host, other: int, name: str, key: str, number: int) -> None:
        """Lose the disk: another life begins, with nothing."""
        if self.lives < 6:
            wall = host.wall_ms
            host.__init__(self._new_origin())  # type: ignore[misc]
            host.wall_ms = wall

    # -- quiet ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let every host read every log to its end from every host; then all must have all there is."""
        for _ in range(2):
            for host in self.hosts:
                for source in self.hosts:
                    if source is not host:
                        self._follow(host, source)

    def _follow(self, host: Host, source: Host) -> None:
        for _ in range(3):  # what was wanted comes with the second
            while True:
                piece = self.piece(source, source.origin, host, host.progress.get(source.origin, Progress()), 2)
                self.store(piece)
                if self.pieces and self.pieces[-1].to == host.origin and self.pieces[-1].origin == source.origin:
                    self.store(self.pieces.pop())
                if len(piece.changes) < 2:
                    break
        for life in range(1, self.lives + 1):
            origin = life.to_bytes(4, "big")
            if origin not in (host.origin, source.origin):
                host.pulling.pop((source.origin, origin), None)
                while not self._page(host, source, origin, 2):
                    pass

    # -- the judge -----------------------------------------------------------------------------------------------

    def contained(self, name: str, copy: Replica) -> list[Write]:
        """Return the writes that the marks of *copy* name."""
        none = Mark()
        return [w for w in self.history.get(name, ()) if copy.seen.get(w.stamp.origin, none).time >= w.stamp.time]

    def judge(self) -> None:
        for host in self.hosts:
            for name, copy in host.copies.items():
                self._judge_copy(host, name, copy)
            self._judge_levels(host)

    def _judge_copy(self, host: Host, name: str, copy: Replica) -> None:
        writes = self.contained(name, copy)
        assert copy.version == sum(write.raised for write in writes), f"{name}: the version does not count its writes"
        ended = any(write.ends for write in writes)
        assert copy.has_ended == ended, f"{name}: ended or not, against its marks"
        shown = replica.to_record(copy).values if not copy.deleted else {}
        assert shown == ({} if ended else values_of(writes)), f"{name}: its marks say otherwise"
        if ended:
            self.ever_ended.add((host.origin, name))

    def _judge_levels(self, host: Host) -> None:
        for origin, name in self.ever_ended:
            assert origin != host.origin or (name in host.copies and host.copies[name].has_ended), f"{name} came back"
        for name, writes in self.history.items():
            for write in writes:
                if host.progress.get(write.stamp.origin, Progress()).level >= write.stamp.time:
                    copy = host.copies.get(name)
                    assert copy is not None, f"{name} is below the level, and is not there"
                    assert write in self.contained(name, copy), f"{name}: below the level, and not in the copy"

    def judge_quiet(self) -> None:
        first = {name: msgspec.msgpack.encode(copy) for name, copy in sorted(self.hosts[0].copies.items())}
        for host in self.hosts[1:]:
            same = {name: msgspec.msgpack.encode(copy) for name, copy in sorted(host.copies.items())}
            assert same == first, "copies differ after quiet"


class Moving(Cluster):
    """A cluster in which each session belongs to some hosts only, and these change: hosts drop what others have.

    Levels say nothing of a single session then, and no host has the whole of a log. One thing is not modelled: that a
    host takes back a copy which lacks writes of its own. It must not write on it before it has those.
    """

    def run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.take(step._replace(kind={"wipe": "drop", "touch": "drop", "pull": "copy"}.get(step.kind, step.kind)))
            for host in self.hosts:
                for name, copy in host.copies.items():
                    self._judge_copy(host, name, copy)

    def _keep(self, host: Host, name: str, copy: Replica) -> None:
        own = [write for write in self.history[name] if write.stamp.origin == host.origin]
        if name in host.copies or all(write in self.contained(name, copy) for write in own):
            super()._keep(host, name, copy)


def values_of(writes: Sequence[Write]) -> dict[str, bytes]:
    """Return what a session shows that has had these writes: for each key the last of those nobody wrote upon."""
    shown = {}
    for key in {key for write in writes for key in write.values}:
        candidates = [write for write in writes if key in write.values]
        last = [w for w in candidates if not any(w.stamp in later.seen for later in candidates)]
        data = max(last, key=lambda write: write.stamp).values[key]
        if data is not None:
            shown[key] = data
    return shown


def schedule(random: Random, length: int = 60) -> list[Step]:
    """Return steps at random."""
    kinds = random.choices(list(KINDS), list(KINDS.values()), k=length)
    names = random.choices(range(NAMES), (5, 2, 1, 1), k=length)  # most of it happens to one session
    return [
        Step(kind, random.randrange(HOSTS), random.randrange(HOSTS), name, random.randrange(3), random.randrange(12))
        for kind, name in zip(kinds, names, strict=True)
    ]


def histories(count: int, first: int = 0) -> Iterator[list[Step]]:
    """Yield schedules that are the same each time."""
    for seed in range(first, first + count):
        yield schedule(Random(seed))
