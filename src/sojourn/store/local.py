"""LocalStore: one LMDB environment a host, shared by all of its worker processes.

Sessions outlive any worker and the restart of all. What a reboot does depends on the place:

* ``local:`` keeps them in memory-backed storage (/dev/shm): a reboot ends every session of this host.
* ``local:///var/lib/shop/sessions`` keeps them on disk: a reboot keeps what was committed.
* ``…?sync=no`` on disk does not wait for the disk: fast, and kept over any crash of processes, but a power cut
  or a kernel crash may lose the last commits or damage the file.

Round trips: none. ``load`` is a lookup in mapped memory without a system call; each write is one LMDB transaction,
which never crosses an await or calls out, since a writer that stops inside one stops the host's other writers.
That is the one wait without a deadline here, and it ends by itself when the stopped process goes on or dies.

LMDB's rules that this file keeps: one open environment a process (a registry), none inherited over a fork
(hooks), no transaction left open, dead readers cleared, deletes in small batches, pages kept back for deletes,
engine 0.9 (LMDB 1.0 aborted when workers were killed).
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import RLock
from typing import Any, NoReturn, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit
from weakref import WeakValueDictionary

import lmdb

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store import frame

T = TypeVar("T")
Txn: TypeAlias = "lmdb.Transaction[bytes]"

MAX_SIZE = 64 << 30  # bytes of address space, not of memory or disk: the file grows as it fills
SMALLEST, LARGEST = 4 << 20, 1 << 46  # less leaves no room beside the reserve; more exceeds a process's addresses
RESERVE = 512  # pages that creates leave free, since LMDB takes pages to free pages; three sweeps' worth at least
GROWTH = 64  # pages that the file grows by beyond what is needed: a quarter of a millisecond of writing
MAX_READERS = 4096  # slots of 64 bytes in the lock file; one is taken for the microseconds of each read
ENGINE = 0  # LMDB 0.9
SWEEP_AT_CREATE = 4  # more than one, so that the dead are buried faster than sessions are born
SWEEP_BATCH = 64  # the most that one transaction buries; keeps the write lock under 5 ms
LOOK_EVERY = 256  # writes of this process between two looks for killed readers, whose pages nobody can use again

_FILED = 8  # bytes in front of each frame: the deadline (ms) under which the session stands in the index
_DATA, _LOCK = "data.mdb", "lock.mdb"

_log = logging.getLogger("sojourn.store")


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
        self._environment = _environment_of(self)

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
        data = self._read(key)
        return None if data is None else frame.unpack(key, data[_FILED:])

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record and bury up to four that were dead by then, in the same transaction."""
        data = frame.pack(key, record)
        filed, now = _sortable(frame.expires_ms(data)), _sortable(frame.to_ms(record.accessed_at))

        def change(txn: Txn, env: _Environment) -> Written:
            if not txn.put(key, filed + data, overwrite=False, db=env.records):
                return Written.EXISTS
            txn.put(filed + key, b"", db=env.deadlines)
            env.keep_reserve(txn)
            _bury(txn, env, now, SWEEP_AT_CREATE)
            return Written.DONE

        return self._write(change)

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        data = frame.pack(key, record)

        def replace(txn: Txn, env: _Environment, stored: bytes) -> None:
            _put_back(txn, env, key, stored[:_FILED], data)
            if len(data) > len(stored) - _FILED:  # else it may be written however full it is, as a tombstone must
                env.keep_reserve(txn)

        return self._change(key, base, replace)

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""

        def patch(txn: Txn, env: _Environment, stored: bytes) -> None:
            patched = frame.patch_times(stored[_FILED:], accessed_at, expires_at)
            _put_back(txn, env, key, stored[:_FILED], patched)

        return self._change(key, base, patch)

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""

        def remove(txn: Txn, env: _Environment, stored: bytes) -> None:
            txn.delete(key, db=env.records)
            txn.delete(stored[:_FILED] + key, db=env.deadlines)

        return self._change(key, base, remove)

    def sweep(self, now: float, limit: int = SWEEP_BATCH) -> int:
        """Bury what is dead at *now* (epoch seconds), looking at no more than *limit* deadlines.

        One transaction for each 64 of them, so that the write lock is held for a few milliseconds only. Returns
        how many it looked at: fewer than *limit* says that it is done.
        """
        until, looked = _sortable(frame.to_ms(now)), 0
        while looked < limit:
            batch = min(limit - looked, SWEEP_BATCH)
            looked += (found := self._write(partial(_bury, until=until, limit=batch)))
            if found < batch:
                break
        return looked

    def close(self) -> None:
        """Close this process's environment. The next operation of any store on this directory opens it again."""
        self._environment.close()

    # -- transactions ----------------------------------------------------------------------------------------

    def _read(self, key: bytes) -> bytes | None:
        while True:
            env = self._open()
            try:
                with env.reading:
                    # In one expression, so that no transaction outlives the lock and meets a fork.
                    return env.lmdb.begin(db=env.records).get(key)
            except lmdb.Error as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def _write(self, work: Callable[[Txn, _Environment], T]) -> T:
        while True:
            env = self._open()
            try:
                env.look_around()
                with env.writing, env.lmdb.begin(write=True) as txn:
                    return work(txn, env)
            except (lmdb.Error, OSError) as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def _change(self, key: bytes, base: int | None, work: Callable[[Txn, _Environment, bytes], None]) -> Written:
        """Do *work* on what is stored if it has version *base*, or any when that is None; otherwise say why not."""

        def change(txn: Txn, env: _Environment) -> Written:
            stored = txn.get(key, db=env.records)
            if stored is None:
                return Written.GONE
            if base is not None and frame.version(stored[_FILED:]) != base:
                return Written.STALE
            work(txn, env, stored)
            return Written.DONE

        return self._write(change)

    def _open(self) -> _Environment:
        while not (env := self._environment).ready:
            try:
                if env.closed:
                    env = self._environment = _environment_of(self)
                env.open()
            except (lmdb.Error, OSError, ConfigurationError) as error:
                self._fail(error)
        return env

    def _fail(self, error: Exception) -> NoReturn:
        raise StoreUnavailable(f"the local store in {self.path} cannot answer: {_explain(error, self)}") from error


def memory_backed_path() -> Path:
    """Return where ``local:`` keeps sessions: memory-backed storage where the system has it, one place a user."""
    shm = Path("/dev/shm")  # noqa: S108  (the directory is made with mode 0700 and checked to be ours)
    base = shm if os.access(shm, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return base / f"sojourn-{os.geteuid()}"


# -- what a transaction does ---------------------------------------------------------------------------------


def _put_back(txn: Txn, env: _Environment, key: bytes, filed: bytes, data: bytes) -> None:
    """Store *data* under a key that is there, and file it in the index anew if its deadline came closer.

    An entry of the index says when to look. A later deadline leaves it alone: looking then finds the record alive.
    So the index is written only when a tombstone, or a stricter policy, shortens the life.
    """
    deadline = _sortable(frame.expires_ms(data))
    if deadline < filed:
        txn.delete(filed + key, db=env.deadlines)
        txn.put(deadline + key, b"", db=env.deadlines)
    txn.put(key, min(filed, deadline) + data, db=env.records)


def _bury(txn: Txn, env: _Environment, until: bytes, limit: int) -> int:
    """Delete records that were dead by *until*, looking at the *limit* earliest entries of the index at most."""
    looked = 0
    with txn.cursor(db=env.deadlines) as cursor:
        while looked < limit and cursor.first() and (entry := cursor.key())[:_FILED] <= until:
            looked += 1
            cursor.delete()
            key = entry[_FILED:]
            stored = txn.get(key, db=env.records)
            if stored is None:
                continue
            deadline = _sortable(frame.expires_ms(stored[_FILED:]))
            if deadline <= until:
                txn.delete(key, db=env.records)
            else:
                txn.put(deadline + key, b"", db=env.deadlines)
                txn.put(key, deadline + stored[_FILED:], db=env.records)
    return looked


def _sortable(milliseconds: int) -> bytes:
    return milliseconds.to_bytes(_FILED, "big")  # big-endian, so that the order of bytes is the order of time


# -- one environment a process -------------------------------------------------------------------------------


class _Environment:
    """The LMDB environment of a directory, shared by all stores of this process that name it.

    LMDB forbids a second one on the same files. It is opened once, by the first operation, and closed once; then
    stores make another. The two locks keep a fork and a ``close`` out of transactions.
    """

    def __init__(self, path: Path, sync: bool, max_size: int) -> None:
        self.path, self.sync, self.max_size = path, sync, max_size
        self.reading, self.writing = RLock(), RLock()
        self.ready = self.closed = False
        self._writes = 0
        self._size = 0  # bytes of the file that are known to exist; it may be longer, and never shrinks

    def open(self) -> None:
        """Open it, unless another thread did, or closed it."""
        with _registry:
            if self.ready or self.closed:
                return
            _prepare(self.path)
            _make_lock_file(self.path)
            self.lmdb = lmdb.open(
                str(self.path),
                map_size=self.max_size,
                max_dbs=2,
                max_readers=MAX_READERS,
                mode=0o700,  # of files, 0600: LMDB drops the x bits
                sync=self.sync,
                metasync=self.sync,
                lib_version=ENGINE,
            )
            try:
                self._check_size()
                self.lmdb.reader_check()
                with self.lmdb.begin(write=True) as txn:
                    self.records = self.lmdb.open_db(b"records", txn=txn)
                    self.deadlines = self.lmdb.open_db(b"deadlines", txn=txn)
            except BaseException:
                self.lmdb.close()
                raise
            self._files = _identify(self.path)
            self.ready = True

    def _check_size(self) -> None:
        """Refuse a file that LMDB opens and then crashes on, and one that has outgrown *max_size*."""
        info, self._page = self.lmdb.info(), self.lmdb.stat()["psize"]
        if os.stat(self.path / _DATA).st_size < (info["last_pgno"] + 1) * self._page:
            raise lmdb.CorruptedError(f"{_DATA} was cut short")
        if info["map_size"] > self.max_size:
            raise lmdb.MapResizedError(f"{_DATA} has {info['map_size']} bytes")

    def keep_reserve(self, txn: Txn) -> None:
        """Let the file grow ahead of what is live in it; raise where it cannot.

        A delete copies pages before it frees them: without a reserve a full store could not even be swept.
        """
        pages = RESERVE
        for db in (self.records, self.deadlines):
            tree = txn.stat(db)
            pages += tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"]
        if (wanted := pages * self._page) > self._size:
            self._size = self._lengthen(wanted)

    def _lengthen(self, wanted: int) -> int:
        """Write zeros until the file has *wanted* bytes; called in a write transaction, so by one process at a time."""
        if wanted > self.max_size:
            raise lmdb.MapFullError(f"{wanted} bytes are needed")
        with open(self.path / _DATA, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            while size < wanted:  # less than asked for is written where the room ends, and the next try raises
                size += file.write(bytes(min(wanted + GROWTH * self._page, self.max_size) - size))
        return size

    def look_around(self) -> None:
        """Once in a while, clear the slots of killed readers, and let go of files that are no longer in place."""
        self._writes += 1
        if self._writes % LOOK_EVERY == 0:
            self._clear_dead_readers()
            if _identify(self.path) != self._files:
                _log.warning("the local store in %s was removed or replaced: its sessions are gone", self.path)
                self.close()

    def recovers_from(self, error: Exception) -> bool:
        """Tell whether to try again: after a ``close`` meanwhile, or since killed readers held slots or pages."""
        if isinstance(error, lmdb.PanicError):
            self.close()  # by LMDB's rule; the next operation opens a new one
            return False
        return self.closed or self._clear_dead_readers() > 0

    def _clear_dead_readers(self) -> int:
        with self.reading:
            return 0 if self.closed else self.lmdb.reader_check()

    def close(self) -> None:
        """Close it for good, when no thread is in a transaction."""
        with _registry, self.writing, self.reading:  # in this order, so that reads go on while a write waits
            self.abandon()

    def abandon(self) -> None:
        """Close it without waiting, as a forked child does with its parent's."""
        ready, self.ready, self.closed = self.ready, False, True
        if ready:
            self.lmdb.close()


_registry = RLock()
_environments: WeakValueDictionary[Path, _Environment] = WeakValueDictionary()
_held = ExitStack()  # what a fork under way keeps locked


def _environment_of(store: LocalStore) -> _Environment:
    _prepare(store.path)
    path = store.path.resolve()
    with _registry:
        env = _environments.get(path)
        if env is None or env.closed:
            env = _environments[path] = _Environment(path, store.sync, store.max_size)
    if (env.sync, env.max_size) != (store.sync, store.max_size):
        raise ConfigurationError(
            f"two stores of this process use {path}, one with sync={env.sync}, max_size={env.max_size} and one with "
            f"sync={store.sync}, max_size={store.max_size}; give both the same"
        )
    return env


def _before_fork() -> None:
    _held.enter_context(_registry)
    for env in list(_environments.values()):
        _held.enter_context(env.writing)
        _held.enter_context(env.reading)


def _after_fork_in_parent() -> None:
    _held.pop_all().close()  # first emptied: once the registry is free, another thread's fork fills it again


def _after_fork_in_child() -> None:
    """Close what was inherited: used here it would take the parent's reader slots. Stores open their own."""
    global _registry  # noqa: PLW0603  a fresh one, even where a C program forked without the other hooks
    _registry = RLock()
    _held.pop_all()  # forgotten, not released: the locks go with their environments
    for env in list(_environments.values()):
        env.abandon()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)


# -- files ---------------------------------------------------------------------------------------------------


def _prepare(path: Path) -> None:
    """Make the directory, or check that it is ours alone: whoever can write there can plant sessions."""
    if not path.is_absolute():
        raise ConfigurationError(f"{str(path)!r} is relative, and workers may run anywhere; give an absolute path")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in (path, path / _DATA, path / _LOCK):
            if os.path.lexists(part):
                _check_ours(part, is_directory=part is path)
    except OSError as error:
        raise ConfigurationError(f"the local store cannot use {path}: {error.strerror}; name another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigurationError(f"the local store may not write to {path}; run: chmod u+wx {path}, or name another")


def _check_ours(path: Path, *, is_directory: bool) -> None:
    found = path.lstat()
    forbidden, cure = (stat.S_IWGRP | stat.S_IWOTH, "go-w") if is_directory else (stat.S_IRWXG | stat.S_IRWXO, "go=")
    if not (stat.S_ISDIR if is_directory else stat.S_ISREG)(found.st_mode):
        raise ConfigurationError(f"{path} is a link or of another kind; give the local store a directory of its own")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to user {found.st_uid}, and this is {os.geteuid()}; name another")
    if found.st_mode & forbidden:
        raise ConfigurationError(f"{path} is open to other users; run: chmod {cure} {path}")


def _make_lock_file(path: Path) -> None:
    """Make it without holes, as LMDB would: touching one kills the process where memory-backed storage is full."""
    if not (path / _LOCK).exists():
        with tempfile.NamedTemporaryFile(prefix="new-lock-", dir=path) as file, suppress(FileExistsError):
            file.write(bytes(MAX_READERS * 64 + 4096))
            file.flush()
            os.link(file.name, path / _LOCK)  # unlike a rename, it leaves one alone that another worker put there


def _identify(path: Path) -> list[tuple[int, int]]:
    """Return what tells the environment's files from others of the same names."""
    try:
        return [(found.st_dev, found.st_ino) for found in (os.stat(path / name) for name in (_DATA, _LOCK))]
    except FileNotFoundError:
        return []


def _explain(error: Exception, store: LocalStore) -> str:
    """Return what happened and what to do about it."""
    words = next(words for kinds, words in _WORDS if isinstance(error, kinds))
    return words.format(error=error, size=store.max_size)


_WORDS: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
    (lmdb.MapFullError, "it is full at max_size={size}; raise that on every worker, or let sessions end sooner"),
    (lmdb.MapResizedError, "its file has outgrown max_size={size}; start this worker with the others' max_size"),
    (lmdb.ReadersFullError, "all of its reader slots are taken; run fewer processes on it"),
    (lmdb.LockError, "a process in another container has this one's id; give them one pid namespace or a path each"),
    (lmdb.MemoryError, "max_size={size} does not fit into this process's address space; lower it on every worker"),
    (
        (lmdb.InvalidError, lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.VersionMismatchError),
        "{error}; it is damaged or another program's: stop all workers, move the directory away, start them again",
    ),
    (ConfigurationError, "{error}"),
    (Exception, "{error}; make room on its file system, or see whether the disk is in order"),
]


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
