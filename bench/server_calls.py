"""Calls of stores and of raw drivers as batches: blocking ones one after another, async ones from TASKS tasks at once.

Rule: records are made before the clock starts, since a store is handed one. Packing them is the store's work and is
measured; the raw driver is handed the packed bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from bench.rounds import Batch, Sample, Stopwatch, check, repeated
from bench.sessions import NOW, Records, key_of
from sojourn.core.ops import AsyncStore, Store, Written
from sojourn.core.record import Record
from sojourn.store import frame
from sojourn.store.redis.commands import PREFIX  # memcached's is the same

FRAME = 2200  # bytes, all with their header
TASKS = 8  # at once on the event loop
CALLS = 200  # in one batch of blocking calls
EACH = 40  # calls of each task in one batch
LATE = NOW + 1e6

GetAsync = Callable[[bytes], Awaitable[Any]]


class Held:
    """One session in a store: its key, its name on the server, and the version that it must have."""

    def __init__(self, number: int) -> None:
        self.key, self.version = key_of(number), 1
        self.name = PREFIX.encode() + self.key.hex().encode()
        self._records, self._number = Records(FRAME), number

    def record(self, version: int = 1) -> Record:
        """Return the record."""
        return self._records.make(self._number, LATE, version)

    def packed(self) -> bytes:
        """Return the frame."""
        return frame.pack(self.key, self.record())

    def next(self, times: int) -> list[Record]:
        """Return so many records, each the successor of the one before."""
        first, self.version = self.version + 1, self.version + times
        return [self.record(version) for version in range(first, self.version + 1)]


# -- blocking ----------------------------------------------------------------------------------------------------


def loads(store: Store, held: Held) -> Batch:
    """Return the batch that loads the session."""
    key, size = held.key, len(held.record().values)

    def load() -> int:
        record = store.load(key)
        return len(record.values) if record else 0

    return repeated(load, size, CALLS)


def updates(store: Store, held: Held) -> Batch:
    """Return the batch that replaces the session over and over."""

    def batch() -> Sample:
        key, done, records = held.key, 0, held.next(CALLS)
        watch = Stopwatch()
        for record in records:
            done += store.update(key, record, record.version - 1) is Written.DONE
        sample = watch.per(CALLS)
        check(done == CALLS, f"{done} of {CALLS} updates were done")
        return sample

    return batch


def at_version(store: Store, held: Held) -> Callable[[], None]:
    """Return the check that the session is the last one written."""

    def look() -> None:
        check(store.load(held.key) == held.record(held.version), "the last update is not what is loaded")

    return look


def gets(get: Callable[[bytes], bytes | None], name: bytes) -> Batch:
    """Return the batch that gets the bytes of a session through a raw driver."""
    return repeated(lambda: len(get(name) or b""), FRAME, CALLS)


def sets(put: Callable[[bytes, bytes], object], name: bytes, data: bytes) -> Batch:
    """Return the batch that sets them."""
    return repeated(lambda: put(name, data) is True, True, CALLS)


# -- on an event loop --------------------------------------------------------------------------------------------


def loads_async(store: AsyncStore, all_held: Sequence[Held], runner: asyncio.Runner) -> Batch:
    """Return the batch in which each task loads a session of its own."""

    def loading(held: Held) -> Callable[[], Awaitable[int]]:
        key = held.key

        async def load() -> int:
            record = await store.load(key)
            return len(record.values) if record else 0

        return load

    return together([loading(held) for held in all_held], len(all_held[0].record().values), runner)


def gets_async(get: GetAsync, names: Sequence[bytes], runner: asyncio.Runner) -> Batch:
    """Return the batch in which each task gets the bytes of a session of its own through a raw driver."""

    def getting(name: bytes) -> Callable[[], Awaitable[int]]:
        async def ask() -> int:
            return len(await get(name) or b"")

        return ask

    return together([getting(name) for name in names], FRAME, runner)


def updates_async(store: AsyncStore, all_held: Sequence[Held], runner: asyncio.Runner) -> Batch:
    """Return the batch in which each task replaces a session of its own."""

    async def work(key: bytes, records: Sequence[Record]) -> int:
        done = 0
        for record in records:
            done += await store.update(key, record, record.version - 1) is Written.DONE
        return done

    async def run() -> Sample:
        prepared = [(held.key, held.next(EACH)) for held in all_held]
        watch = Stopwatch()
        done = await asyncio.gather(*(work(key, records) for key, records in prepared))
        sample = watch.per(TASKS * EACH)
        check(sum(done) == TASKS * EACH, f"{done} updates were done")
        return sample

    return lambda: runner.run(run())


def at_version_async(store: AsyncStore, all_held: Sequence[Held], runner: asyncio.Runner) -> Callable[[], None]:
    """Return the check that each session is the last one written."""

    def look() -> None:
        for held in all_held:
            found = runner.run(_load(store, held.key))
            check(found == held.record(held.version), "the last update is not what is loaded")

    return look


async def _load(store: AsyncStore, key: bytes) -> Record | None:
    return await store.load(key)


def sets_async(
    put: Callable[[bytes, bytes], Awaitable[object]], names: Sequence[bytes], data: bytes, runner: asyncio.Runner
) -> Batch:
    """Return the batch in which each task sets the bytes of a session of its own."""

    def setting(name: bytes) -> Callable[[], Awaitable[int]]:
        async def ask() -> int:
            return await put(name, data) is True

        return ask

    return together([setting(name) for name in names], 1, runner)


def together(operations: Sequence[Callable[[], Awaitable[int]]], answer: int, runner: asyncio.Runner) -> Batch:
    """Return the batch in which a task for each of *operations* repeats it. Each answers *answer*, or it is Broken."""
    calls = len(operations) * EACH

    async def work(operation: Callable[[], Awaitable[int]]) -> int:
        total = 0
        for _ in range(EACH):
            total += await operation()
        return total

    async def run() -> Sample:
        watch = Stopwatch()
        totals = await asyncio.gather(*map(work, operations))
        sample = watch.per(calls)
        check(sum(totals) == answer * calls, f"{calls} operations answered {totals}, not {answer} each")
        return sample

    return lambda: runner.run(run())
