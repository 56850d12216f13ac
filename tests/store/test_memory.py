"""What MemoryStore promises beyond the contract."""

from __future__ import annotations

import threading

import pytest

from sojourn.connect import connect
from sojourn.core.ops import Written
from sojourn.errors import ConfigurationError
from sojourn.store.memory import SWEEP_AT_CREATE, MemoryStore
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

DONE = Written.DONE


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


# -- what it keeps ---------------------------------------------------------------------------------------------


def test_a_session_that_is_updated_for_ever_takes_no_more_memory(store: MemoryStore) -> None:
    store.create(a_key(), a_record(expires_at=START + 1800))
    for version in range(1, 2000):
        later = a_record(version=version + 1, accessed_at=START + version, expires_at=START + version + 1800)
        assert store.update(a_key(), later, version) is DONE
        assert store.touch(a_key(), START + version + 0.5, START + version + 1800.5, version + 1) is DONE
    assert len(store._deadlines) == 1
    assert len(store.frames) == 1


def test_looking_at_a_live_session_files_it_once(store: MemoryStore) -> None:
    """Each time the deadline under which it was filed passes, it is filed under the one it has by then."""
    store.create(a_key(), a_record(expires_at=START + 10))
    for now in range(1, 500):
        store.touch(a_key(), START + now, START + now + 10, 1)
        store.sweep(START + now)
        assert len(store._deadlines) == 1
    assert store.load(a_key())
    assert store.sweep(START + 1000) == 1
    assert (store.frames, store._deadlines) == ({}, [])


def test_sessions_that_come_and_go_leave_nothing(store: MemoryStore) -> None:
    """A deleted session's entry stays until the deadline it had; then a create or a sweep drops it."""
    for number in range(3000):
        now = START + number
        store.create(a_key(number), a_record(accessed_at=now, expires_at=now + 50))
        if number % 2:
            store.delete(a_key(number))
        assert len(store._deadlines) <= 52
    assert len(store.frames) <= 27
    while store.sweep(START + 10_000) == 64:
        pass
    assert (store.frames, store._deadlines) == ({}, [])


def test_a_tombstone_is_buried_at_its_own_deadline(store: MemoryStore) -> None:
    store.create(a_key(), a_record())
    store.update(a_key(), a_record(version=2, values={}, retired=True, expires_at=START + 10), 1)
    assert store.sweep(START + 9) == 0
    assert store.sweep(START + 10) == 1
    assert store.frames == {}
    assert store.sweep(START + 10_000) == 1, "the entry of the first deadline finds nothing and is dropped"
    assert store._deadlines == []


# -- sweeping --------------------------------------------------------------------------------------------------


def test_a_sweep_looks_at_no_more_than_it_may_and_says_how_many(store: MemoryStore) -> None:
    for number in range(200):
        store.create(a_key(number), a_record(expires_at=START + 100))
    assert store.sweep(START + 99.999) == 0
    assert store.sweep(START + 100) == 64
    assert store.sweep(START + 100, 100) == 100
    assert store.sweep(START + 100, 100) == 36
    assert store.sweep(START + 100) == 0
    assert store.frames == {}


def test_a_create_buries_a_few_of_the_dead_and_never_the_living(store: MemoryStore) -> None:
    for number in range(10):
        store.create(a_key(number), a_record(expires_at=START + (100 if number < 8 else 1000)))
    store.create(a_key(10), a_record(accessed_at=START + 500))
    assert len(store.frames) == 11 - SWEEP_AT_CREATE
    for number in (11, 12):
        store.create(a_key(number), a_record(accessed_at=START + 500))
    assert set(store.frames) == {a_key(number) for number in range(8, 13)}


# -- deadlines that come closer, the index, locks ---------------------------------------------------------------


def test_a_deadline_moved_to_and_fro_takes_no_more_memory(store: MemoryStore) -> None:
    store.create(a_key(), a_record(expires_at=START + 1800))
    for version in range(1, 500):
        expires_at = START + (100 if version % 2 else 1800)
        assert store.update(a_key(), a_record(version=version + 1, expires_at=expires_at), version) is DONE
        store.touch(a_key(), START, expires_at + 10, version + 1)
        assert len(store._deadlines) <= 2
    assert store.load(a_key())


def test_a_touch_that_shortens_a_life_is_buried_at_the_new_deadline(store: MemoryStore) -> None:
    """As under a policy that has become stricter."""
    store.create(a_key(), a_record(expires_at=START + 1800))
    store.touch(a_key(), START, START + 10, 1)
    assert store.sweep(START + 9) == 0
    assert store.sweep(START + 10) == 1
    assert store.frames == {}


def test_entries_and_locks_of_visitors_who_never_return_do_not_pile_up(store: MemoryStore) -> None:
    """Each session leaves an index entry and a lock behind; only creates and enlists bury."""
    for number in range(3000):
        now, key = START + number, a_key(number)
        store.enlist(b"%032d" % number, key, now, now + 50)
        store.create(key, a_record(accessed_at=now, expires_at=now + 50))
        store.acquire(key, b"ann", now, now + 50)
        assert max(len(store.index), len(store.locks), len(store.frames)) <= 52
    while store.sweep(START + 10_000) == 64:
        pass
    assert (store.frames, store.index, store.locks, store._deadlines, store._filed) == ({}, {}, {}, [], {})


def test_a_session_locked_over_and_over_is_filed_once(store: MemoryStore) -> None:
    for number in range(1000):
        assert store.acquire(a_key(), b"ann", START + number, START + number + 1500)
        assert store.release(a_key(), b"ann")
    assert len(store._deadlines) == 1


def test_a_lock_is_free_at_the_very_end_of_its_time_without_any_sweep(store: MemoryStore) -> None:
    assert store.acquire(a_key(), b"ann", START, START + 30)
    assert not store.acquire(a_key(), b"bob", START + 29.999, START + 60)
    assert store.acquire(a_key(), b"bob", START + 30, START + 60)
    assert store.sweep(START + 30) == 1
    assert not store.release(a_key(), b"ann")
    assert not store.release(a_key(2), b"")
    assert store.release(a_key(), b"bob")


def test_the_one_finding_is_that_it_is_one_process(store: MemoryStore) -> None:
    assert [finding.what for finding in store.examine()] == ["Sessions are in the memory of one process."]


# -- settings and threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["memory:", "memory://", "memory:///"])
def test_a_url_makes_a_store_of_its_own(url: str) -> None:
    first, second = MemoryStore.from_url(url), connect(url)
    assert isinstance(second, MemoryStore)
    first.create(a_key(), a_record())
    assert second.load(a_key()) is None
    assert not first.waits


@pytest.mark.parametrize("url", ["memory:here", "memory://host", "memory:?size=3", "memory:///path"])
def test_a_url_with_settings_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="memory: takes no settings; write just 'memory:'"):
        MemoryStore.from_url(url)


def test_threads_lose_no_write_to_one_another(store: MemoryStore) -> None:
    """Each of four threads creates, updates and deletes its own sessions, and all four race for one of them."""
    store.create(a_key(0), a_record())
    won = []

    def work(thread: int) -> None:
        for number in range(1, 300):
            key = a_key(1000 * thread + number)
            assert store.create(key, a_record()) is DONE
            assert store.update(key, a_record(version=2), 1) is DONE
            if number % 2:
                assert store.delete(key, 2) is DONE
            found = store.load(a_key(0))
            assert found
            if store.update(a_key(0), a_record(version=found.version + 1), found.version) is DONE:
                won.append(thread)

    threads = [threading.Thread(target=work, args=[thread]) for thread in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(store.frames) == 1 + 4 * 149
    found = store.load(a_key(0))
    assert found
    assert found.version == 1 + len(won), "of two updates of one version, one wins"
