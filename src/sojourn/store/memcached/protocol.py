"""memcached's text protocol, the part that sessions need: requests as bytes, and a reader of replies. Pure.

The protocol is described in memcached's doc/protocol.txt. All of it has been there since memcached 1.4, and a server
answers the requests of one connection in their order. ``noreply`` is never said: a failure would go unheard.
"""

from __future__ import annotations

import re
from typing import NamedTuple

CRLF = b"\r\n"
LONGEST_LINE = 2048  # bytes; memcached's own lines are shorter, so a longer one comes from another kind of server


class Item(NamedTuple):
    """What ``get`` or ``gets`` found."""

    key: bytes
    data: bytes
    cas: bytes = b""
    """The token of this very state of the item; empty where it was not asked for, ``0`` where the server keeps none."""


Statistics = dict[str, str]
"""What ``stats`` answered."""

Reply = Item | Statistics | bytes
"""An item, statistics, or a line without its end, such as ``STORED``; a miss is ``END``."""


class Malformed(Exception):
    """What came is not memcached's protocol, or not an answer to what was asked. The connection is of no more use."""


class ErrorReply(Exception):
    """memcached answered with something else than a result, such as ``SERVER_ERROR out of memory storing object``."""


# -- requests --------------------------------------------------------------------------------------------------


def get(key: bytes) -> bytes:
    """Return the request for the item under *key*."""
    return b"get %b\r\n" % key


def gets(key: bytes) -> bytes:
    """Return the request for the item under *key* and the token of its state."""
    return b"gets %b\r\n" % key


def add(key: bytes, data: bytes, exptime: int) -> bytes:
    """Return the request to store *data* if nothing is there: STORED or NOT_STORED."""
    return b"add %b 0 %d %d\r\n%b\r\n" % (key, exptime, len(data), data)


def cas(key: bytes, data: bytes, exptime: int, token: bytes) -> bytes:
    """Return the request to store *data* if the item is still as *token* says: STORED, EXISTS or NOT_FOUND."""
    return b"cas %b 0 %d %d %b\r\n%b\r\n" % (key, exptime, len(data), token, data)


def delete(key: bytes) -> bytes:
    """Return the request to remove the item: DELETED or NOT_FOUND."""
    return b"delete %b\r\n" % key


def stats(about: str = "") -> bytes:
    """Return the request for the server's statistics, or for those *about* one subject."""
    return b"stats %b\r\n" % about.encode() if about else b"stats\r\n"


def is_read(request: bytes) -> bool:
    """Tell whether *request* changes nothing, so that it may be repeated when its reply was lost."""
    return request.startswith(b"get")


# -- replies ---------------------------------------------------------------------------------------------------


class Replies:
    """Cuts what a connection receives into replies. A large one costs no more for coming in many pieces.

    Its methods are called as those of hiredis's Reader for Redis, so that `multiplex` can use either.
    """

    def __init__(self) -> None:
        self._received: bytes | bytearray = b""
        self._at = 0  # what lies before it has been cut off
        self._needed = 1  # bytes without which no look is worth while

    def feed(self, data: bytes) -> None:
        """Take what was received."""
        if not self.has_data():
            self._received, self._at = data, 0  # as it is: most replies come in one piece
            return
        if not isinstance(self._received, bytearray) or self._at:
            self._received, self._at = bytearray(self._received[self._at :]), 0
        self._received += data

    def has_data(self) -> bool:
        """Tell whether something was received that belongs to no reply yet."""
        return len(self._received) > self._at

    def gets(self) -> Reply | None:
        """Return the next reply, or None until more is fed. Raises Malformed."""
        if len(self._received) - self._at < self._needed:
            return None
        if value := _VALUE(self._received, self._at):
            return self._item(value)
        end = self._received.find(CRLF, self._at)
        if end < 0:
            self._check_unfinished_line()
            return None
        line = bytes(self._received[self._at : end])
        if line.startswith(b"VALUE "):
            raise Malformed("a line that announces a value and is none")
        if line.startswith(b"STAT "):
            return self._statistics()
        self._cut(end + 2)
        return line

    def _check_unfinished_line(self) -> None:
        if len(self._received) - self._at > LONGEST_LINE:
            raise Malformed("a line without end")

    def _item(self, value: re.Match[bytes]) -> Item | None:
        key, size, token = value.groups(b"")
        received, begin = self._received, value.end()
        end = begin + int(size)
        needed = end + len(_AFTER_VALUE)
        if len(received) < needed:
            self._needed = needed - self._at
            return None
        if not received.startswith(_AFTER_VALUE, end):
            raise Malformed("a value does not end where it should")
        self._cut(needed)
        return Item(bytes(key), bytes(received[begin:end]), bytes(token))

    def _statistics(self) -> Statistics | None:
        end = self._received.find(_AFTER_VALUE, self._at)
        if end < 0:
            return None
        lines = bytes(self._received[self._at : end]).decode("utf-8", "replace").split("\r\n")
        self._cut(end + len(_AFTER_VALUE))
        rows = (line.removeprefix("STAT ").partition(" ") for line in lines)
        return {name: value for name, _, value in rows}

    def _cut(self, at: int) -> None:
        self._at, self._needed = at, 1
        if at == len(self._received):
            self._received, self._at = b"", 0  # an idle connection keeps no large value in memory


_VALUE = re.compile(rb"VALUE ([^ \r\n]{1,250}) \d{1,10} (\d{1,10})(?: (\d{1,20}))?\r\n").match
_AFTER_VALUE = b"\r\nEND\r\n"
