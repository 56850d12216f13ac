"""A local store full of numbered sessions. Only calls of the store are timed, one by one, on the wall."""

from __future__ import annotations

import random
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import lmdb

from bench.rounds import check
from bench.sessions import GENERATION, NOW, Records, Times, key_of, times
from sojourn.core.ops import Written
from sojourn.store.local import ENGINE, MAX_READERS, MAX_SIZE, SWEEP_BATCH, LocalStore

READS = 20_000  # in one round


class Filled:
    """A local store whose sessions are numbered in the order of their creation, which is that of their deadlines."""

    def __init__(self, path: Path, generation: int) -> None:
        self.path = path
        self.store = LocalStore(path, sync=False)
        self._records, self._generation = Records(), generation
        self._oldest = self._next = 0

    def fill(self, count: int) -> Times:
        """Create *count* sessions."""
        took = array("Q")
        for number in range(self._next, self._next + count):
            key, record = key_of(number), self._records.make(number, self._deadline(number))
            start = time.perf_counter_ns()
            answer = self.store.create(key, record)
            took.append(time.perf_counter_ns() - start)
            check(answer is Written.DONE, f"a create answered {answer}")
        self._next += count
        return times(took)

    def read(self) -> Times:
        """Load sessions at random."""
        return self._read(self.store.load)

    def read_raw(self) -> Times:
        """Get the same bytes with the driver alone, on an environment of its own."""
        self.store.close()
        env = lmdb.open(
            str(self.path), map_size=MAX_SIZE, max_dbs=2, max_readers=MAX_READERS, readonly=True, lib_version=ENGINE
        )
        with env:
            records = env.open_db(b"records", create=False)

            def get(key: bytes) -> bytes | None:
                with env.begin(db=records) as txn:
                    return txn.get(key)

            return self._read(get)

    def _read(self, get: Callable[[bytes], object]) -> Times:
        chosen = random.Random(READS).choices(range(self._oldest, self._next), k=READS)
        took = array("Q")
        for key in map(key_of, chosen):
            start = time.perf_counter_ns()
            found = get(key)
            took.append(time.perf_counter_ns() - start)
            check(found is not None, "a session is gone")
        return times(took)

    def sweep(self) -> tuple[Times, Times]:
        """Bury the oldest generation; return what the calls took, on the wall and of CPU."""
        wall, cpu, looked, swept = array("Q"), array("Q"), SWEEP_BATCH, 0
        now = NOW + GENERATION * (self._oldest // self._generation + 2) - 1
        while looked == SWEEP_BATCH:
            start, busy = time.perf_counter_ns(), time.thread_time_ns()
            looked = self.store.sweep(now)
            cpu.append(time.thread_time_ns() - busy)
            wall.append(time.perf_counter_ns() - start)
            swept += looked
        check(swept == self._generation, f"{swept} were swept, {self._generation} had expired")
        dead, living = range(self._oldest, self._oldest + swept), range(self._oldest + swept, self._next)
        check(not any(self.store.load(key_of(number)) for number in dead[::50]), "a dead session is still there")
        check(all(self.store.load(key_of(number)) for number in living[::500]), "the sweep took a living session")
        self._oldest += swept
        return times(wall), times(cpu)

    def _deadline(self, number: int) -> float:
        generation, place = divmod(number, self._generation)
        return NOW + GENERATION * (generation + 1 + place / self._generation / 2)

    def size(self) -> str:
        """Return the size of the file in MiB, as it is kept and not as it is mapped."""
        return f"{(self.path / 'data.mdb').stat().st_blocks * 512 / 2**20:,.0f}"
