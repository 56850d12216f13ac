"""LocalStore: one LMDB environment a host, shared by all of its worker processes.

Sessions outlive any worker and the restart of all. What a reboot does depends on the place:

* ``local:`` keeps them in memory-backed storage (/dev/shm): a reboot ends every session of this host.
* ``local:///var/lib/shop/sessions`` keeps them on disk: a reboot keeps what was committed.
* ``…?sync=no`` on disk does not wait for the disk: fast, and kept over any crash of processes, but a power cut
  or a kernel crash may lose the last commits or leave a file that no longer opens.

Round trips: none. ``load`` is a lookup in mapped memory without a system call; each write is one LMDB transaction,
which never crosses an await or calls out, since a writer that stops inside one stops the host's other writers.
That is the one wait without a deadline here, and it ends by itself when the stopped process dies.

LMDB's rules that this file keeps: one open environment a process (a registry), none inherited over a fork
(hooks), no transaction left open, dead readers cleared, deletes in small batches, engine 0.9 (LMDB 1.0 aborted
when workers were killed).
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import lmdb

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store import frame

T = TypeVar("T")

MAX_SIZE = 64 << 30  # bytes of address space, not of memory or disk: the file grows as it fills
MAX_READERS = 4096  # slots of 64 bytes in the lock file; one is taken for the microseconds of each read
ENGINE = 0  # LMDB 0.9
SWEEP_AT_CREATE = 4  # more than one, so that the dead are buried faster than sessions are born
SWEEP_BATCH = 64  # the most that one transaction buries; keeps the write lock under 5 ms
CHECK_READERS_EVERY = 256  # writes of this process; a killed reader pins old pages until somebody checks

_FILED = 8  # bytes in front of each frame: the deadline (ms) under which the session stands in the index


class LocalStore:
    """Sessions in an LMDB environment of this host.

    *path* is a directory of its own, made with mode 0700; None chooses memory-backed storage. *sync* waits for the
    disk at each commit; None means yes for a *path* and no for memory. *max_size* bounds the file, in bytes; all
    workers give the same. Raises ConfigurationError where the directory cannot be used or is open to others.
    """

    waits = False

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, sync: bool | None = None, max_size: int = MAX_SIZE
    ) -> None:
        if max_size < 1 << 20:
            raise ConfigurationError(f"max_size={max_size} is below 1 MiB, too small for an LMDB environment")
        self.path = Path(path) if path is not None else memory_backed_path()
        self.sync = path is not None if sync is None else sync
        self.max_size = max_size
        _prepare(self.path)
        self._environment: _Environment | None = None

    @classmethod
    def from_url(cls, url: str) -> LocalStore:
        """Return the store for ``local:[path][?sync=yes|no][&max_size=8GiB]``."""
        parts = urlsplit(url)
        if parts.netloc:
            raise ConfigurationError(f"{url!r}: write the path with three slashes, local:///path, or local:/path")
        settings: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _SETTINGS:
                raise ConfigurationError(f"{url!r}: no setting {name!r}; there are {', '.join(sorted(_SETTINGS))}")
            settings[name] = _SETTINGS[name](name, value)
        return cls(parts.path or None, **settings)

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        data = self._read(key)
        return None if data is None else frame.unpack(key, data[_FILED:])

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record and bury up to four that were dead by then, in the same transaction."""
        data = frame.pack(key, record)
        filed, now = _deadline(data), _big_endian(frame.to_ms(record.accessed_at))

        def change(txn: lmdb.Transaction[bytes], env: _Environment) -> Written:
            if not txn.put(key, filed + data, overwrite=False, db=env.records):
                return Written.EXISTS
            txn.put(filed + key, b"", db=env.deadlines)
            _bury(txn, env, now, SWEEP_AT_CREATE)
            return Written.DONE

        return self._write(change)

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        data = frame.pack(key, record)

        def change(txn: lmdb.Transaction[bytes], env: _Environment) -> Written:
            stored = _at_version(txn.get(key, db=env.records), base)
            if isinstance(stored, Written):
                return stored
            txn.put(key, _refile(txn, env, key, stored[:_FILED], data) + data, db=env.records)
            return Written.DONE

        return self._write(change)

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""

        def change(txn: lmdb.Transaction[bytes], env: _Environment) -> Written:
            stored = _at_version(txn.get(key, db=env.records), base)
            if isinstance(stored, Written):
                return stored
            patched = frame.patch_times(stored[_FILED:], accessed_at, expires_at)
            txn.put(key, stored[:_FILED] + patched, db=env.records)
            return Written.DONE

        return self._write(change)

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""

        def change(txn: lmdb.Transaction[bytes], env: _Environment) -> Written:
            stored = _at_version(txn.get(key, db=env.records), base)
            if isinstance(stored, Written):
                return stored
            txn.delete(key, db=env.records)
            txn.delete(stored[:_FILED] + key, db=env.deadlines)
            return Written.DONE

        return self._write(change)

    # -- housekeeping ----------------------------------------------------------------------------------------

    def sweep(self, now: float, limit: int = SWEEP_BATCH) -> int:
        """Bury what is dead at *now* (epoch seconds) in one transaction, looking at no more than *limit* deadlines.

        At most 64, whatever *limit* says, so that the write lock is held for a few milliseconds only. Returns how
        many it looked at: fewer than *limit* says that it is done.
        """
        until, limit = _big_endian(frame.to_ms(now)), min(limit, SWEEP_BATCH)
        return self._write(lambda txn, env: _bury(txn, env, until, limit))

    def close(self) -> None:
        """Let go of the environment. The next operation opens it again."""
        if self._environment:
            env, self._environment = self._environment, None
            env.release()

    # -- transactions ----------------------------------------------------------------------------------------

    def _read(self, key: bytes) -> bytes | None:
        env = self._open()
        try:
            with env.reading, env.lmdb.begin(db=env.records) as txn:
                return txn.get(key)
        except lmdb.ReadersFullError as error:
            env.lmdb.reader_check()  # so that the slots of killed workers are free for the next try
            raise self._unavailable(f"{MAX_READERS} reads at once", "retry") from error
        except lmdb.Error as error:
            raise self._unavailable(str(error), "see the log of the file system") from error

    def _write(self, change: Callable[[lmdb.Transaction[bytes], _Environment], T]) -> T:
        env = self._open()
        try:
            with env.writing:
                env.count_write()
                with env.lmdb.begin(write=True) as txn:
                    return change(txn, env)
        except lmdb.MapFullError as error:
            cure = f"raise max_size (now {self.max_size} bytes) on every worker, or shorten the policy's idle_timeout"
            raise self._unavailable("it is full", cure) from error
        except lmdb.MapResizedError as error:
            cure = "restart this worker with the max_size that the other workers use"
            raise self._unavailable("other workers made it larger than this one's max_size", cure) from error
        except (lmdb.Error, OSError) as error:
            raise self._unavailable(str(error), "make room, or look at the file system") from error

    def _open(self) -> _Environment:
        env = self._environment
        if env is None or env.inherited:
            try:
                env = self._environment = _acquire(self.path, self.sync, self.max_size)
            except (lmdb.Error, OSError) as error:
                cure = "if a power cut damaged it, move the directory away (its sessions are lost) and go on"
                raise self._unavailable(str(error), cure) from error
        return env

    def _unavailable(self, what: str, cure: str) -> StoreUnavailable:
        return StoreUnavailable(f"the local store in {self.path} cannot answer: {what}; {cure}")


def memory_backed_path() -> Path:
    """Return where ``local:`` keeps sessions: memory-backed storage where the system has it, one place a user."""
    shm = Path("/dev/shm")  # noqa: S108  (the directory is made with mode 0700 and checked to be ours)
    base = shm if os.access(shm, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    return base / f"sojourn-{os.geteuid()}"


# -- what a transaction does ---------------------------------------------------------------------------------


def _at_version(stored: bytes | None, base: int | None) -> bytes | Written:
    """Return what is stored if it has version *base*, or any when that is None; otherwise why not."""
    if stored is None:
        return Written.GONE
    return stored if base is None or frame.version(stored[_FILED:]) == base else Written.STALE


def _refile(txn: lmdb.Transaction[bytes], env: _Environment, key: bytes, filed: bytes, data: bytes) -> bytes:
    """Return where the record is filed in the index of deadlines, moving the entry only when it would look too late.

    An entry says when to look. A later deadline leaves it alone, and looking then finds the record alive; so an
    update costs one write to the index only when a tombstone shortens the life.
    """
    deadline = _deadline(data)
    if deadline >= filed:
        return filed
    txn.delete(filed + key, db=env.deadlines)
    txn.put(deadline + key, b"", db=env.deadlines)
    return deadline


def _bury(txn: lmdb.Transaction[bytes], env: _Environment, until: bytes, limit: int) -> int:
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
            deadline = _deadline(stored[_FILED:])
            if deadline <= until:
                txn.delete(key, db=env.records)
            else:
                txn.put(deadline + key, b"", db=env.deadlines)
                txn.put(key, deadline + stored[_FILED:], db=env.records)
    return looked


def _deadline(data: bytes) -> bytes:
    return _big_endian(frame.expires_ms(data))


def _big_endian(number: int) -> bytes:
    return number.to_bytes(_FILED, "big")  # so that the order of bytes is the order of time


# -- one environment a process -------------------------------------------------------------------------------


class _Environment:
    """An open LMDB environment, shared by all stores of this process that name its directory.

    LMDB forbids a second one on the same files, and a forked child must not use its parent's: it would take the
    parent's reader slots. The two locks keep a fork out of transactions.
    """

    def __init__(self, path: Path, sync: bool, max_size: int) -> None:
        self.path, self.sync, self.max_size = path, sync, max_size
        self.reading, self.writing = RLock(), RLock()
        self.inherited = False
        self.users = 0
        self._writes = 0
        self.lmdb = lmdb.open(
            str(path),
            map_size=max_size,
            max_dbs=2,
            max_readers=MAX_READERS,
            mode=0o700,
            sync=sync,
            metasync=sync,
            lib_version=ENGINE,
        )
        self.records = self.lmdb.open_db(b"records")
        self.deadlines = self.lmdb.open_db(b"deadlines")
        self.lmdb.reader_check()

    def count_write(self) -> None:
        """Clear the slots of killed readers once in a while: the pages that they pin make the file grow."""
        self._writes += 1
        if self._writes % CHECK_READERS_EVERY == 0:
            self.lmdb.reader_check()

    def release(self) -> None:
        """Close the environment when its last user lets go."""
        with _registry:
            self.users -= 1
            if self.users == 0 and not self.inherited:
                del _environments[self.path]
                self.lmdb.close()


_environments: dict[Path, _Environment] = {}
_registry = RLock()


def _acquire(path: Path, sync: bool, max_size: int) -> _Environment:
    path = path.resolve()
    with _registry:
        env = _environments.get(path)
        if env is None:
            env = _environments[path] = _Environment(path, sync, max_size)
        if (env.sync, env.max_size) != (sync, max_size):
            raise ConfigurationError(f"two stores in this process open {path} with different sync or max_size")
        env.users += 1
        return env


def _before_fork() -> None:
    _registry.acquire()
    for env in _environments.values():
        env.reading.acquire()
        env.writing.acquire()


def _after_fork() -> None:
    for env in _environments.values():
        env.writing.release()
        env.reading.release()
    _registry.release()


def _after_fork_in_child() -> None:
    inherited = list(_environments.values())
    _after_fork()
    _environments.clear()
    for env in inherited:
        env.inherited = True  # its stores open their own at the next operation
        env.lmdb.close()  # unmaps the child's copy; locks and reader slots belong to the parent's process id


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


# -- settings ------------------------------------------------------------------------------------------------


def _prepare(path: Path) -> None:
    """Make the directory, or check that it is ours alone: whoever can write there can plant sessions."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise ConfigurationError(f"the local store cannot use {path}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigurationError(f"the local store needs a directory of its own, and {path} is a link or a file")
    if found.st_uid != os.geteuid():
        raise ConfigurationError(f"{path} belongs to user {found.st_uid}; give local: a path of this user's own")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigurationError(f"others may write to {path}; run: chmod go-w {path}")


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
