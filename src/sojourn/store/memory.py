"""MemoryStore: sessions in this process. Short enough to be read as the specification of a store.

One process only: other workers and other hosts see nothing of it. For tests, for development, and for
applications that are one process. A restart ends every session. Each verb is one dictionary operation under a lock.
"""

from __future__ import annotations

from heapq import heappop, heappush
from threading import Lock

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError
from sojourn.store import frame

SWEEP_AT_CREATE = 4  # more than one, so that the dead are buried faster than sessions are born


class MemoryStore:
    """Frames by key, and a heap of deadlines that says when to look whether a session is dead."""

    waits = False

    def __init__(self) -> None:
        self.frames: dict[bytes, bytes] = {}
        self._deadlines: list[tuple[int, bytes]] = []
        self._lock = Lock()

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        """Return a new store for ``memory:``, which takes no settings."""
        if url.removeprefix("memory:").strip("/"):
            raise ConfigurationError(f"{url!r}: memory: takes no settings; write just 'memory:'")
        return cls()

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        data = self.frames.get(key)
        return None if data is None else frame.unpack(key, data)

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record and bury up to four that were dead by then."""
        with self._lock:
            if key in self.frames:
                return Written.EXISTS
            self._file(key, data := frame.pack(key, record))
            self.frames[key] = data
            self._bury(frame.to_ms(record.accessed_at), SWEEP_AT_CREATE)
            return Written.DONE

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        with self._lock:
            if refusal := self._refuses(key, base):
                return refusal
            data = frame.pack(key, record)
            if frame.expires_ms(data) < frame.expires_ms(self.frames[key]):
                self._file(key, data)
            self.frames[key] = data
            return Written.DONE

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        with self._lock:
            if refusal := self._refuses(key, base):
                return refusal
            self.frames[key] = frame.patch_times(self.frames[key], accessed_at, expires_at)
            return Written.DONE

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        with self._lock:
            if refusal := self._refuses(key, base):
                return refusal
            del self.frames[key]
            return Written.DONE

    def sweep(self, now: float, limit: int = 64) -> int:
        """Bury what is dead at *now* (epoch seconds), looking at no more than *limit* deadlines.

        Returns how many it looked at: fewer than *limit* says that it is done.
        """
        with self._lock:
            return self._bury(frame.to_ms(now), limit)

    def _refuses(self, key: bytes, base: int | None) -> Written | None:
        data = self.frames.get(key)
        if data is None:
            return Written.GONE
        return Written.STALE if base is not None and frame.version(data) != base else None

    def _file(self, key: bytes, data: bytes) -> None:
        # An entry says when to look. A later deadline leaves it alone, and looking then finds the record alive.
        heappush(self._deadlines, (frame.expires_ms(data), key))

    def _bury(self, now_ms: int, limit: int) -> int:
        looked = 0
        while looked < limit and self._deadlines and self._deadlines[0][0] <= now_ms:
            _, key = heappop(self._deadlines)
            looked += 1
            if (data := self.frames.get(key)) is None:
                continue
            if (deadline := frame.expires_ms(data)) <= now_ms:
                del self.frames[key]
            else:
                heappush(self._deadlines, (deadline, key))
        return looked
