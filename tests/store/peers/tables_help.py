"""Tables under test: of both kinds, on a clock that tests move, with an audit of what they keep beside the sessions."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from sojourn.cluster.clock import Origin
from sojourn.cluster.tables import BUCKETS, Holds
from sojourn.cluster.wire import Changes, Progress
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store.peers import packing
from sojourn.store.peers.packing import Stored
from sojourn.store.peers.tables import HostTables, LmdbRows
from sojourn.store.peers.tables_base import BaseTables
from sojourn.store.peers.tables_rows import Rows
from sojourn.testing.dict_tables import DictTables
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key

SHM = Path("/dev/shm")
SIZE = 64 << 20
KINDS = ["dict", "lmdb"]
TAG = b"t" * 32
X, Y = a_key(1), a_key(2)


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


# -- sessions ------------------------------------------------------------------------------------------------------


def a_record(
    version: int = 1, seconds: float = 1800.0, values: dict[str, bytes] | None = None, **fields: Any
) -> Record:
    values = {"a": b"1", "b": b"2"} if values is None else values
    return Record(values, START, START, START + seconds, version, **fields)


def create(tables: BaseTables, key: bytes = X, **fields: Any) -> int:
    done = tables.perform("create", (key, a_record(**fields)))
    assert done.answer is Written.DONE
    return done.time


def update(tables: BaseTables, key: bytes = X, **values: bytes) -> int:
    found = tables.load(key)
    assert found
    record = found._replace(values={**found.values, **values}, version=found.version + 1, seen=b"")
    done = tables.perform("update", (key, record, found.version))
    assert done.answer is Written.DONE
    return done.time


def retire(tables: BaseTables, key: bytes, successor: bytes | None, seconds: float = 10.0) -> None:
    found = tables.load(key)
    assert found
    record = a_record(found.version + 1, seconds, {}, retired=True, successor=successor)
    assert tables.perform("update", (key, record, found.version)).answer is Written.DONE


def values_of(tables: BaseTables, key: bytes = X) -> Any:
    found = tables.load(key)
    return found and found.values


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
    if isinstance(tables, HostTables):
        tables.reading(_audit_bytes)
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


def _audit_bytes(rows: Rows) -> None:
    """Fail unless the bytes are those that follow from what they mean, whichever way they were made."""
    assert isinstance(rows, LmdbRows)
    for name, stored in _all(rows).items():
        data = rows._txn.get(name, db=rows._db(name))
        assert data == (packing.pack(name, stored) if len(name) == 32 else packing.pack_listing(stored))


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
