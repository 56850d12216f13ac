"""The least that a GET can cost on an event loop: asyncio's Protocol and a parser, and nothing that makes it safe.

No deadline, no bound, no answer to a lost connection: a floor to compare with, not something to use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from hiredis import Reader, pack_command


class Parser(Protocol):
    """Cuts what is received into replies."""

    def feed(self, data: bytes, /) -> Any:
        """Take what was received."""

    def gets(self) -> Any:
        """Return the next reply, or MORE."""


class Floor(asyncio.Protocol):
    """One connection; what is asked in one turn of the loop is sent by one write."""

    def __init__(self, pack: Callable[[bytes], bytes], parser: Parser) -> None:
        self._loop = asyncio.get_running_loop()
        self._pack, self._parser = pack, parser
        self._unsent: list[bytes] = []
        self._calls: deque[asyncio.Future[bytes]] = deque()
        self._transport: asyncio.WriteTransport

    async def get(self, name: bytes) -> bytes:
        """Return what lies under *name*."""
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(self._pack(name))
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._calls.append(future)
        return await future

    def _send(self) -> None:
        self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Give each reply to the first that waits."""
        self._parser.feed(data)
        while (reply := self._parser.gets()) is not MORE:
            self._calls.popleft().set_result(reply)

    def close(self) -> None:
        """End."""
        self._transport.close()


class Items:
    """Parses what memcached answers to a get that finds its item."""

    def __init__(self) -> None:
        self._got = b""

    def feed(self, data: bytes, /) -> None:
        """Take what was received."""
        self._got += data

    def gets(self) -> Any:
        """Return the next value, or MORE."""
        begin = self._got.find(b"\r\n") + 2
        if begin < 2:
            return MORE
        end = begin + int(self._got[:begin].rpartition(b" ")[2])
        if len(self._got) < end + len(b"\r\nEND\r\n"):
            return MORE
        value, self._got = self._got[begin:end], self._got[end + len(b"\r\nEND\r\n") :]
        return value


async def dial_redis(port: int) -> Floor:
    """Return a connection to the Redis server on *port*."""
    return await _dial(port, lambda: Floor(_get_of_redis, Reader(notEnoughData=MORE)))


async def dial_memcached(port: int) -> Floor:
    """Return a connection to the memcached server on *port*."""
    return await _dial(port, lambda: Floor(lambda name: b"get %b\r\n" % name, Items()))


async def _dial(port: int, make: Callable[[], Floor]) -> Floor:
    _, protocol = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port)
    return protocol


def _get_of_redis(name: bytes) -> bytes:
    command: tuple[Any, ...] = ("GET", name)
    packed: bytes = pack_command(command)
    return packed


MORE = object()
