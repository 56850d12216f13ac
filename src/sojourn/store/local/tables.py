"""What lies in a LocalStore's databases, and what its transactions do there. No clock: times come as arguments.

    records     key (32)            -> deadline under which it is filed (8), frame
    principals  tag (32), key (32)  -> end (8)
    locks       key (32)            -> end (8), owner's token
    deadlines   time (8), name      -> nothing. A name is a key, a tag and a key, or a lock's key and a zero byte

Times are milliseconds, big-endian, so that the order of bytes is the order of time. Each entry of the other three has
exactly one in ``deadlines``, with the time in front of its value; the name's length tells which it belongs to. So one
walk along ``deadlines`` buries whatever is over, and nobody has to list anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sojourn.core.capability import Page
from sojourn.store import frame
from sojourn.store.local.environment import Environment, Txn

FILED = 8  # bytes in front of each value: the time under which it stands in ``deadlines``
_KEY = 32
_OF_LOCK = b"\0"


def sortable(seconds: float) -> bytes:
    """Return a time as it stands in the databases. Raises ValueError or OverflowError for one that is none."""
    return _sortable(frame.to_ms(seconds))


def _sortable(milliseconds: int) -> bytes:
    return milliseconds.to_bytes(FILED, "big")


def deadline_of(data: bytes) -> bytes:
    """Return the deadline in the header of a frame."""
    return _sortable(frame.expires_ms(data))


# -- records -------------------------------------------------------------------------------------------------


def add(txn: Txn, env: Environment, key: bytes, data: bytes) -> bool:
    """Store the frame *data* and file it; False when the key is taken."""
    filed = deadline_of(data)
    if not txn.put(key, filed + data, overwrite=False, db=env.records):
        return False
    txn.put(filed + key, b"", db=env.deadlines)
    return True


def put_back(txn: Txn, env: Environment, key: bytes, filed: bytes, data: bytes) -> None:
    """Store *data* under a key that is there, and file it in the index anew if its deadline came closer.

    An entry of the index says when to look. A later deadline leaves it alone: looking then finds the record alive.
    So the index is written only when a tombstone, or a stricter policy, shortens the life.
    """
    deadline = deadline_of(data)
    if deadline < filed:
        txn.delete(filed + key, db=env.deadlines)
        txn.put(deadline + key, b"", db=env.deadlines)
    txn.put(key, min(filed, deadline) + data, db=env.records)


def remove(txn: Txn, env: Environment, key: bytes, stored: bytes) -> None:
    """Delete the record under *key*, of which *stored* is there."""
    txn.delete(key, db=env.records)
    txn.delete(stored[:FILED] + key, db=env.deadlines)


def remove_many(txn: Txn, env: Environment, batch: Sequence[bytes]) -> int:
    """Delete the records under the keys of *batch* and return how many there were."""
    found = 0
    for key in batch:
        if stored := txn.get(key, db=env.records):
            remove(txn, env, key, stored)
            found += 1
    return found


def scan(txn: Txn, env: Environment, after: bytes | None, limit: int) -> Page:
    """Return the next *limit* keys of sessions *after* one."""
    return _page(txn, env.records, b"", after, limit)


# -- the index of principals ---------------------------------------------------------------------------------


def enlist(txn: Txn, env: Environment, tag: bytes, key: bytes, end: bytes) -> None:
    """Note *key* under *tag* until *end*, in place of what was noted of the two before."""
    if stored := txn.get(tag + key, db=env.principals):
        txn.delete(stored[:FILED] + tag + key, db=env.deadlines)
    txn.put(tag + key, end, db=env.principals)
    txn.put(end + tag + key, b"", db=env.deadlines)


def delist(txn: Txn, env: Environment, tag: bytes, batch: Sequence[bytes]) -> None:
    """Take the keys of *batch* out of what stands under *tag*."""
    for key in batch:
        if stored := txn.pop(tag + key, db=env.principals):
            txn.delete(stored[:FILED] + tag + key, db=env.deadlines)


def find(txn: Txn, env: Environment, tag: bytes, after: bytes | None, limit: int) -> Page:
    """Return the next *limit* keys of *tag* *after* one."""
    return _page(txn, env.principals, tag, after, limit)


# -- locks ---------------------------------------------------------------------------------------------------


def is_held(txn: Txn, env: Environment, key: bytes, now: bytes) -> bool:
    """Tell whether somebody has the lock of *key* whose time is not over."""
    stored = txn.get(key, db=env.locks)
    return stored is not None and stored[:FILED] > now


def acquire(txn: Txn, env: Environment, key: bytes, owner: bytes, now: bytes, end: bytes) -> bool:
    """Take the lock of *key* unless it is held at *now*."""
    if is_held(txn, env, key, now):
        return False
    _unlock(txn, env, key)
    txn.put(key, end + owner, db=env.locks)
    txn.put(end + key + _OF_LOCK, b"", db=env.deadlines)
    return True


def release(txn: Txn, env: Environment, key: bytes, owner: bytes) -> bool:
    """Give the lock of *key* back if it is *owner*'s."""
    stored = txn.get(key, db=env.locks)
    if stored is None or stored[FILED:] != owner:
        return False
    _unlock(txn, env, key)
    return True


def _unlock(txn: Txn, env: Environment, key: bytes) -> None:
    if stored := txn.pop(key, db=env.locks):
        txn.delete(stored[:FILED] + key + _OF_LOCK, db=env.deadlines)


# -- burying -------------------------------------------------------------------------------------------------


def bury(txn: Txn, env: Environment, until: bytes, limit: int) -> int:
    """Delete what was over by *until*, looking at the *limit* earliest deadlines at most; return how many it saw."""
    looked = 0
    with txn.cursor(db=env.deadlines) as cursor:
        while looked < limit and cursor.first() and (entry := cursor.key())[:FILED] <= until:
            looked += 1
            cursor.delete()
            name = entry[FILED:]
            if len(name) == _KEY:
                _bury_record(txn, env, name, until)
            elif len(name) == 2 * _KEY:
                txn.delete(name, db=env.principals)
            else:
                txn.delete(name[:_KEY], db=env.locks)
    return looked


def _bury_record(txn: Txn, env: Environment, key: bytes, until: bytes) -> None:
    stored = txn.get(key, db=env.records)
    if stored is None:
        return
    deadline = deadline_of(stored[FILED:])
    if deadline <= until:
        txn.delete(key, db=env.records)
    else:
        txn.put(deadline + key, b"", db=env.deadlines)
        txn.put(key, deadline + stored[FILED:], db=env.records)


def _page(txn: Txn, db: Any, prefix: bytes, after: bytes | None, limit: int) -> Page:
    """Return the next *limit* names that begin with *prefix*, without it. Deleting the one passed loses no place."""
    keys: list[bytes] = []
    first = prefix if after is None else prefix + after + b"\0"
    with txn.cursor(db=db) as cursor:
        more = cursor.set_range(first)
        while more and len(keys) < limit and (name := cursor.key()).startswith(prefix):
            keys.append(name[len(prefix) :])
            more = cursor.next()
    return Page(tuple(keys), keys[-1] if len(keys) == limit else None)
