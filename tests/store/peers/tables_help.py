"""Tables under test: of both kinds, on a clock that tests move, with an audit of what they keep beside the sessions."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

from sojourn.cluster.clock import Origin
from sojourn.cluster.tables import BUCKETS, Holds
from sojourn.cluster.wire import Changes, Progress
from sojourn.store.peers import packing
from sojourn.store.peers.packing import Stored
from sojourn.store.peers.tables import HostTables
from sojourn.store.peers.tables_base import BaseTables
from sojourn.store.peers.tables_rows import Rows
from sojourn.testing.dict_tables import DictTables
from sojourn.testing.fakes import START

SHM = Path("/dev/shm")
SIZE = 64 << 20
KINDS = ["dict", "lmdb"]


class Clock:
    """A wall clock that stands until it is moved, in seconds since the epoch."""

    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


@contextmanager
def a_place() -> Iterator[Path]:
    """Yield a directory in memory-backed storage. Nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="sojourn-test-", dir=SHM if SHM.is_dir() else None))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


class Maker:
    """Makes tables of one kind, whose origins are numbered."""

    def __init__(self, kind: str, place: Path) -> None:
        self.kind, self.place, self.clock = kind, place, Clock()
        self.made: list[HostTables] = []
        self._numbers = count(1)

    def __call__(self, clock: Clock | None = None) -> BaseTables:
        number = next(self._numbers)
        origin = random.Random(number).randbytes(4)
        if self.kind == "dict":
            return DictTables(clock or self.clock, lambda size: origin[:size])
        tables = HostTables(
            self.place / str(number), max_size=SIZE, clock=clock or self.clock, random=lambda size: origin[:size]
        )
        self.made.append(tables)
        return tables


@contextmanager
def makers(*kinds: str) -> Iterator[list[Maker]]:
    """Yield a maker of each kind; everything is closed and gone afterwards."""
    with ExitStack() as stack:
        found = [Maker(kind, stack.enter_context(a_place())) for kind in kinds]
        for maker in found:
            stack.callback(lambda maker=maker: [tables.close() for tables in maker.made])
        yield found


# -- what is stored ----------------------------------------------------------------------------------------------


def dump(tables: BaseTables) -> dict[bytes, bytes]:
    """Return the bytes of all copies, with zeros for the time under which each is filed."""

    def pack(rows: Rows, name: bytes) -> bytes:
        stored = rows.get(name)
        assert stored
        stored = stored._replace(filed=0)
        return packing.pack(name, stored) if len(name) == 32 else packing.pack_listing(stored)

    return tables.reading(lambda rows: {name: pack(rows, name) for name in _names(rows)})


def state(tables: BaseTables) -> object:
    """Return all that tables hold, to be compared with what those of another kind hold."""

    def read(rows: Rows) -> object:
        stored = {name: rows.get(name) for name in _names(rows)}
        return stored, rows.all_progress(), rows.note(b"clock")

    return tables.reading(read), logs(tables)


def logs(tables: BaseTables) -> dict[Origin, list[tuple[int, bytes]]]:
    """Return the log of each origin that is known."""

    def read(rows: Rows) -> dict[Origin, list[tuple[int, bytes]]]:
        known = {place.origin for stored in _all(rows).values() for place in packing.places_of(stored.entry)}
        return {origin: list(rows.logged(origin, 0)) for origin in sorted(known | {rows.origin})}

    return tables.reading(read)


def audit(tables: BaseTables) -> None:
    """Fail unless log and deadlines are what follows from the copies, and each name is filed in time, once."""
    stored = tables.reading(_all)
    places = sorted(
        (place.origin, place.time, name) for name, one in stored.items() for place in packing.places_of(one.entry)
    )
    found = sorted((origin, time, name) for origin, log in logs(tables).items() for time, name in log)
    assert found == places, "the log has exactly the places of the copies"
    assert _filed(tables) == sorted((one.filed, name) for name, one in stored.items()), "each is filed once"
    assert all(one.filed <= packing.due(one.entry, one.shown) for one in stored.values()), "none is looked at too late"
    newest = max((time for _, time, _ in places), default=0)
    known = tables.reading(lambda rows: max(rows._read_clocks()[0], rows.end()))
    assert known >= newest, "no stamp is earlier than what is known"


def _names(rows: Rows) -> list[bytes]:
    return [*rows.names(b"", listings=False), *rows.names(b"", listings=True)]


def _all(rows: Rows) -> dict[bytes, Stored]:
    found = {name: rows.get(name) for name in _names(rows)}
    return {name: stored for name, stored in found.items() if stored}


def _filed(tables: BaseTables) -> list[tuple[int, bytes]]:
    """Return all notes of deadlines, by taking one after the other in a transaction that is given up."""
    found: list[tuple[int, bytes]] = []

    def take(rows: Rows) -> None:
        while note := rows.earliest():
            found.append(note)
            rows.unfile(note[1], note[0])
        raise _GivenUp

    before = tables.snapshot() if isinstance(tables, DictTables) else None
    try:
        tables.writing(take)
    except _GivenUp:
        if before is not None and isinstance(tables, DictTables):
            tables.restore(before)
    return found


class _GivenUp(Exception):
    pass


# -- between two hosts -------------------------------------------------------------------------------------------


def ship(
    source: BaseTables, target: BaseTables, limit: int = 512, pieces: int = 10_000, holds: Holds | None = None
) -> Progress:
    """Ship the log of *source* from where *target* is, for so many *pieces*; return how far that is."""
    at = target.progress().get(source.origin, Progress())
    for _ in range(pieces):
        piece = source.log(source.origin, at.cursor, at.level, limit, holds)
        store(source, target, piece)
        after = target.progress().get(source.origin, Progress())
        if after == at or piece.progress.cursor == piece.progress.level:
            return after
        at = after
    return at


def store(source: BaseTables, target: BaseTables, piece: Changes) -> None:
    """Store a piece; what is wanted is sent whole, and then once more how far the target is."""
    applied = target.store(piece)
    if applied.wanted:
        target.accept(source.copies(applied.wanted))
        assert not target.store(Changes(piece.origin, piece.cut, piece.progress, (), piece.after)).wanted


def settle(hosts: list[BaseTables]) -> None:
    """Ship all logs until nobody has anything new."""
    for _ in range(10):
        before = [dump(host) for host in hosts]
        for source in hosts:
            for target in hosts:
                if source is not target:
                    ship(source, target)
        if [dump(host) for host in hosts] == before:
            return
    raise AssertionError("it does not end")


def compare(hosts: list[BaseTables]) -> None:
    """Exchange what differs, bucket by bucket, until nothing does."""
    for _ in range(10):
        if not sum(exchange(one, other) for one in hosts for other in hosts if one is not other):
            return
    raise AssertionError("it does not end")


def exchange(one: BaseTables, other: BaseTables) -> int:
    """Give *other* what it has otherwise than *one*; return how many names that were."""
    mine, theirs = one.digests(0, BUCKETS), other.digests(0, BUCKETS)
    given = 0
    for bucket in (bucket for bucket in mine if mine[bucket] != theirs[bucket]):
        there = other.names(bucket)
        names = [name for name, digest in one.names(bucket).items() if there.get(name) != digest]
        other.accept(one.copies(names))
        given += len(names)
    return given
