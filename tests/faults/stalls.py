"""When the process of the tests itself stood still, so that nothing could end in it, whoever had been asked."""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic

from tests.faults.history import Span

PACE = 0.02  # seconds between two looks at the clock
NOTED = 0.25  # seconds; a shorter standstill is what each margin is for


class Stalls:
    """A thread that wakes every PACE seconds, and notes when it could not.

    What waits, for a server or a lock, does not hinder it. What keeps it from waking keeps everything else, too: a
    process that was stopped, a machine that stands still or has no core for it, C code that holds the interpreter.
    """

    def __init__(self) -> None:
        self.gaps: list[Span] = []
        self._over = Event()
        self._thread = Thread(target=self._watch, name="stalls", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; the gap that it is in is noted, too. Does no harm twice."""
        self._over.set()
        self._thread.join()

    def within(self, span: Span) -> float:
        """Return for how many seconds of *span* the process stood still."""
        overlaps = (min(gap.ended, span.ended) - max(gap.begun, span.begun) for gap in list(self.gaps))
        return sum(overlap for overlap in overlaps if overlap > 0)

    def _watch(self) -> None:
        last, over = monotonic(), False
        while not over:
            over = self._over.wait(PACE)
            now = monotonic()
            if now - last > NOTED:
                self.gaps.append(Span(last + PACE, now))
            last = now
