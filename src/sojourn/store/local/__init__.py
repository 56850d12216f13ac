"""LocalStore: one LMDB environment a host, shared by all of its worker processes.

Sessions outlive any worker and the restart of all. What a reboot does depends on the place:

* ``local:`` keeps them in memory-backed storage (/dev/shm): a reboot ends every session of this host.
* ``local:///var/lib/shop/sessions`` keeps them on disk: a reboot keeps what was committed.
* ``…?sync=no`` on disk does not wait for the disk: fast, and kept over any crash of processes, but a power cut
  or a kernel crash may lose the last commits or damage the file.

Round trips: none. ``load`` is a lookup in mapped memory without a system call; each write is one LMDB transaction,
which never crosses an await or calls out, since a writer that stops inside one stops the host's other writers.
That is the one wait without a deadline here, and it ends by itself when the stopped process goes on or dies.
What concerns many sessions is done in transactions of 64 at most, so that nobody waits for long; a page of keys is one
read. No transaction is left open. ``tables`` says what lies where, ``environment`` keeps LMDB's other rules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

import lmdb

from sojourn.core.capability import Finding, Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store import frame
from sojourn.store.local import tables
from sojourn.store.local.environment import ENGINE, Environment, Txn, environment_of, explain
from sojourn.store.local.examination import examine
from sojourn.store.local.files import MAX_READERS, memory_backed_path

__all__ = ["ENGINE", "MAX_READERS", "MAX_SIZE", "SWEEP_AT_CREATE", "SWEEP_BATCH", "LocalStore", "memory_backed_path"]

T = TypeVar("T")

MAX_SIZE = 64 << 30  # bytes of address space, not of memory or disk: the file grows as it fills
SMALLEST, LARGEST = 4 << 20, 1 << 46  # less leaves no room beside the reserve; more exceeds a process's addresses
SWEEP_AT_CREATE = 4  # more than is filed for one session, so that the dead are buried faster than they come
SWEEP_BATCH = 64  # the most that one transaction buries, deletes or loads; keeps the write lock under 5 ms
LONGEST_PAGE = 1024  # keys: a read keeps the pages that it sees from being used again


class LocalStore:
    """Sessions in an LMDB environment of this host.

    *path* is an absolute path to a directory of its own, made with mode 0700; None chooses memory-backed storage.
    *sync* waits for the disk at each commit; None means yes for a *path* and no for memory. *max_size* bounds the
    file, in bytes; all workers give the same. Stores of one process on one directory share one environment.
    Raises ConfigurationError where the directory cannot be used or is open to others.
    """

    waits = False

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, sync: bool | None = None, max_size: int = MAX_SIZE
    ) -> None:
        if not SMALLEST <= max_size <= LARGEST:
            raise ConfigurationError(f"max_size={max_size} is out of bounds; use 4MiB to 64TiB, a few times the data")
        self.path = Path(path) if path is not None else memory_backed_path()
        self.sync = path is not None if sync is None else sync
        self.max_size = max_size
        self._chosen = path is not None
        self._environment = environment_of(self.path, self.sync, self.max_size)

    @classmethod
    def from_url(cls, url: str) -> LocalStore:
        """Return the store for ``local:[path][?sync=yes|no][&max_size=8GiB]``."""
        parts = urlsplit(url)
        if parts.netloc or parts.fragment:
            raise ConfigurationError(f"{url!r}: write the path with three slashes, local:///path, and # as %23")
        settings: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _SETTINGS:
                raise ConfigurationError(f"{url!r}: no setting {name!r}; there are {', '.join(sorted(_SETTINGS))}")
            if name in settings:
                raise ConfigurationError(f"{url!r}: {name} is given twice; keep one")
            settings[name] = _SETTINGS[name](name, value)
        return cls(unquote(parts.path) or None, **settings)

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        while True:
            env = self._open()
            try:
                with env.reading:
                    # In one expression, so that no transaction outlives the lock and meets a fork.
                    data = env.lmdb.begin(db=env.records).get(key)
                return None if data is None else frame.unpack(key, data[tables.FILED :])
            except lmdb.Error as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record and bury up to four that were dead by then, in the same transaction."""
        data, now = frame.pack(key, record), tables.sortable(record.accessed_at)

        def change(txn: Txn, env: Environment) -> Written:
            if not tables.add(txn, env, key, data):
                return Written.EXISTS
            env.keep_reserve(txn)
            tables.bury(txn, env, now, SWEEP_AT_CREATE)
            return Written.DONE

        return self._write(change)

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        data = frame.pack(key, record)

        def replace(txn: Txn, env: Environment, stored: bytes) -> None:
            tables.put_back(txn, env, key, stored[: tables.FILED], data)
            if len(data) > len(stored) - tables.FILED:  # else it is written however full it is, as a tombstone must
                env.keep_reserve(txn)

        return self._change(key, base, replace)

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""

        def patch(txn: Txn, env: Environment, stored: bytes) -> None:
            patched = frame.patch_times(stored[tables.FILED :], accessed_at, expires_at)
            tables.put_back(txn, env, key, stored[: tables.FILED], patched)

        return self._change(key, base, patch)

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        return self._change(key, base, lambda txn, env, stored: tables.remove(txn, env, key, stored))

    # -- many, the index, the scan ---------------------------------------------------------------------------

    def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys* in their order, None for each that is missing; 64 a transaction."""

        def read(txn: Txn, env: Environment, batch: Sequence[bytes]) -> list[bytes | None]:
            return [txn.get(key, db=env.records) for key in batch]

        batches = (keys[start : start + SWEEP_BATCH] for start in range(0, len(keys), SWEEP_BATCH))
        found = (data for batch in batches for data in self._read(partial(read, batch=batch)))
        return [
            None if data is None else frame.unpack(key, data[tables.FILED :])
            for key, data in zip(keys, found, strict=True)
        ]

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Remove the records under *keys* and return how many there were; 64 a transaction."""
        return sum(self._write_many(tables.remove_many, keys))

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Note *key* under *tag* until then, and bury up to four that were dead by *now*, in the same transaction."""
        end, over = tables.sortable(until), tables.sortable(now)

        def change(txn: Txn, env: Environment) -> None:
            tables.enlist(txn, env, tag, key, end)
            env.keep_reserve(txn)
            tables.bury(txn, env, over, SWEEP_AT_CREATE)

        self._write(change)

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        """Take *keys* out of what stands under *tag*; 64 a transaction."""
        for _ in self._write_many(partial(tables.delist, tag=tag), keys):
            pass

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of *tag* in their order, 1,024 at most. The cursor is the last key seen."""
        return self._read(partial(tables.find, tag=tag, after=cursor, limit=min(limit, LONGEST_PAGE)))

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of all sessions in their order, 1,024 at most. The cursor is the last key seen."""
        return self._read(partial(tables.scan, after=cursor, limit=min(limit, LONGEST_PAGE)))

    def sweep(self, now: float, limit: int = SWEEP_BATCH) -> int:
        """Bury what is dead at *now* (epoch seconds), looking at no more than *limit* deadlines.

        One transaction for each 64 of them, so that the write lock is held for a few milliseconds only. Returns
        how many it looked at: fewer than *limit* says that it is done.
        """

        def bury(txn: Txn, env: Environment, batch: range) -> tuple[int, int]:
            return len(batch), tables.bury(txn, env, until, len(batch))

        until, looked = tables.sortable(now), 0
        for wanted, found in self._write_many(bury, range(limit)):
            looked += found
            if found < wanted:
                break
        return looked

    # -- locks, and what an operator should know --------------------------------------------------------------

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Take the lock of *key* if it is free or its time is over by *now*."""
        start, end = tables.sortable(now), tables.sortable(until)
        if self._read(partial(tables.is_held, key=key, now=start)):
            return False  # looked at first, so that those who wait for a lock do not queue up for the write lock

        def change(txn: Txn, env: Environment) -> bool:
            if not tables.acquire(txn, env, key, owner, start, end):
                return False
            env.keep_reserve(txn)
            return True

        return self._write(change)

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lock of *key* back if it is *owner*'s."""
        return self._write(partial(tables.release, key=key, owner=owner))

    def examine(self) -> list[Finding]:
        """Return what puts sessions at risk here: the place, the sync, the room."""
        used = self._read(lambda txn, env: env.needs(txn))
        path = self._environment.path
        try:
            return examine(path, chosen=self._chosen, sync=self.sync, used=used, max_size=self.max_size)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close this process's environment. The next operation of any store on this directory opens it again."""
        self._environment.close()

    # -- transactions ----------------------------------------------------------------------------------------

    def _read(self, work: Callable[[Txn, Environment], T]) -> T:
        while True:
            env = self._open()
            try:
                with env.reading, env.lmdb.begin() as txn:
                    return work(txn, env)
            except lmdb.Error as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def _write(self, work: Callable[[Txn, Environment], T]) -> T:
        while True:
            env = self._open()
            try:
                env.look_around()
                with env.writing, env.lmdb.begin(write=True) as txn:
                    return work(txn, env)
            except (lmdb.Error, OSError) as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def _write_many(self, work: Callable[..., T], items: Sequence[Any]) -> Iterator[T]:
        """Do *work* on each *batch* of *items*, 64 a transaction, or fewer where the pages do not suffice for as many.

        Each entry that goes takes some pages before it frees them, the more the larger the trees. So in a store that is
        full a small transaction may get through where a large one does not, and make room for the next.
        """
        size, done = SWEEP_BATCH, 0
        while batch := items[done : done + size]:
            try:
                answer = self._write(partial(work, batch=batch))
            except StoreUnavailable:
                if len(batch) == 1:
                    raise
                size = len(batch) // 2
            else:
                done += len(batch)
                yield answer

    def _change(self, key: bytes, base: int | None, work: Callable[[Txn, Environment, bytes], None]) -> Written:
        """Do *work* on what is stored if it has version *base*, or any when that is None; otherwise say why not."""

        def change(txn: Txn, env: Environment) -> Written:
            stored = txn.get(key, db=env.records)
            if stored is None:
                return Written.GONE
            if base is not None and frame.version(stored[tables.FILED :]) != base:
                return Written.STALE
            work(txn, env, stored)
            return Written.DONE

        return self._write(change)

    def _open(self) -> Environment:
        while not (env := self._environment).ready:
            try:
                if env.closed:
                    env = self._environment = environment_of(self.path, self.sync, self.max_size)
                env.open()
            except (lmdb.Error, OSError, ConfigurationError) as error:
                self._fail(error)
        return env

    def _fail(self, error: Exception) -> NoReturn:
        words = explain(error, self.max_size)
        raise StoreUnavailable(f"the local store in {self.path} cannot answer: {words}") from error


# -- settings ------------------------------------------------------------------------------------------------


def _yes_or_no(name: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ConfigurationError(f"{name}={value!r} in the store URL; use yes or no")
    return value == "yes"


def _size(name: str, value: str) -> int:
    for suffix, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)):
        if value.endswith(suffix) and (number := value.removesuffix(suffix)).isdecimal():
            return int(number) * factor
    raise ConfigurationError(f"{name}={value!r} in the store URL; write bytes, or a number with KiB, MiB or GiB")


_SETTINGS: dict[str, Callable[[str, str], Any]] = {"sync": _yes_or_no, "max_size": _size}
