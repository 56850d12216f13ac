"""The network between the lab's hosts: a relay before each, so that one can be cut off while all processes run.

A host is known to the others by its relay's address. Who opens a stream says its own name in the first frame (on
loopback there is no TLS), so a relay knows both ends of each stream and withholds what goes from or to a host that is
cut off: nothing arrives, and nothing is refused either, as in a network that has failed. When it is healed, what was
withheld goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Self

from sojourn.balancer.nodes import Address
from sojourn.cluster.wire import Frames, Hello, Malformed
from sojourn.lab.ports import Reserved, address_of, listen

CHUNK = 1 << 16  # bytes that are read at once

_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Ends = tuple[int, int]  # the hosts at the two ends of a stream, by their places


class Network:
    """Relays for *count* hosts: ``async with`` runs them. Hosts are numbered from 0."""

    def __init__(self, count: int) -> None:
        self._listeners = [listen() for _ in range(count)]
        self._ports = [Reserved() for _ in range(count)]
        self.names = [address_of(sock) for sock in self._listeners]
        """Under which each host is known to the others: its relay."""
        self._open = [_set() for _ in range(count)]
        self._servers: list[asyncio.Server] = []
        self._streams: set[asyncio.Task[None]] = set()

    @property
    def ports(self) -> Sequence[Address]:
        """Where each host's agent is to listen; nobody else can take the port while it is dead."""
        return [port.address for port in self._ports]

    async def __aenter__(self) -> Self:
        for number, sock in enumerate(self._listeners):
            self._servers.append(await asyncio.start_server(self._serve(number), sock=sock))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """Let go of all ports."""
        for sock in self._listeners:
            sock.close()
        for port in self._ports:
            port.close()

    # -- cutting

    def cut(self, number: int) -> None:
        """Let nothing pass from or to this host."""
        self._open[number].clear()

    def heal(self, number: int) -> None:
        """Let everything pass again."""
        self._open[number].set()

    def is_cut(self, number: int) -> bool:
        """Tell whether this host is cut off."""
        return not self._open[number].is_set()

    async def _passable(self, ends: Ends) -> None:
        while any(self.is_cut(end) for end in ends):
            for end in ends:
                await self._open[end].wait()

    # -- relaying

    def _serve(self, number: int) -> _Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stream = asyncio.create_task(self._relay(number, reader, writer))
            self._streams.add(stream)
            stream.add_done_callback(self._streams.discard)

        return serve

    async def _relay(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, Malformed, _NoHello):
                first, name = await _greeting(reader)
                ends = (self._number(name), number)
                await self._passable(ends)
                await self._join(ends, first, reader, writer)
        finally:
            writer.close()

    async def _join(self, ends: Ends, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect to the host, and pass everything on until one of the two closes."""
        port = self.ports[ends[1]]
        there, onward = await asyncio.open_connection(port.host, port.port)
        try:
            onward.write(first)
            ways = [asyncio.create_task(self._pump(ends, reader, onward))]
            ways.append(asyncio.create_task(self._pump(ends, there, writer)))
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            onward.close()

    async def _pump(self, ends: Ends, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        data = b"-"
        while data:
            with suppress(OSError):  # a reset is an end, too
                data = b""
                data = await source.read(CHUNK)
            await self._passable(ends)  # also an end: a network that has failed tells nobody that a host is gone
            sink.write(data)
            await sink.drain()

    def _number(self, name: str) -> int:
        known = [str(address) for address in self.names]
        if name not in known:
            raise _NoHello
        return known.index(name)


class _NoHello(Exception):
    """A stream begins in another way than hosts do."""


async def _greeting(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """Return what has been read up to the first frame's end, and the name in it."""
    frames, read = Frames(), b""
    while data := await reader.read(CHUNK):
        read += data
        for message in frames.feed(data):
            if isinstance(message, Hello):
                return read, message.name
            raise _NoHello
    raise _NoHello


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
