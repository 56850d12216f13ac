"""Patching: writes that leave a living session its keys, done on its bytes: values are compared, numbers replaced.

Nearly every write is of that kind. What they come to is what ``cluster.replica`` says, and a write that does more, such
as a login, goes the long way. The dict tables of the simulation know nothing of this file, so that every history which
runs on both judges it. A *place* is the origin and the time of a stamp, twelve bytes, as it stands in logs.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from typing import NamedTuple

from sojourn.cluster import replica
from sojourn.cluster.clock import ORIGIN_BYTES, TIME_BYTES, Origin, Stamp
from sojourn.cluster.replica import MOST_MARKS, MOST_REMOVED, Cell, Mark, Replica, succeeds
from sojourn.core.record import Record
from sojourn.store import frame
from sojourn.store.peers.packing import HEAD, META, STAMP, WRITER

PLACE = ORIGIN_BYTES + TIME_BYTES
COUNTS = struct.Struct(">HHI")
TOUCH = struct.Struct(">12sQQ")
_WRITES = struct.Struct(">12sQ")
_HEAD_AT = TOUCH.size
_FORGOTTEN_AT = _HEAD_AT + PLACE
COUNTS_AT = _FORGOTTEN_AT + TIME_BYTES


class Parts(NamedTuple):
    """The bytes of a session that lives, cut at the places that ``packing`` names."""

    filed: int
    frame: bytes
    front: bytes
    """What stands before the writers; first the place of the last touch."""
    writers: bytes
    stamps: bytes
    rest: bytes


class Patch(NamedTuple):
    """What a write replaces in a session that lives and keeps its keys."""

    version: int
    accessed_ms: int
    expires_ms: int
    touch: bytes
    body: frame.Body
    stamps: bytes
    writers: bytes


def parts_of(data: bytes, base: int | None = None) -> Parts | None:
    """Return the parts of the session in *data*; None where it has ended, is damaged, or has not version *base*."""
    try:
        filed, size, floor = HEAD.unpack_from(data)
        start = HEAD.size + floor
        meta = start + size
        stored = data[start:meta]
        if not size or not frame.is_alive(stored, base):
            return None
        count, _, values = COUNTS.unpack_from(data, meta + COUNTS_AT)
    except struct.error:
        return None
    writers = meta + META.size
    stamps = writers + count * WRITER.size
    rest = stamps + values * STAMP.size
    if rest >= len(data):
        return None
    return Parts(filed, stored, data[meta:writers], data[writers:stamps], data[stamps:rest], data[rest:])


def place_of(stamp: Stamp) -> bytes:
    """Return where a write or a touch stands in logs."""
    return stamp.origin + stamp.time.to_bytes(TIME_BYTES, "big")


def stamp_of(place: bytes) -> Stamp:
    """Return the stamp that stands at a place."""
    return Stamp(int.from_bytes(place[ORIGIN_BYTES:], "big"), place[:ORIGIN_BYTES])


def places(writers: bytes) -> list[bytes]:
    """Return the places of the last writes."""
    return [writers[at : at + PLACE] for at in range(0, len(writers), WRITER.size)]


def version_of(writers: bytes) -> int:
    """Return the version of a copy with these *writers*."""
    return sum([writes for _, writes in _WRITES.iter_unpack(writers)])


# -- a write here ------------------------------------------------------------------------------------------------


def rewritten(before: Parts, record: Record, place: bytes, base: int) -> Patch | None:
    """Return what an update at *place* makes of *before*; None where it does more than to change values."""
    body, to_ms = frame.peek(before.frame), frame.to_ms
    _, removed, count = COUNTS.unpack_from(before.front, COUNTS_AT)
    if (
        body is None
        or body.values.keys() != record.values.keys()
        or count + removed > MOST_REMOVED
        or (body.created_ms, body.principal, body.cookie_age)
        != (to_ms(record.created_at), record.principal, record.cookie_age)
    ):
        return None
    values, stamps, at = body.values, before.stamps, 0
    for key, data in values.items():
        if (new := record.values[key]) != data:
            values[key] = new
            stamps = stamps[:at] + place + stamps[at + PLACE :]
        at += PLACE
    writers = _marked(before.writers, place, record.version - base)
    return Patch(record.version, to_ms(record.accessed_at), to_ms(record.expires_at), place, body, stamps, writers)


def _marked(writers: bytes, place: bytes, count: int) -> bytes:
    """Return *writers* after a write at *place* that raises the version by *count*."""
    origin = place[:ORIGIN_BYTES]
    for at in range(0, len(writers), WRITER.size):
        writer = writers[at : at + ORIGIN_BYTES]
        if writer == origin:
            count += _WRITES.unpack_from(writers, at)[1]
            return writers[:at] + _WRITES.pack(place, count) + writers[at + WRITER.size :]
        if writer > origin:
            return writers[:at] + _WRITES.pack(place, count) + writers[at:]
    return writers + _WRITES.pack(place, count)


def left_by(before: Parts, writers: bytes, origin: Origin) -> Collection[bytes]:
    """Return the places that are given up by a write or a touch of *origin*, after which the *writers* are those.

    None but that of the last touch and the writer's own can be, and they are mostly one.
    """
    touch = before.front[:PLACE]
    mine = next((mark for mark in places(before.writers) if mark[:ORIGIN_BYTES] == origin), touch)
    standing = () if touch == mine and writers != before.writers else places(writers)
    return [place for place in {touch, mine} if place not in standing]


# -- a delta of another host -------------------------------------------------------------------------------------


def followed(
    key: bytes, before: Parts, delta: Replica, origin: Origin, cut: int, *, follows: bool = True
) -> Patch | None:
    """Return what a *delta* makes of *before*; None where it does more than to change values and times.

    As ``replica.received`` makes it where whoever wrote the delta had seen all that is here (``replica.succeeds``).
    """
    head = delta.head.stamp
    seen = {writer: Mark(time, writes) for writer, time, writes in WRITER.iter_unpack(before.writers)}
    if (
        delta.has_ended
        or delta.forgotten != int.from_bytes(before.front[_FORGOTTEN_AT:COUNTS_AT], "big")
        or not (head.time == 0 or place_of(head) == before.front[_HEAD_AT:_FORGOTTEN_AT])
        or not succeeds(seen, delta, origin, cut, follows)
    ):
        return None
    return _merged(key, before, delta)


def _merged(key: bytes, before: Parts, delta: Replica) -> Patch | None:
    """Return what the cells of *delta* make of *before*; None where a key comes or goes.

    What is stored is checked: nobody has read it a moment ago, and damaged values would be taken for sound ones.
    """
    body = frame.open_body(key, before.frame)
    if body is None or not delta.cells.keys() <= body.values.keys():
        return None
    stamps = _restamped(body.values, before.stamps, delta.cells)
    if stamps is None:
        return None
    touch, accessed, expires = TOUCH.unpack_from(before.front)
    if delta.times.stamp > stamp_of(touch):
        touch, accessed, expires = place_of(delta.times.stamp), *delta.times[1:]
    seen = delta.seen
    writers = b"".join([WRITER.pack(writer, *seen[writer]) for writer in sorted(seen)])
    return Patch(delta.version, accessed, expires, touch, body, stamps, writers)


def _restamped(values: dict[str, bytes], stamps: bytes, cells: Mapping[str, Cell]) -> bytes | None:
    """Take over into *values* what is later among *cells* of its keys; return the stamps. None: one was removed."""
    for number, name in enumerate(values):
        if name not in cells:
            continue
        (stamp, data), at = cells[name], number * PLACE
        if data is None:
            return None
        if stamp > stamp_of(stamps[at : at + PLACE]):
            values[name] = data
            stamps = stamps[:at] + place_of(stamp) + stamps[at + PLACE :]
    return stamps


# -- the bytes that come of it -------------------------------------------------------------------------------------


def packed(key: bytes, filed: int, before: Parts, patch: Patch) -> bytes:
    """Return the bytes of a session after a write."""
    version, accessed, expires, touch, body, stamps, writers = patch
    data = frame.join(key, version, accessed, expires, body)
    front = TOUCH.pack(touch, accessed, expires) + before.front[_HEAD_AT:COUNTS_AT]
    counts = (len(writers) // WRITER.size).to_bytes(2, "big") + before.front[COUNTS_AT + 2 :]
    floor = floor_of(writers)
    return b"".join((HEAD.pack(filed, len(data), len(floor)), floor, data, front, counts, writers, stamps, before.rest))


def retimed(filed: int, before: Parts, touch: bytes, accessed_ms: int, expires_ms: int) -> bytes:
    """Return the bytes of a session after a touch."""
    data = frame.patch_times(before.frame, accessed_ms / 1000, expires_ms / 1000)
    front = TOUCH.pack(touch, accessed_ms, expires_ms) + before.front[_HEAD_AT:]
    floor = floor_of(before.writers)
    head = HEAD.pack(filed, len(data), len(floor))
    return b"".join((head, floor, data, front, before.writers, before.stamps, before.rest))


def floor_of(writers: bytes) -> bytes:
    """Return what a browser has seen that is shown a copy with these *writers*; see ``replica.floor_of``."""
    if len(writers) <= MOST_MARKS * WRITER.size:
        return b"".join([writers[at : at + PLACE] for at in range(0, len(writers), WRITER.size)])
    seen = {writer: Mark(time, writes) for writer, time, writes in WRITER.iter_unpack(writers)}
    return replica.floor_of(Replica(seen=seen))
