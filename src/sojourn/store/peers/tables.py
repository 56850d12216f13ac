"""HostTables: one host's storage in LMDB, shared by its workers and its agent.

    records     key (32)            -> a session (``packing``)
    principals  tag (32), key (32)  -> filed (8), time (8), origin (4), end (8), whether it is listed (1)
    deadlines   time (8), name      -> nothing
    log         origin (4), time (8) -> name
    meta        ``format``, ``origin``, ``place``, ``view``; ``clock``: the latest time known, where the own log ended
                (8 each); ``progress`` and an origin: cursor, level (8 each)

A name is a private key, or a tag and a private key. Times in ``deadlines`` are milliseconds, those of logs hybrid.
Numbers are big-endian, so that the order of bytes is the order of time. Every method is one transaction or several of
64 entries, and none waits for anybody inside of one; ``local`` says what that is worth, and its ``environment`` keeps
LMDB's rules: one environment a process, none over a fork, dead readers cleared, pages kept back for what must go.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import lmdb

from sojourn.cluster.clock import ORIGIN_BYTES, TIME_BYTES, Origin, Stamp
from sojourn.cluster.replica import Replica
from sojourn.cluster.tables import bucket_of, first_of
from sojourn.core.capability import Finding
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.local.environment import Environment, Txn, environment_of, explain
from sojourn.store.local.examination import examine
from sojourn.store.local.files import DATA
from sojourn.store.peers import packing, patching
from sojourn.store.peers.packing import Stored
from sojourn.store.peers.patching import Parts, Patch
from sojourn.store.peers.tables_base import BaseTables
from sojourn.store.peers.tables_rows import Rows
from sojourn.store.peers.wholes import Whole, whole_of

T = TypeVar("T")

DATABASES = (b"records", b"principals", b"deadlines", b"log", b"meta")
FORMAT = b"2"
MAX_SIZE = 64 << 30  # bytes of address space; the file grows as it fills
_FORMAT, _ORIGIN, _PLACE = b"format", b"origin", b"place"
_KEY = 32
_LAST = b"\xff" * TIME_BYTES


class LmdbRows(Rows):
    """One LMDB transaction."""

    __slots__ = ("_env", "_read", "_txn", "grown")

    def __init__(self, txn: Txn, env: Environment, origin: Origin, now_ms: int, lifetime_ms: int) -> None:
        self.origin, self.now_ms, self.lifetime_ms = origin, now_ms, lifetime_ms
        self._txn, self._env, self._clocks = txn, env, None
        self.grown = False
        """Whether something was stored that takes more room than what was there."""
        self._read = b"", 0

    def needs(self) -> int:
        """Return the bytes that the file must have."""
        return self._env.needs(self._txn)

    def get(self, name: bytes, cut: int = 0) -> Stored | None:
        """Return what is stored under *name*; None also where it cannot be read."""
        data = self._txn.get(name, db=self._db(name))
        if data is None:
            return None
        self._read = name, len(data)
        return packing.unpack(name, data, cut) if len(name) == _KEY else packing.unpack_listing(data)

    def shows(self, name: bytes) -> bool | None:
        """Tell whether *name* is found by users; None: nothing is stored."""
        data = self._txn.get(name, db=self._db(name))
        return None if data is None else _shows(name, data)

    def keep(self, name: bytes, stored: Stored) -> None:
        """Store something under *name*, in place of what was there."""
        self._keep(name, packing.pack(name, stored) if len(name) == _KEY else packing.pack_listing(stored))

    def _keep(self, name: bytes, data: bytes) -> None:
        read, size = self._read
        self.grown = self.grown or read != name or len(data) > size
        self._txn.put(name, data, db=self._db(name))

    def erase(self, name: bytes) -> None:
        """Let nothing be stored under *name*."""
        self._txn.delete(name, db=self._db(name))

    def _db(self, name: bytes) -> Any:
        return self._env.records if len(name) == _KEY else self._env.principals

    # -- shorter ways: on the bytes, see ``patching`` ------------------------------------------------------------------

    def rewrite(self, key: bytes, record: Record, base: int) -> Stamp | None:
        """Update a session that has version *base* and keeps its keys; None where it is not that."""
        before = None if record.retired or record.version <= base else self._parts(key, base)
        if before is None:
            return None
        stamp = self.stamp()
        place = patching.place_of(stamp)
        patch = patching.rewritten(before, record, place, base)
        if patch is None:
            return None
        self._move_written(key, before, patch.writers, place)
        filed = self.refile(key, before.filed, patch.expires_ms)
        self._keep(key, patching.packed(key, filed, before, patch))
        return stamp

    def retime(self, key: bytes, accessed_ms: int, expires_ms: int, base: int) -> Stamp | None:
        """Touch a session that has version *base*; None where it is not that."""
        before = self._parts(key, base)
        if before is None:
            return None
        stamp = self.stamp()
        place = patching.place_of(stamp)
        self._move_written(key, before, before.writers, place)
        filed = self.refile(key, before.filed, expires_ms)
        self._keep(key, patching.retimed(filed, before, place, accessed_ms, expires_ms))
        return stamp

    def follow(self, key: bytes, delta: Replica, origin: Origin, cut: int, *, follows: bool) -> bool:
        """Store a *delta* of a session that lives and keeps its keys; False where it is not that."""
        before = self._parts(key)
        patch = patching.followed(key, before, delta, origin, cut, follows=follows) if before else None
        if before is None or patch is None:
            return False
        self._move_followed(key, before, patch)
        filed = self.refile(key, before.filed, patch.expires_ms)
        self._keep(key, patching.packed(key, filed, before, patch))
        return True

    def whole(self, name: bytes, cut: int = 0) -> Whole | None:
        """Return the session under *name* as it lies here, if it is new since *cut*."""
        data = self._txn.get(name, db=self._env.records) if len(name) == _KEY else None
        return whole_of(data, cut) if data else None

    def take(self, key: bytes, whole: Whole) -> bool:
        """Store a session as it lay on another host, unless it is over, or something unreadable lies here."""
        if whole.expires_ms <= self.now_ms or self.shows(key) is not None:
            return False
        for place in whole.places:
            self._txn.put(place, key, db=self._env.log)
        filed = self.refile(key, None, whole.expires_ms)
        self._keep(key, filed.to_bytes(packing.FILED, "big") + whole.packed)
        return True

    def _parts(self, key: bytes, base: int | None = None) -> Parts | None:
        data = self._txn.get(key, db=self._env.records)
        if data is None:
            return None
        self._read = key, len(data)
        return patching.parts_of(data, base)

    def _move_written(self, key: bytes, before: Parts, writers: bytes, place: bytes) -> None:
        """As ``move_written``."""
        for left in patching.left_by(before, writers, self.origin):
            self._txn.delete(left, db=self._env.log)
        self._txn.put(place, key, db=self._env.log)

    def _move_followed(self, key: bytes, before: Parts, patch: Patch) -> None:
        """As ``move``."""
        old = {before.front[: patching.PLACE], *patching.places(before.writers)}
        new = {patch.touch, *patching.places(patch.writers)}
        for place in new - old:
            self._txn.put(place, key, db=self._env.log)
        for place in old - new:
            self._txn.delete(place, db=self._env.log)
            if place.startswith(self.origin):
                self.keep_end(patching.stamp_of(place), map(patching.stamp_of, new))

    # -- in the order of names -------------------------------------------------------------------------------------

    def names(self, first: bytes, *, listings: bool) -> Iterator[bytes]:
        """Yield the names from *first* on."""
        return self._keys(self._env.principals if listings else self._env.records, first)

    def shown_names(self, first: bytes, *, listings: bool) -> Iterator[tuple[bytes, bool]]:
        """Yield the names from *first* on, each with whether users find it."""
        items = self._items(self._env.principals if listings else self._env.records, first)
        return ((name, _shows(name, data)) for name, data in items)

    def digests(self, bucket: int, *, listings: bool) -> Iterator[tuple[bytes, int]]:
        """Yield the names in a bucket, each with the digest of what is stored."""
        meta = packing.listing_in if listings else packing.meta_in
        items = self._items(self._env.principals if listings else self._env.records, first_of(bucket))
        for name, data in items:
            if bucket_of(name) != bucket:
                return
            yield name, packing.digest(name, meta(data))

    def _keys(self, db: Any, first: bytes) -> Iterator[bytes]:
        with self._txn.cursor(db=db) as cursor:
            if cursor.set_range(first):
                yield from cursor.iternext(keys=True, values=False)

    def _items(self, db: Any, first: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=db) as cursor:
            if cursor.set_range(first):
                yield from cursor.iternext(keys=True, values=True)

    # -- deadlines -------------------------------------------------------------------------------------------------

    def file(self, name: bytes, filed: int) -> None:
        """Note that *name* is to be looked at then."""
        self._txn.put(filed.to_bytes(packing.FILED, "big") + name, b"", db=self._env.deadlines)

    def unfile(self, name: bytes, filed: int) -> None:
        """Take the note back."""
        self._txn.delete(filed.to_bytes(packing.FILED, "big") + name, db=self._env.deadlines)

    def earliest(self) -> tuple[int, bytes] | None:
        """Return the note that is due first."""
        with self._txn.cursor(db=self._env.deadlines) as cursor:
            if not cursor.first():
                return None
            note = cursor.key()
        return int.from_bytes(note[: packing.FILED], "big"), note[packing.FILED :]

    # -- logs --------------------------------------------------------------------------------------------------------

    def log(self, place: Stamp, name: bytes) -> None:
        """Note *name* at a place of its writer's log."""
        self._txn.put(patching.place_of(place), name, db=self._env.log)

    def unlog(self, place: Stamp) -> None:
        """Take the note back."""
        self._txn.delete(patching.place_of(place), db=self._env.log)

    def logged(self, origin: Origin, after: int) -> Iterator[tuple[int, bytes]]:
        """Yield time and name of what stands in an origin's log *after* a time."""
        if (after + 1).bit_length() > 8 * TIME_BYTES:
            return
        for place, name in self._items(self._env.log, origin + (after + 1).to_bytes(TIME_BYTES, "big")):
            if place[:ORIGIN_BYTES] != origin:
                return
            yield int.from_bytes(place[ORIGIN_BYTES:], "big"), name

    def last(self, origin: Origin) -> int:
        """Return the last time in an origin's log; 0: it is empty."""
        cursor = self._txn.cursor(db=self._env.log)
        found = cursor.prev() if cursor.set_range(origin + _LAST) else cursor.last()
        place = cursor.key() if found else b""
        return int.from_bytes(place[ORIGIN_BYTES:], "big") if place[:ORIGIN_BYTES] == origin else 0

    # -- about the host ------------------------------------------------------------------------------------------------

    def note(self, key: bytes) -> bytes | None:
        """Return what was put under *key*."""
        return self._txn.get(key, db=self._env.meta)

    def put_note(self, key: bytes, value: bytes) -> None:
        """Put *value* there."""
        self._txn.put(key, value, db=self._env.meta)

    def notes(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the notes whose keys begin with *prefix*, without it."""
        for key, value in self._items(self._env.meta, prefix):
            if not key.startswith(prefix):
                return
            yield key[len(prefix) :], value


def _shows(name: bytes, data: bytes) -> bool:
    return packing.is_shown(data) if len(name) == _KEY else packing.is_listed(data)


class HostTables(BaseTables):
    """One host's storage in the directory *path*.

    *sync* waits for the disk at each commit. *max_size* bounds the file, in bytes. *clock* returns seconds since the
    epoch, *random* as many random bytes as it is asked for. Nothing is opened before it is used. Raises
    ConfigurationError for a directory that cannot be used; every method raises StoreUnavailable when it cannot answer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: bool = False,
        max_size: int = MAX_SIZE,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(clock)
        self.path, self.sync, self.max_size = Path(path), sync, max_size
        self._random = random
        self._environment = environment_of(self.path, sync, max_size, DATABASES)
        self._begun: Environment | None = None
        self._origin: Origin = b""

    @property
    def origin(self) -> Origin:
        """The life of this storage. Another one begins where the directory was emptied."""
        self._open()
        return self._origin

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not, and in ``seen`` what a browser sees with it."""
        while True:
            env = self._open()
            try:
                with env.reading:
                    # In one expression, so that no transaction outlives the lock and meets a fork.
                    data = env.lmdb.begin(db=env.records).get(key)
                return None if data is None else packing.unpack_record(key, data)
            except lmdb.Error as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def examine(self) -> list[Finding]:
        """Return what puts sessions at risk here: the place, the sync, the room."""
        used = self.reading(LmdbRows.needs)
        path = self._environment.path
        try:
            # Who waits for the disk wants its sessions to outlive a reboot.
            return examine(path, chosen=self.sync, sync=self.sync, used=used, max_size=self.max_size)
        except OSError as error:
            self._fail(error)

    def close(self) -> None:
        """Close this process's environment. The next operation opens it again."""
        self._environment.close()

    # -- transactions ------------------------------------------------------------------------------------------------

    def reading(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* makes of its rows and *arguments*, in a transaction that sees one moment."""
        while True:
            env = self._open()
            try:
                with env.reading, env.lmdb.begin() as txn:
                    return work(LmdbRows(txn, env, self._origin, self.now_ms(), self.lifetime_ms), *arguments)
            except lmdb.Error as error:
                if not env.recovers_from(error):
                    self._fail(error)

    def writing(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* makes of its rows and *arguments*, in a transaction that is alone in writing."""
        while True:
            env = self._open()
            try:
                env.look_around()
                with env.writing, env.lmdb.begin(write=True) as txn:
                    rows = LmdbRows(txn, env, self._origin, self.now_ms(), self.lifetime_ms)
                    answer = work(rows, *arguments)
                    if rows.grown:
                        env.keep_reserve(txn)
                    return answer
            except (lmdb.Error, OSError) as error:
                if not env.recovers_from(error):
                    self._fail(error)
            except (struct.error, OverflowError) as error:
                raise ValueError(f"a number does not fit into the storage: {error}") from error

    def _open(self) -> Environment:
        while not ((env := self._environment).ready and env is self._begun):
            try:
                if env.closed:
                    env = self._environment = environment_of(self.path, self.sync, self.max_size, DATABASES)
                env.open()
                self._origin, self._begun = self._begin(env), env
            except (lmdb.Error, OSError, ConfigurationError) as error:
                if not (isinstance(error, lmdb.Error) and env.closed):
                    self._fail(error)
        return env

    def _begin(self, env: Environment) -> Origin:
        """Return the origin of what is stored; another begins where there is nothing, or it lies where it did not."""
        where = _place_of(self.path)
        with env.reading, env.lmdb.begin() as txn:
            begun, format, place = (txn.get(note, db=env.meta) for note in (_ORIGIN, _FORMAT, _PLACE))
        if begun is not None and format != FORMAT:
            raise ConfigurationError(
                f"it has format {format!r}, and this is for {FORMAT!r}; run the version that wrote it, or name another"
            )
        if begun is not None and place == where:
            return begun
        with env.writing, env.lmdb.begin(write=True) as txn:
            return _begin_life(txn, env, self._random(ORIGIN_BYTES), where)

    def _fail(self, error: Exception) -> NoReturn:
        words = explain(error, self.max_size)
        raise StoreUnavailable(f"the sessions in {self.path} cannot be reached: {words}") from error


def _begin_life(txn: Txn, env: Environment, origin: Origin, where: bytes) -> Origin:
    """Begin a life of the storage, unless another process just did; return its origin.

    A disk that a power cut, a restored backup or a copied machine took back to an earlier state has lost writes that
    other hosts know. New ones in the same name would claim them. So they get another name, and the log of the former
    life is completed from the others like that of a host which is gone. Raises ConfigurationError where another kind of
    store keeps its sessions there.
    """
    before = txn.get(_ORIGIN, db=env.meta)
    if before is None and txn.stat(env.records)["entries"]:
        raise ConfigurationError("its sessions are of a local: store; give peers: a directory of its own")
    if before is not None:
        if txn.get(_PLACE, db=env.meta) == where:
            return before
        LmdbRows(txn, env, before, 0, 0).end_life()
    txn.put(_ORIGIN, origin, db=env.meta)
    txn.put(_FORMAT, FORMAT, db=env.meta)
    txn.put(_PLACE, where, db=env.meta)
    return origin


def _place_of(path: Path) -> bytes:
    """Return what changes with each boot of the machine, and where the file of the sessions is put back."""
    found = os.stat(path / DATA)
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:  # other systems do not tell
        boot = b""
    return b"%b %d %d" % (boot, found.st_dev, found.st_ino)
