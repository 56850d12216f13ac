"""What is said to Redis for each operation, and what its replies mean: the half that both colours share. Pure.

One key a session: the prefix and the private key in hexadecimal; under it the frame. A principal's index is a sorted
set, a lock is a string; each command names one key, so that Cluster can run it, but for MGET and UNLINK of many, which
a cluster's halves send as single ones. Expiry is relative (PX): two hosts need not agree about the time. It is the
record's own time to live and a minute more: ``open`` judges deadlines, Redis only tidies up.

Needs Redis 6.2 or Valkey 7.2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from sojourn.core.capability import Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store import frame

PREFIX = "sojourn:"

SLACK = 60_000  # milliseconds that a record outlasts its deadline; who asks then hears "expired", not "unknown"

BATCH = 128  # keys that one packet or one command is about: a millisecond of the server's time, in which others wait

Command = tuple[Any, ...]
"""A command's words: str, bytes or int."""


class Script(NamedTuple):
    """A Lua script and the name by which a server that has seen it knows it."""

    source: str
    sha: str

    def on(self, key: bytes, *arguments: bytes | int) -> Command:
        """Return the command that runs it on one *key*."""
        return ("EVALSHA", self.sha, 1, key, *arguments)


def _script(name: str) -> Script:
    source = files("sojourn.store.redis").joinpath(f"{name}.lua").read_text("utf-8")
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


UPDATE, TOUCH, DELETE, ENLIST, RELEASE = map(_script, ("update", "touch", "delete", "enlist", "release"))

_SOURCES = {script.sha: script.source for script in (UPDATE, TOUCH, DELETE, ENLIST, RELEASE)}


def with_source(command: Command) -> Command:
    """Return *command* with the script itself, for a server that answered NOSCRIPT: it restarted, or failed over."""
    return ("EVAL", _SOURCES[command[1]], *command[2:])


class Commands:
    """The commands for one *prefix*."""

    def __init__(self, prefix: str = PREFIX) -> None:
        self.prefix = prefix.encode()

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Command:
        """Return the command for Load."""
        return ("GET", self.name(key))

    def create(self, key: bytes, record: Record) -> Command:
        """Return the command for Create."""
        keep = _keep(record.accessed_at, record.expires_at)
        return ("SET", self.name(key), frame.pack(key, record), "NX", "PX", keep)

    def update(self, key: bytes, record: Record, base: int) -> Command:
        """Return the command for Update."""
        keep = _keep(record.accessed_at, record.expires_at)
        return UPDATE.on(self.name(key), _seen(base), frame.pack(key, record), keep)

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Command:
        """Return the command for Touch."""
        times = frame.pack_times(accessed_at, expires_at)
        return TOUCH.on(self.name(key), _seen(base), times, _keep(accessed_at, expires_at))

    def delete(self, key: bytes, base: int | None = None) -> Command:
        """Return the command for Delete."""
        return ("UNLINK", self.name(key)) if base is None else DELETE.on(self.name(key), _seen(base))

    # -- many ------------------------------------------------------------------------------------------------

    def load_many(self, keys: Sequence[bytes]) -> Command:
        """Return the command for LoadMany on one server."""
        return ("MGET", *map(self.name, keys))

    def delete_many(self, keys: Sequence[bytes]) -> Command:
        """Return the command for DeleteMany on one server."""
        return ("UNLINK", *map(self.name, keys))

    def scan(self, cursor: bytes | None, limit: int) -> Command:
        """Return the command for Scan on one server."""
        return ("SCAN", cursor or b"0", "MATCH", _escaped(self.prefix) + b"*", "COUNT", limit, "TYPE", "string")

    # -- the index of a principal ----------------------------------------------------------------------------

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> Command:
        """Return the command for Enlist."""
        return ENLIST.on(self._index(tag), key, frame.to_ms(until), frame.to_ms(now))

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> Command:
        """Return the command for Delist; there must be keys."""
        return ("ZREM", self._index(tag), *keys)

    def find(self, tag: bytes, cursor: bytes | None, limit: int) -> Command:
        """Return the command for Find."""
        return ("ZSCAN", self._index(tag), cursor or b"0", "COUNT", limit)

    # -- locks -----------------------------------------------------------------------------------------------

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> Command:
        """Return the command for Acquire."""
        return ("SET", self._lock(key), owner, "NX", "PX", max(1, frame.to_ms(until - now)))

    def release(self, key: bytes, owner: bytes) -> Command:
        """Return the command for Release."""
        return RELEASE.on(self._lock(key), owner)

    # -- names and replies -----------------------------------------------------------------------------------

    def name(self, key: bytes) -> bytes:
        """Return the name of a session's Redis key."""
        return self.prefix + key.hex().encode()

    def key_of(self, name: bytes) -> bytes | None:
        """Return the private key that *name* stands for; None for another kind of Redis key."""
        text = name[len(self.prefix) :]
        if len(text) != 64 or not name.startswith(self.prefix):
            return None
        try:
            return bytes.fromhex(text.decode("ascii"))
        except ValueError:
            return None

    def page(self, cursor: bytes, names: Sequence[bytes]) -> Page:
        """Return what a SCAN answered."""
        keys = tuple(key for name in names if (key := self.key_of(name)))
        return Page(keys, None if bytes(cursor) == b"0" else bytes(cursor))

    def _index(self, tag: bytes) -> bytes:
        return self.prefix + b"of:" + tag.hex().encode()

    def _lock(self, key: bytes) -> bytes:
        return self.prefix + b"lock:" + key.hex().encode()


def batches(keys: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield *keys* in parts that no server is busy with for long."""
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))


def record(key: bytes, reply: bytes | None) -> Record | None:
    """Return what a GET answered."""
    return None if reply is None else frame.unpack(key, reply)


def records(keys: Sequence[bytes], replies: Sequence[bytes | None]) -> Records:
    """Return what an MGET of *keys*, or as many GETs, answered."""
    return [record(key, reply) for key, reply in zip(keys, replies, strict=True)]


def created(reply: object) -> Written:
    """Return what SET with NX answered: OK, or nothing."""
    return Written.EXISTS if reply is None else Written.DONE


def written(reply: int) -> Written:
    """Return what a script, or UNLINK, answered."""
    return _WRITTEN[reply]


def found(cursor: bytes, members: Sequence[bytes]) -> Page:
    """Return what a ZSCAN answered: *members* alternate with their scores."""
    return Page(tuple(map(bytes, members[::2])), None if bytes(cursor) == b"0" else bytes(cursor))


_WRITTEN = {1: Written.DONE, 0: Written.GONE, -1: Written.STALE}


def _seen(base: int) -> bytes:
    """Return what the scripts compare: the header's format byte and its version."""
    return bytes([frame.FORMAT]) + base.to_bytes(8, "big")


def _keep(accessed_at: float, expires_at: float) -> int:
    """Return how many milliseconds Redis keeps a record."""
    return frame.to_ms(expires_at - accessed_at) + SLACK


def _escaped(prefix: bytes) -> bytes:
    """Return *prefix* as a pattern that matches itself alone."""
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte]) for byte in prefix)
