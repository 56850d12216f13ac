"""A second process that writes into a local store, and notes how long each of its writes had to wait."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from bench.rounds import check
from bench.sessions import NOW, Records, Times, key_of, times
from sojourn.core.ops import Written
from sojourn.store.local import LocalStore

NUMBER = 99_999_999  # its own session
PAUSE = 0.0005  # seconds between two writes
LATE = NOW + 1e6  # it outlives every sweep


class Rival:
    """What the process reports; filled in when it has ended."""

    written: Times


@contextmanager
def writing(path: Path) -> Iterator[Rival]:
    """Let a second process write one record of the store in *path* over and over until the block ends."""
    context = multiprocessing.get_context("spawn")
    started, stop, results = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=_write, args=(path, started, stop, results))
    process.start()
    check(started.wait(30), "the second process did not start")
    rival = Rival()
    try:
        yield rival
    finally:
        stop.set()
        rival.written = times(results.get(timeout=30))
        process.join(30)
        check(process.exitcode == 0, "the second process failed")


def _write(path: Path, started: Event, stop: Event, results: Queue[list[int]]) -> None:
    records, store, key = Records(), LocalStore(path, sync=False), key_of(NUMBER)
    store.delete(key)
    check(store.create(key, records.make(NUMBER, LATE)) is Written.DONE, "the rival's session begins")
    took, version = [], 1
    started.set()
    while not stop.is_set():
        record = records.make(NUMBER, LATE, version + 1)
        start = time.perf_counter_ns()
        answer = store.update(key, record, version)
        took.append(time.perf_counter_ns() - start)
        check(answer is Written.DONE, f"the rival's write answered {answer}")
        version += 1
        time.sleep(PAUSE)
    results.put(took)
    store.close()
