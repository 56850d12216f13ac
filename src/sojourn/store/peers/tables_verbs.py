"""Verbs: what a store's operations do to the copies on this host. Each of those that write gives its write a stamp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sojourn.cluster.clock import Stamp
from sojourn.cluster.replica import Replica, created, ended, to_end, to_record, touched, updated
from sojourn.cluster.tables import Done
from sojourn.cluster.wire import Listing
from sojourn.core.capability import Page
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store import frame
from sojourn.store.peers.packing import Stored
from sojourn.store.peers.tables_rows import Rows

LONGEST_PAGE = 1024  # names that one look passes
_ENDS = 64  # sessions that one logout ends: a chain of renewals is as long as its grace periods overlap


# -- one session -------------------------------------------------------------------------------------------------


def load(rows: Rows, key: bytes) -> Record | None:
    """Return the record under *key*, expired or not."""
    stored = rows.get(key)
    return to_record(_replica(stored)) if stored and stored.shown else None


def create(rows: Rows, key: bytes, record: Record) -> Done:
    """Store a new record."""
    if rows.shows(key) is not None:
        return Done(Written.EXISTS)
    stamp = rows.stamp()
    rows.put(key, None, created(record, stamp, _keep_ms(rows, record)), stamp=stamp)
    return Done(Written.DONE, stamp.time)


def update(rows: Rows, key: bytes, record: Record, base: int) -> Done:
    """Replace the record if it still has version *base*."""
    if stamp := rows.rewrite(key, record, base):
        return Done(Written.DONE, stamp.time)

    def change(replica: Replica, stamp: Stamp) -> Replica:
        return updated(replica, record, stamp, base, _keep_ms(rows, record))

    return _change(rows, key, base, change)


def touch(rows: Rows, key: bytes, accessed_at: float, expires_at: float, base: int) -> Done:
    """Move the record's times if it still has version *base*."""
    times = frame.to_ms(accessed_at), frame.to_ms(expires_at)
    if stamp := rows.retime(key, *times, base):
        return Done(Written.DONE, stamp.time)

    def change(replica: Replica, stamp: Stamp) -> Replica:
        return touched(replica, *times, stamp)

    return _change(rows, key, base, change)


def delete(rows: Rows, key: bytes, base: int | None = None) -> Done:
    """End the session if it still has version *base*, or any when that is None.

    One that was renewed goes on under its new id: what is deleted here is known to be a tombstone, as in every store.
    """

    def change(replica: Replica, stamp: Stamp) -> Replica:
        keep_ms = max(replica.head.created_ms + rows.lifetime_ms, replica.keep_ms)
        return ended(replica, stamp, keep_ms, alone=replica.retired is not None)

    return _change(rows, key, base, change)


def _change(rows: Rows, key: bytes, base: int | None, change: Callable[[Replica, Stamp], Replica]) -> Done:
    stored = rows.get(key)
    if stored is None or not stored.shown:
        return Done(Written.GONE)
    replica = _replica(stored)
    if base is not None and replica.version != base:
        return Done(Written.STALE)
    stamp = rows.stamp()
    after = change(replica, stamp)
    rows.put(key, stored, after, shown=not after.deleted, stamp=stamp)
    return Done(Written.DONE, stamp.time)


def end_all(rows: Rows, keys: frozenset[bytes], keep_ms: int) -> None:
    """End the sessions under *keys*, which took over from one that has ended, and those that took over from them.

    Also where nothing is stored under a key yet: what comes later then finds that it has ended.
    """
    open = sorted(keys)
    for _ in range(_ENDS):
        if not open:
            return
        key = open.pop()
        stored = rows.get(key)
        before = _replica(stored) if stored else Replica()
        if not before.deleted:
            stamp = rows.stamp()
            after = ended(before, stamp, max(keep_ms, before.keep_ms))
            rows.put(key, stored, after, shown=False, stamp=stamp)
            open.extend(sorted(to_end(before, after)))


def _replica(stored: Stored | None) -> Replica:
    assert stored is not None
    assert isinstance(stored.entry, Replica)
    return stored.entry


def _keep_ms(rows: Rows, record: Record) -> int:
    return frame.to_ms(record.created_at) + rows.lifetime_ms


# -- many, the index, the scan -----------------------------------------------------------------------------------


def delete_many(rows: Rows, keys: Sequence[bytes]) -> Done:
    """End the sessions under *keys* and say how many there were."""
    times = [done.time for key in keys if (done := delete(rows, key)).answer is Written.DONE]
    return Done(len(times), max(times, default=0))


def enlist(rows: Rows, tag: bytes, key: bytes, now: float, until: float) -> Done:
    """Note *key* under *tag* until then. *now* is for stores that bury here."""
    return _list(rows, tag + key, frame.to_ms(until), listed=True)


def delist(rows: Rows, tag: bytes, keys: Sequence[bytes]) -> Done:
    """Take *keys* out of what stands under *tag*; that they were taken out is remembered as long as they would be."""
    found = ((tag + key, rows.get(tag + key)) for key in keys)
    times = [
        _list(rows, name, stored.entry.until_ms, listed=False).time
        for name, stored in found
        if stored and isinstance(stored.entry, Listing) and stored.entry.listed
    ]
    return Done(None, max(times, default=0))


def _list(rows: Rows, name: bytes, until_ms: int, *, listed: bool) -> Done:
    stamp = rows.stamp()
    rows.put(name, rows.get(name), Listing(stamp.time, stamp.origin, until_ms, listed), shown=listed, stamp=stamp)
    return Done(None, stamp.time)


def find(rows: Rows, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
    """Return the next keys of *tag*, and the last one passed as the cursor."""
    return _page(rows, tag, cursor, limit, listings=True)


def scan(rows: Rows, cursor: bytes | None = None, limit: int = 256) -> Page:
    """Return the next keys of all sessions, and the last one passed as the cursor."""
    return _page(rows, b"", cursor, limit, listings=False)


def _page(rows: Rows, prefix: bytes, cursor: bytes | None, limit: int, *, listings: bool) -> Page:
    keys: list[bytes] = []
    first = prefix if cursor is None else prefix + cursor + b"\0"
    for passed, (name, shown) in enumerate(rows.shown_names(first, listings=listings), 1):
        if not name.startswith(prefix):
            break
        if shown:
            keys.append(name[len(prefix) :])
        if len(keys) == limit or passed == LONGEST_PAGE:
            return Page(tuple(keys), name[len(prefix) :])
    return Page(tuple(keys))


# -- arguments that came over the wire -----------------------------------------------------------------------------


def plain_record(argument: Any) -> Record:
    """Return a Record also where *argument* is what MessagePack has made of one."""
    return argument if isinstance(argument, Record) else msgspec.convert(argument, Record)
