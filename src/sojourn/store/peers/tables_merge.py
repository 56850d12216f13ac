"""Logs of hosts: reading pieces of them out of the storage, and storing what came from other hosts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sojourn.cluster.clock import ORIGIN_BYTES, ZERO, Origin, milliseconds
from sojourn.cluster.replica import Replica, conflicts, merge, received, since, to_end
from sojourn.cluster.tables import Clash, Holds
from sojourn.cluster.wire import Change, Changes, Listing, Progress
from sojourn.store.peers.packing import Entry, Stored, places_of
from sojourn.store.peers.tables_rows import Rows
from sojourn.store.peers.tables_verbs import end_all

MOST = 1 << 20  # bytes of a piece, about
_FIXED = 128  # bytes of a change besides its values, about
_PASSED = 16  # names that one piece passes for each that it may hold: a reader may hold few of them
AHEAD = 24 * 3600 * 1000  # milliseconds that another host's clock may be ahead
_LARGEST = 1 << 63  # times, versions: such numbers do not fit into the storage
_KEY = 32


# -- reading -----------------------------------------------------------------------------------------------------


def piece(rows: Rows, origin: Origin, cursor: int, cut: int, limit: int, holds: Holds | None) -> Changes:
    """Return what stands in an origin's log after *cursor*; see ``Tables.log``.

    A session that stands at two places of the piece is given at the first. The second may go before the next piece is
    read, as a touch does that another host's touch overtakes; who had waited for it would have passed the first in
    vain.
    """
    changes: list[Change] = []
    size, at = 0, cursor
    for passed, (time, name) in enumerate(rows.logged(origin, cursor)):
        if len(changes) >= limit or size >= MOST or passed >= _PASSED * limit:
            return Changes(origin, cut, Progress(at, cut), tuple(changes), cursor)
        at = time
        if (holds is None or holds(name)) and (change := _change(rows, name, origin, cursor, time, cut)):
            changes.append(change)
            size += size_of(change)
    end = rows.end() if origin == rows.origin else max(rows.last(origin), rows.progress(origin).level)
    end = max(end, cut)
    return Changes(origin, cut, Progress(end, end), tuple(changes), cursor)


def _change(rows: Rows, name: bytes, origin: Origin, cursor: int, time: int, cut: int) -> Change | None:
    stored = rows.get(name, cut)
    if stored is None:
        return None  # it cannot be read, of which the log says more
    entry = stored.entry
    if isinstance(entry, Listing):
        return Change(name, time, True, None, entry)
    mark, touch = entry.seen.get(origin), entry.times.stamp
    places = (mark.time if mark else 0, touch.time if touch.origin == origin else 0)
    if time != min(place for place in places if place > cursor):
        return None  # given already, as of the same moment
    delta = since(entry, cut)
    return Change(name, time, stored.whole and delta is entry, delta)


def size_of(change: Change) -> int:
    """Return about how many bytes *change* takes on its way."""
    cells = change.replica.cells if change.replica else {}
    return _FIXED + sum(len(key) + len(cell.data or b"") + 32 for key, cell in cells.items())


def copies(rows: Rows, names: Sequence[bytes]) -> list[Change]:
    """Return complete copies of the *names* that are here."""
    found = ((name, rows.get(name)) for name in names)
    return [_copy(name, stored.entry) for name, stored in found if stored]


def _copy(name: bytes, entry: Entry) -> Change:
    time = max(place.time for place in places_of(entry))
    return Change(name, time, True, None, entry) if isinstance(entry, Listing) else Change(name, time, True, entry)


# -- storing -----------------------------------------------------------------------------------------------------


class Storing:
    """Stores changes of one piece of *origin*'s log, or complete copies, and gathers what comes of them.

    *latest* is the latest time in all of them.
    """

    def __init__(self, latest: int, origin: Origin = b"", cut: int = 0, *, follows: bool = True) -> None:
        self.latest, self.origin, self.cut, self.follows = latest, origin, cut, follows
        self.wanted: list[bytes] = []
        self.clashes: list[Clash] = []

    def store(self, rows: Rows, changes: Sequence[Change]) -> None:
        """Store *changes* in one transaction."""
        rows.raise_clock(self.latest)
        for name, _, complete, replica, listing in changes:
            if listing:
                _store_listing(rows, name, rows.get(name), listing)
            elif replica and (complete or not rows.follow(name, replica, self.origin, self.cut, follows=self.follows)):
                self._store(rows, name, rows.get(name), replica, complete=complete)

    def _store(self, rows: Rows, key: bytes, stored: Stored | None, came: Replica, *, complete: bool) -> None:
        if stored is None:
            self._begin(rows, key, came, complete=complete)
            return
        mine = stored.entry
        assert isinstance(mine, Replica)
        merged = merge(mine, came) if complete else received(mine, came, self.origin, self.cut, self.follows)
        if merged is None:
            self.wanted.append(key)
        elif merged != mine:
            if keys := conflicts(mine, came):
                self.clashes.append(Clash(key, keys))
            self._put(rows, key, stored, merged)
            if (merged.retired, merged.deleted) not in ((mine.retired, mine.deleted), (came.retired, came.deleted)):
                # Where one side had both it has ended what took over, or has deleted a tombstone and meant just that.
                end_all(rows, to_end(mine, came), merged.keep_ms)

    def _begin(self, rows: Rows, key: bytes, came: Replica, *, complete: bool) -> None:
        if not complete:
            self.wanted.append(key)
        elif came.keep_ms > rows.now_ms:
            rows.put(key, None, came, shown=not came.deleted)

    def _put(self, rows: Rows, key: bytes, stored: Stored, merged: Replica) -> None:
        """Store what two copies became. A renewed session whose grace is over stays hidden, unless that was moved."""
        before = stored.entry
        assert isinstance(before, Replica)
        moved = merged.retired != before.retired
        rows.put(key, stored, merged, shown=not merged.deleted and (stored.shown or moved))


def _store_listing(rows: Rows, name: bytes, stored: Stored | None, came: Listing) -> None:
    if stored is None:
        if came.until_ms > rows.now_ms:
            rows.put(name, None, came, shown=came.listed)
    elif isinstance(stored.entry, Listing) and stored.entry[:2] < came[:2]:
        rows.put(name, stored, came, shown=came.listed)


# -- what no host of this protocol says ------------------------------------------------------------------------------


def check(changes: Collection[Change], now_ms: int) -> int:
    """Return the latest time in *changes*.

    Raises ValueError for what cannot be stored, or is ahead of the wall clock by more than a day.
    """
    latest = 0
    for change in changes:
        listing, replica = change.listing, change.replica
        if len(change.name) != (2 * _KEY if listing else _KEY):
            raise ValueError("a change under a name that cannot be")
        if listing:
            latest = max(latest, _check_listing(listing))
        elif replica:
            latest = max(latest, _check_replica(replica, complete=change.complete))
        else:
            raise ValueError("a change of nothing, which cannot be")
    if milliseconds(latest) > now_ms + AHEAD:
        raise ValueError(
            "a stamp more than a day ahead of this host's clock: set the clocks of both hosts right, and if theirs was "
            "ahead when it wrote, empty its directory: what it had stamped stays ahead"
        )
    return latest


def check_progress(progress: Progress) -> None:
    """Raise ValueError for what is no place in a log."""
    if not (0 <= min(progress) <= max(progress) < _LARGEST):
        raise ValueError("a progress that cannot be")


def _check_listing(listing: Listing) -> int:
    """Return its time."""
    if not (len(listing.origin) == ORIGIN_BYTES and 0 < listing.time < _LARGEST and 0 <= listing.until_ms < _LARGEST):
        raise ValueError("an entry of the index that cannot be")
    return listing.time


def _check_replica(replica: Replica, *, complete: bool) -> int:
    """Return the latest time of a write or a touch in *replica*."""
    cells, head, (touch, accessed, expires), seen, retired, deleted, _ = replica
    times, version = [touch.time], 0
    fits = touch == ZERO or len(touch.origin) == ORIGIN_BYTES
    for origin, (time, writes) in seen.items():
        fits = fits and writes >= 0 and len(origin) == ORIGIN_BYTES
        times.append(time)
        version += writes
    for (time, origin), _ in cells.values():
        fits = fits and origin in seen and 0 <= time <= seen[origin].time
    numbers = [*times, version, head.created_ms, accessed, expires]
    for end in (retired, deleted):
        numbers += (end.keep_ms, end.stamp.time) if end else ()
    if retired:
        numbers.append(retired.expires_ms)
        fits = fits and len(retired.successor or _NO_KEY) == _KEY
    if not fits or min(numbers) < 0 or max(numbers) >= _LARGEST or (complete and not seen):
        raise ValueError("a session that cannot be")
    return max(times)


_NO_KEY = bytes(_KEY)
