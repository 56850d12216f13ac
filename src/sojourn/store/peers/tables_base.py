"""BaseTables: all that ``cluster.tables`` promises, over transactions of any storage.

LMDB has them in ``tables``, a dict in ``testing``; so the simulation runs the very rules that hosts run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec

from sojourn.cluster.clock import Origin
from sojourn.cluster.limits import Recent
from sojourn.cluster.replica import Replica
from sojourn.cluster.tables import AWAY, BUCKETS, Applied, Done, Holds, View, bucket_of, first_of
from sojourn.cluster.wire import Change, Changes, Progress
from sojourn.core.capability import Page, Records
from sojourn.core.policy import LONGEST
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store import frame
from sojourn.store.peers import checking, tables_merge, tables_rows, tables_verbs
from sojourn.store.peers.packing import Stored, digest_of
from sojourn.store.peers.tables_rows import Rows

BATCH = 64  # of what one write transaction stores or buries; keeps the write lock under 5 ms
_KEY = 32
_VIEW = b"view"

T = TypeVar("T")

_encode_view = msgspec.msgpack.Encoder().encode
_decode_view = msgspec.msgpack.Decoder(View).decode


class BaseTables(ABC):
    """One host's storage. *clock* returns seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.lifetime_ms = round(LONGEST * 1000)
        """The longest that a session may live, in milliseconds: for as long an ended one is remembered."""
        self.follows = True
        """Whether each host holds every session; see ``replica.received``."""
        self.shown_away: Recent[bytes] = Recent(AWAY)
        self.written_away: Recent[bytes] = Recent(AWAY)

    @property
    @abstractmethod
    def origin(self) -> Origin:
        """The life of this storage."""

    @abstractmethod
    def reading(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* makes of its rows and *arguments*, in a transaction that sees one moment."""

    @abstractmethod
    def writing(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* makes of its rows and *arguments*, in a transaction that is alone in writing."""

    def now_ms(self) -> int:
        """Return the wall clock in milliseconds since the epoch."""
        return round(self.clock() * 1000)

    # -- logs ----------------------------------------------------------------------------------------------------

    def progress(self) -> dict[Origin, Progress]:
        """Return how far each origin's log is stored here; for the own origin, its end."""
        return self.reading(Rows.all_progress)

    def log(self, origin: Origin, cursor: int, cut: int, limit: int, holds: Holds | None = None) -> Changes:
        """Return the next piece of an origin's log, for a host that has read to *cursor* and *holds* those names."""
        return self.reading(tables_merge.piece, origin, cursor, cut, limit, holds)

    def store(self, changes: Changes) -> Applied:
        """Store a piece of a log and its progress, 64 changes a transaction; the progress comes with the last."""
        now_ms = self.now_ms()
        checked = checking.check(changes.changes, now_ms)
        checking.check_progress(changes.progress, now_ms, own=changes.origin == self.origin)
        storing = tables_merge.Storing(checked, changes.origin, changes.cut, follows=self.follows)
        batches = list(_batches(changes.changes)) or [()]

        def last(rows: Rows) -> None:
            storing.store(rows, batches[-1])
            if not storing.wanted:
                rows.advance(changes.origin, changes.progress)

        for batch in batches[:-1]:
            self.writing(storing.store, batch)
        self.writing(last)
        return Applied(tuple(storing.wanted), tuple(storing.clashes))

    def accept(self, copies: Sequence[Change]) -> Applied:
        """Store complete copies, whatever log they stand in; 64 a transaction."""
        if any(not change.complete for change in copies):
            raise ValueError("a part of a copy")
        storing = tables_merge.Storing(checking.check(copies, self.now_ms()))
        for batch in _batches(copies):
            self.writing(storing.store, batch)
        return Applied((), tuple(storing.clashes))

    # -- copies --------------------------------------------------------------------------------------------------

    def copies(self, names: Sequence[bytes]) -> tuple[Change, ...]:
        """Return complete copies of the *names* that are here; 64 as of one moment."""
        pieces = [self.reading(tables_merge.copies, batch) for batch in _batches(names)]
        return tuple(change for piece in pieces for change in piece)

    def replica(self, key: bytes) -> Replica | None:
        """Return the copy under a private key, a tombstone too."""
        stored = self.reading(_get, key)
        return stored.entry if stored and isinstance(stored.entry, Replica) else None

    def digests(self, first: int, count: int, holds: Holds | None = None) -> dict[int, int]:
        """Return one number for each of *count* buckets from *first* on; of 1,024. Empty buckets are 0."""
        return {bucket: _together(self.names(bucket, holds)) for bucket in range(first, min(first + count, BUCKETS))}

    def names(self, bucket: int, holds: Holds | None = None) -> dict[bytes, int]:
        """Return the names in a bucket, each with a digest of what is stored."""

        def read(rows: Rows) -> dict[bytes, int]:
            return {
                name: digest
                for listings in (False, True)
                for name, digest in rows.digests(bucket, listings=listings)
                if holds is None or holds(name)
            }

        return self.reading(read)

    def next_bucket(self, first: int) -> int:
        """Return the next bucket, from *first* on, that has anything in it; 1,024 where there is none."""
        return self.reading(_next_bucket, first)

    def some_names(self, after: bytes | None, limit: int) -> tuple[bytes, ...]:
        """Return the next names after one: sessions in their order, then entries of the index in theirs."""

        def read(rows: Rows) -> tuple[bytes, ...]:
            first = after + b"\0" if after else b""
            found: list[bytes] = []
            if not after or len(after) == _KEY:
                found += islice(rows.names(first, listings=False), limit)
                first = b""
            found += islice(rows.names(first, listings=True), limit - len(found))
            return tuple(found)

        return self.reading(read)

    def drop(self, names: Mapping[bytes, int]) -> int:
        """Forget copies that belong on other hosts, where they still have the digest given; return how many."""

        def forget(rows: Rows, batch: Sequence[bytes]) -> int:
            found = [(name, rows.get(name)) for name in batch]
            given = [
                (name, stored) for name, stored in found if stored and digest_of(name, stored.entry) == names[name]
            ]
            for name, stored in given:
                rows.drop(name, stored)
            return len(given)

        return sum(self._write_many(forget, tuple(names)))

    # -- operations of a store -----------------------------------------------------------------------------------

    def perform(self, verb: str, arguments: Sequence[Any]) -> Done:
        """Perform one operation of a store as a worker of this host does, on the copies that are here."""
        if verb not in _PERFORMED:
            raise ValueError(f"there is no operation {verb!r}")
        done: Done = _PERFORMED[verb](self, *arguments)
        return done

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not, and in ``seen`` what a browser sees with it."""
        return self.reading(tables_verbs.load, key)

    def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys* in their order, None for each that is missing; 64 as of one moment."""

        def read(rows: Rows, batch: Sequence[bytes]) -> Records:
            return [tables_verbs.load(rows, key) for key in batch]

        return [record for batch in _batches(keys) for record in self.reading(read, batch)]

    def sweep(self, limit: int) -> int:
        """Bury what is over by now, looking at *limit* deadlines; return how many were looked at."""
        return self.sweep_until(self.now_ms(), limit)

    def sweep_until(self, until_ms: int, limit: int) -> int:
        """Bury what is over by *until_ms*; 64 deadlines a transaction."""

        def bury(rows: Rows, batch: range) -> tuple[int, int]:
            return len(batch), tables_rows.sweep(rows, until_ms, len(batch))

        looked = 0
        for wanted, found in self._write_many(bury, range(limit)):
            looked += found
            if found < wanted:
                break
        return looked

    def _write(self, verb: Callable[..., Done], *arguments: Any) -> Done:
        return self.writing(verb, *arguments)

    def _create(self, key: bytes, record: Any) -> Done:
        return self._write(tables_verbs.create, _a_name(key), tables_verbs.plain_record(record))

    def _update(self, key: bytes, record: Any, base: int) -> Done:
        return self._write(tables_verbs.update, _a_name(key), tables_verbs.plain_record(record), base)

    def _delete_many(self, keys: Sequence[bytes]) -> Done:
        def end(rows: Rows, batch: Sequence[bytes]) -> Done:
            return tables_verbs.delete_many(rows, batch)

        return _sum(list(self._write_many(end, keys)))

    def _enlist(self, tag: bytes, key: bytes, now: float, until: float) -> Done:
        return self._write(tables_verbs.enlist, _a_name(tag), _a_name(key), now, until)

    def _delist(self, tag: bytes, keys: Sequence[bytes]) -> Done:
        def take_out(rows: Rows, batch: Sequence[bytes]) -> Done:
            return tables_verbs.delist(rows, tag, batch)

        return _sum(list(self._write_many(take_out, keys)))._replace(answer=None)

    def _find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return self.reading(tables_verbs.find, tag, cursor, limit)

    def _scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        return self.reading(tables_verbs.scan, cursor, limit)

    def _write_many(self, work: Callable[..., T], items: Sequence[Any]) -> Iterator[T]:
        """Do *work* on each *batch* of *items*, 64 a transaction, or fewer where the pages do not suffice for as many.

        See ``LocalStore._write_many``: in a storage that is full a small transaction may get through and make room.
        """
        size, done = BATCH, 0
        while batch := items[done : done + size]:
            try:
                answer = self.writing(work, batch)
            except StoreUnavailable:
                if len(batch) == 1:
                    raise
                size = len(batch) // 2
            else:
                done += len(batch)
                yield answer

    # -- what workers must know ------------------------------------------------------------------------------------

    def keep_view(self, view: View) -> None:
        """Let the workers know."""
        self.writing(_put_view, view)

    def view(self) -> View:
        """Return what was kept last."""
        data = self.reading(_get_view)
        return _decode_view(data) if data else View()


_PERFORMED: dict[str, Callable[..., Done]] = {
    "load": lambda tables, key: Done(tables.load(key)),
    "create": BaseTables._create,
    "update": BaseTables._update,
    "touch": lambda tables, *arguments: tables._write(tables_verbs.touch, *arguments),
    "delete": lambda tables, *arguments: tables._write(tables_verbs.delete, *arguments),
    "load_many": lambda tables, keys: Done(tables.load_many(keys)),
    "delete_many": BaseTables._delete_many,
    "enlist": BaseTables._enlist,
    "delist": BaseTables._delist,
    "find": lambda tables, *arguments: Done(tables._find(*arguments)),
    "scan": lambda tables, *arguments: Done(tables._scan(*arguments)),
    "sweep": lambda tables, now, limit=BATCH: Done(tables.sweep_until(frame.to_ms(now), limit)),
}


def _get(rows: Rows, name: bytes) -> Stored | None:
    return rows.get(name)


def _next_bucket(rows: Rows, first: int) -> int:
    if first >= BUCKETS:
        return BUCKETS
    names = (next(rows.names(first_of(first), listings=listings), None) for listings in (False, True))
    return min((bucket_of(name) for name in names if name is not None), default=BUCKETS)


def _get_view(rows: Rows) -> bytes | None:
    return rows.note(_VIEW)


def _put_view(rows: Rows, view: View) -> None:
    rows.put_note(_VIEW, _encode_view(view))


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _sum(parts: Sequence[Done]) -> Done:
    return Done(sum(part.answer or 0 for part in parts), max((part.time for part in parts), default=0))


def _together(digests: Mapping[bytes, int]) -> int:
    number = 0
    for digest in digests.values():
        number ^= digest
    return number


def _a_name(name: Any) -> bytes:
    """Return a private key or a tag; raise ValueError for what another host sent in place of one."""
    if not isinstance(name, bytes) or len(name) != _KEY:
        raise ValueError("this is no private key and no tag")
    return name
