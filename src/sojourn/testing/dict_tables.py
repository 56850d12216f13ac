"""DictTables: a host's storage in dicts, for simulations. The rules are those of hosts; only LMDB is missing."""

from __future__ import annotations

import os
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, TypeVar

from sojourn.cluster.clock import ORIGIN_BYTES, Origin, Stamp
from sojourn.cluster.tables import bucket_of, first_of
from sojourn.cluster.wire import Listing
from sojourn.store.peers.packing import Entry, Stored, digest_of, pack, pack_listing
from sojourn.store.peers.tables_base import BaseTables
from sojourn.store.peers.tables_rows import Rows

T = TypeVar("T")

_KEY = 32


class _Rows(Rows):
    """What is stored, in sorted lists and dicts; each entry can be replaced and never changes."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin, 0, 0)
        self.stored: dict[bytes, Stored] = {}
        self.order: tuple[list[bytes], list[bytes]] = [], []
        self.filed: list[tuple[int, bytes]] = []
        self.logs: dict[Origin, list[tuple[int, bytes]]] = {}
        self.put_down: dict[bytes, bytes] = {}
        self._digests: dict[bytes, tuple[Entry, int]] = {}

    def copy(self) -> _Rows:
        """Return another that is the same."""
        other = _Rows(self.origin)
        other.stored = dict(self.stored)
        other.order = list(self.order[0]), list(self.order[1])
        other.filed = list(self.filed)
        other.logs = {origin: list(log) for origin, log in self.logs.items()}
        other.put_down = dict(self.put_down)
        return other

    def get(self, name: bytes, cut: int = 0) -> Stored | None:
        return self.stored.get(name)

    def shows(self, name: bytes) -> bool | None:
        stored = self.stored.get(name)
        return stored.shown if stored else None

    def keep(self, name: bytes, stored: Stored) -> None:
        if name not in self.stored:
            insort(self.order[len(name) > _KEY], name)
        self.stored[name] = stored

    def erase(self, name: bytes) -> None:
        if self.stored.pop(name, None):
            order = self.order[len(name) > _KEY]
            del order[bisect_left(order, name)]
            self._digests.pop(name, None)

    def names(self, first: bytes, *, listings: bool) -> Iterator[bytes]:
        order = self.order[listings]
        return (order[at] for at in range(bisect_left(order, first), len(order)))

    def shown_names(self, first: bytes, *, listings: bool) -> Iterator[tuple[bytes, bool]]:
        return ((name, self.stored[name].shown) for name in self.names(first, listings=listings))

    def digests(self, bucket: int, *, listings: bool) -> Iterator[tuple[bytes, int]]:
        within = takewhile(lambda name: bucket_of(name) == bucket, self.names(first_of(bucket), listings=listings))
        return ((name, self._digest(name)) for name in within)

    def _digest(self, name: bytes) -> int:
        """Return the digest of what is stored, which is worked out once: an entry never changes."""
        entry = self.stored[name].entry
        known = self._digests.get(name)
        if known is None or known[0] is not entry:
            known = self._digests[name] = entry, digest_of(name, entry)
        return known[1]

    def file(self, name: bytes, filed: int) -> None:
        insort(self.filed, (filed, name))

    def unfile(self, name: bytes, filed: int) -> None:
        self.filed.remove((filed, name))

    def earliest(self) -> tuple[int, bytes] | None:
        return self.filed[0] if self.filed else None

    def log(self, place: Stamp, name: bytes) -> None:
        insort(self.logs.setdefault(place.origin, []), (place.time, name))

    def unlog(self, place: Stamp) -> None:
        log = self.logs[place.origin]
        del log[bisect_left(log, (place.time, b""))]

    def logged(self, origin: Origin, after: int) -> Iterator[tuple[int, bytes]]:
        log = self.logs.get(origin, [])
        return iter(log[bisect_right(log, (after + 1, b"")) :])

    def last(self, origin: Origin) -> int:
        log = self.logs.get(origin)
        return log[-1][0] if log else 0

    def note(self, key: bytes) -> bytes | None:
        return self.put_down.get(key)

    def put_note(self, key: bytes, value: bytes) -> None:
        self.put_down[key] = value

    def notes(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        found = sorted(self.put_down.items())
        return ((key[len(prefix) :], value) for key, value in found if key.startswith(prefix))


class DictTables(BaseTables):
    """One host's storage in memory. *random* returns as many bytes as it is asked for."""

    def __init__(self, clock: Callable[[], float] = time.time, random: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(clock)
        self.random = random
        self._rows = _Rows(random(ORIGIN_BYTES))

    @property
    def origin(self) -> Origin:
        """The life of this storage."""
        return self._rows.origin

    def reading(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* makes of the rows and *arguments*."""
        return work(self._rows, *arguments)

    def writing(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* makes of the rows. Nothing is taken back where it fails: it checks first."""
        rows = self._rows
        rows.now_ms, rows.lifetime_ms, rows._clocks = self.now_ms(), self.lifetime_ms, None
        return work(rows, *arguments)

    def wiped(self) -> DictTables:
        """Return the storage of this host after its disk was lost: empty, and another life."""
        other = DictTables(self.clock, self.random)
        other.lifetime_ms, other.follows = self.lifetime_ms, self.follows
        return other

    def snapshot(self) -> _Rows:
        """Return all that is stored, for :meth:`restore`."""
        return self._rows.copy()

    def restore(self, rows: _Rows) -> None:
        """Have stored what a snapshot holds."""
        self._rows = rows.copy()

    def dump(self) -> dict[bytes, bytes]:
        """Return the bytes of all copies, as LMDB has them, with zeros for the time under which each is filed."""
        return {name: _packed(name, stored._replace(filed=0)) for name, stored in sorted(self._rows.stored.items())}


def _packed(name: bytes, stored: Stored) -> bytes:
    return pack_listing(stored) if isinstance(stored.entry, Listing) else pack(name, stored)
