"""What LocalStore promises of its capabilities beyond the contract: processes, full maps, old files, its place."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.store import test_local
from tests.store.test_local import (
    FORK,
    MIB,
    PATIENCE,
    SHM,
    a_store,
    answer_of,
    as_root,
    assert_sound,
    child,
    close_all,
    contents,
    fill,
    in_child,
    on_linux,
    refusal,
    small_disk,
)

from sojourn.core.ops import Written
from sojourn.errors import StoreUnavailable
from sojourn.store.local import LocalStore, environment, examination, files, tables
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

place, store, pytestmark = test_local.place, test_local.store, test_local.pytestmark

DONE = Written.DONE
TAG = b"t" * 32
ANN, BOB = b"ann", b"bob"


# -- transactions ----------------------------------------------------------------------------------------------


class Transactions:
    """Counts what an environment begins, and what happens in each write."""

    def __init__(self, env: Any) -> None:
        self.reads = self.writes = 0
        self._lmdb, env.lmdb = env.lmdb, self

    def begin(self, db: Any = None, write: bool = False) -> Any:
        self.writes += write
        self.reads += not write
        return self._lmdb.begin(db=db, write=write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lmdb, name)


def test_many_are_loaded_and_deleted_in_few_transactions_of_64_at_most(store: LocalStore) -> None:
    keys = [a_key(number) for number in range(200)]
    for key in keys:
        store.create(key, a_record())
        store.enlist(TAG, key, START, START + 9)
    counted = Transactions(store._open())
    assert all(store.load_many(keys))
    assert (counted.reads, counted.writes) == (4, 0)
    assert store.delete_many(keys) == 200
    assert (counted.reads, counted.writes) == (4, 4)
    store.delist(TAG, keys)
    assert (counted.reads, counted.writes) == (4, 8)
    assert contents(store) == [{}, {}, {}, {}]


def test_who_waits_for_a_lock_does_not_wait_for_the_write_lock(store: LocalStore) -> None:
    store.acquire(a_key(), ANN, START, START + 30)
    counted = Transactions(store._open())
    for _ in range(10):
        assert not store.acquire(a_key(), BOB, START + 1, START + 31)
    assert (counted.reads, counted.writes) == (10, 0)


def test_a_page_of_keys_is_one_short_read(store: LocalStore) -> None:
    """A read under way keeps every page that it might see, so that the file grows meanwhile."""
    for number in range(1500):
        store.create(a_key(number), a_record(values={}))
        store.enlist(TAG, a_key(number), START, START + 9)
    for page in (store.scan(limit=10_000_000), store.find(TAG, limit=10_000_000)):
        assert len(page.keys) == 1024
        assert page.cursor == page.keys[-1]


def test_keys_are_listed_in_their_order_and_none_twice(store: LocalStore) -> None:
    keys = [bytes(32), b"\0" * 31 + b"\1", *sorted(a_key(number) for number in range(20)), b"\xff" * 32]
    for tag in (bytes(32), TAG, b"\xff" * 32):
        for key in keys:
            store.enlist(tag, key, START, START + 9)
        found, cursor = [], None
        while len(found) < 100:
            page = store.find(tag, cursor, 3)
            found += page.keys
            if (cursor := page.cursor) is None:
                break
        assert found == keys


# -- burying without anyone listing ----------------------------------------------------------------------------


def test_entries_and_locks_of_visitors_who_never_return_do_not_pile_up(store: LocalStore) -> None:
    """Each session leaves an index entry and a lock behind; only creates and enlists bury."""
    for number in range(3000):
        now, key = START + number, a_key(number)
        store.enlist(b"%032d" % number, key, now, now + 50)
        store.create(key, a_record(accessed_at=now, expires_at=now + 50, values={}))
        store.acquire(key, ANN, now, now + 50)
        if number % 500 == 499:
            assert max(map(len, contents(store)[2:])) <= 60
            assert_sound(store)
    while store.sweep(START + 10_000) == 64:
        pass
    assert contents(store) == [{}, {}, {}, {}]


def test_a_lock_taken_over_and_over_leaves_one_entry(store: LocalStore) -> None:
    for number in range(100):
        now = START + 100 * number
        assert store.acquire(a_key(), b"owner %d" % number, now, now + 30)
        if number % 3 == 0:
            assert store.release(a_key(), b"owner %d" % number)
        assert_sound(store)
        assert len(contents(store)[1]) <= 1


numbers = st.integers(0, 4)
times = st.integers(0, 20)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), numbers, times, times),
        st.tuples(st.just("delete"), numbers, times, times),
        st.tuples(st.just("enlist"), numbers, times, times),
        st.tuples(st.just("delist"), numbers, times, times),
        st.tuples(st.just("acquire"), numbers, times, times),
        st.tuples(st.just("release"), numbers, times, times),
        st.tuples(st.just("sweep"), numbers, times, times),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_deadlines_agree_with_what_has_them_after_any_operations(steps: list[tuple[str, int, int, int]]) -> None:
    directory = Path(tempfile.mkdtemp(prefix="sojourn-test-", dir=SHM if SHM.is_dir() else None))
    store = a_store(directory / "sessions")
    try:
        for what, number, now, life in steps:
            _perform(store, what, a_key(number), START + now, START + now + life)
            assert_sound(store)
            if what == "sweep":
                assert all(name[:8] > tables.sortable(START + now) for name in contents(store)[1])
        store.sweep(START + 1000, 1000)
        assert contents(store) == [{}, {}, {}, {}]
    finally:
        store.close()
        shutil.rmtree(directory)


def _perform(store: LocalStore, what: str, key: bytes, now: float, until: float) -> None:
    if what == "create":
        store.create(key, a_record(accessed_at=now, expires_at=until))
    elif what == "delete":
        store.delete_many([key])
    elif what == "enlist":
        store.enlist(TAG, key, now, until)
    elif what == "delist":
        store.delist(TAG, [key])
    elif what == "acquire":
        store.acquire(key, ANN, now, until)
    elif what == "release":
        store.release(key, ANN)
    else:
        store.sweep(now)


# -- processes -------------------------------------------------------------------------------------------------


def test_of_several_processes_one_gets_each_lock(place: Path) -> None:
    gate = FORK.Event()

    def work(owner: bytes) -> list[bool]:
        store = a_store(place)
        gate.wait(PATIENCE)
        return [store.acquire(a_key(number), owner, START, START + 30) for number in range(300)]

    with child(lambda: work(ANN)) as a, child(lambda: work(BOB)) as b, child(lambda: work(b"cat")) as c:
        gate.set()
        taken = [answer_of(*worker) for worker in (a, b, c)]
    assert [sum(answers) for answers in zip(*taken, strict=True)] == [1] * 300
    assert_sound(a_store(place))


def test_processes_that_list_and_revoke_at_once_lose_and_miss_nothing(place: Path) -> None:
    gate = FORK.Event()

    def work(first: int) -> int:
        store = a_store(place)
        gate.wait(PATIENCE)
        mine = [a_key(first + number) for number in range(300)]
        for key in mine:
            store.enlist(TAG, key, START, START + 900)
            store.create(key, a_record())
        gone = store.delete_many(mine[:200])
        store.delist(TAG, mine[:200])
        return gone

    with child(lambda: work(1000)) as a, child(lambda: work(2000)) as b:
        gate.set()
        assert [answer_of(*worker) for worker in (a, b)] == [200, 200]
    store = a_store(place)
    left = {a_key(first + number) for first in (1000, 2000) for number in range(200, 300)}
    assert set(assert_sound(store)) == left
    assert set(store.find(TAG, limit=1000).keys) == set(store.scan(limit=1000).keys) == left


# -- files of before -------------------------------------------------------------------------------------------


def with_two_databases(place: Path, *, full: bool) -> int:
    """Make an environment as it was before there were an index and locks. Return how many sessions are in it."""
    store = a_store(place, max_size=4 * MIB)
    count = fill(store, first=0) if full else 10
    for number in range(count):
        store.create(a_key(number), a_record(values={"x": b"x" * 400}))
    store.close()
    with lmdb.open(str(place), map_size=4 * MIB, max_dbs=4, lib_version=environment.ENGINE) as env:
        for name in environment.DATABASES[2:]:
            db = env.open_db(name)
            with env.begin(write=True) as txn:
                txn.drop(db)
        with env.begin() as txn:
            assert [name for name, _ in txn.cursor()] == [b"deadlines", b"records"]
    return count


@pytest.mark.parametrize("full", [False, True], ids=["", "and is full"])
def test_an_environment_of_before_gains_what_it_lacks(place: Path, full: bool) -> None:
    count = with_two_databases(place, full=full)
    store = a_store(place, max_size=4 * MIB)
    assert len(assert_sound(store)) == count
    assert store.load(a_key(0))
    if full:
        assert "it is full" in refusal(lambda: [store.enlist(TAG, a_key(n), START, START + 9) for n in range(10**6)])
        assert store.delete_many([a_key(number) for number in range(count // 2)]) == count // 2
    store.enlist(TAG, a_key(0), START, START + 9)
    assert store.acquire(a_key(0), ANN, START, START + 9)
    assert a_key(0) in store.find(TAG).keys
    assert_sound(store)


# -- a full store ----------------------------------------------------------------------------------------------


def test_a_full_store_lets_sessions_be_revoked_delisted_and_unlocked(place: Path) -> None:
    """Enlist and acquire make it grow and are refused; what gives room back is served."""
    store, number = a_store(place, max_size=4 * MIB), 0
    with suppress(StoreUnavailable):
        while number < 100_000:
            store.enlist(TAG, a_key(number), START, START + 900)
            store.create(a_key(number), a_record(values={"x": b"x" * 40}))
            store.acquire(a_key(number), ANN, START, START + 900)
            number += 1
    assert 100 < number < 100_000
    before = contents(store)
    words = "it is full at max_size=4194304; raise that on every worker, or let sessions end sooner [MapFullError]"
    new = [a_key(10**6 + extra) for extra in range(200)]
    assert words in refusal(lambda: [store.enlist(b"u" * 32, key, START, START + 900) for key in new])
    assert words in refusal(lambda: [store.acquire(key, BOB, START, START + 900) for key in new])
    assert len(contents(store)[2]) - len(before[2]) < 200
    keys = [a_key(taken) for taken in range(number)]
    random.Random(1).shuffle(keys)
    assert all(store.release(key, ANN) for key in keys)
    store.delist(TAG, keys)
    assert store.delete_many(keys) == number
    store.delist(TAG, [a_key(number)])
    store.delist(b"u" * 32, new)
    store.sweep(START + 10_000, 10_000)
    assert contents(store) == [{}, {}, {}, {}]
    assert store.acquire(a_key(), ANN, START, START + 900), "there is room again"


@pytest.mark.slow
def test_a_full_store_too_deep_for_64_deletes_at_a_time_does_fewer(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger the trees, the more pages a delete takes before it frees them. Here the reserve is smaller instead."""
    monkeypatch.setattr(environment, "RESERVE", 200)
    draw, keys, store = random.Random(1), [], a_store(place, max_size=12 * MIB)
    with suppress(StoreUnavailable):
        while len(keys) < 10**6:
            keys.append(draw.randbytes(32))
            store.enlist(TAG, keys[-1], 0.0, START + draw.random() * 1e6)
    keys.pop()
    draw.shuffle(keys)
    counted = Transactions(store._open())
    store.delist(TAG, keys)
    assert counted.writes > len(keys) / 64 + 1, "64 at a time were no trouble, so nothing was shown"
    assert_sound(store)
    assert contents(store) == [{}, {}, {}, {}]


# -- what an operator should know ------------------------------------------------------------------------------


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A path that looks as if it were on an ordinary disk with room, wherever it is."""
    directory = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    monkeypatch.setattr(examination, "file_system_of", lambda path: "ext4")
    monkeypatch.setattr(examination.os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 100, 50, 50, *[0] * 5)))
    yield directory / "sessions"
    close_all()
    shutil.rmtree(directory)


def what(store: LocalStore) -> list[str]:
    return [finding.what.replace(str(store.path), "PATH") for finding in store.examine()]


def test_a_disk_with_room_is_no_finding(on_disk: Path) -> None:
    assert what(LocalStore(on_disk, max_size=64 * MIB)) == []


def test_a_disk_that_commits_do_not_wait_for_is_a_finding(on_disk: Path) -> None:
    store = LocalStore(on_disk, sync=False, max_size=64 * MIB)
    assert what(store) == ["PATH is on a disk, and commits do not wait for it (sync=no)."]


@pytest.mark.parametrize("kind", ["nfs4", "cifs"])
def test_a_file_system_of_a_network_is_a_finding(on_disk: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(examination, "file_system_of", lambda path: kind)
    assert what(LocalStore(on_disk, max_size=64 * MIB)) == [f"PATH is on a file system of a network ({kind})."]


def test_memory_is_a_finding_where_a_path_was_named_and_none_where_it_was_not(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "file_system_of", lambda path: "tmpfs")
    assert what(LocalStore(on_disk, max_size=64 * MIB)) == ["PATH is in memory (tmpfs)."]
    close_all()
    monkeypatch.setattr("sojourn.store.local.memory_backed_path", lambda: on_disk)
    assert what(LocalStore(max_size=64 * MIB)) == []


def test_a_max_size_that_is_nearly_reached_is_a_finding(on_disk: Path) -> None:
    store = LocalStore(on_disk, sync=True, max_size=4 * MIB)
    assert what(store) == []
    number = 0
    while (findings := what(store)) == [] and number < 10_000:
        for _ in range(20):
            store.create(a_key(number := number + 1), a_record(values={"x": b"x" * 1900}))
    assert findings[0].endswith("% of max_size=4194304 are used in PATH.")
    assert 90 <= int(findings[0].split()[0]) < 95


@as_root
@on_linux
def test_little_room_on_a_real_file_system_is_a_finding() -> None:
    with small_disk("32m") as disk:
        store = a_store(disk / "sessions", max_size=64 * MIB)
        assert what(store) == ["PATH is in memory (tmpfs)."]
        (disk / "other").write_bytes(bytes(30 * MIB))
        words = what(store)
        assert words[0] == "PATH is in memory (tmpfs)."
        assert words[1].endswith("% of the file system of PATH are free.")


@as_root
@on_linux
def test_the_kind_of_file_system_is_the_deepest_mounts(tmp_path: Path) -> None:
    """Also where the name of its place has a space in it, and where one lies over another."""
    assert examination.file_system_of(Path("/proc/self")) == "proc"
    deeper = tmp_path / "a mount" / "sessions"
    deeper.mkdir(parents=True)
    before = examination.file_system_of(deeper)
    mount = ["mount", "-t", "ramfs", "none", str(deeper.parent)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount")
    try:
        assert examination.file_system_of(deeper) == "ramfs"
        assert examination.file_system_of(tmp_path) == before
    finally:
        subprocess.run(["umount", str(deeper.parent)], check=True)
    assert examination.file_system_of(deeper) == before


def test_a_system_that_does_not_tell_its_mounts_is_no_finding(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(examination, "MOUNTS", on_disk / "nothing there")
    assert examination.file_system_of(on_disk) is None
    found = examination.examine(Path("/"), chosen=True, sync=True, used=0, max_size=64 * MIB)
    assert not any("is on a" in finding.what or "is in memory" in finding.what for finding in found)


def test_a_place_that_is_gone_cannot_be_examined(place: Path) -> None:
    store = a_store(place)
    store.create(a_key(), a_record())
    shutil.rmtree(place)
    assert "No such file or directory" in refusal(store.examine)


def test_an_examination_opens_the_store_and_says_where_it_cannot(place: Path) -> None:
    store = a_store(place)
    (place / files.DATA).write_bytes(b"These are no pages.\n" * 1000)
    (place / files.DATA).chmod(0o600)
    assert "damaged or another program's" in in_child(lambda: refusal(store.examine))
