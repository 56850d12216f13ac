"""Stores that each break one promise. They prove that the contract can fail.

``BROKEN`` says of each which stories must reject it. A contract that lets one of them pass is broken itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store import frame
from sojourn.store.memory import MemoryStore


class CreateOverwrites(MemoryStore):
    """``create`` stores, whatever is there."""

    def create(self, key: bytes, record: Record) -> Written:
        self.frames.pop(key, None)
        return super().create(key, record)


class UpdateCreates(MemoryStore):
    """``update`` is an upsert, as in many SQL stores: a slow request logs the user in again."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        if key in self.frames:
            return super().update(key, record, base)
        return self.create(key, record)


class UpdateIgnoresTheVersion(MemoryStore):
    """The last writer wins over the whole record."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        return super().update(key, record, frame.version(self.frames.get(key, b"")))


class UpdateMerges(MemoryStore):
    """``update`` keeps keys that the new record lacks, so that removed values return."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        found = self.load(key)
        values = {**(found.values if found else {}), **record.values}
        return super().update(key, record._replace(values=values), base)


class UpdateChecksFirstAndActsLater(MemoryStore):
    """Reads, looks, writes: two callers get DONE for one base."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        if refusal := self._refuses(key, base):
            return refusal
        time.sleep(0.001)  # the gap that a network makes
        self.frames[key] = frame.pack(key, record)
        return Written.DONE


class CreateChecksFirstAndActsLater(MemoryStore):
    """``select exists`` and then ``insert``, as in a published store."""

    def create(self, key: bytes, record: Record) -> Written:
        if key in self.frames:
            return Written.EXISTS
        time.sleep(0.001)  # the gap that a network makes
        self.frames.pop(key, None)
        return super().create(key, record)


class DeleteChecksFirstAndActsLater(MemoryStore):
    """Looks at the version and deletes whatever is there by then."""

    def delete(self, key: bytes, base: int | None = None) -> Written:
        if refusal := self._refuses(key, base):
            return refusal
        time.sleep(0.001)  # the gap that a network makes
        return super().delete(key)


class TouchWritesWhatItRead(MemoryStore):
    """``touch`` stores the record that was loaded before, and with it older values."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[bytes, Record] = {}

    def load(self, key: bytes) -> Record | None:
        record = super().load(key)
        if record:
            self._seen[key] = record
        return record

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        record = self._seen.get(key) or self.load(key)
        if record is None:
            return Written.GONE
        self.frames[key] = frame.pack(key, record._replace(accessed_at=accessed_at, expires_at=expires_at))
        return Written.DONE


class TouchCreates(MemoryStore):
    """``touch`` makes an empty record where there is none."""

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        if key not in self.frames:
            self.create(key, Record({}, accessed_at, accessed_at, expires_at))
        return super().touch(key, accessed_at, expires_at, frame.version(self.frames[key]))


class TouchIgnoresTheVersion(MemoryStore):
    """``touch`` prolongs whatever lies under the key, tombstones too."""

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        return super().touch(key, accessed_at, expires_at, frame.version(self.frames.get(key, b"")))


class TouchRaisesTheVersion(MemoryStore):
    """Every reader makes every writer stale."""

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        if (record := self.load(key)) is None:
            return Written.GONE
        after = record._replace(accessed_at=accessed_at, expires_at=expires_at, version=base + 1)
        return self.update(key, after, base)


class DeleteOnlySaysSo(MemoryStore):
    """``delete`` answers and does nothing."""

    def delete(self, key: bytes, base: int | None = None) -> Written:
        return self._refuses(key, base) or Written.DONE


class DeleteLeavesAnEmptyRecord(MemoryStore):
    """``delete`` writes ``{}`` over the record, whose id stays alive."""

    def delete(self, key: bytes, base: int | None = None) -> Written:
        record = self.load(key)
        if (refusal := self._refuses(key, base)) or record is None:
            return refusal or Written.GONE
        return self.update(key, record._replace(values={}, principal=None, version=record.version + 1), record.version)


class DeleteIgnoresTheVersion(MemoryStore):
    """``delete`` removes whatever version is there."""

    def delete(self, key: bytes, base: int | None = None) -> Written:
        return super().delete(key)


class DeleteAlwaysSaysDone(MemoryStore):
    """``delete`` of nothing answers DONE, so that a slow logout wipes the cookie of a new login."""

    def delete(self, key: bytes, base: int | None = None) -> Written:
        answer = super().delete(key, base)
        return Written.DONE if answer is Written.GONE else answer


class LoadAdopts(MemoryStore):
    """An unknown id gets an empty record."""

    def load(self, key: bytes) -> Record | None:
        if key not in self.frames:
            self.create(key, Record({}, 0.0, 0.0, 2e9))
        return super().load(key)


class LoadTouches(MemoryStore):
    """Every read is a write."""

    def load(self, key: bytes) -> Record | None:
        record = super().load(key)
        if record:
            self.touch(key, record.accessed_at + 1, record.expires_at + 1, record.version)
        return record


class ForgetsWhoIsLoggedIn(MemoryStore):
    """Keeps values and drops the principal."""

    def create(self, key: bytes, record: Record) -> Written:
        return super().create(key, record._replace(principal=None))


class KeepsWholeSeconds(MemoryStore):
    """Rounds the times, as a store with second resolution does."""

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        return super().touch(key, float(int(accessed_at)), float(int(expires_at)), base)


class OpensAnyFrame(MemoryStore):
    """Does not bind a record to its key: an answer to another request is somebody else's session."""

    _ONE_KEY = b"\0" * 32

    def load(self, key: bytes) -> Record | None:
        data = self.frames.get(key)
        return None if data is None else frame.unpack(self._ONE_KEY, data)

    def create(self, key: bytes, record: Record) -> Written:
        return self._rebound(key, record, super().create(key, record))

    def update(self, key: bytes, record: Record, base: int) -> Written:
        return self._rebound(key, record, super().update(key, record, base))

    def _rebound(self, key: bytes, record: Record, answer: Written) -> Written:
        if answer is Written.DONE:
            self.frames[key] = frame.pack(self._ONE_KEY, record)
        return answer


class CutsKeysShort(MemoryStore):
    """Keeps keys in a column that is too short for them."""

    def load(self, key: bytes) -> Record | None:
        return super().load(key[:16])

    def create(self, key: bytes, record: Record) -> Written:
        return super().create(key[:16], record)


class SweepsTheLiving(MemoryStore):
    """Goes by the deadline that a session began with, not by the one it has."""

    def _bury(self, now_ms: int, limit: int) -> int:
        due = [key for deadline, key in self._deadlines if deadline <= now_ms]
        for key in due:
            self.frames.pop(key, None)
        self._deadlines = [entry for entry in self._deadlines if entry[0] > now_ms]
        return len(due)


class NeverSweeps(MemoryStore):
    """Grows for ever."""

    def _bury(self, now_ms: int, limit: int) -> int:
        return 0


class SwallowsAnOutage(MemoryStore):
    """Takes "cannot answer" for "no such session": everyone is anonymous, and a logout reports success."""

    down = False

    def load(self, key: bytes) -> Record | None:
        return None if self.down else super().load(key)

    def delete(self, key: bytes, base: int | None = None) -> Written:
        return Written.DONE if self.down else super().delete(key, base)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be unable to answer for a while."""
        self.down = True
        yield
        self.down = False


class KeepsNoCause(MemoryStore):
    """Says that it cannot answer, and hides why."""

    down = False

    def load(self, key: bytes) -> Record | None:
        if self.down:
            raise StoreUnavailable("down")
        return super().load(key)

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Be unable to answer for a while."""
        self.down = True
        yield
        self.down = False


BROKEN: dict[type[MemoryStore], set[str]] = {
    CreateOverwrites: {"create_does_not_overwrite", "of_parallel_creates_one_wins"},
    UpdateCreates: {"update_does_not_create", "nothing_brings_a_deleted_record_back"},
    UpdateIgnoresTheVersion: {"update_at_another_version_changes_nothing", "of_parallel_updates_one_wins"},
    UpdateMerges: {"update_replaces_the_whole_record_at_the_version_it_names"},
    UpdateChecksFirstAndActsLater: {"of_parallel_updates_one_wins"},
    CreateChecksFirstAndActsLater: {"of_parallel_creates_one_wins"},
    DeleteChecksFirstAndActsLater: {"of_a_parallel_update_and_delete_one_wins"},
    TouchWritesWhatItRead: {"touch_never_brings_older_values_back"},
    TouchCreates: {"touch_does_not_create", "nothing_brings_a_deleted_record_back"},
    TouchIgnoresTheVersion: {"touch_does_not_prolong_a_tombstone"},
    TouchRaisesTheVersion: {"touch_leaves_a_writer_its_version", "touch_moves_the_times_and_nothing_else"},
    DeleteOnlySaysSo: {"delete_removes_the_version_it_names_or_any", "nothing_brings_a_deleted_record_back"},
    DeleteLeavesAnEmptyRecord: {"delete_removes_the_version_it_names_or_any"},
    DeleteIgnoresTheVersion: {"delete_at_another_version_changes_nothing"},
    DeleteAlwaysSaysDone: {"delete_removes_the_version_it_names_or_any"},
    LoadAdopts: {"an_unknown_key_loads_nothing_and_nothing_is_adopted"},
    LoadTouches: {"load_writes_nothing"},
    ForgetsWhoIsLoggedIn: {"what_is_created_is_loaded_field_by_field"},
    KeepsWholeSeconds: {"touch_moves_the_times_and_nothing_else"},
    OpensAnyFrame: {"a_record_moved_to_another_key_does_not_open"},
    CutsKeysShort: {"what_lies_in_storage_opens_nothing"},
    SweepsTheLiving: {"sweeping_goes_by_the_deadline_that_a_touch_or_an_update_moved"},
    NeverSweeps: {"sweeping_leaves_nothing_of_the_dead"},
    SwallowsAnOutage: {"a_store_that_cannot_answer_says_so"},
    KeepsNoCause: {"a_store_that_cannot_answer_says_so"},
}
"""The broken stores, each with the stories that must reject it."""
