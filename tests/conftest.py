"""Harnesses around every store in both colours, for the contracts."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import settings
from tests.order import pytest_collection_modifyitems, pytest_configure  # noqa: F401
from tests.servers.fixtures import memcached_servers, redis_cluster, redis_sentinels, redis_server  # noqa: F401
from tests.servers.skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

from sojourn.core.ops import Op, Store
from sojourn.drive import aperform, as_async, perform
from sojourn.store.local import LocalStore
from sojourn.store.memory import MemoryStore
from sojourn.testing import StoreHarness
from sojourn.testing.capability_contract import capabilities_of

# A timed example fails on a busy machine. Where others wait for the result, examples are the same each time.
settings.register_profile("sojourn", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("sojourn")

MakeHarness = Callable[[], AbstractContextManager[StoreHarness]]


class MemoryDoor:
    """The side door into a MemoryStore."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    def read(self, key: bytes) -> bytes | None:
        return self.store.frames.get(key)

    def write(self, key: bytes, data: bytes) -> None:
        self.store.frames[key] = data

    def dump(self) -> bytes:
        records = b"".join(key + data for key, data in self.store.frames.items())
        entries = b"".join(tag + key for tag, keys in self.store.index.items() for key in keys)
        return records + entries + b"".join(key + owner for key, (_, owner) in self.store.locks.items())


class LocalDoor:
    """The side door into a LocalStore: the environment's own transactions."""

    def __init__(self, store: LocalStore) -> None:
        self.env = store._open()

    def read(self, key: bytes) -> bytes | None:
        with self.env.lmdb.begin(db=self.env.records) as txn:
            stored = txn.get(key)
        return None if stored is None else stored[8:]

    def write(self, key: bytes, data: bytes) -> None:
        with self.env.lmdb.begin(write=True, db=self.env.records) as txn:
            filed = txn.get(key)[:8]
            txn.put(key, filed + data)

    def dump(self) -> bytes:
        with self.env.lmdb.begin() as txn:
            return b"".join(k + v for db in self.env.databases for k, v in txn.cursor(db=db))


@contextmanager
def memory_harness(make: Callable[[], MemoryStore] = MemoryStore, *, loop: bool = False) -> Iterator[StoreHarness]:
    store = make()
    with coloured(store, loop) as (do, do_all):
        outage, can = getattr(store, "outage", None), capabilities_of(store)
        yield StoreHarness(do, do_all, MemoryDoor(store), partial(sweep, store), outage, can)


@contextmanager
def local_harness(*, loop: bool = False) -> Iterator[StoreHarness]:
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    store = LocalStore(path / "sessions", sync=False, max_size=1 << 30)
    try:
        with coloured(store, loop) as (do, do_all):
            outage, can = partial(local_outage, store), capabilities_of(store)
            yield StoreHarness(do, do_all, LocalDoor(store), partial(sweep, store), outage, can)
    finally:
        store.close()
        shutil.rmtree(path)


@contextmanager
def coloured(store: Store, loop: bool) -> Iterator[tuple[Callable[[Op], Any], Callable[[Sequence[Op]], list[Any]]]]:
    if loop:
        runner, astore = asyncio.new_event_loop(), as_async(store)

        async def do_all(ops: Sequence[Op]) -> list[Any]:
            return list(await asyncio.gather(*(aperform(op, astore) for op in ops)))

        def do(op: Op) -> Any:
            return runner.run_until_complete(aperform(op, astore))

        yield do, lambda ops: runner.run_until_complete(do_all(ops))
        runner.close()
    else:
        with ThreadPoolExecutor(8) as pool:
            yield partial(flipped, perform, store), lambda ops: list(pool.map(partial(flipped, perform, store), ops))


def flipped(function: Callable[[Any, Any], Any], second: Any, first: Any) -> Any:
    return function(first, second)


def sweep(store: MemoryStore | LocalStore, now: float) -> None:
    while store.sweep(now, 64) == 64:
        pass


@contextmanager
def local_outage(store: LocalStore) -> Iterator[None]:
    """Let every transaction fail as LMDB does on a disk that does not answer."""

    class Dead:
        def begin(self, **_: Any) -> Any:
            raise lmdb.Error("mdb_txn_begin", 5)

        def reader_check(self) -> int:
            return 0

    env = store._open()
    alive, env.lmdb = env.lmdb, Dead()
    try:
        yield
    finally:
        env.lmdb = alive


HARNESSES: dict[str, MakeHarness] = {
    "memory": memory_harness,
    "memory-async": partial(memory_harness, loop=True),
    "local": local_harness,
    "local-async": partial(local_harness, loop=True),
}


@pytest.fixture(params=HARNESSES)
def make_harness(request: pytest.FixtureRequest) -> MakeHarness:
    return HARNESSES[request.param]
