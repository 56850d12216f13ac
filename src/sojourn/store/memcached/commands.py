"""What is said to memcached for each operation, and what its replies mean: the half that both colours share. Pure.

One key a session: the prefix and the private key in hexadecimal, so nothing that a user wrote is ever part of a
command; under it the frame. Each operation is a flow: it yields requests to one server and is sent the replies.

    load     get                   1 round trip
    create   add                   1
    update   gets, cas             2: the version is compared here, and ``cas`` makes sure that it still holds
    touch    gets, cas             2: the values are those that the token stands for, so older ones cannot come back
    delete   delete, or gets, cas  1 without a base, 2 with one: an item stored under its token with an end in the past
    acquire  add                   1
    release  gets, cas             2

Two more for each writer that came between ``gets`` and ``cas``; versions decide, so a touch that came between makes
nobody stale. These are the classic commands. The meta commands (mg, ms, md) would save a trip only where a writer may
choose the token, so that it could be the record's version: that is their E flag, which memcached 1.6.18 refuses
("invalid flag"), and that is what Debian 12 has. Proxies do not all speak them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import TypeVar

from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import SessionTooLarge
from sojourn.store import frame
from sojourn.store.memcached import protocol
from sojourn.store.memcached.protocol import ErrorReply, Item, Malformed, Reply, Statistics

T = TypeVar("T")

Flow = Generator[bytes, Reply, T]
"""An operation in progress: it yields requests, is sent their replies, and returns a T.

Raises SessionTooLarge before its first request, ErrorReply and Malformed after a reply.
"""

PREFIX = "sojourn:"
MAX_ITEM = 1 << 20  # bytes; memcached's own default

OVERHEAD = 64  # bytes of an item beside key and value; memcached 1.6.18 takes 59, on any item size
SLACK = 60  # seconds that an item outlasts its record; who asks then hears "expired", not "unknown"
RELATIVE = 60 * 60 * 24 * 30  # seconds; memcached reads a larger number as a date: 30 days and a second is in 1970
LATEST = (1 << 31) - 1  # epoch seconds; memcached reads a later date as one in the past, or as none at all
AT_ONCE = -1  # an end in the past
MOST_TRIES = 32  # each failed one means that another writer succeeded


class Commands:
    """The operations under one *prefix* on servers whose items have at most *max_item* bytes with all overhead."""

    def __init__(self, prefix: str = PREFIX, max_item: int = MAX_ITEM) -> None:
        self.prefix, self.max_item = prefix.encode("ascii"), max_item

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Flow[Record | None]:
        """Perform Load."""
        name = self.name(key)
        item = _item((yield protocol.get(name)), name)
        return None if item is None else frame.unpack(key, item.data)

    def create(self, key: bytes, record: Record) -> Flow[Written]:
        """Perform Create."""
        request = protocol.add(self.name(key), self._pack(key, record), _keep(record.accessed_at, record.expires_at))
        return _meaning((yield request), _ADDED)

    def update(self, key: bytes, record: Record, base: int) -> Flow[Written]:
        """Perform Update."""
        data, keep = self._pack(key, record), _keep(record.accessed_at, record.expires_at)
        return (yield from _change(self.name(key), base, lambda item: protocol.cas(item.key, data, keep, item.cas)))

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Flow[Written]:
        """Perform Touch."""
        keep = _keep(accessed_at, expires_at)

        def patched(item: Item) -> bytes:
            return protocol.cas(item.key, frame.patch_times(item.data, accessed_at, expires_at), keep, item.cas)

        return (yield from _change(self.name(key), base, patched))

    def delete(self, key: bytes, base: int | None = None) -> Flow[Written]:
        """Perform Delete."""
        if base is None:
            return _meaning((yield protocol.delete(self.name(key))), _DELETED)
        return (yield from _change(self.name(key), base, _ending))

    # -- locks -----------------------------------------------------------------------------------------------

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> Flow[bool]:
        """Perform Acquire. memcached counts whole seconds: a lock may outlast its time by two, and never falls short.

        Its clock ticks once a second, so an item of one second could end at once; one more is added for that.
        """
        seconds = min(max(math.ceil(until - now), 0) + 1, RELATIVE)
        return _meaning((yield protocol.add(self._lock(key), owner, seconds)), _ADDED) is Written.DONE

    def release(self, key: bytes, owner: bytes) -> Flow[bool]:
        """Perform Release."""
        name = self._lock(key)
        item = _item((yield protocol.gets(name)), name)
        if item is None or item.data != owner:
            return False
        return _meaning((yield _ending(item)), _SWAPPED) is Written.DONE

    # -- names -----------------------------------------------------------------------------------------------

    def name(self, key: bytes) -> bytes:
        """Return the name of a session's item."""
        return self.prefix + key.hex().encode()

    def _lock(self, key: bytes) -> bytes:
        return self.prefix + b"lock:" + key.hex().encode()

    def _pack(self, key: bytes, record: Record) -> bytes:
        """Return the frame. Raises SessionTooLarge: a server would refuse it, and only after it was sent."""
        data = frame.pack(key, record)
        bound = self.max_item - OVERHEAD - len(self.prefix) - 2 * len(key)
        if len(data) > bound:
            raise SessionTooLarge(
                "",
                f"it has {len(data)} bytes, and memcached takes {bound} at max_item={self.max_item}; keep less in the "
                f"session, or raise memcached's option -I and max_item in the store URL",
            )
        return data


def examine() -> Flow[tuple[Statistics, Statistics]]:
    """Ask a server about itself: what ``stats`` and ``stats settings`` say."""
    return _statistics((yield protocol.stats())), _statistics((yield protocol.stats("settings")))


# -- replies ---------------------------------------------------------------------------------------------------

_ADDED = {b"STORED": Written.DONE, b"NOT_STORED": Written.EXISTS}
_DELETED = {b"DELETED": Written.DONE, b"NOT_FOUND": Written.GONE}
_SWAPPED = {b"STORED": Written.DONE, b"NOT_FOUND": Written.GONE, b"EXISTS": Written.STALE}


def _change(name: bytes, base: int, write: Callable[[Item], bytes]) -> Flow[Written]:
    """Send what *write* makes of the item under *name* if it holds version *base*; look again if it was changed."""
    for _ in range(MOST_TRIES):
        item = _item((yield protocol.gets(name)), name)
        if item is None:
            return Written.GONE
        if frame.version(item.data) != base:
            return Written.STALE
        written = _meaning((yield write(item)), _SWAPPED)
        if written is not Written.STALE:
            return written
    raise ErrorReply(f"EXISTS, {MOST_TRIES} times in a row")


def _ending(item: Item) -> bytes:
    return protocol.cas(item.key, b"", AT_ONCE, item.cas)


def _item(reply: Reply, name: bytes) -> Item | None:
    """Return the item that *reply* brings, or None for a miss."""
    if reply == b"END":
        return None
    if not isinstance(reply, Item):
        raise _error(reply)
    if reply.key != name:
        raise Malformed("an item that was not asked for")
    if reply.cas == b"0":
        raise ErrorReply("a token of 0: it was started with -C and compares nothing")
    return reply


def _meaning(reply: Reply, meanings: dict[bytes, Written]) -> Written:
    if not isinstance(reply, bytes) or (written := meanings.get(reply)) is None:
        raise _error(reply)
    return written


def _statistics(reply: Reply) -> Statistics:
    if not isinstance(reply, dict):
        raise _error(reply)
    return reply


def _error(reply: Reply) -> ErrorReply | Malformed:
    """Return what to raise for a reply that is no result."""
    if isinstance(reply, bytes) and reply.split(b" ")[0] in (b"SERVER_ERROR", b"CLIENT_ERROR", b"ERROR"):
        return ErrorReply(reply.decode("ascii", "replace"))
    return Malformed("an answer to another question")


def _keep(accessed_at: float, expires_at: float) -> int:
    """Return how long memcached keeps a record, in its own way of saying it.

    Relative, since two hosts need not agree about the time; a date above 30 days. Beyond the last date that it knows
    (in 2038) the best that can be said is 30 days from now.
    """
    seconds = math.ceil(max(expires_at - accessed_at, 0.0)) + SLACK
    if seconds <= RELATIVE:
        return seconds
    date = math.ceil(expires_at) + SLACK
    return min(date, LATEST) if accessed_at < LATEST - RELATIVE else RELATIVE
