"""Sessions of 1 KB by number, and how long single calls on them took: what the large stores share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from bench import visitor
from bench.rounds import check
from sojourn import Codec
from sojourn.core.record import Record
from sojourn.store import frame

FRAME = 1024  # bytes of each frame
NOW = 1_900_000_000.0
GENERATION = 600.0  # seconds between the deadlines of one generation of sessions and the next


def key_of(number: int) -> bytes:
    """Return the key of session *number*: a hash, as real keys are, so that every call goes to another page."""
    return hashlib.sha256(b"visitor %d" % number).digest()


class Records:
    """Makes records whose frames have exactly *size* bytes: the visitor's data and a note."""

    def __init__(self, size: int = FRAME) -> None:
        self._codec = Codec()
        self._values = {key: self._codec.encode(value) for key, value in visitor.data().items()}
        self._note = size // 4
        for _ in range(3):  # a longer note may need a longer head in front of it
            self._note += size - self._size()
        check(self._size() == size, f"a frame has {size} bytes")

    def make(self, number: int, expires_at: float, version: int = 1) -> Record:
        """Return the record of session *number*."""
        values = {**self._values, "note": self._codec.encode(f"{number:08d}".ljust(self._note, "."))}
        return Record(values, NOW, NOW, expires_at, version)

    def _size(self) -> int:
        return len(frame.pack(key_of(0), self.make(0, NOW + GENERATION)))


@dataclass(frozen=True, slots=True)
class Times:
    """What single calls took: percentiles in microseconds, all together in seconds."""

    calls: int
    total: float
    p50: float
    p99: float
    p999: float
    longest: float


def times(nanoseconds: Iterable[int]) -> Times:
    """Return the percentiles of single calls."""
    took = sorted(nanoseconds)
    check(took, "nothing was timed")
    p50, p99, p999 = (took[int(len(took) * share)] / 1000 for share in (0.5, 0.99, 0.999))
    return Times(len(took), sum(took) / 1e9, p50, p99, p999, took[-1] / 1000)
