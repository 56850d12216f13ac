"""The bytes of a replicated session at rest: the record as ``local:`` has it, and beside it what merging needs.

    offset  0   filed: the deadline in milliseconds under which it stands in ``deadlines``, 8 bytes
            8   length of the frame, 4 bytes; 0: ``load`` finds nothing, as an ended session is only remembered
           12   length of the floor, 2 bytes
           14   floor: what a browser has seen that is shown this copy (``replica.floor_of``)
                frame: the record (``store.frame``), its values in the order of their keys
                meta: MessagePack of the replica without its values; first the stamps of these, in their order

So a look is one lookup and one frame, as with ``local:``. Numbers are big-endian. Copies that have seen the same writes
are the same bytes on all hosts but for ``filed``, and for the frame of a retired session, which goes when its grace is
over. The digest of a copy is that of its meta: a stamp stands for one value.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from itertools import compress, count
from operator import ne
from typing import NamedTuple, TypeAlias

import msgspec

from sojourn.cluster.clock import Origin, Stamp
from sojourn.cluster.replica import (
    MOST_REMOVED,
    Cell,
    Deleted,
    Head,
    Mark,
    Replica,
    Retired,
    Times,
    floor_of,
    positions,
    to_record,
)
from sojourn.cluster.wire import Listing
from sojourn.core.record import Record
from sojourn.store import frame

Entry: TypeAlias = Replica | Listing
"""What is kept under a name: under a private key a session, under a tag and a key an entry of the index."""

Stamps: TypeAlias = list[Stamp] | msgspec.Raw
"""Those of a session's values, in the order of their keys; or the bytes that say them."""

FILED = 8
_HEAD = struct.Struct(">QIH")
_LISTING = struct.Struct(">QQ4sQ?")


class Stored(NamedTuple):
    """An entry as it lies in the storage."""

    entry: Entry
    filed: int
    """Milliseconds since the epoch: when sweeping looks at it next, at the latest."""
    shown: bool = True
    """Whether ``load`` finds it. What has ended is only remembered."""
    whole: bool = True
    """Whether the entry has all of its cells."""


class _Meta(msgspec.Struct, array_like=True, gc=False):
    """A replica without its values."""

    stamps: list[Stamp]
    """Of the values, in the order of their keys."""
    removed: dict[str, Stamp]
    head: Head
    times: Times
    seen: dict[Origin, Mark]
    retired: Retired | None
    deleted: Deleted | None
    forgotten: int


class _Bare(msgspec.Struct, array_like=True, gc=False):
    """A replica without its values, whose stamps are left as they are."""

    stamps: msgspec.Raw
    removed: dict[str, Stamp]
    head: Head
    times: Times
    seen: dict[Origin, Mark]
    retired: Retired | None
    deleted: Deleted | None
    forgotten: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Meta).decode
_decode_bare = msgspec.msgpack.Decoder(_Bare).decode
_decode_stamps = msgspec.msgpack.Decoder(list[Stamp]).decode


# -- sessions --------------------------------------------------------------------------------------------------


def pack(key: bytes, stored: Stored) -> bytes:
    """Return a session as the bytes to keep under *key*."""
    replica = stored.entry
    assert isinstance(replica, Replica)
    if not stored.shown:
        return _join(stored.filed, floor_of(replica), b"", meta_of(replica))
    record = to_record(replica)
    return _join(stored.filed, record.seen, frame.pack(key, record), meta_of(replica))


def _join(filed: int, floor: bytes, data: bytes, meta: bytes) -> bytes:
    return b"".join((_HEAD.pack(filed, len(data), len(floor)), floor, data, meta))


def unpack(key: bytes, data: bytes, cut: int = 0) -> Stored | None:
    """Return the session in *data*; None where it cannot be read, of which the log says more.

    Where ``replica.since`` would leave out what is no later than *cut*, it need not be here.
    """
    filed, size, floor = _HEAD.unpack_from(data)
    start = _HEAD.size + floor
    meta = _decode(data[start + size :])
    has_ended = meta.retired or meta.deleted
    cells: dict[str, Cell] = {}
    whole = True
    if size:
        record = frame.unpack(key, data[start : start + size])
        if record is None:
            return None
        cells = _cells(record.values, meta.stamps, cut if cut >= meta.forgotten else 0)
        whole = len(cells) == len(record.values)
    elif not has_ended:
        return None  # only what has ended has no frame
    if meta.removed:
        cells |= {name: Cell(stamp, None) for name, stamp in meta.removed.items()}
        cells = dict(sorted(cells.items()))
    replica = Replica(cells, meta.head, meta.times, meta.seen, meta.retired, meta.deleted, meta.forgotten)
    return Stored(replica, filed, size > 0, whole)


def _cells(values: Mapping[str, bytes], stamps: list[Stamp], cut: int) -> dict[str, Cell]:
    """Return the *values* with their *stamps*: those that are later than *cut*."""
    found = zip(values.items(), stamps, strict=True)
    if not cut:
        return {name: Cell(stamp, data) for (name, data), stamp in found}
    return {name: Cell(stamp, data) for (name, data), stamp in found if stamp[0] > cut}


def unpack_record(key: bytes, data: bytes) -> Record | None:
    """Return what ``load`` finds in *data*."""
    _, size, floor = _HEAD.unpack_from(data)
    if not size:
        return None
    start = _HEAD.size + floor
    record = frame.unpack(key, data[start : start + size])
    return record and Record(*record[:-1], data[_HEAD.size : start])


def is_shown(data: bytes) -> bool:
    """Tell whether ``load`` finds a record in *data*, if it is sound."""
    return data[FILED : FILED + 4] != b"\0\0\0\0"


def meta_in(data: bytes) -> bytes:
    """Return the meta in *data*."""
    _, size, floor = _HEAD.unpack_from(data)
    return data[_HEAD.size + floor + size :]


def meta_of(replica: Replica) -> bytes:
    """Return all of *replica* but its values."""
    cells = replica.cells
    stamps = [stamp for stamp, data in cells.values() if data is not None]
    removed = {key: cell.stamp for key, cell in cells.items() if cell.data is None} if len(stamps) < len(cells) else {}
    return _pack_meta(stamps, removed, replica)


def _pack_meta(stamps: Stamps, removed: Mapping[str, Stamp], replica: Replica) -> bytes:
    return _encode((stamps, removed, *replica[1:]))


# -- what a write changes in the bytes ---------------------------------------------------------------------------


class Outline(NamedTuple):
    """A session that lives, without a look at its values, which are not checked therefore."""

    replica: Replica
    """All of it but the cells."""
    filed: int
    frame: bytes
    stamps: msgspec.Raw
    removed: Mapping[str, Stamp]


def outline(data: bytes, base: int) -> Outline | None:
    """Return the outline of the session in *data*; None where it has ended, or has not version *base*."""
    filed, size, floor = _HEAD.unpack_from(data)
    start = _HEAD.size + floor
    stored = data[start : start + size]
    if not size or frame.version(stored) != base:
        return None
    meta = _decode_bare(data[start + size :])
    if meta.retired:
        return None
    replica = Replica({}, meta.head, meta.times, meta.seen, None, None, meta.forgotten)
    return Outline(replica, filed, stored, meta.stamps, meta.removed)


def begun(key: bytes, filed: int, after: Replica, record: Record, stamp: Stamp) -> bytes:
    """Return the bytes of a session that begins with *record*; *after* is its replica, which needs no cells."""
    values = dict(sorted(record.values.items()))
    meta = _pack_meta([stamp] * len(values), {}, after)
    return _join(filed, floor_of(after), frame.pack(key, record._replace(values=values)), meta)


def restamped(
    before: Outline, values: Mapping[str, bytes], stamp: Stamp
) -> tuple[Mapping[str, bytes], list[Stamp]] | None:
    """Return *values* in order, and their stamps after a write of them; None where there is more to do, as to keys."""
    stored = frame.peek(before.frame)
    if stored is None or stored.keys() != values.keys() or len(values) + len(before.removed) > MOST_REMOVED:
        return None
    ordered = {key: values[key] for key in stored}
    stamps = _decode_stamps(before.stamps)
    for number in compress(count(), map(ne, ordered.values(), stored.values())):
        stamps[number] = stamp
    return ordered, stamps


def rewritten(filed: int, before: Outline, after: Replica, frame: bytes, stamps: Stamps) -> bytes:
    """Return the bytes of *before* with another frame and the *stamps* of its values; *after* needs no cells."""
    return _join(filed, floor_of(after), frame, _pack_meta(stamps, before.removed, after))


# -- entries of the index ----------------------------------------------------------------------------------------


def pack_listing(stored: Stored) -> bytes:
    """Return an entry of the index as the bytes to keep."""
    listing = stored.entry
    assert isinstance(listing, Listing)
    return _LISTING.pack(stored.filed, *listing)


def unpack_listing(data: bytes) -> Stored:
    """Return the entry of the index in *data*."""
    filed, *fields = _LISTING.unpack(data)
    listing = Listing(*fields)
    return Stored(listing, filed, listing.listed)


def listing_in(data: bytes) -> bytes:
    """Return in *data* what is the same on all hosts."""
    return data[FILED:]


def is_listed(data: bytes) -> bool:
    """Tell whether ``find`` finds the entry in *data*: otherwise it is only remembered."""
    return data[-1] == 1


# -- of both -----------------------------------------------------------------------------------------------------


def digest(name: bytes, meta: bytes) -> int:
    """Return a number of 64 bits for what stands under *name*: equal where the copies are."""
    return int.from_bytes(hashlib.blake2b(name + meta, digest_size=8).digest(), "big")


def digest_of(name: bytes, entry: Entry) -> int:
    """Return the digest of *entry* under *name*."""
    meta = meta_of(entry) if isinstance(entry, Replica) else listing_in(_LISTING.pack(0, *entry))
    return digest(name, meta)


def places_of(entry: Entry) -> frozenset[Stamp]:
    """Return where *entry* stands in the logs of its writers."""
    return frozenset({Stamp(entry.time, entry.origin)}) if isinstance(entry, Listing) else positions(entry)


def due(entry: Entry, shown: bool) -> int:
    """Return when there is something to bury of *entry*, in milliseconds since the epoch."""
    if isinstance(entry, Listing):
        return entry.until_ms
    if shown and entry.retired:
        return min(entry.retired.expires_ms, entry.keep_ms)
    return entry.keep_ms
