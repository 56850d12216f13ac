"""Replication as it is often built: each mutant breaks one rule, and the laws must reject it."""

from __future__ import annotations

from collections.abc import Mapping

from tests.cluster.hosts import Rules

from sojourn.cluster import replica
from sojourn.cluster.clock import Origin, Stamp
from sojourn.cluster.replica import Cell, Head, Mark, Replica, Times
from sojourn.core.record import Record


class MergesWholeRecords(Rules):
    """The copy with the later write wins, with all its values."""

    @staticmethod
    def merge(one: Replica, other: Replica) -> Replica:
        last, first = (one, other) if one.times.stamp >= other.times.stamp else (other, one)
        return replica.merge(first, last)._replace(cells=last.cells)


class BelievesTheWallClock(Rules):
    """A write is stamped with the time of day, whatever stamps the host has seen."""

    @staticmethod
    def tick(last: int, now_ms: int) -> int:
        BelievesTheWallClock.drawn += 1  # so that no two stamps are equal, at least
        return (now_ms << 16) + BelievesTheWallClock.drawn

    drawn = 0


class KeepsNoRemovedKeys(Rules):
    """A removed key is just not there any more."""

    @staticmethod
    def updated(stored: Replica, record: Record, stamp: Stamp, base: int, keep_ms: int) -> Replica:
        after = replica.updated(stored, record, stamp, base, keep_ms)
        return after._replace(cells={key: cell for key, cell in after.cells.items() if cell.data is not None})


class KeepsNoTombstones(Rules):
    """An ended session is just not there any more."""

    keeps_tombstones = False


class CutsAtTheCursor(Rules):
    """A delta holds what changed since the last position that was read."""

    cuts_at_the_level = False


class BelievesOthersMarks(Rules):
    """A delta's marks are taken over, whatever may be missing in between."""

    @staticmethod
    def received(stored: Replica, delta: Replica, origin: Origin, cut: int, follows: bool = True) -> Replica | None:
        return replica.merge(stored, delta)


class BelievesNoMarksButTheOrigins(Rules):
    """What a delta shows of third hosts is merged, and their marks are left for their own logs to bring."""

    @staticmethod
    def received(stored: Replica, delta: Replica, origin: Origin, cut: int, follows: bool = True) -> Replica | None:
        mark = delta.seen.get(origin)
        seen: Mapping[Origin, Mark] = {origin: mark} if mark else {}
        return replica.merge(stored, delta._replace(seen=seen))


class CutsTombstones(Rules):
    """A delta of an ended session leaves out an end that is older than the cut, like any other register."""

    @staticmethod
    def since(whole: Replica, cut: int) -> Replica:
        if not (cut and whole.has_ended):
            return replica.since(whole, cut)
        return Replica(
            {},
            whole.head if whole.head.stamp.time > cut else Head(),
            whole.times if whole.times.stamp.time > cut else Times(),
            whole.seen,
            whole.retired if whole.retired and whole.retired.stamp.time > cut else None,
            whole.deleted if whole.deleted and whole.deleted.stamp.time > cut else None,
        )


class GoesOnBeforeTheWantedHaveCome(Rules):
    """The level moves with a piece although some of its sessions were left out."""

    waits_for_wanted = False


class BelievesForeignLevels(Rules):
    """Who has read another's copy of a log to its end believes to have all that was ever in that log."""

    caps_foreign_levels = False


class MixesCursors(Rules):
    """A cursor into somebody's copy of a log is used to go on in the log itself."""

    keeps_cursors_apart = False


class ForgetsRemovalsAtOnce(Rules):
    """Removed keys are dropped, and the copy does not say so."""

    @staticmethod
    def merge(one: Replica, other: Replica) -> Replica:
        merged = replica.merge(one, other)
        cells: dict[str, Cell] = {key: cell for key, cell in merged.cells.items() if cell.data is not None}
        return merged._replace(cells=cells)


MUTANTS: tuple[type[Rules], ...] = (
    MergesWholeRecords,
    BelievesTheWallClock,
    KeepsNoRemovedKeys,
    KeepsNoTombstones,
    CutsAtTheCursor,
    BelievesOthersMarks,
    BelievesNoMarksButTheOrigins,
    CutsTombstones,
    GoesOnBeforeTheWantedHaveCome,
    BelievesForeignLevels,
    MixesCursors,
    ForgetsRemovalsAtOnce,
)
