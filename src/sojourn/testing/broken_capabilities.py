"""Stores that each break one promise of a capability. They prove that the capability contract can fail.

``BROKEN_CAPABILITIES`` says of each which stories must reject it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sojourn.core.capability import Finding, Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store import frame
from sojourn.store.memory import MemoryStore

GAP = 0.001  # seconds between a look and an act, as a network makes them

# -- many records ----------------------------------------------------------------------------------------------


class LoadsManyInItsOwnOrder(MemoryStore):
    """Answers as ``select … where key in (…)`` does."""

    def load_many(self, keys: Sequence[bytes]) -> Records:
        return super().load_many(sorted(keys))


class LoadsManyLeavesOutTheMissing(MemoryStore):
    """Answers with those that it found, and nobody knows whose they are."""

    def load_many(self, keys: Sequence[bytes]) -> Records:
        return [record for record in super().load_many(keys) if record]


class LoadsManyFailsOnDamage(MemoryStore):
    """One damaged record hides all others."""

    def load_many(self, keys: Sequence[bytes]) -> Records:
        records = super().load_many(keys)
        if any(record is None and key in self.frames for key, record in zip(keys, records, strict=True)):
            raise ValueError("a record cannot be read")
        return records


class LoadsManyTouches(MemoryStore):
    """An administrator who looks at sessions keeps them alive."""

    def load_many(self, keys: Sequence[bytes]) -> Records:
        records = super().load_many(keys)
        for key, record in zip(keys, records, strict=True):
            if record:
                self.touch(key, record.accessed_at + 1, record.expires_at + 1, record.version)
        return records


class DeletesManyCountsWhatWasAsked(MemoryStore):
    """Says of every key that it was there."""

    def delete_many(self, keys: Sequence[bytes]) -> int:
        super().delete_many(keys)
        return len(keys)


class DeletesManyStopsAtTheMissing(MemoryStore):
    """Ends where a key is not there, and leaves the rest logged in."""

    def delete_many(self, keys: Sequence[bytes]) -> int:
        gone = [place for place, key in enumerate(keys) if key not in self.frames]
        return super().delete_many(keys[: min(gone, default=len(keys))])


class DeletesManyOnlyAtVersionOne(MemoryStore):
    """Leaves whatever was changed since it began."""

    def delete_many(self, keys: Sequence[bytes]) -> int:
        return sum(self.delete(key, 1) is Written.DONE for key in keys)


class DeletesManyLeavesEmptyRecords(MemoryStore):
    """Writes ``{}`` over the records, whose ids stay alive."""

    def delete_many(self, keys: Sequence[bytes]) -> int:
        for key in keys:
            if record := self.load(key):
                self.update(key, record._replace(values={}, principal=None), record.version)
        return sum(key in self.frames for key in keys)


class DeletesManyCountsFirst(MemoryStore):
    """Counts, and deletes later: two callers count the same records."""

    def delete_many(self, keys: Sequence[bytes]) -> int:
        found = sum(key in self.frames for key in keys)
        time.sleep(GAP)
        super().delete_many(keys)
        return found


# -- the index and the scan ------------------------------------------------------------------------------------


class FindsByHalfTheTag(MemoryStore):
    """Keeps tags in a column that is too short for them: one principal's sessions are shown to another."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        super().enlist(tag[:16], key, now, until)

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return super().find(tag[:16], cursor, limit)


class DelistsOneOfTwo(MemoryStore):
    """Keeps a list, to which whoever enlists twice is added twice."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        self.twice = key in self.index.get(tag, ())
        super().enlist(tag, key, now, until)

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        if not self.twice:
            super().delist(tag, keys)


class DelistFailsOnTheUnknown(MemoryStore):
    """Takes a key that is not there for an error."""

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        for key in keys:
            del self.index[tag][key]


class DelistForgetsThePrincipal(MemoryStore):
    """Takes out all that stands under the tag."""

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        self.index.pop(tag, None)


class FindsOnePageOnly(MemoryStore):
    """Beyond the first page, sessions are never found and so never revoked."""

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return Page(super().find(tag, cursor, limit).keys)

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        return Page(super().scan(cursor, limit).keys)


class FindsAllAtOnce(MemoryStore):
    """Pays no heed to the limit: one principal, or one scan, keeps a server busy for long."""

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return super().find(tag, cursor, 1_000_000)

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        return super().scan(cursor, 1_000_000)


class CursorsAreNumbers(MemoryStore):
    """``offset`` and ``limit``: whatever is deleted in front moves the rest past the cursor."""

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return self._slice(self.index.get(tag, ()), cursor, limit)

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        return self._slice(self.frames, cursor, limit)

    def _slice(self, keys: Iterable[bytes], cursor: bytes | None, limit: int) -> Page:
        first = int(cursor or b"0")
        page = tuple(sorted(keys)[first : first + limit])
        return Page(page, b"%d" % (first + limit) if len(page) == limit else None)


class ForgetsWithTheFirstEnd(MemoryStore):
    """Lets the whole index end with the entry that ends first."""

    def _drop(self, name: bytes) -> None:
        if len(name) == 64:
            self.index.pop(name[:32], None)
        super()._drop(name)


class NeverForgets(MemoryStore):
    """Keeps index entries and locks for ever."""

    def _file(self, name: bytes, deadline: int) -> None:
        if len(name) == 32:
            super()._file(name, deadline)


class KeepsTheFirstEnd(MemoryStore):
    """Whoever is enlisted stays as it was: a session that lives on is not found any more."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        if key not in self.index.get(tag, ()):
            super().enlist(tag, key, now, until)


class EnlistCreates(MemoryStore):
    """Puts a record where none is, which is then nobody's to create."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        super().enlist(tag, key, now, until)
        self.create(key, Record({}, now, now, until))


class EnlistsNeedsARecord(MemoryStore):
    """Notes only sessions that are there already: one whose creator dies in between is found by nobody."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        if key in self.frames:
            super().enlist(tag, key, now, until)


class EnlistReadsAndWritesBack(MemoryStore):
    """Keeps a principal's keys in one value: of two parallel logins one is lost."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        listed = dict(self.index.get(tag, ()))
        time.sleep(GAP)
        self.index[tag] = {**listed, key: frame.to_ms(until)}


class ScansWhateverHasAKey(MemoryStore):
    """Takes locks for sessions."""

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        page = super().scan(cursor, limit)
        return page if page.cursor else Page((*page.keys, *self.locks))


class ScanTouches(MemoryStore):
    """Whoever counts the sessions keeps them alive."""

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        page = super().scan(cursor, limit)
        for key in page.keys:
            if record := self.load(key):
                self.touch(key, record.accessed_at + 1, record.expires_at + 1, record.version)
        return page


# -- the sweep -------------------------------------------------------------------------------------------------


class SweepsWithoutALimit(MemoryStore):
    """Buries all at once, while everybody waits."""

    def sweep(self, now: float, limit: int = 64) -> int:
        return min(limit, super().sweep(now, 1_000_000))


class SweepSaysDoneTooEarly(MemoryStore):
    """Answers with how many it buried less one, so that nobody calls again."""

    def sweep(self, now: float, limit: int = 64) -> int:
        return max(0, super().sweep(now, limit) - 1)


class SweepsLookFirstAndActLater(MemoryStore):
    """Two at a time bury the same, and the second fails."""

    def sweep(self, now: float, limit: int = 64) -> int:
        due = [key for key, data in self.frames.copy().items() if frame.expires_ms(data) <= frame.to_ms(now)][:limit]
        time.sleep(GAP)
        for key in due:
            del self.frames[key]
        return len(due)


# -- locks -----------------------------------------------------------------------------------------------------


class LocksNothing(MemoryStore):
    """Everybody gets the lock."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        self.locks.pop(key, None)
        return super().acquire(key, owner, now, until)


class LocksForTheSameOwnerAgain(MemoryStore):
    """Whoever has the lock gets it once more, and gives it back once too early."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        self.release(key, owner)
        return super().acquire(key, owner, now, until)


class LocksAllSessionsAtOnce(MemoryStore):
    """One lock for everybody."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        return super().acquire(bytes(32), owner, now, until)

    def release(self, key: bytes, owner: bytes) -> bool:
        return super().release(bytes(32), owner)


class LocksForAMoment(MemoryStore):
    """A lease is over before its time."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        return super().acquire(key, owner, now, now + 1)


class LocksForEver(MemoryStore):
    """A lock whose holder died keeps the visitor out until somebody clears the storage."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        if key in self.locks:
            return False
        self.locks[key] = frame.to_ms(until), owner
        return True


class ReleasesForAnybody(MemoryStore):
    """Who lost the lock gives it back for its new owner."""

    def release(self, key: bytes, owner: bytes) -> bool:
        return self.locks.pop(key, None) is not None


class AcquireLooksFirstAndActsLater(MemoryStore):
    """Two get the lock."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        if (held := self.locks.get(key)) and held[0] > frame.to_ms(now):
            return False
        time.sleep(GAP)
        self.locks[key] = frame.to_ms(until), owner
        return True


class TakesOverLooksFirstAndActsLater(MemoryStore):
    """A free lock is taken by one; one that was left behind, by whoever finds it over."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        left_behind = self.locks.get(key, (frame.to_ms(until), b""))[0] <= frame.to_ms(now)
        time.sleep(GAP)
        if left_behind:
            self.locks.pop(key, None)
        return super().acquire(key, owner, now, until)


class LocksAreRecords(MemoryStore):
    """Keeps the lock where the session stands."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        self.create(key, Record({}, now, now, until))
        return super().acquire(key, owner, now, until)


class LocksKeepWritersOut(MemoryStore):
    """Correctness depends on the lock: a request that does not know of it cannot store."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        return Written.STALE if key in self.locks else super().update(key, record, base)


# -- the examination, and an outage ------------------------------------------------------------------------------


class FindingsSayNoCure(MemoryStore):
    """Tells an operator that something is wrong, and not what to change."""

    def examine(self) -> list[Finding]:
        return [finding._replace(cure="") for finding in super().examine()]


class ExaminesByWriting(MemoryStore):
    """Leaves the record of a trial behind."""

    def examine(self) -> list[Finding]:
        self.create(bytes(32), Record({}, 0.0, 0.0, 2e9))
        return super().examine()


class CapabilitiesSwallowAnOutage(MemoryStore):
    """Takes "cannot answer" for "nothing there": a principal's sessions are revoked, it says, and all live on."""

    down = False

    def __getattribute__(self, name: str) -> object:
        if name in _WHILE_DOWN and super().__getattribute__("down"):
            return lambda *_: _WHILE_DOWN[name]
        return super().__getattribute__(name)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be unable to answer for a while."""
        self.down = True
        yield
        self.down = False


_WHILE_DOWN: dict[str, object] = {
    "load_many": [None],
    "delete_many": 0,
    "enlist": None,
    "delist": None,
    "find": Page(()),
    "scan": Page(()),
    "sweep": 0,
    "acquire": True,
    "release": False,
    "examine": [],
}


class LosesTheCauseOfAnOutage(CapabilitiesSwallowAnOutage):
    """Says that it cannot answer, and hides why."""

    def __getattribute__(self, name: str) -> object:
        if name in _WHILE_DOWN and object.__getattribute__(self, "down"):
            raise StoreUnavailable("down")
        return super().__getattribute__(name)


_OUTAGE = {
    "many_records_that_cannot_be_asked_for_say_so",
    "an_index_that_cannot_answer_says_so",
    "a_scan_that_cannot_answer_says_so",
    "a_sweep_that_cannot_answer_says_so",
    "a_lock_that_cannot_be_asked_for_says_so",
    "an_examination_that_cannot_be_made_says_so",
}

BROKEN_CAPABILITIES: dict[type[MemoryStore], set[str]] = {
    LoadsManyInItsOwnOrder: {"load_many_answers_in_the_order_of_the_keys"},
    LoadsManyLeavesOutTheMissing: {"load_many_answers_in_the_order_of_the_keys"},
    LoadsManyFailsOnDamage: {"a_damaged_record_among_many_is_nobody_and_the_others_open"},
    LoadsManyTouches: {"load_many_writes_nothing"},
    DeletesManyCountsWhatWasAsked: {"delete_many_removes_what_is_there_and_counts_it"},
    DeletesManyStopsAtTheMissing: {"delete_many_removes_what_is_there_and_counts_it"},
    DeletesManyOnlyAtVersionOne: {"delete_many_removes_what_is_there_and_counts_it"},
    DeletesManyLeavesEmptyRecords: {"nothing_brings_back_what_delete_many_removed"},
    DeletesManyCountsFirst: {"of_parallel_deletes_of_many_each_record_is_counted_once"},
    FindsByHalfTheTag: {"find_returns_the_keys_of_its_tag_and_of_no_other"},
    DelistsOneOfTwo: {"enlisting_twice_lists_once"},
    DelistFailsOnTheUnknown: {"delist_takes_out_what_it_names_and_passes_over_the_rest"},
    DelistForgetsThePrincipal: {
        "delist_takes_out_what_it_names_and_passes_over_the_rest",
        "parallel_enlists_and_delists_are_all_kept",
    },
    FindsOnePageOnly: {"an_index_of_a_thousand_is_found_in_pages", "a_thousand_sessions_are_scanned_in_pages"},
    FindsAllAtOnce: {"an_index_of_a_thousand_is_found_in_pages", "a_thousand_sessions_are_scanned_in_pages"},
    CursorsAreNumbers: {
        "what_is_listed_all_the_time_is_found_while_others_come_and_go",
        "sessions_that_are_there_all_the_time_are_scanned_while_others_come_and_go",
    },
    ForgetsWithTheFirstEnd: {"an_entry_is_kept_until_its_end_and_buried_then"},
    NeverForgets: {
        "an_entry_is_kept_until_its_end_and_buried_then",
        "nothing_is_left_of_a_lock_whose_holder_died",
        "a_sweep_buries_dead_locks_and_entries_too",
    },
    KeepsTheFirstEnd: {"enlisting_again_moves_the_end"},
    EnlistCreates: {"the_index_comes_before_the_record_and_makes_none"},
    EnlistsNeedsARecord: {"the_index_comes_before_the_record_and_makes_none"},
    EnlistReadsAndWritesBack: {"parallel_enlists_and_delists_are_all_kept"},
    ScansWhateverHasAKey: {"a_scan_sees_every_session_and_nothing_else"},
    ScanTouches: {"a_scan_writes_nothing"},
    SweepsWithoutALimit: {"a_sweep_goes_no_further_than_its_limit_and_says_when_it_is_done"},
    SweepSaysDoneTooEarly: {"a_sweep_goes_no_further_than_its_limit_and_says_when_it_is_done"},
    SweepsLookFirstAndActLater: {"parallel_sweeps_harm_nobody"},
    LocksNothing: {"a_lock_is_held_by_one_until_it_is_given_back"},
    LocksForTheSameOwnerAgain: {"a_lock_is_taken_once_also_by_its_owner"},
    LocksAllSessionsAtOnce: {"each_session_has_a_lock_of_its_own"},
    LocksForAMoment: {"a_lock_is_free_when_its_time_is_over_and_not_before"},
    LocksForEver: {
        "a_lock_is_free_when_its_time_is_over_and_not_before",
        "nothing_is_left_of_a_lock_whose_holder_died",
    },
    ReleasesForAnybody: {"who_lost_a_lock_cannot_give_it_back_for_another"},
    AcquireLooksFirstAndActsLater: {"of_parallel_acquires_one_wins"},
    TakesOverLooksFirstAndActsLater: {"of_parallel_acquires_of_a_lock_left_behind_one_wins"},
    LocksAreRecords: {"a_lock_is_no_session_and_stands_in_no_ones_way"},
    LocksKeepWritersOut: {"a_lock_is_no_session_and_stands_in_no_ones_way"},
    FindingsSayNoCure: {"a_finding_says_what_is_set_up_what_it_risks_and_what_to_change"},
    ExaminesByWriting: {"an_examination_changes_nothing"},
    CapabilitiesSwallowAnOutage: _OUTAGE,
    LosesTheCauseOfAnOutage: _OUTAGE,
}
"""The broken stores, each with the stories that must reject it."""
