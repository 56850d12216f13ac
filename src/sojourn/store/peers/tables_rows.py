"""Rows: one transaction on a host's storage, and how its log and its deadlines follow what is kept.

For each name the log has exactly the places of what is stored under it: one of each origin that wrote to the session,
and one of the last touch. So a session written a hundred times stands there once, the log is as long as there are
living sessions, and a snapshot is the log read from its beginning.

A stamp is given inside the transaction that stores it: the order of the log is the order of the commits, and a reader
that has passed a place will find nothing new before it. A place of the own origin that goes without a later one leaves
``end`` behind, so that no stamp is given twice and nobody waits for a place that is not there any more.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from sojourn.cluster.clock import Origin, Stamp, tick
from sojourn.cluster.replica import Replica
from sojourn.cluster.wire import Progress
from sojourn.core.record import Record
from sojourn.store.peers.packing import Entry, Stored, due, places_of
from sojourn.store.peers.wholes import Whole

_CLOCK, _PROGRESS = b"clock", b"progress"


class Rows(ABC):
    """One transaction. *now_ms* is the wall clock; *lifetime_ms* the longest that a session may live."""

    __slots__ = ("_clocks", "lifetime_ms", "now_ms", "origin")

    def __init__(self, origin: Origin, now_ms: int, lifetime_ms: int) -> None:
        self.origin, self.now_ms, self.lifetime_ms = origin, now_ms, lifetime_ms
        self._clocks: tuple[int, int] | None = None

    # -- what a storage does -----------------------------------------------------------------------------------

    @abstractmethod
    def get(self, name: bytes, cut: int = 0) -> Stored | None:
        """Return what is stored under *name*; None also where it cannot be read.

        Of a session, cells that are no later than *cut* may be left out.
        """

    @abstractmethod
    def shows(self, name: bytes) -> bool | None:
        """Tell whether *name* is found by users; None: nothing is stored."""

    @abstractmethod
    def keep(self, name: bytes, stored: Stored) -> None:
        """Store something under *name*, in place of what was there."""

    @abstractmethod
    def erase(self, name: bytes) -> None:
        """Let nothing be stored under *name*."""

    @abstractmethod
    def names(self, first: bytes, *, listings: bool) -> Iterator[bytes]:
        """Yield the names from *first* on, of sessions or of entries of the index. Nothing is written meanwhile."""

    @abstractmethod
    def shown_names(self, first: bytes, *, listings: bool) -> Iterator[tuple[bytes, bool]]:
        """Yield the names from *first* on, each with whether users find it."""

    @abstractmethod
    def digests(self, bucket: int, *, listings: bool) -> Iterator[tuple[bytes, int]]:
        """Yield the names in a bucket, each with the digest of what is stored."""

    @abstractmethod
    def file(self, name: bytes, filed: int) -> None:
        """Note that *name* is to be looked at then, in milliseconds since the epoch."""

    @abstractmethod
    def unfile(self, name: bytes, filed: int) -> None:
        """Take the note back."""

    @abstractmethod
    def earliest(self) -> tuple[int, bytes] | None:
        """Return the note that is due first."""

    @abstractmethod
    def log(self, place: Stamp, name: bytes) -> None:
        """Note *name* at a place of its writer's log."""

    @abstractmethod
    def unlog(self, place: Stamp) -> None:
        """Take the note back."""

    @abstractmethod
    def logged(self, origin: Origin, after: int) -> Iterator[tuple[int, bytes]]:
        """Yield time and name of what stands in an origin's log *after* a time. Nothing is written meanwhile."""

    @abstractmethod
    def last(self, origin: Origin) -> int:
        """Return the last time in an origin's log; 0: it is empty."""

    @abstractmethod
    def note(self, key: bytes) -> bytes | None:
        """Return what was put under a key of the notes about the host itself."""

    @abstractmethod
    def put_note(self, key: bytes, value: bytes) -> None:
        """Put *value* there."""

    @abstractmethod
    def notes(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the notes whose keys begin with *prefix*, without it."""

    # -- what a storage may know a shorter way for ------------------------------------------------------------------

    def rewrite(self, key: bytes, record: Record, base: int) -> Stamp | None:
        """Update a session that has version *base* and keeps its keys; None: it is not that, and nothing is done."""
        return None

    def retime(self, key: bytes, accessed_ms: int, expires_ms: int, base: int) -> Stamp | None:
        """Touch a session that has version *base*; None: as in ``rewrite``."""
        return None

    def follow(self, key: bytes, delta: Replica, origin: Origin, cut: int, *, follows: bool) -> bool:
        """Store a *delta* that changes values and times of a session, and whose writer had seen all that is here.

        False: it is not that, and nothing is done. See ``replica.succeeds``.
        """
        return False

    def whole(self, name: bytes, cut: int = 0) -> Whole | None:
        """Return the session under *name* as it lies here; None: it has ended, or such copies travel as replicas.

        With a *cut* only one that was created later and not changed since.
        """
        return None

    def take(self, key: bytes, whole: Whole) -> bool:
        """Store a session as it lay on another host, where nothing is; False: it is not done that way."""
        return False

    # -- what follows from it ------------------------------------------------------------------------------------

    def put(
        self, name: bytes, before: Stored | None, entry: Entry, *, shown: bool = True, stamp: Stamp | None = None
    ) -> None:
        """Store *entry* in place of *before*, file it and move it in the logs. *stamp*: one write made it of that."""
        if stamp:
            self.move_written(name, before.entry if before else None, entry, stamp)
        else:
            self.move(name, before.entry if before else None, entry)
        filed = self.refile(name, before.filed if before else None, due(entry, shown))
        self.keep(name, Stored(entry, filed, shown))

    def refile(self, name: bytes, filed: int | None, end: int) -> int:
        """Return under which deadline *name* is filed from now on, as there is something to bury of it at *end*.

        A note of a deadline says when to look. A later deadline leaves it alone: looking then finds the entry alive.
        """
        if filed is not None:
            if filed <= end:
                return filed
            self.unfile(name, filed)
        self.file(name, end)
        return end

    def move_written(self, name: bytes, before: Entry | None, after: Entry, stamp: Stamp) -> None:
        """As ``move``, after a write here: then none but the writer's own place and that of the last touch can go."""
        if isinstance(before, Replica) and isinstance(after, Replica):
            (time, origin), mark = before.times.stamp, before.seen.get(stamp.origin)
            if time and not _stands(time, origin, after):
                self.unlog(before.times.stamp)
            if mark and (mark.time, stamp.origin) != (time, origin) and not _stands(mark.time, stamp.origin, after):
                self.unlog(Stamp(mark.time, stamp.origin))
        elif before:
            self._unlog_all(before)
        self.log(stamp, name)

    def move(self, name: bytes, before: Entry | None, after: Entry) -> None:
        """Move what is stored under *name* in the logs of its writers."""
        old = places_of(before) if before else _NOWHERE
        new = places_of(after)
        for place in new - old:
            self.log(place, name)
        for place in old - new:
            self.unlog(place)
            self.keep_end(place, new)

    def _unlog_all(self, entry: Entry) -> None:
        for place in places_of(entry):
            self.unlog(place)
            self.keep_end(place, ())

    def keep_end(self, gone: Stamp, standing: Iterable[Stamp]) -> None:
        """Remember an own place that goes, where none that is *standing* is a later one of the same name."""
        if gone.origin == self.origin and not any(place.origin == self.origin and place > gone for place in standing):
            self.raise_clock(gone.time, gone.time)

    def bury(self, name: bytes, stored: Stored) -> None:
        """Forget what is stored under *name*, but for its note of a deadline."""
        self._unlog_all(stored.entry)
        self.erase(name)

    def drop(self, name: bytes, stored: Stored) -> None:
        """Forget what is stored under *name*."""
        self.unfile(name, stored.filed)
        self.bury(name, stored)

    # -- the clock -----------------------------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        """Return the stamp of a write on this host: later than all that it knows, and never given before."""
        known, end = self._read_clocks()
        time = tick(max(known, end, self.last(self.origin)), self.now_ms)
        return Stamp(time, self.origin)

    def end(self) -> int:
        """Return where the own log ends, what has gone from there included."""
        return max(self._read_clocks()[1], self.last(self.origin))

    def raise_clock(self, time: int, end: int = 0) -> None:
        """Let stamps to come be later than *time*, and the own log end no earlier than *end*."""
        known, ended = self._read_clocks()
        clocks = max(known, time), max(ended, end)
        if clocks != (known, ended):
            self._clocks = clocks
            self.put_note(_CLOCK, _TWO_TIMES.pack(*clocks))

    def end_life(self) -> None:
        """Make the own log that of another host: it ends here, and what it has elsewhere is missing."""
        end, known = self.end(), self._read_clocks()[0]
        self.put_note(_PROGRESS + self.origin, _TWO_TIMES.pack(end, end))
        self.put_note(_CLOCK, _TWO_TIMES.pack(max(known, end), 0))

    def _read_clocks(self) -> tuple[int, int]:
        if self._clocks is None:
            self._clocks = _TWO_TIMES.unpack(self.note(_CLOCK) or _NO_TIMES)
        return self._clocks

    # -- the progress --------------------------------------------------------------------------------------------

    def progress(self, origin: Origin) -> Progress:
        """Return how far an origin's log is stored here."""
        return Progress(*_TWO_TIMES.unpack(self.note(_PROGRESS + origin) or _NO_TIMES))

    def all_progress(self) -> dict[Origin, Progress]:
        """Return that of all origins; for the own one, its end."""
        found = {origin: Progress(*_TWO_TIMES.unpack(value)) for origin, value in self.notes(_PROGRESS)}
        end = self.end()
        return {**found, self.origin: Progress(end, end)}

    def advance(self, origin: Origin, progress: Progress) -> None:
        """Note how far an origin's log is stored here, unless it is further already.

        For the own origin it says what others have of it, which this disk may have lost: no such stamp is given again.
        """
        if origin == self.origin:
            self.raise_clock(max(progress), max(progress))
            return
        before = self.progress(origin)
        after = Progress(max(before.cursor, progress.cursor), max(before.level, progress.level))
        if after != before:
            self.put_note(_PROGRESS + origin, _TWO_TIMES.pack(*after))


_NOWHERE: frozenset[Stamp] = frozenset()
_TWO_TIMES = struct.Struct(">QQ")
_NO_TIMES = bytes(_TWO_TIMES.size)


def _stands(time: int, origin: Origin, replica: Replica) -> bool:
    """Tell whether that is one of the places of *replica*."""
    mark = replica.seen.get(origin)
    return (mark is not None and mark.time == time) or replica.times.stamp == (time, origin)


def sweep(rows: Rows, until_ms: int, limit: int) -> int:
    """Bury what is over by *until_ms*, looking at *limit* deadlines; return how many were looked at."""
    looked = 0
    while looked < limit and (found := rows.earliest()) and found[0] <= until_ms:
        looked += 1
        rows.unfile(found[1], found[0])
        _look_at(rows, found[1], until_ms)
    return looked


def _look_at(rows: Rows, name: bytes, until_ms: int) -> None:
    stored = rows.get(name)
    if stored is None:
        rows.erase(name)  # it cannot be read, and nothing is known of its places
        return
    entry, shown = stored.entry, stored.shown
    if shown and isinstance(entry, Replica) and entry.retired and due(entry, shown) <= until_ms:
        shown = False  # its grace is over; that it was renewed is remembered
    if (later := due(entry, shown)) > until_ms:
        rows.file(name, later)
        rows.keep(name, Stored(entry, later, shown))
    else:
        rows.bury(name, stored)
