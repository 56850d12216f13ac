"""Wholes: complete copies of sessions that live, which travel between hosts as they lie in storage.

A host that comes back with nothing is given millions of them: what is the same on all hosts is neither unpacked nor
packed again, and is looked through once, by who receives it. ``packing`` says how the bytes lie; the first eight, which
are a host's own, stay where they are. These bytes are a part of the protocol (``cluster.wire``): another layout needs
another version of it.
"""

from __future__ import annotations

from typing import NamedTuple

from sojourn.cluster.clock import ORIGIN_BYTES, Origin
from sojourn.cluster.replica import Replica
from sojourn.store import frame
from sojourn.store.peers import packing, patching
from sojourn.store.peers.patching import PLACE, Parts

_LARGEST = 1 << 63  # such numbers do not fit into the storage
_FILED = bytes(packing.FILED)
_FLOOR_AT = packing.HEAD.size - packing.FILED


class Whole(NamedTuple):
    """A copy that another host has sent, looked through."""

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
        stored = packing.unpack(key, _FILED + self.packed)
        return stored.entry if stored and isinstance(stored.entry, Replica) else None


def _time(place: bytes) -> int:
    return int.from_bytes(place[ORIGIN_BYTES:], "big")


def whole_of(data: bytes) -> Whole | None:
    """Return the session that lies in this host's storage as *data*; None: it has ended, or is damaged."""
    parts = patching.parts_of(data)
    return _whole(parts, data[packing.FILED :]) if parts else None


def _whole(parts: Parts, packed: bytes) -> Whole:
    places = frozenset((parts.front[:PLACE], *patching.places(parts.writers)))
    return Whole(packed, places, frame.expires_ms(parts.frame))


def read(key: bytes, packed: bytes) -> Whole | None:
    """Return what another host has sent for *key*; None where it is damaged, of which the log says more.

    What visitors are shown is checked, and what says which copy is newer. Whether the rest can be merged shows when it
    is; a copy that cannot be is replaced by another host's. Raises ValueError for numbers that contradict each other,
    or fit in nothing: no host of this protocol sends them.
    """
    parts = patching.parts_of(_FILED + packed)
    if parts is None or not _is_alike(parts, packed):
        raise ValueError("a session that cannot be")
    return _whole(parts, packed) if frame.is_sound(key, parts.frame) else None


def _is_alike(parts: Parts, packed: bytes) -> bool:
    """Tell whether what is said twice is said alike: who has written, how often, and until when the session lives."""
    marks = patching.places(parts.writers)
    _, accessed, expires = patching.TOUCH.unpack_from(parts.front)
    version = patching.version_of(parts.writers)
    return (
        0 < len(marks) == len({mark[:ORIGIN_BYTES] for mark in marks})
        and marks == sorted(marks)
        and packed.startswith(patching.floor_of(parts.writers), _FLOOR_AT)
        and frame.numbers(parts.frame) == (version, accessed, expires)
        and max(version, accessed, expires) < _LARGEST
    )
