"""What HostTables promises beyond that: many processes, kills, forks, full and damaged files, other lives."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest
from tests.store.peers.tables_help import SIZE, a_place, audit, dump, logs, ship

from sojourn.cluster.tables import bucket_of
from sojourn.cluster.wire import Change, Changes, Progress
from sojourn.core.ops import Written
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.local import LocalStore, environment
from sojourn.store.peers import packing, tables
from sojourn.store.peers.tables import HostTables
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

# Python 3.12 and later warn of a fork beside threads, which is what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

MIB = 1 << 20
WORKERS, EACH = 4, 150


@pytest.fixture
def place() -> Iterator[Path]:
    with a_place() as directory:
        yield directory / "host"
        for env in list(environment._environments.values()):
            env.close()


def a_host(place: Path, max_size: int = SIZE) -> HostTables:
    return HostTables(place, max_size=max_size, clock=lambda: START)


def forked(work: Callable[[], None]) -> int:
    """Fork; the child does *work* and leaves without any cleanup. Return its id."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return pid


def ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def fill(host: HostTables, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert host.perform("create", (a_key(number), a_record())).answer is Written.DONE


# -- many processes ----------------------------------------------------------------------------------------------


def test_writes_of_many_processes_have_stamps_of_their_own_in_the_order_of_commits(place: Path) -> None:
    host = a_host(place)
    host.perform("create", (a_key(), a_record()))
    other = a_host(place.parent / "other")

    def write(worker: int) -> None:
        for number in range(EACH):
            fill(host, 1, first=1000 * (worker + 1) + number)
            found = host.load(a_key())
            assert found
            host.perform("update", (a_key(), found._replace(version=found.version + 1, seen=b""), found.version))

    workers = [forked(lambda worker=worker: write(worker)) for worker in range(WORKERS)]  # type: ignore[misc]
    for _ in range(20):
        ship(host, other, limit=16)
    assert [ended_well(pid) for pid in workers] == [True] * WORKERS
    audit(host)
    assert len(logs(host)[host.origin]) == WORKERS * EACH + 1
    ship(host, other)
    assert dump(other) == dump(host), "a reader that went along has missed nothing"


def test_a_worker_killed_at_any_moment_leaves_log_and_sessions_agreeing(place: Path) -> None:
    host = a_host(place)
    for round in range(5):
        reader, writer = os.pipe()

        def write(round: int = round, writer: int = writer) -> None:
            for number in range(100_000):
                fill(host, 1, first=100_000 * (round + 1) + number)
                host.perform("touch", (a_key(100_000 * (round + 1)), START + number, START + 2000, 1))
                os.write(writer, b".")

        pid = forked(write)
        os.read(reader, 1)
        assert len(os.read(reader, 20 + round)) > 0
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        audit(host)
        fill(host, 1, first=round)  # its write lock is free


def test_parent_and_child_go_on_after_a_fork(place: Path) -> None:
    host = a_host(place)
    fill(host, 10)
    origin = host.origin

    def child() -> None:
        assert host.origin == origin
        assert host.load(a_key(3))
        fill(host, 10, first=10)

    assert ended_well(forked(child))
    assert host.load(a_key(15))
    fill(host, 10, first=20)
    assert len(host.some_names(None, 99)) == 30
    audit(host)


# -- lives of the storage ------------------------------------------------------------------------------------------


def test_the_same_life_goes_on_after_a_restart_and_another_begins_after_a_wipe(place: Path) -> None:
    host = a_host(place)
    fill(host, 3)
    origin, end = host.origin, host.progress()
    host.store(Changes(b"abcd", 0, Progress(9, 9), ()))
    host.close()
    assert (host.origin, host.progress()) == (origin, {**end, b"abcd": Progress(9, 9)})
    host.close()
    shutil.rmtree(place)
    assert host.origin != origin
    assert list(host.progress()) == [host.origin]


def test_a_store_that_was_put_back_goes_on_under_another_name_and_is_told_what_it_had_lost(place: Path) -> None:
    """New writes in the old name would claim those that a backup lacks, and that other hosts have."""
    host, other = a_host(place), a_host(place.parent / "other")
    fill(host, 1)
    host.close()
    shutil.copytree(place, place.parent / "backup")
    origin = host.origin
    found = host.load(a_key(0))
    assert found
    lost = found._replace(values={"paid": b"yes"}, version=found.version + 1, seen=b"")
    assert host.perform("update", (a_key(0), lost, found.version)).answer is Written.DONE
    ship(host, other)
    host.close()
    shutil.rmtree(place)
    shutil.copytree(place.parent / "backup", place)
    assert host.origin != origin
    level = host.progress()[origin].level
    assert level < other.progress()[origin].level
    after = found._replace(values={**found.values, "new": b"1"}, version=found.version + 1, seen=b"")
    assert host.perform("update", (a_key(0), after, found.version)).answer is Written.DONE
    host.accept(other.copies([name for _, name in logs(other)[origin]]))
    ship(host, other)
    assert dump(host) == dump(other)
    told = host.load(a_key(0))
    assert told
    assert told.values["paid"] == b"yes"
    assert told.values["new"] == b"1"
    assert told.version > lost.version


def test_a_store_that_stays_where_it_is_keeps_its_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = a_host(place)
    fill(host, 1)
    origin, end = host.origin, host.progress()
    host.close()
    assert host.origin == origin
    host.close()
    monkeypatch.setattr(tables, "_place_of", lambda path: b"after another boot")
    assert host.origin != origin
    assert host.progress()[origin] == end[origin]
    host.close()
    again = host.origin
    host.close()
    assert host.origin == again


def test_a_directory_of_another_store_or_version_is_refused(place: Path) -> None:
    local = LocalStore(place, sync=False, max_size=SIZE)
    local.create(a_key(), a_record())
    with pytest.raises(ConfigurationError, match="a directory of its own"):
        a_host(place)
    local.close()
    with pytest.raises(StoreUnavailable, match="of a local: store; give peers: a directory of its own"):
        a_host(place).load(a_key())


def test_another_format_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FORMAT", b"9")
    host = a_host(place)
    fill(host, 1)
    host.close()
    monkeypatch.undo()
    for work in (host.progress, lambda: host.load(a_key(0)), lambda: fill(host, 1)):
        with pytest.raises(StoreUnavailable, match="format b'9', and this is for b'2'; run the version that wrote it"):
            work()


# -- full, damaged -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_full_storage_says_so_keeps_agreeing_and_can_be_emptied(place: Path) -> None:
    host = a_host(place, 8 * MIB)
    source = a_host(place.parent / "source")
    with pytest.raises(StoreUnavailable, match="full at max_size=8388608; raise that on every worker"):
        fill(host, 100_000)
    host.lifetime_ms = 1000
    fill(source, 200, first=200_000)
    with pytest.raises(StoreUnavailable, match="full at"):
        ship(source, host)
    assert host.progress().get(source.origin, Progress()) == Progress()
    audit(host)
    names = host.some_names(None, 100_000)
    assert host.perform("delete", (names[0], None)).answer is Written.DONE
    assert host.perform("touch", (names[1], START + 1, START + 1900, 1)).answer is Written.DONE
    assert host.perform("sweep", (START + 100_000, 100_000)).answer >= len(names)
    assert host.some_names(None, 9) == ()
    fill(host, 100, first=300_000)
    audit(host)


def test_a_damaged_session_is_nobodys_and_comes_back_from_another_host(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host, other, third = a_host(place), a_host(place.parent / "other"), a_host(place.parent / "third")
    fill(host, 3)
    ship(host, other)
    key = a_key(1)
    host.writing(lambda rows: _damage(rows, key))
    assert host.load(key) is None
    assert host.replica(key) is None
    assert host.perform("create", (key, a_record())).answer is Written.EXISTS
    assert "unreadable record" in caplog.text
    ship(host, third)
    assert set(third.some_names(None, 9)) == {a_key(0), a_key(2)}, "what is damaged is spread to nobody"
    ship(host, other)
    assert other.load(key)
    host.accept(other.copies([key]))
    assert host.load(key) == other.load(key) != None  # noqa: E711
    audit(host)


@pytest.mark.parametrize("left", [0, 5, 13])
def test_a_session_that_was_cut_short_is_nobodys_and_holds_up_nothing(place: Path, left: int) -> None:
    host, other = a_host(place), a_host(place.parent / "other")
    fill(host, 3)
    ship(host, other)
    key = a_key(1)
    host.writing(lambda rows: rows._txn.put(key, rows._txn.get(key, db=rows._env.records)[:left], db=rows._env.records))
    assert host.load(key) is None
    assert host.perform("load_many", ((a_key(0), key),)).answer[1] is None
    assert host.names(bucket_of(key)).keys() == other.names(bucket_of(key)).keys()
    assert host.names(bucket_of(key)) != other.names(bucket_of(key))
    host.accept(other.copies([key]))
    assert host.load(key)


def test_what_a_damaged_copy_leaves_in_the_log_holds_up_nobody_who_reads_it(place: Path) -> None:
    host, other, third = a_host(place), a_host(place.parent / "other"), a_host(place.parent / "third")
    fill(host, 1)
    ship(host, other)
    ship(host, third)
    key = a_key(0)
    found = host.load(key)
    assert found
    assert host.perform("update", (key, found._replace(version=2), 1)).answer is Written.DONE
    host.writing(lambda rows: _damage(rows, key))
    host.accept(other.copies([key]))
    fill(host, 1, first=1)
    ship(host, third)
    assert third.load(a_key(1)), "which stands behind it"


@pytest.mark.parametrize("left", [0, 30, 70, 80])
def test_a_copy_that_cannot_be_merged_is_replaced_by_another_hosts(
    place: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    host, other = a_host(place), a_host(place.parent / "other")
    fill(host, 3)
    ship(host, other)
    key, before = a_key(1), host.load(a_key(1))

    def cut(rows: tables.LmdbRows) -> None:
        data = rows._txn.get(key, db=rows._env.records) or b""
        meta = packing.meta_in(data)
        rows._txn.put(key, data.removesuffix(meta) + meta[:left], db=rows._env.records)

    host.writing(cut)  # type: ignore[arg-type]
    assert host.load(key) == before, "what a visitor is shown is not touched by it"
    assert host.replica(key) is None
    assert before
    assert host.perform("update", (key, before._replace(version=2), 1)).answer is Written.GONE
    assert "damaged copy" in caplog.text
    other.perform("update", (key, before._replace(values={**before.values, "new": b"1"}, version=2), 1))
    (change,) = other.log(other.origin, 0, host.progress()[host.origin].level, 9).changes
    assert host.store(Changes(other.origin, 1, Progress(9, 9), (change._replace(complete=False),))).wanted == (key,)
    host.accept(other.copies([key]))
    assert host.load(key) == other.load(key) != None  # noqa: E711
    audit(host)


def _damage(rows: tables.LmdbRows, key: bytes) -> None:  # type: ignore[override]
    data = bytearray(rows._txn.get(key, db=rows._env.records) or b"")
    data[60] ^= 1
    rows._txn.put(key, bytes(data), db=rows._env.records)


def test_numbers_that_do_not_fit_are_refused_and_leave_nothing(place: Path) -> None:
    host, source = a_host(place), a_host(place.parent / "source")
    fill(source, 1)
    replica = source.replica(a_key(0))
    assert replica
    head = replica.head._replace(created_ms=1 << 63)
    bad = [Change(a_key(0), max(replica.seen.values()).time, True, replica._replace(head=head))]
    with pytest.raises(ValueError, match="cannot be"):
        host.accept(bad)
    assert host.some_names(None, 9) == ()


# -- what an operator should know ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_operator_hears_of_little_room(place: Path) -> None:
    host = a_host(place, 8 * MIB)
    with pytest.raises(StoreUnavailable):
        fill(host, 100_000)
    assert any("max_size=8388608 are used" in finding.what for finding in host.examine())


def test_no_transaction_is_left_open_and_killed_readers_are_cleared(place: Path) -> None:
    host = a_host(place)
    fill(host, 3)
    env = host._open()
    reader, writer = os.pipe()

    def read() -> None:
        child = host._open()
        with child.lmdb.begin():
            os.write(writer, b".")
            signal.pause()

    pid = forked(read)
    os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    for number in range(environment.LOOK_EVERY + 1):
        fill(host, 1, first=10 + number)
    assert env.lmdb.reader_check() == 0
    host.progress()
    host.names(bucket_of(a_key(0)))
    assert "-" in env.lmdb.readers() or "no active readers" in env.lmdb.readers()


def test_reading_costs_no_more_than_the_frame(place: Path) -> None:
    """The meta that merging needs is not decoded for a look: damage there does not matter to it."""
    host = a_host(place)
    fill(host, 1)
    key = a_key(0)

    def cut(rows: tables.LmdbRows) -> None:
        data = rows._txn.get(key, db=rows._env.records) or b""
        rows._txn.put(key, data[: -len(packing.meta_in(data))], db=rows._env.records)

    host.writing(cut)  # type: ignore[arg-type]
    assert host.load(key)


def test_errors_of_lmdb_name_cause_and_cure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = a_host(place)
    fill(host, 1)

    def fail(*_: object, **__: object) -> None:
        raise lmdb.CorruptedError("bad page")

    host.close()
    monkeypatch.setattr(lmdb, "open", fail)
    with pytest.raises(StoreUnavailable, match="it is damaged or another program's") as raised:
        host.load(a_key(0))
    assert isinstance(raised.value.__cause__, lmdb.CorruptedError)
