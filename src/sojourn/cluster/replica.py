"""Replica: a session as every host of the cluster keeps it, and how two copies of it become one.

A replica is an element of a lattice: ``merge`` is commutative, associative and idempotent, so that copies which have
seen the same writes are equal, in whatever order and however often they came (Shapiro, Preguiça, Baquero, Zawirski:
Conflict-free Replicated Data Types, 2011). What travels is a replica, too: one that holds just what changed since a
point in the writer's log (Almeida, Shoker, Baquero: Delta State Replicated Data Types, 2018). A value is a register in
which the later stamp wins; a removed key and an ended session are registers without a value, which no earlier write
can undo.

``seen`` says what a copy contains: of each origin's writes to this session all up to that time, and nothing later. It
is a version vector, and a browser's cookie holds one (Terry et al.: Session Guarantees, 1994). ``Mark.writes`` adds up
to the version that the core compares: copies that have seen the same are equal and have one version, and what changes
the values of a copy raises its version. A value that came without its mark would break this: an update by somebody who
has not read it would find the version unchanged, and remove it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeVar

from sojourn.cluster.clock import ORIGIN_BYTES, TIME_BYTES, ZERO, Origin, Stamp
from sojourn.core.record import Record

K = TypeVar("K", str, bytes)
V = TypeVar("V")
End = TypeVar("End", "Retired", "Deleted")


class Cell(NamedTuple):
    """The value of one key; None: the key was removed."""

    stamp: Stamp
    data: bytes | None

    def __repr__(self) -> str:
        kind = "removed" if self.data is None else f"{len(self.data)} bytes"
        return f"<Cell {kind} at {self.stamp.time} by {self.stamp.origin.hex()}>"


class Head(NamedTuple):
    """What the first write says and a later one may change. ``created_ms`` is milliseconds since the epoch."""

    stamp: Stamp = ZERO
    created_ms: int = 0
    principal: str | None = None
    cookie_age: int | None = None


class Times(NamedTuple):
    """The two times that a look moves; milliseconds since the epoch."""

    stamp: Stamp = ZERO
    accessed_ms: int = 0
    expires_ms: int = 0


class Mark(NamedTuple):
    """What one origin has written to a session: the time of its last write, and by how much it raised the version."""

    time: int = 0
    writes: int = 0


class Retired(NamedTuple):
    """The id was rotated away: until *expires_ms* it leads to its *successor*, if it names one."""

    stamp: Stamp
    expires_ms: int
    keep_ms: int
    """Until when the fact is remembered: the session could not live longer than that."""
    successor: bytes | None = None


class Deleted(NamedTuple):
    """The session was ended. *keep_ms* as in Retired."""

    stamp: Stamp
    keep_ms: int
    alone: bool = False
    """Whether its successor goes on: whoever ended it knew that it was renewed, and meant just that (``to_end``)."""


class Replica(NamedTuple):
    """One copy of a session, or what has changed of it."""

    cells: Mapping[str, Cell] = {}
    head: Head = Head()
    times: Times = Times()
    seen: Mapping[Origin, Mark] = {}
    retired: Retired | None = None
    deleted: Deleted | None = None
    forgotten: int = 0
    """Removals up to this hybrid time are no longer among the cells; see MOST_REMOVED."""

    def __repr__(self) -> str:
        kind = "deleted" if self.deleted else "retired" if self.retired else f"{len(self.cells)} keys"
        return f"<Replica version {self.version}: {kind}>"

    @property
    def has_ended(self) -> bool:
        """Whether this is a tombstone: nothing is left of the session, and no write brings it back."""
        return self.deleted is not None or self.retired is not None

    @property
    def version(self) -> int:
        """The version that the core compares: it grows with each write that is in this copy, whosever it was."""
        return sum([mark.writes for mark in self.seen.values()])

    @property
    def keep_ms(self) -> int:
        """Until when storage keeps this copy, in milliseconds since the epoch."""
        end = self.deleted or self.retired
        return end.keep_ms if end else self.times.expires_ms


MOST_REMOVED = 256
"""Removed keys that one copy remembers. Names that are used once, such as those of forms, would add up for ever."""


# -- the verbs: what a write on this host makes of the copy that is there -----------------------------------------


def created(record: Record, stamp: Stamp, keep_ms: int) -> Replica:
    """Return the first copy of *record*. *keep_ms* matters for a tombstone, see ``updated``."""
    return _written(Replica(), record, stamp, record.version, keep_ms)


def updated(stored: Replica, record: Record, stamp: Stamp, base: int, keep_ms: int) -> Replica:
    """Return *stored* after an Update that saw version *base*: the keys that differ get the *stamp*.

    *keep_ms* says how long a tombstone is kept, when the record is one.
    """
    return _written(stored, record, stamp, max(1, record.version - base), keep_ms)


def _written(stored: Replica, record: Record, stamp: Stamp, count: int, keep_ms: int) -> Replica:
    times = Times(stamp, _ms(record.accessed_at), _ms(record.expires_at))
    retired = Retired(stamp, times.expires_ms, keep_ms, record.successor) if record.retired else stored.retired
    cells = _cells(stored.cells, record.values, stamp)
    return _normal(
        cells,
        _head(stored.head, record, stamp),
        times,
        _seen(stored, stamp, count),
        retired,
        stored.deleted,
        _forgotten(cells, stored.forgotten),
    )


def _head(before: Head, record: Record, stamp: Stamp) -> Head:
    said = (_ms(record.created_at), record.principal, record.cookie_age)
    return before if before[1:] == said else Head(stamp, *said)


def _cells(cells: Mapping[str, Cell], values: Mapping[str, bytes], stamp: Stamp) -> dict[str, Cell]:
    after = dict(cells)
    for key, data in values.items():
        cell = cells.get(key)
        if cell is None or cell.data != data:
            after[key] = Cell(stamp, data)
    if len(after) > len(values):
        for key, cell in cells.items():
            if cell.data is not None and key not in values:
                after[key] = Cell(stamp, None)
    return after if len(after) == len(cells) else _sorted(after)


def _forgotten(cells: Mapping[str, Cell], before: int) -> int:
    """Return the time up to which removals are forgotten. Writers say it and nobody else: so all copies agree on it."""
    if len(cells) <= MOST_REMOVED:
        return before
    removed = sorted([cell.stamp.time for cell in cells.values() if cell.data is None])
    return max(before, *removed[:-MOST_REMOVED]) if len(removed) > MOST_REMOVED else before


def touched(stored: Replica, accessed_ms: int, expires_ms: int, stamp: Stamp) -> Replica:
    """Return *stored* with its times moved. It is no write: ``seen`` and the version stay."""
    return stored._replace(times=Times(stamp, accessed_ms, expires_ms))


def ended(stored: Replica, stamp: Stamp, keep_ms: int, *, alone: bool = False) -> Replica:
    """Return *stored* as a tombstone that is kept until *keep_ms*. ``Replica()`` is *stored* where nothing is."""
    return stored._replace(cells={}, seen=_seen(stored, stamp, 1), deleted=Deleted(stamp, keep_ms, alone), forgotten=0)


def _seen(stored: Replica, stamp: Stamp, count: int) -> dict[Origin, Mark]:
    before = stored.seen.get(stamp.origin)
    if before:
        return {**stored.seen, stamp.origin: Mark(stamp.time, before.writes + count)}
    return _sorted({**stored.seen, stamp.origin: Mark(stamp.time, count)})


def _ms(seconds: float) -> int:
    milliseconds = round(seconds * 1000)
    return milliseconds if milliseconds > 0 else 0


# -- merging -------------------------------------------------------------------------------------------------------


def merge(one: Replica, other: Replica) -> Replica:
    """Return what contains both. Each is all of a copy; for a part of one see ``received``."""
    return _normal(
        _union(one, other),
        one.head if one.head.stamp >= other.head.stamp else other.head,
        one.times if one.times.stamp >= other.times.stamp else other.times,
        _marks(one.seen, other.seen),
        _later(one.retired, other.retired),
        _end_of(one.deleted, other.deleted),
        max(one.forgotten, other.forgotten),
    )


def _union(one: Replica, other: Replica) -> dict[str, Cell]:
    cells = dict(one.cells)
    for key, cell in other.cells.items():
        mine = cells.get(key)
        if mine.stamp < cell.stamp if mine else not _forgot(one, cell.stamp):
            cells[key] = cell
    if len(cells) > len(one.cells):
        cells = _sorted(cells)
    if other.forgotten:
        for key, cell in one.cells.items():
            if key not in other.cells and _forgot(other, cell.stamp):
                del cells[key]
    return cells


def _forgot(replica: Replica, stamp: Stamp) -> bool:
    """Tell whether a cell that *replica* lacks was in it: then it was removed, and the removal was forgotten.

    Source: Bieniusa et al.: An Optimized Conflict-free Replicated Set (2012).
    """
    return stamp.time <= replica.forgotten and _contains(replica, stamp)


def _marks(one: Mapping[Origin, Mark], other: Mapping[Origin, Mark]) -> dict[Origin, Mark]:
    marks = dict(one)
    for origin, mark in other.items():
        mine = marks.get(origin)
        if mine is None or mine < mark:
            marks[origin] = mark
    return marks if len(marks) == len(one) else _sorted(marks)


def _later(one: End | None, other: End | None) -> End | None:
    if one is None or other is None:
        return one or other
    return one if one.stamp >= other.stamp else other


def _end_of(one: Deleted | None, other: Deleted | None) -> Deleted | None:
    """Return the later of two ends; a logout among them ends the successor, whatever the other one meant."""
    later = _later(one, other)
    return later._replace(alone=one.alone and other.alone) if later and one and other else later


def _normal(
    cells: dict[str, Cell],
    head: Head,
    times: Times,
    seen: dict[Origin, Mark],
    retired: Retired | None,
    deleted: Deleted | None,
    forgotten: int,
) -> Replica:
    """Leave an ended session no values, and any other no removed keys that are forgotten."""
    if retired or deleted:
        return Replica({}, head, times, seen, retired, deleted)
    return Replica(_remembered(cells, forgotten) if forgotten else cells, head, times, seen, None, None, forgotten)


def _remembered(cells: Mapping[str, Cell], forgotten: int) -> dict[str, Cell]:
    return {key: cell for key, cell in cells.items() if cell.data is not None or cell.stamp.time > forgotten}


def _sorted(mapping: Mapping[K, V]) -> dict[K, V]:
    return dict(sorted(mapping.items()))


# -- what travels --------------------------------------------------------------------------------------------------


def positions(replica: Replica) -> frozenset[Stamp]:
    """Return where this copy stands in the logs of its writers: one place each, and one of the last touch."""
    places = [Stamp(mark.time, origin) for origin, mark in replica.seen.items()]
    if replica.times.stamp != ZERO:
        places.append(replica.times.stamp)
    return frozenset(places)


def since(replica: Replica, cut: int) -> Replica:
    """Return what of *replica* is later than *cut*, with the whole of its ``seen``; *replica* itself where that is all.

    Somebody who has everything that an origin wrote up to *cut* has everything of that origin's with this: what was
    overwritten later has a later stamp, whosever, and is in here. An ended session goes as a whole: the end that took
    its values away may have an earlier stamp than they had.
    """
    if not cut or replica.has_ended or replica.forgotten > cut:
        return replica
    cells = {key: cell for key, cell in replica.cells.items() if cell.stamp.time > cut}
    if len(cells) == len(replica.cells) and replica.head.stamp.time > cut < replica.times.stamp.time:
        return replica
    return Replica(
        cells,
        replica.head if replica.head.stamp.time > cut else Head(),
        replica.times if replica.times.stamp.time > cut else Times(),
        replica.seen,
        forgotten=replica.forgotten,
    )


def received(stored: Replica, delta: Replica, origin: Origin, cut: int, follows: bool = True) -> Replica | None:
    """Return *stored* after a *delta* that ``since`` made, with that *cut*, of a copy in the log of *origin*.

    None: the delta shows more of somebody's writes than can be told to be all of them, and the whole copy must be asked
    for. A single write that is missing is later than *cut*, so it is in the delta; of two the first may not be. For the
    origin's own writes the caller knows: *follows* says that *stored* has them up to *cut*, as where each host holds
    every session. Where sessions move between hosts a log may have been followed before this one was held.
    """
    marks = {}
    for writer, mark in delta.seen.items():
        mine = stored.seen.get(writer, _NO_MARK)
        if mark.time <= max(mine.time, cut):
            continue
        if _may_lack(mine, mark, cut, follows and writer == origin):
            return None
        marks[writer] = mark
    # That a key is not in a delta says nothing, so what it has forgotten does not hold while they are merged.
    merged = merge(stored, delta._replace(seen=marks, forgotten=0))
    if delta.forgotten <= merged.forgotten or merged.has_ended:
        return merged
    return merged._replace(cells=_remembered(merged.cells, delta.forgotten), forgotten=delta.forgotten)


_NO_MARK = Mark()


def succeeds(seen: Mapping[Origin, Mark], delta: Replica, origin: Origin, cut: int, follows: bool = True) -> bool:
    """Tell whether a *delta* fits on a copy that contains what *seen* says, and whoever wrote it had seen all of that.

    Then the copy contains afterwards what the delta says, the cells of the delta are what has changed, and nothing
    conflicts with them. Otherwise see ``received``, with which this agrees.
    """
    marks = delta.seen
    if not seen.keys() <= marks.keys():
        return False
    for writer, mark in marks.items():
        mine = seen.get(writer, _NO_MARK)
        if mark != mine and (
            mark < mine or mark.time <= cut or _may_lack(mine, mark, cut, follows and writer == origin)
        ):
            return False
    return True


def _may_lack(mine: Mark, mark: Mark, cut: int, follows: bool) -> bool:
    """Tell whether a delta with that *cut* may lack a write that lies between two marks of one writer."""
    return mine.time < cut and mark.writes - mine.writes > 1 and not follows


def conflicts(stored: Replica, delta: Replica) -> tuple[str, ...]:
    """Return the keys on which a write of one side is lost to the other's, neither writer having seen the other's.

    Both gave a key different values; or one renewed the session while the other went on writing to the old id. What a
    logout or a login ends is silent: there nothing is to be kept. *delta* may be all of a copy.
    """
    if stored.deleted or delta.deleted:
        return ()
    if stored.retired or delta.retired:
        return (*_left_behind(stored, delta), *_left_behind(delta, stored))
    return tuple(
        key
        for key, cell in delta.cells.items()
        if (mine := stored.cells.get(key))
        and mine.data != cell.data
        and not _contains(delta, mine.stamp)
        and not _contains(stored, cell.stamp)
    )


def _left_behind(one: Replica, other: Replica) -> tuple[str, ...]:
    """Return the keys that *one* holds and whose writes a renewal in *other* did not take along."""
    if not (other.retired and other.retired.successor):
        return ()
    return tuple(key for key, cell in one.cells.items() if not _contains(other, cell.stamp))


def _contains(replica: Replica, stamp: Stamp) -> bool:
    mark = replica.seen.get(stamp.origin)
    return mark is not None and mark.time >= stamp.time


def to_end(*copies: Replica) -> frozenset[bytes]:
    """Return the keys whose sessions end with that of which these are *copies*: it was renewed, and ended by a logout.

    Otherwise a logout on one host would end an id, and a renewal on another would let the session go on under the next
    one. Every host that stores such a copy ends the successor: nobody depends on who was the first to merge. It must be
    ended (``ended``) also where nothing is stored under its key yet, and so must, in turn, the successors of those that
    were renewed again.
    """
    if all(copy.deleted.alone for copy in copies if copy.deleted):
        return frozenset()
    return frozenset(copy.retired.successor for copy in copies if copy.retired and copy.retired.successor)


# -- as the core sees it -------------------------------------------------------------------------------------------


def to_record(replica: Replica) -> Record:
    """Return the record that this copy is. Not for a deleted one."""
    retired = replica.retired
    return Record(
        {key: cell.data for key, cell in replica.cells.items() if cell.data is not None},
        replica.head.created_ms / 1000,
        replica.times.accessed_ms / 1000,
        (retired.expires_ms if retired else replica.times.expires_ms) / 1000,
        replica.version,
        replica.head.principal,
        replica.head.cookie_age,
        retired is not None,
        retired.successor if retired else None,
        floor_of(replica),
    )


# -- the floor: what a browser has seen ----------------------------------------------------------------------------


MOST_MARKS = 64  # origins in one floor; a cookie with more was not made here
_ENTRY = ORIGIN_BYTES + TIME_BYTES


def floor_of(replica: Replica) -> bytes:
    """Return what a browser that was shown this copy has seen: twelve bytes a writer, of at most 64 of them."""
    seen: Mapping[Origin, Mark] = replica.seen
    if len(seen) > MOST_MARKS:
        newest = sorted(seen, key=lambda origin: seen[origin].time)[-MOST_MARKS:]
        seen = {origin: seen[origin] for origin in sorted(newest)}
    return b"".join([origin + mark.time.to_bytes(TIME_BYTES, "big") for origin, mark in seen.items()])


def missing(floor: bytes, replica: Replica | None) -> dict[Origin, int]:
    """Return what *floor* holds and *replica* lacks: the time of the write by its origin. Empty for no floor at all.

    A browser can send any bytes: what is no floor asks for nothing. A session that was ended lacks nothing, since no
    write can change that.
    """
    if replica and (replica.deleted or floor == floor_of(replica)):
        return {}
    if len(floor) % _ENTRY or len(floor) > MOST_MARKS * _ENTRY:
        return {}
    entries = (floor[at : at + _ENTRY] for at in range(0, len(floor), _ENTRY))
    wanted = {entry[:ORIGIN_BYTES]: int.from_bytes(entry[ORIGIN_BYTES:], "big") for entry in entries}
    seen: Mapping[Origin, Mark] = replica.seen if replica else {}
    return {origin: time for origin, time in wanted.items() if seen.get(origin, _NO_MARK).time < time}


def with_marks(record: Record | None) -> Replica | None:
    """Return as much of a replica as tells what *record*, as a store loads it, contains: what its ``seen`` says."""
    if record is None:
        return None
    entries = (record.seen[at : at + _ENTRY] for at in range(0, len(record.seen), _ENTRY))
    return Replica(seen={entry[:ORIGIN_BYTES]: Mark(int.from_bytes(entry[ORIGIN_BYTES:], "big")) for entry in entries})
