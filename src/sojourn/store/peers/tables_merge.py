"""Logs of hosts: reading pieces of them out of the storage, and storing what came from other hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sojourn.cluster.clock import Origin
from sojourn.cluster.replica import Replica, conflicts, merge, positions, received, since, to_end
from sojourn.cluster.tables import Clash, Holds
from sojourn.cluster.wire import Change, Changes, Listing, Progress, weight
from sojourn.store.peers.checking import Checked
from sojourn.store.peers.packing import Stored, places_of
from sojourn.store.peers.tables_rows import Rows
from sojourn.store.peers.tables_verbs import end_all
from sojourn.store.peers.wholes import Whole

MOST = 1 << 20  # bytes of a piece, about
_PASSED = 16  # names that one piece passes for each that it may hold: a reader may hold few of them


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
            size += weight(change)
    end = rows.end() if origin == rows.origin else max(rows.last(origin), rows.progress(origin).level)
    end = max(end, cut)
    return Changes(origin, cut, Progress(end, end), tuple(changes), cursor)


def _change(rows: Rows, name: bytes, origin: Origin, cursor: int, time: int, cut: int) -> Change | None:
    """Return what stands at *time*; None where an earlier place of the same piece gives it, or it cannot be read."""
    if whole := rows.whole(name, cut):
        return Change(name, time, True, packed=whole.packed) if _is_first(time, whole.times(origin), cursor) else None
    stored = rows.get(name, cut)
    if stored is None:
        return None
    entry = stored.entry
    if isinstance(entry, Listing):
        return Change(name, time, True, None, entry)
    if not _is_first(time, (place.time for place in positions(entry) if place.origin == origin), cursor):
        return None
    delta = since(entry, cut)
    return Change(name, time, stored.whole and delta is entry, delta)


def _is_first(time: int, times: Iterable[int], cursor: int) -> bool:
    """Tell whether *time* is the first of the *times* that a piece behind *cursor* comes to.

    It is none of them where it was left over from a copy that could not be read, and was replaced.
    """
    return time == min((one for one in times if one > cursor), default=None)


def copies(rows: Rows, names: Sequence[bytes]) -> list[Change]:
    """Return complete copies of the *names* that are here."""
    found = (_copy(rows, name) for name in names)
    return [change for change in found if change]


def _copy(rows: Rows, name: bytes) -> Change | None:
    if whole := rows.whole(name):
        return Change(name, whole.latest, True, packed=whole.packed)
    stored = rows.get(name)
    if stored is None:
        return None
    entry = stored.entry
    time = max(place.time for place in places_of(entry))
    return Change(name, time, True, None, entry) if isinstance(entry, Listing) else Change(name, time, True, entry)


# -- storing -----------------------------------------------------------------------------------------------------


class Storing:
    """Stores changes of one piece of *origin*'s log, or complete copies, and gathers what comes of them."""

    def __init__(self, checked: Checked, origin: Origin = b"", cut: int = 0, *, follows: bool = True) -> None:
        self.checked, self.origin, self.cut, self.follows = checked, origin, cut, follows
        self.wanted: list[bytes] = []
        self.clashes: list[Clash] = []

    def store(self, rows: Rows, changes: Sequence[Change]) -> None:
        """Store *changes* in one transaction."""
        rows.raise_clock(self.checked.latest)
        for name, _, complete, replica, listing, packed in changes:
            if packed:
                self._store_whole(rows, name, self.checked.wholes[name])
            elif listing:
                _store_listing(rows, name, rows.get(name), listing)
            elif replica and (complete or not rows.follow(name, replica, self.origin, self.cut, follows=self.follows)):
                self._store(rows, name, rows.get(name), replica, complete=complete)

    def _store_whole(self, rows: Rows, key: bytes, whole: Whole | None) -> None:
        """Store a complete copy: as it came, where nothing is. None: it came damaged."""
        stored = rows.get(key)
        if whole and (stored or not rows.take(key, whole)) and (came := whole.opened(key)):
            self._store(rows, key, stored, came, complete=True)

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
            end_all(rows, to_end(mine, came), merged.keep_ms)

    def _begin(self, rows: Rows, key: bytes, came: Replica, *, complete: bool) -> None:
        if not complete:
            self.wanted.append(key)
        elif came.keep_ms > rows.now_ms:
            rows.put(key, None, came, shown=not came.deleted)
            end_all(rows, to_end(came), came.keep_ms)

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
