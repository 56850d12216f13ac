"""MemoryStore: sessions in this process. Short enough to be read as the specification of a store.

One process only: other workers and other hosts see nothing of it. For tests, for development, and for
applications that are one process. A restart ends every session. Each operation is a few dictionary operations under a
lock; ``scan`` and ``find`` look at every key for each page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush, nsmallest
from threading import Lock

from sojourn.core.capability import Finding, Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError
from sojourn.store import frame

SWEEP_AT_CREATE = 4  # more than is filed for one session, so that the dead are buried faster than they come

_LOCKED = b"lock"  # behind the key, so that a lock is filed under another name than its session


class MemoryStore:
    """Frames by key, a principal's keys by tag, locks by key, and a heap of deadlines that says when to look at which.

    A name in the heap is a session's key, an index entry's tag and key, or a lock's key with a suffix.
    """

    waits = False

    def __init__(self) -> None:
        self.frames: dict[bytes, bytes] = {}
        self.index: dict[bytes, dict[bytes, int]] = {}
        self.locks: dict[bytes, tuple[int, bytes]] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._filed: dict[bytes, int] = {}  # the earliest deadline under which each name stands in the heap
        self._lock = Lock()

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        """Return a new store for ``memory:``, which takes no settings."""
        if url.removeprefix("memory:").strip("/"):
            raise ConfigurationError(f"{url!r}: memory: takes no settings; write just 'memory:'")
        return cls()

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        data = self.frames.get(key)
        return None if data is None else frame.unpack(key, data)

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record and bury up to four that were dead by then."""
        with self._lock:
            if key in self.frames:
                return Written.EXISTS
            self._put(key, frame.pack(key, record))
            self._bury(frame.to_ms(record.accessed_at), SWEEP_AT_CREATE)
            return Written.DONE

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        with self._lock:
            if refusal := self._refuses(key, base):
                return refusal
            self._put(key, frame.pack(key, record))
            return Written.DONE

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        with self._lock:
            if refusal := self._refuses(key, base):
                return refusal
            self._put(key, frame.patch_times(self.frames[key], accessed_at, expires_at))
            return Written.DONE

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        with self._lock:
            if refusal := self._refuses(key, base):
                return refusal
            self._drop(key)
            return Written.DONE

    # -- many, the index, the scan ---------------------------------------------------------------------------

    def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys* in their order, None for each that is missing."""
        return [self.load(key) for key in keys]

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Remove the records under *keys* and return how many there were."""
        return sum(self.delete(key) is Written.DONE for key in keys)

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Note *key* under *tag* until then, and bury up to four that were dead by *now*."""
        with self._lock:
            self.index.setdefault(tag, {})[key] = end = frame.to_ms(until)
            self._file(tag + key, end)
            self._bury(frame.to_ms(now), SWEEP_AT_CREATE)

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        """Take *keys* out of what stands under *tag*."""
        with self._lock:
            for key in keys:
                self._drop(tag + key)

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of *tag* in their order. The cursor is the last key seen."""
        with self._lock:
            return _page(self.index.get(tag, ()), cursor, limit)

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of all sessions in their order. The cursor is the last key seen."""
        with self._lock:
            return _page(self.frames, cursor, limit)

    def sweep(self, now: float, limit: int = 64) -> int:
        """Bury what is dead at *now* (epoch seconds), looking at no more than *limit* deadlines.

        Returns how many it looked at: fewer than *limit* says that it is done.
        """
        with self._lock:
            return self._bury(frame.to_ms(now), limit)

    # -- locks, and what an operator should know --------------------------------------------------------------

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Take the lock of *key* if it is free or its time is over by *now*."""
        with self._lock:
            if (held := self.locks.get(key)) and held[0] > frame.to_ms(now):
                return False
            end = frame.to_ms(until)
            self.locks[key] = end, owner
            self._file(key + _LOCKED, end)
            return True

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lock of *key* back if it is *owner*'s."""
        with self._lock:
            if (held := self.locks.get(key)) is None or held[1] != owner:
                return False
            del self.locks[key]  # its entry in the heap stays, so that a session locked over and over has only one
            return True

    def examine(self) -> list[Finding]:
        """Return one finding, whatever there is: nothing here can tell whether there are other processes."""
        return [
            Finding(
                "Sessions are in the memory of one process.",
                "Other worker processes and other hosts see none of them, and a restart ends them all.",
                "With more than one process use local: on one host, or a session server for several.",
            )
        ]

    # -- under the lock --------------------------------------------------------------------------------------

    def _refuses(self, key: bytes, base: int | None) -> Written | None:
        data = self.frames.get(key)
        if data is None:
            return Written.GONE
        return Written.STALE if base is not None and frame.version(data) != base else None

    def _put(self, key: bytes, data: bytes) -> None:
        self._file(key, frame.expires_ms(data))
        self.frames[key] = data

    def _file(self, name: bytes, deadline: int) -> None:
        # An entry says when to look. A later deadline leaves it alone, and looking then finds the named alive.
        if deadline < self._filed.get(name, deadline + 1):
            self._filed[name] = deadline
            heappush(self._deadlines, (deadline, name))

    def _bury(self, now_ms: int, limit: int) -> int:
        looked = 0
        while looked < limit and self._deadlines and self._deadlines[0][0] <= now_ms:
            filed, name = heappop(self._deadlines)
            looked += 1
            if self._filed.get(name) != filed:
                continue  # it was filed under an earlier one, or dropped, meanwhile
            del self._filed[name]
            deadline = self._deadline(name)
            if deadline is not None and deadline > now_ms:
                self._file(name, deadline)
            else:
                self._drop(name)
        return looked

    def _deadline(self, name: bytes) -> int | None:
        """Return when what is called *name* ends by now, in milliseconds; None where it is gone."""
        if name in self.frames:
            return frame.expires_ms(self.frames[name])
        if name.endswith(_LOCKED) and (lock := self.locks.get(name.removesuffix(_LOCKED))):
            return lock[0]
        return self.index.get(name[:32], {}).get(name[32:])

    def _drop(self, name: bytes) -> None:
        """Remove what is called *name*, if it is there. An entry of the heap that finds nothing is passed over."""
        self._filed.pop(name, None)
        if self.frames.pop(name, None) is not None:
            return
        if name.endswith(_LOCKED) and self.locks.pop(name.removesuffix(_LOCKED), None) is not None:
            return
        listed = self.index.get(name[:32], {})
        if listed.pop(name[32:], None) is not None and not listed:
            del self.index[name[:32]]


def _page(keys: Iterable[bytes], cursor: bytes | None, limit: int) -> Page:
    found = nsmallest(limit, keys if cursor is None else (key for key in keys if key > cursor))
    return Page(tuple(found), found[-1] if len(found) == limit else None)
