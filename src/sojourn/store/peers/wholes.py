"""Wholes: complete copies of sessions that live, which travel between hosts as they lie in storage.

A host that comes back with nothing is given millions of them: what is the same on all hosts is neither unpacked nor
packed again, and is looked through once, by who receives it. ``packing`` says how the bytes lie; the first eight, which
are a host's own, stay where they are. These bytes are a part of the protocol (``cluster.wire``): another layout needs
another version of it.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple

from sojourn.cluster.clock import ORIGIN_BYTES, Origin
from sojourn.cluster.replica import Replica
from sojourn.store import frame
from sojourn.store.peers import packing, patching
from sojourn.store.peers.patching import PLACE

_LARGEST = 1 << 63  # such numbers do not fit into the storage
_SIZES = struct.Struct(">IH")  # of the frame and the floor, as ``packing.HEAD`` has them
_ONE_WRITE = (1).to_bytes(8, "big")
_UNFIT = "a session that cannot be"


class Whole(NamedTuple):
    """A copy, and what must be known to store it where nothing is."""

    packed: bytes
    places: frozenset[bytes]
    """Where it stands in the logs of its writers, as ``patching`` has places."""
    expires_ms: int

    def times(self, origin: Origin) -> list[int]:
        """Return the times of its places in the log of *origin*."""
        return [_time(place) for place in self.places if place.startswith(origin)]

    @property
    def latest(self) -> int:
        """The latest time of a write or a touch in it."""
        return max(map(_time, self.places))

    def opened(self, key: bytes) -> Replica | None:
        """Return the session as a replica."""
        stored = packing.unpack(key, bytes(packing.FILED) + self.packed)
        return stored.entry if stored and isinstance(stored.entry, Replica) else None


def _time(place: bytes) -> int:
    return int.from_bytes(place[ORIGIN_BYTES:], "big")


def whole_of(data: bytes, cut: int = 0) -> Whole | None:
    """Return the session that lies in this host's storage as *data*; None: it has ended, or is damaged.

    With a *cut* only one that was created later and not changed since: of others a part will do.
    """
    try:
        _, size, floor = packing.HEAD.unpack_from(data)
        start = packing.HEAD.size + floor
        if not size or not frame.is_alive(data[start : start + frame.HEADER], 1 if cut else None):
            return None  # with a cut: what was changed is most of what is read, and is told at once by its version
        touch, _, expires = patching.TOUCH.unpack_from(data, start + size)
        count, _, _ = patching.COUNTS.unpack_from(data, start + size + patching.COUNTS_AT)
    except struct.error:
        return None
    after = start + size + packing.META.size
    writers = data[after : after + count * packing.WRITER.size]
    if cut and not (writers[PLACE:] == _ONE_WRITE and _time(writers[:PLACE]) > cut):
        return None
    return Whole(data[packing.FILED :], frozenset((touch, *patching.places(writers))), expires)


def read(key: bytes, packed: bytes) -> Whole | None:
    """Return what another host has sent for *key*; None where it is damaged, of which the log says more.

    What visitors are shown is checked, and what is said twice must be said alike: who has written, how often, and
    until when the session lives. Whether the rest can be merged shows when it is; a copy that cannot be is replaced by
    another host's. Raises ValueError for what no host of this protocol sends. One long function, since it runs a
    million times in a row.
    """
    try:
        size, floor = _SIZES.unpack_from(packed)
        start = _SIZES.size + floor
        meta = start + size
        touch, accessed, expires = patching.TOUCH.unpack_from(packed, meta)
        count, _, values = patching.COUNTS.unpack_from(packed, meta + patching.COUNTS_AT)
        said = frame.numbers(data := packed[start:meta])
    except struct.error as error:
        raise ValueError(_UNFIT) from error
    after = meta + packing.META.size
    rest = after + count * packing.WRITER.size + values * PLACE
    writers = packed[after : after + count * packing.WRITER.size]
    marks = patching.places(writers)
    if (
        not frame.is_alive(data, None)
        or rest >= len(packed)
        or said != (patching.version_of(writers), accessed, expires)
        or max(said) >= _LARGEST
        or patching.floor_of(writers) != packed[_SIZES.size : start]
        or not (count == 1 or _are_in_order(marks))
    ):
        raise ValueError(_UNFIT)
    return Whole(packed, frozenset((touch, *marks)), expires) if frame.is_sound(key, data) else None


def _are_in_order(marks: list[bytes]) -> bool:
    """Tell whether each writer is named once, in the order of their origins."""
    origins = [mark[:ORIGIN_BYTES] for mark in marks]
    return bool(origins) and all(one < other for one, other in pairwise(origins))
