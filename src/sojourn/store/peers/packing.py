"""The bytes of a replicated session at rest: the record as ``local:`` has it, and beside it what merging needs.

    offset  0   filed: the deadline in milliseconds under which it stands in ``deadlines``, 8 bytes
            8   length of the frame, 4 bytes; 0: ``load`` finds nothing, as an ended session is only remembered
           12   length of the floor, 2 bytes
           14   floor: what a browser has seen that is shown this copy (``replica.floor_of``)
                frame: the record (``store.frame``), its values in the order of their keys
                meta: all of the replica but its values

    meta    0   touch: origin (4) and time (8) of the last one; when it was and when the session expires (8, 8)
           28   head: origin (4) and time (8) of the last write of what stands in ``Rest``
           40   forgotten (8); how many writers (2), removed keys (2), values (4)
           56   writers: origin (4), time (8), writes (8) each, in the order of their origins
                stamps of the values: origin (4), time (8) each, in their order
                rest: MessagePack of ``Rest``

So a look is one lookup and one frame, as with ``local:``, and a write of a value changes some numbers at known places
(``patching``). Numbers are big-endian. Copies that have seen the same writes are the same bytes on all hosts but for
``filed``, and for the frame of a retired session, which goes when its grace is over. The digest of a copy is that of
its meta: a stamp stands for one value.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from sojourn.cluster.clock import ZERO, Stamp
from sojourn.cluster.replica import Cell, Deleted, Head, Mark, Replica, Retired, Times, floor_of, positions, to_record
from sojourn.cluster.wire import Listing
from sojourn.core.ids import handle_of
from sojourn.core.record import Record
from sojourn.store import frame

Entry: TypeAlias = Replica | Listing
"""What is kept under a name: under a private key a session, under a tag and a key an entry of the index."""

FILED = 8
HEAD = struct.Struct(">QIH")
META = struct.Struct(">4sQQQ4sQQHHI")
WRITER = struct.Struct(">4sQQ")
STAMP = struct.Struct(">4sQ")
_LISTING = struct.Struct(">QQ4sQ?")

_log = logging.getLogger("sojourn.store")


class Stored(NamedTuple):
    """An entry as it lies in the storage."""

    entry: Entry
    filed: int
    """Milliseconds since the epoch: when sweeping looks at it next, at the latest."""
    shown: bool = True
    """Whether ``load`` finds it. What has ended is only remembered."""
    whole: bool = True
    """Whether the entry has all of its cells."""


class Rest(msgspec.Struct, array_like=True, gc=False):
    """What a write of values leaves alone."""

    created_ms: int
    principal: str | None
    cookie_age: int | None
    removed: dict[str, Stamp]
    retired: Retired | None
    deleted: Deleted | None


_encode = msgspec.msgpack.Encoder().encode
rest_of = msgspec.msgpack.Decoder(Rest).decode


# -- sessions --------------------------------------------------------------------------------------------------


def pack(key: bytes, stored: Stored) -> bytes:
    """Return a session as the bytes to keep under *key*."""
    replica = stored.entry
    assert isinstance(replica, Replica)
    if not stored.shown:
        return join(stored.filed, floor_of(replica), b"", meta_of(replica))
    record = to_record(replica)
    return join(stored.filed, record.seen, frame.pack(key, record), meta_of(replica))


def join(filed: int, floor: bytes, data: bytes, meta: bytes) -> bytes:
    """Return the bytes to keep, out of their parts."""
    return HEAD.pack(filed, len(data), len(floor)) + floor + data + meta


def unpack(key: bytes, data: bytes, cut: int = 0) -> Stored | None:
    """Return the session in *data*; None where it cannot be read, of which the log says more.

    Where ``replica.since`` would leave out what is no later than *cut*, it need not be here.
    """
    try:
        return _unpack(key, data, cut)
    except (struct.error, ValueError, msgspec.MsgspecError) as error:
        _complain(key, error)
        return None


def _complain(key: bytes, why: object) -> None:
    _log.error("session=%s has a damaged copy, which is left in place: %s", handle_of(key), why)


def _unpack(key: bytes, data: bytes, cut: int) -> Stored | None:
    filed, size, floor = HEAD.unpack_from(data)
    start = HEAD.size + floor
    meta = start + size
    origin, time, accessed, expires, of_head, head, forgotten, count, _, values = META.unpack_from(data, meta)
    writers = meta + META.size
    stamps = writers + WRITER.size * count
    after = stamps + STAMP.size * values
    rest = rest_of(data[after:])
    cells: dict[str, Cell] = {}
    if size:
        body = frame.open_body(key, data[start:meta])
        if body is None:
            return None
        cells = _cells(body.values, data[stamps:after], cut if cut >= forgotten else 0)
    elif not (rest.retired or rest.deleted):
        return None  # only what has ended has no frame
    whole = len(cells) == values
    if rest.removed:
        cells |= {name: Cell(stamp, None) for name, stamp in rest.removed.items()}
        cells = dict(sorted(cells.items()))
    replica = Replica(
        cells,
        Head(Stamp(head, of_head) if head else ZERO, rest.created_ms, rest.principal, rest.cookie_age),
        Times(Stamp(time, origin) if time else ZERO, accessed, expires),
        {writer: Mark(last, writes) for writer, last, writes in WRITER.iter_unpack(data[writers:stamps])},
        rest.retired,
        rest.deleted,
        forgotten,
    )
    return Stored(replica, filed, size > 0, whole)


def _cells(values: Mapping[str, bytes], stamps: bytes, cut: int) -> dict[str, Cell]:
    """Return the *values* with their *stamps*: those that are later than *cut*."""
    if len(stamps) != len(values) * STAMP.size:
        raise ValueError("another number of stamps than of values")
    found = zip(values.items(), STAMP.iter_unpack(stamps), strict=True)
    return {name: Cell(Stamp(time, origin), data) for (name, data), (origin, time) in found if time > cut}


def unpack_record(key: bytes, data: bytes) -> Record | None:
    """Return what ``load`` finds in *data*."""
    try:
        _, size, floor = HEAD.unpack_from(data)
    except struct.error as error:
        _complain(key, error)
        return None
    if not size:
        return None
    start = HEAD.size + floor
    return frame.unpack(key, data[start : start + size], data[HEAD.size : start])


def is_shown(data: bytes) -> bool:
    """Tell whether ``load`` finds a record in *data*, if it is sound."""
    return data[FILED : FILED + 4] != b"\0\0\0\0"


# -- meta --------------------------------------------------------------------------------------------------------


def meta_in(data: bytes) -> bytes:
    """Return the meta in *data*; nothing where it was cut short."""
    if len(data) < HEAD.size:
        return b""
    _, size, floor = HEAD.unpack_from(data)
    return data[HEAD.size + floor + size :]


def meta_of(replica: Replica) -> bytes:
    """Return all of *replica* but its values."""
    cells = replica.cells
    stamps = [stamp for stamp, data in cells.values() if data is not None]
    removed = {key: cell.stamp for key, cell in cells.items() if cell.data is None} if len(stamps) < len(cells) else {}
    (touch, *times), head = replica.times, replica.head
    counts = len(replica.seen), len(removed), len(stamps)
    front = touch.origin, touch.time, *times, head.stamp.origin, head.stamp.time, replica.forgotten, *counts
    writers = [WRITER.pack(origin, time, writes) for origin, (time, writes) in replica.seen.items()]
    rest = Rest(*head[1:], removed, replica.retired, replica.deleted)
    return b"".join((META.pack(*front), *writers, *[STAMP.pack(stamp[1], stamp[0]) for stamp in stamps], _encode(rest)))


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
