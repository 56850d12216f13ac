"""The contract of principals and locks over every store that has them, and over stores that it must reject."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from tests.conftest import MakeHarness, memory_harness

from sojourn.core.capability import Indexed, Lockable, Page, Records
from sojourn.core.ops import Written
from sojourn.store.memory import MemoryStore
from sojourn.testing.principal_contract import PRINCIPAL_STORIES
from sojourn.testing.store_contract import Story, name_of, rejected_by


@pytest.mark.parametrize("story", PRINCIPAL_STORIES, ids=name_of)
def test_sessions_keep_their_promise_to_principals(make_harness: MakeHarness, story: Story) -> None:
    with make_harness() as harness:
        assert PRINCIPAL_STORIES[story] in harness.capabilities
        story(harness)


class ForgetsToList(MemoryStore):
    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        pass


class ListsAllUnderOneName(MemoryStore):
    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        super().enlist(b"", key, now, until)

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return super().find(b"", cursor, limit)


class NeverDelists(MemoryStore):
    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        pass


class ListsOnlyTheFirst(MemoryStore):
    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        return Page(super().find(tag, cursor, limit).keys[:1])


class LoadsInAnotherOrder(MemoryStore):
    def load_many(self, keys: Sequence[bytes]) -> Records:
        return super().load_many(keys)[::-1]


class CountsAndDeletesNothing(MemoryStore):
    def delete_many(self, keys: Sequence[bytes]) -> int:
        return sum(key in self.frames for key in keys)


class DeletesUncounted(MemoryStore):
    def delete_many(self, keys: Sequence[bytes]) -> int:
        super().delete_many(keys)
        return 0


class NeverTouches(MemoryStore):
    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        return Written.DONE


class LocksNothing(MemoryStore):
    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        return True


class NeverLocks(MemoryStore):
    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        return False


class LocksForEver(MemoryStore):
    def release(self, key: bytes, owner: bytes) -> bool:
        return True


class ReleasesForAnybody(MemoryStore):
    def release(self, key: bytes, owner: bytes) -> bool:
        self.locks.clear()
        return True


BROKEN: dict[type[MemoryStore], set[str]] = {
    ForgetsToList: {"revoking_a_principal_ends_all_of_its_sessions_and_no_others"},
    ListsAllUnderOneName: {"revoking_a_principal_ends_all_of_its_sessions_and_no_others"},
    NeverDelists: {"a_session_that_ended_or_moved_is_no_longer_listed"},
    ListsOnlyTheFirst: {"all_sessions_of_a_principal_are_found_and_no_others"},
    LoadsInAnotherOrder: {"a_login_beyond_the_bound_ends_the_oldest"},
    CountsAndDeletesNothing: {"revoking_all_but_the_current_session_keeps_exactly_that_one"},
    DeletesUncounted: {"nothing_brings_a_revoked_session_back"},
    NeverTouches: {"the_bound_counts_living_sessions_only"},
    LocksNothing: {"whoever_waits_too_long_is_told_so_and_nothing_is_stored"},
    NeverLocks: {"an_exclusive_block_sees_what_others_stored_and_stores_before_it_ends"},
    LocksForEver: {"a_failed_block_stores_nothing_and_lets_the_next_one_in"},
    ReleasesForAnybody: {"a_lock_given_back_is_free_and_only_its_owner_gives_it_back"},
}


@cache
def caught(broken: type[MemoryStore]) -> set[str]:
    @contextmanager
    def harness() -> Any:
        with memory_harness(broken) as plain:
            yield replace(plain, capabilities=frozenset({Indexed, Lockable}))

    return rejected_by(harness, list(PRINCIPAL_STORIES))


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_contract_rejects(broken: type[MemoryStore]) -> None:
    assert BROKEN[broken] <= caught(broken)


def test_every_story_can_fail() -> None:
    can_fail = set().union(*(caught(broken) for broken in BROKEN))
    assert {story.__name__ for story in PRINCIPAL_STORIES} - can_fail == set()
