"""The raw drivers under our stores, asked for the same bytes: a dict, and LMDB opened with the same flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import lmdb

from sojourn.store.local import ENGINE, MAX_READERS, MAX_SIZE


class Driver(Protocol):
    """One key and its bytes. Both calls answer with the number of bytes."""

    def get(self) -> int:
        """Read the bytes."""

    def put(self) -> int:
        """Write the bytes."""


class DictDriver:
    """What is under ``memory:``."""

    def __init__(self, key: bytes, data: bytes) -> None:
        self._key, self._data, self._frames = key, data, {key: data}

    def get(self) -> int:
        """Read the bytes."""
        return len(self._frames[self._key])

    def put(self) -> int:
        """Write the bytes."""
        self._frames[self._key] = self._data
        return len(self._data)


class LmdbDriver:
    """What is under ``local:``: one transaction for each call."""

    def __init__(self, env: lmdb.Environment, key: bytes, data: bytes) -> None:
        self._env, self._key, self._data = env, key, data
        self._db = env.open_db(b"records")
        self.put()

    def get(self) -> int:
        """Read the bytes."""
        with self._env.begin(db=self._db) as txn:
            found = txn.get(self._key)
        return 0 if found is None else len(found)

    def put(self) -> int:
        """Write the bytes."""
        with self._env.begin(write=True, db=self._db) as txn:
            txn.put(self._key, self._data)
        return len(self._data)


@contextmanager
def lmdb_driver(path: Path, sync: bool, key: bytes, data: bytes) -> Iterator[LmdbDriver]:
    """Yield a driver on an environment of its own, opened as LocalStore opens one."""
    env = lmdb.open(
        str(path),
        map_size=MAX_SIZE,
        max_dbs=2,
        max_readers=MAX_READERS,
        mode=0o700,
        sync=sync,
        metasync=sync,
        lib_version=ENGINE,
    )
    with env:
        yield LmdbDriver(env, key, data)
