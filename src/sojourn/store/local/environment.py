"""The LMDB environment of a directory: one a process, opened by first use, closed around forks, kept from filling up.

LMDB's rules that this file keeps: one open environment a process (a registry), none inherited over a fork (hooks),
dead readers cleared, pages kept back for deletes, engine 0.9 (LMDB 1.0 aborted when workers were killed).
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from pathlib import Path
from threading import RLock
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import lmdb

from sojourn.errors import ConfigurationError
from sojourn.store.local import files

Txn: TypeAlias = "lmdb.Transaction[bytes]"

RESERVE = 512  # pages that growing writes leave free, as LMDB takes pages to free pages; three sweeps' worth at least
GROWTH = 64  # pages that the file grows by beyond what is needed: a quarter of a millisecond of writing
ENGINE = 0  # LMDB 0.9
LOOK_EVERY = 256  # writes of this process between two looks for killed readers, whose pages nobody can use again
DATABASES = (
    b"records",
    b"deadlines",
    b"principals",
    b"locks",
)  # of a LocalStore; see tables.py; old files get new ones

_log = logging.getLogger("sojourn.store")


class Environment:
    """The LMDB environment of a directory, shared by all stores of this process that name it.

    LMDB forbids a second one on the same files. It is opened once, by the first operation, and closed once; then
    stores make another. The two locks keep a fork and a ``close`` out of transactions. Each of its *databases* is an
    attribute of that name.
    """

    records: Any
    deadlines: Any
    principals: Any
    locks: Any
    log: Any
    meta: Any

    def __init__(self, path: Path, sync: bool, max_size: int, databases: tuple[bytes, ...] = DATABASES) -> None:
        self.path, self.sync, self.max_size, self.names = path, sync, max_size, databases
        self.reading, self.writing = RLock(), RLock()
        self.ready = self.closed = False
        self._writes = 0
        self._size = 0  # bytes of the file that are known to exist; it may be longer, and never shrinks

    def open(self) -> None:
        """Open it, unless another thread did, or closed it."""
        with _registry:
            if self.ready or self.closed:
                return
            files.prepare(self.path)
            files.make_lock_file(self.path)
            self.lmdb = lmdb.open(
                str(self.path),
                map_size=self.max_size,
                max_dbs=len(self.names),
                max_readers=files.MAX_READERS,
                mode=0o700,  # of files, 0600: LMDB drops the x bits
                sync=self.sync,
                metasync=self.sync,
                lib_version=ENGINE,
            )
            try:
                self._check_size()
                self.lmdb.reader_check()
                with self.lmdb.begin(write=True) as txn:
                    self.databases = [self.lmdb.open_db(name, txn=txn) for name in self.names]
            except BaseException:
                self.lmdb.close()
                raise
            for name, database in zip(self.names, self.databases, strict=True):
                setattr(self, name.decode(), database)
            self._files = files.identify(self.path)
            self.ready = True

    def _check_size(self) -> None:
        """Refuse a file that LMDB opens and then crashes on, and one that has outgrown *max_size*."""
        info, self._page = self.lmdb.info(), self.lmdb.stat()["psize"]
        if os.stat(self.path / files.DATA).st_size < (info["last_pgno"] + 1) * self._page:
            raise lmdb.CorruptedError(f"{files.DATA} was cut short")
        if info["map_size"] > self.max_size:
            raise lmdb.MapResizedError(f"{files.DATA} has {info['map_size']} bytes")

    def needs(self, txn: Txn) -> int:
        """Return the bytes that the file must have: what is live in it, and the reserve.

        A delete copies pages before it frees them: without a reserve a full store could not even be swept.
        """
        pages = RESERVE
        for db in self.databases:
            tree = txn.stat(db)
            pages += tree["branch_pages"] + tree["leaf_pages"] + tree["overflow_pages"]
        return pages * self._page

    def keep_reserve(self, txn: Txn) -> None:
        """Let the file grow ahead of what is live in it; raise where it cannot."""
        if (wanted := self.needs(txn)) > self._size:
            self._size = self._lengthen(wanted)

    def _lengthen(self, wanted: int) -> int:
        """Write zeros until the file has *wanted* bytes; called in a write transaction, so by one process at a time."""
        if wanted > self.max_size:
            raise lmdb.MapFullError(f"{wanted} bytes are needed")
        with open(self.path / files.DATA, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            while size < wanted:  # less than asked for is written where the room ends, and the next try raises
                size += file.write(bytes(min(wanted + GROWTH * self._page, self.max_size) - size))
        return size

    def look_around(self) -> None:
        """Once in a while, clear the slots of killed readers, and let go of files that are no longer in place."""
        self._writes += 1
        if self._writes % LOOK_EVERY == 0:
            self._clear_dead_readers()
            if files.identify(self.path) != self._files:
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
_environments: WeakValueDictionary[Path, Environment] = WeakValueDictionary()
_held = ExitStack()  # what a fork under way keeps locked


def environment_of(path: Path, sync: bool, max_size: int, databases: tuple[bytes, ...] = DATABASES) -> Environment:
    """Return this process's environment for the directory *path*. Raises ConfigurationError."""
    files.prepare(path)
    path = path.resolve()
    with _registry:
        env = _environments.get(path)
        if env is None or env.closed:
            env = _environments[path] = Environment(path, sync, max_size, databases)
    if env.names != databases:
        raise ConfigurationError(f"stores of two kinds use {path}; give each a directory of its own")
    if (env.sync, env.max_size) != (sync, max_size):
        raise ConfigurationError(
            f"two stores of this process use {path}, one with sync={env.sync}, max_size={env.max_size} and one with "
            f"sync={sync}, max_size={max_size}; give both the same"
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


# -- what an error means -------------------------------------------------------------------------------------


def explain(error: Exception, max_size: int) -> str:
    """Return what happened and what to do about it."""
    words = next(words for kinds, words in _WORDS if isinstance(error, kinds))
    return words.format(error=error, size=max_size)


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
