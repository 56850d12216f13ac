"""What LocalStore promises beyond the contract: several processes, kills, forks, full disks, damaged files.

Processes are real: forked ones, where the test's own functions are the work, and killed with signals.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import mmap
import multiprocessing
import os
import random
import resource
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store import frame, local
from sojourn.store.local import LocalStore, environment, tables
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

DONE, EXISTS, GONE, STALE = Written.DONE, Written.EXISTS, Written.GONE, Written.STALE

SHM = Path("/dev/shm")
SIZE = 1 << 30
MIB = 1 << 20
PATIENCE = 30.0

# Python 3.12 and later warn of a fork beside threads, which is what some of these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


# -- helpers ---------------------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    """A path for a store, in memory-backed storage where there is some. Nothing of it is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="sojourn-test-", dir=SHM if SHM.is_dir() else None))
    faulthandler.dump_traceback_later(4 * PATIENCE, exit=True)
    yield directory / "sessions"
    faulthandler.cancel_dump_traceback_later()
    close_all()
    shutil.rmtree(directory)


@pytest.fixture
def store(place: Path) -> LocalStore:
    return a_store(place)


def a_store(place: Path, **settings: Any) -> LocalStore:
    return LocalStore(place, **{"sync": False, "max_size": SIZE, **settings})


def close_all() -> None:
    for env in list(environment._environments.values()):
        env.close()


FORK = multiprocessing.get_context("fork")


@contextmanager
def child(work: Callable[[], Any]) -> Iterator[tuple[Any, Connection]]:
    """Run *work* in a forked process, which is gone at the end of the ``with``; its answer comes over the pipe."""
    reader, writer = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_answer, args=(writer, work))
    process.start()
    writer.close()
    try:
        yield process, reader
    finally:
        if process.is_alive():
            process.kill()
        process.join(PATIENCE)
        reader.close()


def _answer(writer: Connection, work: Callable[[], Any]) -> None:
    try:
        writer.send((True, work()))
    except BaseException:
        writer.send((False, traceback.format_exc()))


def in_child(work: Callable[[], Any]) -> Any:
    """Return what *work* returns in a forked process. Fails when it raises, hangs or is killed."""
    with child(work) as (process, answer):
        return answer_of(process, answer)


def answer_of(process: Any, answer: Connection) -> Any:
    assert answer.poll(PATIENCE), "the child hangs"
    try:
        fine, result = answer.recv()
    except EOFError:
        process.join(PATIENCE)
        pytest.fail(f"the child died with exit code {process.exitcode}")
    assert fine, result
    process.join(PATIENCE)
    return result


def forked(work: Callable[[], bool]) -> int:
    """Fork; the child does *work*, which says whether all is well, and leaves without any cleanup. Return its id."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if work() else 1
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return pid


def refusal(work: Callable[[], Any]) -> str:
    """Return the words and the cause of the StoreUnavailable that *work* raises."""
    with pytest.raises(StoreUnavailable) as raised:
        work()
    assert raised.value.__cause__ is not None
    return f"{raised.value} [{type(raised.value.__cause__).__name__}]"


def assert_sound(store: LocalStore) -> dict[bytes, Record]:
    """Check that the deadlines and what has them agree exactly and every record opens; return the records."""
    stored, deadlines, principals, locks = contents(store)
    assert set(deadlines) == {
        *(data[:8] + key for key, data in stored.items()),
        *(end + name for name, end in principals.items()),
        *(data[:8] + key + b"\0" for key, data in locks.items()),
    }
    found = {}
    for key, data in stored.items():
        record = frame.unpack(key, data[8:])
        assert record
        assert int.from_bytes(data[:8], "big") <= frame.expires_ms(data[8:]), "filed too late: nobody would look"
        found[key] = record
    return found


def contents(store: LocalStore) -> list[dict[bytes, bytes]]:
    """Return what lies in records, deadlines, principals and locks."""
    env = store._open()
    with env.lmdb.begin() as txn:
        return [dict(txn.cursor(db=db)) for db in env.databases]


def pages(store: LocalStore) -> int:
    last: int = store._open().lmdb.info()["last_pgno"]
    return last


def readers(store: LocalStore) -> int:
    return len(store._open().lmdb.readers().splitlines()) - 1


def fill(store: LocalStore, *, first: int = 1000, size: int = 400) -> int:
    """Create sessions until the store refuses; return how many it took."""
    number = first
    with suppress(StoreUnavailable):
        while number < first + 200_000:
            store.create(a_key(number), a_record(values={"x": b"x" * size}))
            number += 1
    return number - first


@contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """A file system of its own that is soon full."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
        yield path
    finally:
        close_all()
        subprocess.run(["umount", str(path)], capture_output=True, check=False)
        path.rmdir()


# -- killed workers --------------------------------------------------------------------------------------------


@dataclass
class Script:
    """What one worker does to its own keys, step after step, and what must then be found under each key.

    A schedule is a function of its seed, so the parent can follow it from acknowledgements alone.
    """

    worker: int
    generation: int = 0
    live: dict[int, Record] = field(default_factory=dict)
    """The sessions in use, by number, as they were acknowledged."""
    ended: dict[int, Record | None] = field(default_factory=dict)
    """Those that are not used any more: deleted ones and tombstones."""

    def key(self, number: int) -> bytes:
        return a_key(1_000_000 * (self.worker + 1) + number)

    def steps(self) -> Iterator[tuple[str, int, Record | None]]:
        """Yield verb, number and the record that the verb leaves there. Reads what ``note`` has noted."""
        draw = random.Random(f"{self.worker} {self.generation}")
        fresh = 1 + max([*self.live, *self.ended], default=0)
        while True:
            verbs = ["update", "touch", "delete", "rotate"] + ["create"] * (2 if len(self.live) < 40 else 0)
            verb = draw.choice(verbs) if len(self.live) > 3 else "create"
            values = {"x": draw.randbytes(draw.choice((10, 500, 1900, 9000)))}
            number = draw.choice(list(self.live)) if verb != "create" else fresh
            if verb == "create":
                fresh += 1
                yield verb, number, a_record(values=values)
                continue
            found = self.live[number]
            if verb == "update":
                yield verb, number, found._replace(values=values, version=found.version + 1)
            elif verb == "touch":
                yield verb, number, found._replace(accessed_at=START + 60, expires_at=START + 5000)
            elif verb == "delete":
                yield verb, number, None
            else:
                new, fresh = fresh, fresh + 1
                yield "create", new, found._replace(version=1)
                # A tombstone lives shorter, which moves its entry in the index.
                tombstone = a_record(values={}, version=found.version + 1, retired=True, expires_at=START + 900)
                yield "update", number, tombstone

    def note(self, number: int, record: Record | None) -> None:
        if record and not record.retired:
            self.live[number] = record
        else:
            self.live.pop(number, None)
            self.ended[number] = record

    def perform(self, store: LocalStore, verb: str, number: int, record: Any) -> Written:
        key = self.key(number)
        if verb == "create":
            return store.create(key, record)
        base = self.live[number].version
        if verb == "update":
            return store.update(key, record, base)
        if verb == "touch":
            return store.touch(key, record.accessed_at, record.expires_at, base)
        return store.delete(key, base)

    def work(self, place: Path, pipe: int) -> None:
        """Follow the schedule for ever, writing one character before each step and a line after it."""
        store = a_store(place)
        for verb, number, record in self.steps():
            os.write(pipe, b">")
            began = time.monotonic()
            answer = self.perform(store, verb, number, record)
            took = time.monotonic() - began
            assert answer is DONE, f"{verb} answered {answer}"
            os.write(pipe, b"%.3f\n" % took)
            self.note(number, record)

    def settle(self, heard: bytes, store: LocalStore) -> tuple[list[float], bool]:
        """Follow what was *heard* of the killed worker, check its sessions, and take over what the kill left undecided.

        Return how long each step took, and whether the kill interrupted one.
        """
        waits = [float(line.lstrip(b">")) for line in heard.splitlines(keepends=True) if line.endswith(b"\n")]
        steps = self.steps()
        for _ in waits:
            self.note(*next(steps)[1:])
        interrupted = heard.endswith(b">")
        if interrupted:
            _, number, after = next(steps)
            found = store.load(self.key(number))
            assert found in (self.live.get(number), after), "half of a write is visible"
            if found == after:
                self.note(number, after)
        for number, record in self.live.items():
            assert store.load(self.key(number)) == record, "an acknowledged write is lost"
        self.generation += 1
        return waits, interrupted

    def everything(self) -> dict[bytes, Record]:
        """Return all that must be found in the end."""
        return {self.key(number): record for number, record in (self.live | self.ended).items() if record}


class Worker:
    """A process that follows a script, and the pipe over which it is heard."""

    def __init__(self, script: Script, place: Path) -> None:
        self.script, self.heard = script, b""
        self.reader, writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.process = FORK.Process(target=script.work, args=(place, writer))
        self.process.start()
        os.close(writer)

    def listen(self) -> None:
        with suppress(BlockingIOError):
            while data := os.read(self.reader, 65536):
                self.heard += data

    def kill(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE)
        self.listen()
        os.close(self.reader)


@pytest.mark.slow
def test_no_acknowledged_write_is_lost_when_workers_are_killed_at_any_moment(place: Path) -> None:
    """Checklist 105. Four writers, kill -9 at random moments; nobody is kept waiting and nothing is half done."""
    draw, waits, interrupted, store = random.Random(20), [0.0], 0, a_store(place)
    workers = [Worker(Script(number), place) for number in range(4)]
    try:
        for _ in range(80):
            until = time.monotonic() + draw.uniform(0.0, 0.04)
            while (left := until - time.monotonic()) > 0:
                select.select([worker.reader for worker in workers], [], [], left)
                for worker in workers:
                    worker.listen()
            victim = workers.pop(draw.randrange(4))
            victim.kill()
            assert victim.process.exitcode == -signal.SIGKILL, "the worker failed before it was killed"
            took, was_interrupted = victim.script.settle(victim.heard, store)
            waits += took
            interrupted += was_interrupted
            workers.append(Worker(victim.script, place))
    finally:
        for worker in workers:
            worker.kill()
    for worker in workers:
        worker.script.settle(worker.heard, store)
    expected = {key: record for worker in workers for key, record in worker.script.everything().items()}
    assert assert_sound(store) == expected
    assert in_child(lambda: assert_sound(a_store(place))) == expected, "after a restart of all"
    assert interrupted > 10, "too few kills fell into a write to prove anything"
    assert len(waits) > 1000
    assert max(waits) < 5.0, "a worker was blocked by a killed one"


WRITES: dict[str, Callable[[LocalStore], Any]] = {
    "create": lambda store: store.create(a_key(50), a_record(accessed_at=START + 500)),  # buries two dead ones
    "update": lambda store: store.update(a_key(1), a_record(version=2, values={"x": b"x" * 9000}), 1),
    "retire": lambda store: store.update(a_key(1), a_record(version=2, values={}, expires_at=START + 10), 1),
    "touch": lambda store: store.touch(a_key(1), START + 60, START + 5000, 1),
    "delete": lambda store: store.delete(a_key(1)),
    "sweep": lambda store: store.sweep(START + 500),
    "delete many": lambda store: store.delete_many([a_key(1), a_key(9), a_key(3)]),
    "enlist": lambda store: store.enlist(TAG, a_key(9), START + 500, START + 900),  # buries four dead ones
    "enlist again": lambda store: store.enlist(TAG, a_key(1), START, START + 900),
    "delist": lambda store: store.delist(TAG, [a_key(1), a_key(9), a_key(3)]),
    "acquire": lambda store: store.acquire(a_key(9), b"cat", START, START + 30),
    "acquire what was left behind": lambda store: store.acquire(a_key(1), b"cat", START + 50, START + 80),
    "release": lambda store: store.release(a_key(1), b"ann"),
}

TAG = b"t" * 32


def four_sessions(place: Path) -> LocalStore:
    """Two that live long and two that are dead by START + 500, listed and locked."""
    store = a_store(place)
    for number in range(1, 5):
        expires_at = START + (100 if number > 2 else 2000)
        store.create(a_key(number), a_record(expires_at=expires_at, accessed_at=START))
        store.enlist(TAG, a_key(number), START, expires_at)
        store.acquire(a_key(number), b"ann", START, START + (30 if number < 3 else 3000))
    return store


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITES)
def test_a_kill_between_any_two_steps_of_a_write_leaves_all_or_nothing(place: Path, write: str) -> None:
    """The process dies in front of the first, second, third … call of the transaction, until it gets through."""
    done = four_sessions(place.with_name("done"))
    WRITES[write](done)
    assert_sound(done)
    after = contents(done)
    for step in range(1, 100):
        store = four_sessions(place)
        before = contents(store)
        with child(partial(_killed_at_step, store, write, step)) as (process, _):
            process.join(PATIENCE)
        assert_sound(store)
        found = contents(store)
        store.close()
        shutil.rmtree(place)
        if process.exitcode == 0:
            assert found == after
            assert step > 5, "no step was looked at"
            return
        assert process.exitcode == -signal.SIGKILL
        assert found in (before, after), "half of a write is visible"
    pytest.fail("it never got through")


def _killed_at_step(store: LocalStore, write: str, step: int) -> None:
    store.load(a_key(1))  # so that it is open
    left: int | None = None

    def count(_: Any, event: str, function: Any) -> None:
        nonlocal left
        if event == "c_call":
            if left is not None:
                left -= 1
            elif function.__name__ == "begin":
                left = step - 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    WRITES[write](store)
    sys.setprofile(None)


def test_a_restart_of_all_workers_keeps_everything(place: Path) -> None:
    in_child(lambda: [a_store(place).create(a_key(n), a_record()) for n in range(100)])
    in_child(lambda: a_store(place).update(a_key(1), a_record(version=2), 1))
    assert in_child(lambda: a_store(place).load(a_key(1))) == a_record(version=2)
    assert len(assert_sound(a_store(place))) == 100


def test_many_workers_may_start_at_once_on_a_new_directory(place: Path) -> None:
    for round in range(5):
        path, gate = place / str(round), FORK.Event()

        def start(number: int, path: Path = path, gate: Any = gate) -> Any:
            gate.wait(PATIENCE)
            return a_store(path).create(a_key(number), a_record())

        with child(lambda: start(1)) as a, child(lambda: start(2)) as b, child(lambda: start(3)) as c:
            gate.set()
            assert [answer_of(*worker) for worker in (a, b, c)] == [DONE] * 3
        assert len(assert_sound(a_store(path))) == 3
        assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]


@on_linux
def test_a_stopped_writer_makes_writers_wait_and_no_reader(place: Path, store: LocalStore) -> None:
    """Checklist 106. The one wait without a deadline; it ends when the stopped process goes on or dies."""
    store.create(a_key(1), a_record())

    def stop_inside(txn: Any, env: Any) -> None:
        txn.put(b"k" * 32, bytes(8) + frame.pack(b"k" * 32, a_record()), db=env.records)
        txn.put(bytes(8) + b"k" * 32, b"", db=env.deadlines)
        os.kill(os.getpid(), signal.SIGSTOP)

    for ending, expected in ((signal.SIGKILL, GONE), (signal.SIGCONT, DONE)):
        with child(lambda: store._write(stop_inside)) as (stopped, _):
            assert os.WIFSTOPPED(os.waitpid(stopped.pid, os.WUNTRACED)[1])
            with (
                child(lambda: store.create(a_key(2), a_record())) as second,
                child(lambda: store.load(a_key(1))) as new,
            ):
                assert not second[1].poll(0.2), "LMDB lets a second writer in?"
                assert not new[1].poll(0.0), "a newcomer takes the writers' turn for a moment"
                works = (lambda: store.touch(a_key(1), START, START + 9, 1), lambda: wait_for(forked(lambda: True)))
                threads = [threading.Thread(target=work, daemon=True) for work in (*works, store.close)]
                for thread in threads:
                    thread.start()
                    thread.join(0.05)
                    assert thread.is_alive(), "a write, a fork and a close of a process whose write waits"
                    assert store.load(a_key(1)), "reads go on"
                os.kill(stopped.pid, ending)
                assert answer_of(*second) in (DONE, EXISTS)
                assert answer_of(*new)
                for thread in threads:
                    thread.join(PATIENCE)
                    assert not thread.is_alive()
            stopped.join(PATIENCE)
        assert store.delete(b"k" * 32) is expected, "what it began is there as a whole or not at all"
        assert_sound(store)


# -- one environment a process ---------------------------------------------------------------------------------


def test_stores_on_one_directory_share_one_environment(place: Path, store: LocalStore) -> None:
    store.create(a_key(), a_record())
    place.with_name("also").mkdir()
    other_name = place.with_name("also") / ".." / "sessions"
    second = a_store(other_name)
    assert second._open() is store._open()
    assert second.load(a_key()) == a_record()


def test_a_directory_reached_through_a_link_above_it_is_the_same_directory(place: Path, store: LocalStore) -> None:
    link = place.parent / "link"
    link.symlink_to(place.parent)
    assert a_store(link / "sessions")._open() is store._open()


@pytest.mark.parametrize("settings", [{"sync": True}, {"max_size": 2 * SIZE}])
def test_stores_with_different_settings_are_refused_when_built(place: Path, settings: dict[str, Any]) -> None:
    first = a_store(place)
    with pytest.raises(ConfigurationError, match=r"two stores .* give both the same"):
        a_store(place, **settings)
    first.create(a_key(), a_record())
    with pytest.raises(ConfigurationError, match=r"two stores .* give both the same"):
        a_store(place, **settings)


def test_a_closed_store_does_not_bind_a_new_one_to_its_settings(place: Path, store: LocalStore) -> None:
    store.create(a_key(), a_record())
    store.close()
    larger = a_store(place, max_size=2 * SIZE)
    assert larger.load(a_key()) == a_record()
    assert "give both the same" in refusal(lambda: store.load(a_key()))
    larger.close()
    assert store.load(a_key()) == a_record()


def test_a_forgotten_store_is_closed(place: Path) -> None:
    store = a_store(place)
    store.create(a_key(), a_record())
    del store
    gc.collect()
    assert place not in environment._environments
    lmdb.open(str(place)).close()  # py-lmdb refuses an environment that this process has open


def test_closing_one_store_leaves_the_others_working(place: Path, store: LocalStore) -> None:
    second = a_store(place)
    store.create(a_key(), a_record())
    assert second.load(a_key())
    store.close()
    store.close()
    assert second.load(a_key())
    assert store.load(a_key())
    assert second._open() is store._open()


def test_threads_racing_to_open_make_one_environment(place: Path) -> None:
    for _ in range(20):
        store = a_store(place)
        seen: list[Any] = []

        def open(gate: Any = threading.Barrier(4), store: Any = store, seen: list[Any] = seen) -> None:  # noqa: B008
            gate.wait()
            seen.append(store._open())

        run_threads(4, open)
        assert len(set(map(id, seen))) == 1
        store.close()
        lmdb.open(str(place)).close()


@pytest.mark.slow
def test_a_store_may_be_closed_while_other_threads_use_it(store: LocalStore) -> None:
    """They open it again. Nothing is refused, lost or done twice."""
    stop = threading.Event()
    store.create(a_key(), a_record())
    written = [0, 0]

    def write(thread: int) -> None:
        while not stop.is_set():
            assert store.create(a_key(10**9 * (thread + 1) + written[thread]), a_record()) is DONE
            written[thread] += 1

    def read() -> None:
        while not stop.is_set():
            assert store.load(a_key()) == a_record()

    def close() -> None:
        for _ in range(50):
            store.close()
            time.sleep(0.002)
        stop.set()

    run_threads(1, lambda: write(0), lambda: write(1), read, read, close)
    assert len(assert_sound(store)) == 1 + sum(written)


def run_threads(times: int, *works: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def guarded(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=[work], daemon=True) for work in works * times]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def test_an_interpreter_may_end_with_the_store_open_and_threads_in_it(place: Path) -> None:
    code = """if True:
        import sys, threading
        from sojourn.store.local import LocalStore, environment, tables
        from sojourn.testing.store_contract import a_key, a_record
        store = LocalStore(sys.argv[1], sync=False)
        store.create(a_key(), a_record())
        def work():
            while True:
                store.load(a_key()); store.touch(a_key(), 2e9, 3e9, 1)
        for _ in range(3):
            threading.Thread(target=work, daemon=True).start()
    """
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, str(place)], capture_output=True, timeout=PATIENCE, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        shutil.rmtree(place)


# -- forks -----------------------------------------------------------------------------------------------------


def test_an_environment_opened_before_a_fork_serves_parent_and_children(store: LocalStore) -> None:
    store.create(a_key(0), a_record())
    before = store._open()
    for number in range(1, 6):

        def use(number: int = number) -> bool:
            answers = (store.load(a_key(0)), store.create(a_key(number), a_record()), store._open() is before)
            return answers == (a_record(), DONE, False)

        pid = forked(use)
        assert store.load(a_key(0)) == a_record()
        assert store.create(a_key(100 + number), a_record()) is DONE
        assert os.waitpid(pid, 0)[1] == 0
        assert store.load(a_key(number)) == a_record(), "the child's write"
    assert store._open() is before, "the parent's environment is as it was"
    assert readers(store) == 0
    assert len(assert_sound(store)) == 11


def test_children_of_children_are_served(store: LocalStore) -> None:
    store.create(a_key(0), a_record())

    def grandchild() -> Any:
        return store.load(a_key(0)), store.create(a_key(2), a_record())

    def first() -> Any:
        return store.create(a_key(1), a_record()), in_child(grandchild), store.load(a_key(2))

    assert in_child(first) == (DONE, (a_record(), DONE), a_record())
    assert len(assert_sound(store)) == 3


def test_a_child_that_never_uses_the_store_holds_nothing_of_it(store: LocalStore) -> None:
    store.create(a_key(), a_record())

    def what_is_open() -> list[str]:
        return [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.exists(f"/proc/self/fd/{fd}")
        ]

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("no /proc")
    assert any(name.endswith("data.mdb") for name in what_is_open())
    assert not [name for name in in_child(what_is_open) if name.endswith(".mdb")]


@pytest.mark.slow
def test_a_fork_while_other_threads_read_write_and_fork_harms_nobody(store: LocalStore) -> None:
    """Children use the store or leave at once, without cleanup; no reader slot is lost, nothing hangs."""
    stop, written = threading.Event(), [0, 0]
    for number in range(10):
        store.create(a_key(number), a_record())

    def write(thread: int) -> None:
        while not stop.is_set():
            assert store.create(a_key(10**9 * (thread + 1) + written[thread]), a_record()) is DONE
            written[thread] += 1

    def read() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            assert store.load(a_key(number % 10)) == a_record()

    forking = [True, True]

    def fork(thread: int) -> None:
        for number in range(60):
            key = a_key(100 * (thread + 1) + number)

            def use(number: int = number, key: bytes = key) -> bool:
                if number % 2:
                    return True
                return store.load(a_key(3)) == a_record() and store.create(key, a_record()) is DONE

            wait_for(forked(use))
        forking[thread] = False
        if not any(forking):
            stop.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        run_threads(1, lambda: write(0), lambda: write(1), read, read, lambda: fork(0), lambda: fork(1))
    finally:
        stop.set()
        sys.setswitchinterval(interval)
    assert len(assert_sound(store)) == 10 + 60 + sum(written)
    assert min(written) > 10
    assert readers(store) == 0


def wait_for(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with {status}"
            return
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def test_the_fork_hooks_leave_no_lock_behind_when_interrupted(store: LocalStore) -> None:
    """A C program may also run the child's hook without the others."""
    store.create(a_key(), a_record())
    environment._before_fork()
    environment._after_fork_in_parent()
    environment._after_fork_in_parent()
    run_threads(1, lambda: store.load(a_key()), lambda: store.delete(a_key()))

    def as_a_c_program_does() -> Any:
        environment._after_fork_in_child()
        return store.load(a_key(1)), store.create(a_key(1), a_record())

    assert in_child(as_a_c_program_does) == (None, DONE)


# -- reader slots ----------------------------------------------------------------------------------------------


def killed_while_reading(store: LocalStore, slots: int = 1) -> None:
    """Let a process die inside a read transaction."""

    def work() -> None:
        env = store._open()
        held = [env.lmdb.begin() for _ in range(slots)]
        assert held
        os.kill(os.getpid(), signal.SIGKILL)

    with child(work) as (process, _):
        process.join(PATIENCE)
        assert process.exitcode == -signal.SIGKILL


def growth_after_a_killed_reader(store: LocalStore) -> int:
    """Return by how many pages the file grows over 3,000 updates of one session."""
    store.create(a_key(), a_record())
    for version in range(1, 100):
        store.update(a_key(), a_record(version=version + 1), version)
    killed_while_reading(store)
    before = pages(store)
    for version in range(100, 3100):
        store.update(a_key(), a_record(version=version + 1), version)
    return pages(store) - before


def test_a_worker_killed_while_reading_does_not_make_the_file_grow_for_ever(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = a_store(place / "looks")
    grown = growth_after_a_killed_reader(looks)
    assert readers(looks) == 0
    assert grown < environment.LOOK_EVERY * 8, "it is bounded by what this process writes between two looks"
    monkeypatch.setattr(environment, "LOOK_EVERY", 10**9)
    never_looks = a_store(place / "never looks")
    assert growth_after_a_killed_reader(never_looks) > 8 * grown, "nothing was to be prevented"
    assert readers(never_looks) == 1


def test_more_readers_than_slots_are_a_store_that_is_unavailable(store: LocalStore) -> None:
    store.create(a_key(), a_record())
    env = store._open()
    held = [env.lmdb.begin() for _ in range(local.MAX_READERS)]
    with suppress(lmdb.ReadersFullError):
        while True:
            held.append(env.lmdb.begin())
    assert "all of its reader slots are taken; run fewer processes" in refusal(lambda: store.load(a_key()))
    assert store.touch(a_key(), START + 60, START + 1860, 1) is DONE, "writers need no slot"
    held.clear()
    assert store.load(a_key())


def test_slots_of_killed_readers_are_found_when_none_is_free(store: LocalStore) -> None:
    store.create(a_key(), a_record())
    killed_while_reading(store, slots=local.MAX_READERS)
    assert readers(store) >= local.MAX_READERS
    taken = []
    with suppress(lmdb.ReadersFullError):
        while True:
            taken.append(store._open().lmdb.begin())
    assert store.load(a_key()) == a_record()


def test_many_threads_read_at_once(store: LocalStore) -> None:
    store.create(a_key(), a_record())
    run_threads(40, lambda: [store.load(a_key()) or pytest.fail("missed") for _ in range(50)])
    assert readers(store) == 0


# -- a read makes no system call -------------------------------------------------------------------------------

# write, exit_group and clock_gettime by machine. The last one is Python's: a lock looks at the clock, which takes a
# call on machines whose clock cannot be read without one.
ALLOWED = {"x86_64": (1, 231, 228), "aarch64": (64, 94, 113)}


def forbid_system_calls() -> bool:
    """Let the kernel kill this process at any system call but the few above. False where it cannot.

    Seccomp's strict mode would do without a program, but it also forbids to read the processor's clock.
    """
    libc = ctypes.CDLL(None)
    allowed = ALLOWED[os.uname().machine]
    lines = [(0x20, 0, 0, 0)]  # load the call's number
    lines += [(0x15, len(allowed) - place, 0, number) for place, number in enumerate(allowed)]  # equal: to the end
    lines += [(0x06, 0, 0, 0x80000000), (0x06, 0, 0, 0x7FFF0000)]  # kill the process; allow
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    buffer = ctypes.create_string_buffer(program)
    header = struct.pack("HP", len(lines), ctypes.addressof(buffer))
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    return bool(libc.prctl(set_seccomp, filter_mode, header, 0, 0) == 0)


@on_linux
@pytest.mark.skipif(os.uname().machine not in ALLOWED, reason="the numbers of the system calls are not known here")
@pytest.mark.parametrize("sins", [False, True], ids=["", "and the test can fail"])
def test_a_read_makes_no_system_call(store: LocalStore, sins: bool) -> None:
    store.create(a_key(1), a_record(values={"x": b"x" * 600}))
    store.create(a_key(2), a_record(values={"x": b"x" * 6000}))
    keys = [a_key(number) for number in (1, 2, 3)]
    reader, writer = os.pipe()

    def work() -> bool:
        found = [store.load(key) for key in keys * 1000]  # opens it, and lets malloc take the memory it needs
        del found
        gc.collect()
        gc.disable()
        if not forbid_system_calls():
            os._exit(77)
        if sins:
            os.getppid()
        hits = sum(store.load(key) is not None for key in keys * 334)
        os.write(writer, b"%d hits" % hits)
        return True

    pid = forked(work)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 77:
        pytest.skip("seccomp is not to be had here")
    if sins:
        assert os.WTERMSIG(status) == signal.SIGSYS
    else:
        assert (said, status) == (b"668 hits", 0)


# -- transactions ----------------------------------------------------------------------------------------------


def test_an_exception_in_a_write_leaves_no_trace_and_no_lock(store: LocalStore) -> None:
    store.create(a_key(1), a_record())
    before = assert_sound(store)

    def work(txn: Any, env: Any) -> None:
        txn.delete(a_key(1), db=env.records)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store._write(work)
    assert assert_sound(store) == before
    assert in_child(lambda: store.touch(a_key(1), START, START + 9, 1)) is DONE


def test_a_keyboard_interrupt_in_a_write_leaves_no_trace_and_no_lock(
    store: LocalStore, request: pytest.FixtureRequest
) -> None:
    before_this = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the tests ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before_this))
    store.create(a_key(1), a_record())
    before = assert_sound(store)

    def work(txn: Any, env: Any) -> None:
        txn.delete(a_key(1), db=env.records)
        signal.raise_signal(signal.SIGINT)

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            store._write(work)
    assert assert_sound(store) == before
    run_threads(1, lambda: store.touch(a_key(1), START, START + 9, 1))
    assert in_child(lambda: store.touch(a_key(1), START, START + 9, 1)) is DONE


def test_an_absurd_time_or_version_is_an_error_and_writes_nothing(store: LocalStore) -> None:
    store.create(a_key(1), a_record())
    before = assert_sound(store)
    works: list[Callable[[], Any]] = [
        lambda: store.create(a_key(2), a_record(expires_at=float("inf"))),
        lambda: store.create(a_key(2), a_record(expires_at=float("nan"))),
        lambda: store.touch(a_key(1), START, 1e30, 1),
        lambda: store.update(a_key(1), a_record(version=2**64), 1),
    ]
    for absurd in works:
        with pytest.raises((ValueError, OverflowError, struct.error)):
            absurd()
    assert assert_sound(store) == before


@pytest.mark.parametrize("year", [-1.0, 0.0, 0.001, 253_402_300_799.999])
def test_a_record_of_the_year_1970_or_9999_is_kept_and_swept_like_any_other(store: LocalStore, year: float) -> None:
    record = a_record(created_at=max(0.0, year), accessed_at=max(0.0, year), expires_at=max(0.0, year))
    assert store.create(a_key(), record._replace(created_at=year, expires_at=year)) in (DONE, EXISTS)
    live = store.load(a_key())
    assert live is None or live == record, "a create may bury its own record when it is dead already"
    assert store.sweep(year - 1) == 0
    store.sweep(year + 1)
    assert assert_sound(store) == {}


@pytest.mark.parametrize("size", [0, 1000, 1900, 1980, 2000, 2030, 2100, 4000, 4060, 8000, 262_144])
def test_values_of_any_size_are_kept_whole(store: LocalStore, size: int) -> None:
    """LMDB keeps values over about 2,030 bytes in pages of their own."""
    for version in range(1, 6):
        record = a_record(version=version, values={"x": bytes([version]) * (size + version)})
        answer = store.update(a_key(), record, version - 1) if version > 1 else store.create(a_key(), record)
        assert answer is DONE
        assert store.load(a_key()) == record
    assert_sound(store)


def test_after_a_fatal_error_the_environment_is_opened_again(store: LocalStore) -> None:
    """LMDB's word for it is panic: after a failed write of its first pages it refuses everything."""
    store.create(a_key(), a_record())
    env: Any = store._open()
    alive = env.lmdb

    class Panicking:
        close = alive.close
        reader_check = alive.reader_check

        def begin(self, **_: Any) -> Any:
            raise lmdb.PanicError("mdb_txn_begin", -30795)

    env.lmdb = Panicking()
    refusal(lambda: store.touch(a_key(), START, START + 9, 1))
    assert store.touch(a_key(), START, START + 9, 1) is DONE
    assert store._open() is not env


# -- room: a full map, a full disk, growth ---------------------------------------------------------------------


def assert_refuses_growth_and_serves_the_rest(store: LocalStore, words: str) -> None:
    """Check a full store: it says what to do, answers readers, lets sessions end, and takes new ones again."""
    record = a_record(values={"x": b"x" * 400})
    before = assert_sound(store)
    larger = a_record(version=2, values={"x": bytes(9000)})
    for _ in range(20):
        assert words in refusal(lambda: store.create(a_key(1), larger))
        assert words in refusal(lambda: store.update(a_key(1000), larger, 1))
    assert assert_sound(store) == before
    assert store.load(a_key(1000)) == record
    assert store.touch(a_key(1000), START + 60, START + 1860, 1) is DONE
    tombstone = a_record(version=2, values={}, retired=True, expires_at=START + 10)
    assert store.update(a_key(1001), tombstone, 1) is DONE
    for number in range(1002, 1000 + len(before) // 2):
        assert store.delete(a_key(number)) is DONE
    for number in range(1, 100):
        assert store.create(a_key(number), record) is DONE, "there is room again"
    for number in range(1, 100):
        assert store.update(a_key(number), a_record(version=2, values={"x": b"x" * 450}), 1) is DONE
    while store.sweep(START + 10_000) == 64:
        pass
    assert assert_sound(store) == {}
    assert fill(store) > 0.9 * len(before), "all of the room is there again"
    assert_sound(store)


@pytest.mark.parametrize("size", [pytest.param(20, marks=pytest.mark.slow), 400, 1900, 5000])
def test_a_full_map_is_unavailable_and_can_be_swept(place: Path, size: int) -> None:
    """LMDB takes pages to free pages: without a reserve a full map of small records could never be swept again."""
    store = a_store(place, max_size=4 * MIB)
    taken = fill(store, size=size)
    assert taken > 100
    assert (place / "data.mdb").stat().st_size <= 4 * MIB
    if size == 400:
        words = "it is full at max_size=4194304; raise that on every worker, or let sessions end sooner [MapFullError]"
        assert_refuses_growth_and_serves_the_rest(store, words)
    for _ in range(3):
        assert bury_64(store) == 64, "in one transaction"
    while store.sweep(START + 10_000) == 64:
        pass
    assert assert_sound(store) == {}
    assert fill(store, size=size) > 0.9 * taken


def bury_64(store: LocalStore) -> int:
    return store._write(partial(tables.bury, until=tables.sortable(START + 10_000), limit=64))


@pytest.mark.slow
def test_without_the_reserve_a_full_map_could_be_swept_a_few_at_a_time_at_best(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that the test above can fail."""
    monkeypatch.setattr(environment, "RESERVE", -(1 << 40))
    store = a_store(place, max_size=4 * MIB)
    fill(store, size=20)
    for _ in range(20):
        refusal(lambda: bury_64(store))


def test_a_killed_reader_does_not_keep_a_full_store_full(place: Path) -> None:
    """Its slot is cleared when pages are wanting, not only once in a while."""
    store = a_store(place, max_size=4 * MIB)
    fill(store)
    killed_while_reading(store)
    while store.sweep(START + 10_000) == 64:
        pass
    assert assert_sound(store) == {}
    assert fill(store) > 1000


@as_root
@on_linux
def test_a_full_disk_is_unavailable_and_can_be_swept() -> None:
    with small_disk("5m") as disk:
        store = a_store(disk / "sessions")
        assert fill(store) > 1000
        assert_refuses_growth_and_serves_the_rest(store, "No space left on device; make room on its file system")


@as_root
@on_linux
def test_a_disk_filled_by_others_does_not_stop_deletes_sweeps_and_readers() -> None:
    """In memory-backed storage a hole in the lock file would kill the process here."""
    with small_disk("5m") as disk:

        def work() -> None:
            store = a_store(disk / "sessions")
            for number in range(1000, 1300):
                store.create(a_key(number), a_record(values={"x": b"x" * 400}))
            with suppress(OSError), (disk / "other").open("wb", buffering=0) as other:
                while True:
                    other.write(bytes(4096))
            env = store._open()
            held = [env.lmdb.begin() for _ in range(local.MAX_READERS)]  # a write into every page of the lock file
            held.clear()
            fill(store)
            for number in range(1000, 1200):
                assert store.delete(a_key(number)) is DONE
            while store.sweep(START + 10_000) == 64:
                pass
            assert assert_sound(store) == {}
            (disk / "other").unlink()
            assert fill(store) > 500

        in_child(work)


@as_root
@on_linux
def test_a_disk_that_is_full_at_the_start_is_unavailable_until_there_is_room() -> None:
    with small_disk("4m") as disk:
        (disk / "other").write_bytes(bytes(3 * MIB + 900 * 1024))
        store = a_store(disk / "sessions")
        assert "No space left on device" in refusal(lambda: store.create(a_key(), a_record()))
        (disk / "other").unlink()
        assert store.create(a_key(), a_record()) is DONE
        assert sorted(file.name for file in store.path.iterdir()) == ["data.mdb", "lock.mdb"]


@pytest.mark.slow
def test_a_bound_on_file_sizes_is_unavailable_and_can_be_swept(place: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB, 5 * MIB))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store = a_store(place)
        assert fill(store) > 1000
        assert_refuses_growth_and_serves_the_rest(store, "File too large; make room on its file system")

    in_child(work)
    assert_sound(a_store(place))


def test_the_file_grows_far_beyond_its_first_size_while_others_have_it_open(place: Path, store: LocalStore) -> None:
    store.create(a_key(0), a_record())
    first = (place / "data.mdb").stat().st_size

    def grow() -> None:
        for number in range(1, 600):
            store.create(a_key(number), a_record(values={"x": bytes([number % 256]) * 60_000}))

    with child(grow) as a, child(lambda: [store.load(a_key(0)) for _ in range(2000)]) as b:
        answer_of(*a)
        answer_of(*b)
    assert (place / "data.mdb").stat().st_size > 10 * first
    for number in range(1, 600):
        found = store.load(a_key(number))
        assert found
        assert found.values["x"] == bytes([number % 256]) * 60_000


@on_linux
def test_max_size_takes_addresses_and_neither_memory_nor_disk(place: Path) -> None:
    def work() -> tuple[int, int]:
        def pages_of_process() -> tuple[int, int]:
            virtual, resident = Path("/proc/self/statm").read_text().split()[:2]
            return int(virtual) * mmap.PAGESIZE, int(resident) * mmap.PAGESIZE

        gc.collect()
        before = pages_of_process()
        store = LocalStore(place, sync=False)
        store.create(a_key(), a_record())
        after = pages_of_process()
        return after[0] - before[0], after[1] - before[1]

    virtual, resident = in_child(work)
    assert virtual >= local.MAX_SIZE
    assert resident < 4 * MIB
    assert (place / "data.mdb").stat().st_size < 4 * MIB
    assert sum(file.stat().st_blocks * 512 for file in place.iterdir()) < 4 * MIB


def test_a_max_size_beyond_the_address_space_is_unavailable(place: Path) -> None:
    def work() -> str:
        resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
        return refusal(lambda: LocalStore(place, sync=False).load(a_key()))

    assert "does not fit into this process's address space; lower it" in in_child(work)


def test_a_worker_with_a_smaller_max_size_is_told_to_use_the_others(place: Path) -> None:
    store = a_store(place, max_size=4 * MIB)
    store.create(a_key(), a_record())

    def grow() -> None:
        larger = a_store(place, max_size=64 * MIB)
        for number in range(200):
            larger.create(a_key(number), a_record(values={"x": bytes(60_000)}))

    store.close()  # so that the child may have other settings than the store it inherits
    in_child(grow)
    words = "its file has outgrown max_size=4194304; start this worker with the others' max_size"
    assert words in refusal(lambda: store.load(a_key())), "opened too late"
    shutil.rmtree(place)
    store.create(a_key(), a_record())
    with child(lambda: _grow_in_a_new_process(place)) as (process, answer):
        answer_of(process, answer)
    assert words in refusal(lambda: store.load(a_key())), "open all the while"
    assert words in refusal(lambda: store.delete(a_key()))
    store.close()
    assert a_store(place, max_size=64 * MIB).load(a_key())


def _grow_in_a_new_process(place: Path) -> None:
    code = """if True:
        import sys
        from sojourn.store.local import LocalStore, environment, tables
        from sojourn.testing.store_contract import a_key, a_record
        store = LocalStore(sys.argv[1], sync=False, max_size=64 << 20)
        for number in range(200):
            store.create(a_key(number), a_record(values={"x": bytes(60_000)}))
    """
    subprocess.run([sys.executable, "-c", code, str(place)], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(("size", "at_most", "whole_pages"), [(500, 1300, 0), (1000, 2400, 0), (1950, 4400, 1)])
def test_a_session_takes_about_twice_its_size_and_a_large_one_whole_pages(
    store: LocalStore, size: int, at_most: int, whole_pages: int
) -> None:
    for number in range(2000):
        store.create(a_key(number), a_record(values={"x": b"x" * size}))
    env = store._open()
    with env.lmdb.begin() as txn:
        trees = [txn.stat(db) for db in env.databases]
    live = sum(tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"] for tree in trees)
    assert live * trees[0]["psize"] / 2000 < at_most
    assert trees[0]["overflow_pages"] == 2000 * whole_pages
    assert (store.path / "data.mdb").stat().st_size < 1.2 * 2000 * at_most + 4 * MIB


# -- damaged and foreign files ---------------------------------------------------------------------------------


def some_sessions(place: Path) -> None:
    store = a_store(place)
    for number in range(300):
        store.create(a_key(number), a_record(values={"x": b"x" * (10, 600, 3000)[number % 3]}))
    store.close()


def last_byte_in_use(place: Path) -> int:
    with lmdb.open(str(place)) as env:
        return int((env.info()["last_pgno"] + 1) * env.stat()["psize"])


def cut_to_half(place: Path) -> None:
    os.truncate(place / "data.mdb", last_byte_in_use(place) // 2)


def cut_by_one_byte(place: Path) -> None:
    os.truncate(place / "data.mdb", last_byte_in_use(place) - 1)


def cut_to_the_first_pages(place: Path) -> None:
    os.truncate(place / "data.mdb", 2 * mmap.PAGESIZE)


def cut_to_a_few_bytes(place: Path) -> None:
    os.truncate(place / "data.mdb", 100)


def garbage_in_front(place: Path) -> None:
    with (place / "data.mdb").open("r+b") as file:
        file.write(random.Random(1).randbytes(3 * mmap.PAGESIZE))


def a_text_file(place: Path) -> None:
    (place / "data.mdb").write_text("These are not the pages that you are looking for.\n" * 1000)


def a_file_of_lmdb_1(place: Path) -> None:
    (place / "data.mdb").unlink()
    lmdb.open(str(place), lib_version=1).close()


def a_root_of_zeros(place: Path) -> None:
    with lmdb.open(str(place)) as env:
        size = env.stat()["psize"]
    with (place / "data.mdb").open("r+b") as file:
        file.seek(2 * size)
        file.write(bytes(last_byte_in_use(place) - 2 * size))


DAMAGES = [
    cut_to_half,
    cut_by_one_byte,
    cut_to_the_first_pages,
    cut_to_a_few_bytes,
    garbage_in_front,
    a_text_file,
    a_file_of_lmdb_1,
    a_root_of_zeros,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_unavailable_and_never_a_crash(place: Path, damage: Callable[[Path], None]) -> None:
    """In a process of its own: what LMDB does with pages that are not there is SIGBUS."""
    some_sessions(place)
    damage(place)
    for file in place.iterdir():
        file.chmod(0o600)

    def work() -> list[str]:
        store = a_store(place)
        record = a_record()
        return [
            refusal(lambda: store.load(a_key(1))),
            refusal(lambda: store.create(a_key(), record)),
            refusal(lambda: store.sweep(START)),
        ]

    for words in in_child(work):
        assert "damaged or another program's: stop all workers, move the directory away, start them again" in words
    shutil.move(place, place.with_name("away"))
    assert a_store(place).create(a_key(), a_record()) is DONE, "the cure works"


def test_a_damaged_lock_file_is_made_anew_by_the_first_worker(place: Path) -> None:
    some_sessions(place)
    for data in (b"", b"garbage" * 1000, bytes(100)):
        (place / "lock.mdb").write_bytes(data)
        assert in_child(lambda: a_store(place).load(a_key(1)))


def test_the_verifier_of_lmdb_finds_what_opening_cannot(place: Path) -> None:
    """The store's documentation sends operators to it after a power cut with sync=no."""
    some_sessions(place)
    verify = [sys.executable, "-m", "lmdb", "verify", "-e", str(place)]
    assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
    with (place / "data.mdb").open("r+b") as file:
        file.seek(last_byte_in_use(place) - mmap.PAGESIZE)
        file.write(random.Random(1).randbytes(mmap.PAGESIZE))
    assert subprocess.run(verify, capture_output=True, check=False).returncode != 0


def test_a_copy_may_be_made_while_workers_write(place: Path) -> None:
    """By LMDB's own tool, which takes one transaction. The copy's permissions are the operator's to set."""
    some_sessions(place)
    stop = FORK.Event()

    def write() -> int:
        store, number = a_store(place), 1000
        while not stop.is_set():
            store.create(a_key(number), a_record())
            store.delete(a_key(number - 5))
            number += 1
        return number

    backup = place.with_name("backup")
    with child(write) as (process, answer):
        copy = [sys.executable, "-m", "lmdb", "copy", "-e", str(place), str(backup)]
        subprocess.run(copy, check=True, capture_output=True, timeout=PATIENCE)
        stop.set()
        assert answer_of(process, answer) > 1000
    for file in backup.iterdir():
        file.chmod(0o600)
    found = assert_sound(a_store(backup))
    assert all(a_key(number) in found for number in range(300))


@as_root
@on_linux
def test_two_processes_of_one_id_in_two_containers_are_told_apart(place: Path) -> None:
    """LMDB knows readers by process id, so all workers on a directory need one pid namespace."""
    a_store(place).create(a_key(), a_record())
    gates = FORK.Event(), FORK.Event()

    def in_namespace(work: Callable[[], Any]) -> Any:
        if ctypes.CDLL(None).unshare(0x20000000) != 0:  # CLONE_NEWPID, for the children to come
            return None
        return in_child(lambda: (os.getpid(), work()))

    def first() -> bool:
        store = a_store(place)
        loaded = store.load(a_key()) is not None
        gates[0].set()
        gates[1].wait(PATIENCE)
        return loaded

    with child(lambda: in_namespace(first)) as (process, answer):
        while not gates[0].wait(0.05):
            if answer.poll():
                pytest.skip("no new pid namespace is to be had here")
        words = in_child(lambda: in_namespace(lambda: refusal(lambda: a_store(place).load(a_key()))))
        gates[1].set()
        assert answer_of(process, answer) == (1, True)
    assert words[0] == 1
    assert "give them one pid namespace or a path each" in words[1]


# -- the directory ---------------------------------------------------------------------------------------------


def test_directory_and_files_are_the_users_own(place: Path) -> None:
    """Checklist 84, whatever the umask."""
    mask = os.umask(0)
    try:
        a_store(place / "deeper").create(a_key(), a_record())
    finally:
        os.umask(mask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place / "deeper", *(place / "deeper").iterdir())}
    assert modes == {"deeper": 0o700, "data.mdb": 0o600, "lock.mdb": 0o600}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(place: Path, mode: int) -> None:
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(ConfigurationError, match=r"is open to other users; run: chmod go-w /"):
        a_store(place)
    place.chmod(0o755)
    a_store(place)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_files_that_others_may_read_are_refused(place: Path, name: str) -> None:
    store = a_store(place)
    store.create(a_key(), a_record())
    store.close()
    (place / name).chmod(0o640)
    with pytest.raises(ConfigurationError, match=rf"is open to other users; run: chmod go= /.*{name}"):
        a_store(place)
    assert "is open to other users" in refusal(lambda: store.load(a_key()))
    (place / name).chmod(0o600)
    assert store.load(a_key())


def test_links_are_not_followed(place: Path) -> None:
    elsewhere = place.with_name("elsewhere")
    a_store(elsewhere).create(a_key(), a_record())
    close_all()
    place.symlink_to(elsewhere)
    with pytest.raises(ConfigurationError, match="is a link or of another kind; give the local store a directory"):
        a_store(place)
    place.unlink()
    for name in ("data.mdb", "lock.mdb"):
        place.mkdir()
        (place / name).symlink_to(elsewhere / name)
        with pytest.raises(ConfigurationError, match="is a link or of another kind"):
            a_store(place)
        shutil.rmtree(place)
    place.symlink_to("nowhere")
    with pytest.raises(ConfigurationError, match="cannot use"):
        a_store(place)


@as_root
def test_what_belongs_to_another_user_is_refused(place: Path) -> None:
    place.mkdir(mode=0o700)
    os.chown(place, 12345, 12345)
    with pytest.raises(ConfigurationError, match=r"belongs to user 12345, and this is 0; name another"):
        a_store(place)
    os.chown(place, 0, 0)
    (place / "data.mdb").touch(mode=0o600)
    os.chown(place / "data.mdb", 12345, 12345)
    with pytest.raises(ConfigurationError, match=r"data.mdb belongs to user 12345"):
        a_store(place)


@as_root
def test_a_store_built_as_root_tells_a_worker_that_is_not(place: Path, store: LocalStore) -> None:
    store.create(a_key(), a_record())
    place.parent.chmod(0o755)

    def work() -> str:
        os.setuid(12345)
        return refusal(lambda: store.load(a_key()))

    assert "belongs to user 0, and this is 12345; name another" in in_child(work)


def test_a_path_that_cannot_be_used_is_refused_when_built(place: Path) -> None:
    place.write_text("a file")
    for path in (place, place / "below"):
        with pytest.raises(ConfigurationError, match=r"cannot use .*; name another"):
            a_store(path)


@as_root
def test_a_directory_without_write_permission_is_refused_when_built(place: Path) -> None:
    place.parent.chmod(0o755)
    place.mkdir()
    os.chown(place, 12345, 12345)
    place.chmod(0o500)

    def work() -> str:
        os.setgid(12345)
        os.setuid(12345)
        with pytest.raises(ConfigurationError) as own:
            a_store(place)
        with pytest.raises(ConfigurationError) as parents:
            a_store(place / "below")
        return f"{own.value} | {parents.value}"

    words = in_child(work)
    assert "the local store may not write to /" in words
    assert "run: chmod u+wx /" in words
    assert "Permission denied; name another" in words


@pytest.mark.parametrize("path", ["sessions", "./sessions", "~/sessions", ""])
def test_a_relative_path_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match="is relative, and workers may run anywhere; give an absolute path"):
        LocalStore(path)
    if path:
        with pytest.raises(ConfigurationError, match="give an absolute path"):
            LocalStore.from_url(f"local:{path}")


def test_a_removed_directory_is_noticed_and_all_workers_meet_again(
    store: LocalStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Its sessions are gone; but no worker goes on in a deleted file that no other worker sees."""
    store.create(a_key(0), a_record())
    shutil.rmtree(store.path)
    in_child(lambda: store.create(a_key(1), a_record()))
    assert store.load(a_key(0)), "not noticed yet"
    with caplog.at_level(logging.WARNING, "sojourn.store"):
        for number in range(2, 2 + environment.LOOK_EVERY):
            assert store.create(a_key(number), a_record()) is DONE
    assert "was removed or replaced: its sessions are gone" in caplog.text
    assert store.load(a_key(0)) is None
    assert store.load(a_key(1)) == a_record()
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700


# -- settings --------------------------------------------------------------------------------------------------


def test_a_url_names_place_and_settings(place: Path) -> None:
    plain = LocalStore.from_url(f"local://{place}")
    assert (plain.path, plain.sync, plain.max_size) == (place, True, local.MAX_SIZE)
    plain.close()
    for url in (f"local:{place}?sync=no&max_size=2GiB", f"local://{place}?max_size=2097152KiB&sync=no"):
        store = LocalStore.from_url(url)
        assert (store.path, store.sync, store.max_size) == (place, False, 2 << 30)
        store.close()
    spaced = LocalStore.from_url(f"local://{place}/a%20shop%3F")
    assert spaced.path == place / "a shop?"
    assert not spaced.waits


def test_no_path_is_memory_backed_storage_of_this_user(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    if os.access(SHM, os.W_OK):
        assert local.memory_backed_path() == SHM / f"sojourn-{os.geteuid()}"
    monkeypatch.setattr(local, "memory_backed_path", lambda: place)
    for store in (LocalStore(), LocalStore.from_url("local:"), LocalStore.from_url("local://")):
        assert (store.path, store.sync, store.max_size) == (place, False, local.MAX_SIZE)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("local://srv/sessions", "write the path with three slashes"),
        ("local:///srv/a#b", "# as %23"),
        ("local:///srv/a?fsync=no", "no setting 'fsync'; there are max_size, sync"),
        ("local:///srv/a?sync=maybe", "sync='maybe' in the store URL; use yes or no"),
        ("local:///srv/a?sync=", "sync='' in the store URL; use yes or no"),
        ("local:///srv/a?sync=no&sync=yes", "sync is given twice; keep one"),
        ("local:///srv/a?max_size=8GB", "write bytes, or a number with KiB, MiB or GiB"),
        ("local:///srv/a?max_size=-1", "write bytes, or a number with KiB, MiB or GiB"),
        ("local:///srv/a?max_size=1.5GiB", "write bytes, or a number with KiB, MiB or GiB"),
        ("local:///srv/a?max_size=0", "max_size=0 is out of bounds; use 4MiB to 64TiB"),
        ("local:///srv/a?max_size=3MiB", "max_size=3145728 is out of bounds"),
        ("local:///srv/a?max_size=99999999999GiB", "is out of bounds; use 4MiB to 64TiB"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_the_cure(url: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        LocalStore.from_url(url)
    assert words in str(raised.value)


# -- sweeping --------------------------------------------------------------------------------------------------


def test_one_transaction_buries_at_most_64(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The write lock is everybody's."""
    for number in range(300):
        store.create(a_key(number), a_record(expires_at=START + 100))
    batches: list[int] = []
    bury = tables.bury

    def watched(*args: Any, **named: Any) -> int:
        batches.append(bury(*args, **named))
        return batches[-1]

    monkeypatch.setattr(tables, "bury", watched)
    assert store.sweep(START + 50) == 0
    assert store.sweep(START + 200, 10) == 10
    assert store.sweep(START + 200, 130) == 130
    assert store.sweep(START + 200) == 64
    assert store.sweep(START + 200, 1000) == 96, "fewer than the limit says that it is done"
    assert store.sweep(START + 200) == 0
    assert max(batches) == 64
    assert assert_sound(store) == {}


lives = st.lists(st.tuples(st.integers(0, 200), st.integers(-50, 200), st.sampled_from(["", "touch", "update"])))


@settings(max_examples=50, deadline=None)
@given(lives, st.lists(st.integers(0, 300), max_size=4))
def test_no_sweep_buries_a_live_session(lives: list[tuple[int, int, str]], sweeps: list[int]) -> None:
    """Whatever touches and updates did to its deadline, and in whatever order the clock was read."""
    directory = Path(tempfile.mkdtemp(prefix="sojourn-test-", dir=SHM if SHM.is_dir() else None))
    store = a_store(directory / "sessions")
    deadlines: dict[int, float] = {}
    try:
        for number, (life, moved, how) in enumerate(lives):
            expires_at = START + life
            # Created long ago, so that creating buries nobody.
            assert store.create(a_key(number), a_record(accessed_at=0.0, expires_at=expires_at)) is DONE
            if how == "touch":
                assert store.touch(a_key(number), START, expires_at + moved, 1) is DONE
            elif how == "update":
                assert store.update(a_key(number), a_record(version=2, expires_at=expires_at + moved), 1) is DONE
            deadlines[number] = expires_at + (moved if how else 0)
        for now in sweeps:
            while store.sweep(START + now, 7) == 7:
                pass
            deadlines = {number: deadline for number, deadline in deadlines.items() if deadline > START + now}
            found = assert_sound(store)
            assert set(found) == {a_key(number) for number in deadlines}
    finally:
        store.close()
        shutil.rmtree(directory)


def test_a_store_without_a_sweeper_does_not_grow_for_ever(store: LocalStore) -> None:
    """Each create buries up to four of the dead, also beside many sessions that stay alive."""
    for number in range(200):
        store.create(a_key(number), a_record(expires_at=START + 300))
    now, sizes = START, []
    for number in range(1000, 5000):
        now += 1
        store.create(a_key(number), a_record(accessed_at=now, expires_at=now + 100))
        store.touch(a_key(number % 200), now, now + 300, 1)  # each of the 200 comes back every 200 seconds
        if number % 500 == 0:
            sizes.append((len(assert_sound(store)), pages(store)))
    counts, files = zip(*sizes[2:], strict=True)
    assert max(counts) <= 200 + 2 * 100
    assert max(files) <= files[0] + 5, "the file has stopped growing"
    assert all(store.load(a_key(number)) for number in range(200)), "and the living live"
