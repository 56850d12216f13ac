"""The network between the demo's hosts: what a cut withholds, what healing brings, and what is not let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from sojourn.cluster.wire import Hello, to_frame
from sojourn.lab.relay import Network

SECONDS = 10.0
SHORT = 0.1  # seconds in which something that is not withheld has long come


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, SECONDS))


def hello(name: object) -> bytes:
    return to_frame(Hello((1,), "demo", "", str(name), b"orig", {}, ()))


@asynccontextmanager
async def hosts(count: int) -> AsyncIterator[Network]:
    """Hosts that send back whatever they are sent, and close when the other does."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async with Network(count) as network:
        servers = [await asyncio.start_server(echo, port.host, port.port) for port in network.ports]
        try:
            yield network
        finally:
            for server in servers:
                server.close()


class Stream:
    """A stream that one host has opened to another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, network: Network, one: int, other: int) -> Stream:
        stream = await cls.dial(network, other)
        stream.send(hello(network.names[one]))
        return stream

    @classmethod
    async def dial(cls, network: Network, other: int) -> Stream:
        name = network.names[other]
        return cls(*await asyncio.open_connection(name.host, name.port))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def back(self, data: bytes) -> bool:
        """Tell whether this comes back."""
        return await self.reader.readexactly(len(data)) == data

    async def ended(self) -> bool:
        return await self.reader.read(1) == b""

    async def silent(self) -> bool:
        """Tell whether nothing comes, not even an end. What comes later is still there to be read."""
        reading = asyncio.ensure_future(self.reader.read(1))
        done, _ = await asyncio.wait([reading], timeout=SHORT)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        return not done

    def close(self) -> None:
        self.writer.close()


def test_what_a_host_sends_reaches_the_other_and_comes_back() -> None:
    async def story() -> None:
        async with hosts(2) as network:
            stream = await Stream.open(network, 0, 1)
            assert await stream.back(hello(network.names[0]))
            large = bytes(1_000_000)
            stream.send(large)
            assert await stream.back(large)
            stream.close()

    run(story())


@pytest.mark.parametrize("cut", [0, 1])
def test_a_cut_withholds_both_ways_and_healing_brings_what_was_withheld(cut: int) -> None:
    async def story() -> None:
        async with hosts(2) as network:
            stream = await Stream.open(network, 0, 1)
            assert await stream.back(hello(network.names[0]))
            network.cut(cut)
            stream.send(b"late")
            assert await stream.silent()
            assert network.is_cut(cut)
            network.heal(cut)
            assert await stream.back(b"late")
            stream.close()

    run(story())


def test_a_new_stream_of_a_host_that_is_cut_off_hangs_and_is_not_refused() -> None:
    async def story() -> None:
        async with hosts(2) as network:
            network.cut(0)
            stream = await Stream.open(network, 0, 1)
            assert await stream.silent()
            network.heal(0)
            assert await stream.back(hello(network.names[0]))
            stream.close()

    run(story())


def test_a_cut_of_one_host_leaves_the_others_alone() -> None:
    async def story() -> None:
        async with hosts(3) as network:
            network.cut(2)
            stream = await Stream.open(network, 0, 1)
            assert await stream.back(hello(network.names[0]))
            stream.close()

    run(story())


def test_where_both_ends_are_cut_off_one_that_is_healed_is_not_enough() -> None:
    async def story() -> None:
        async with hosts(2) as network:
            stream = await Stream.open(network, 0, 1)
            assert await stream.back(hello(network.names[0]))
            network.cut(0)
            network.cut(1)
            stream.send(b"late")
            network.heal(0)
            assert await stream.silent()
            network.heal(1)
            assert await stream.back(b"late")
            stream.close()

    run(story())


def test_a_host_that_dies_ends_its_streams() -> None:
    async def story() -> None:
        async with Network(2) as network:
            taken: list[asyncio.StreamWriter] = []

            async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                taken.append(writer)
                writer.write(b"here")

            port = network.ports[1]
            async with await asyncio.start_server(take, port.host, port.port):
                stream = await Stream.open(network, 0, 1)
                assert await stream.back(b"here")
                taken[0].transport.abort()  # as the kernel does for a process that is killed
                assert await stream.ended()
                stream.close()

    run(story())


def test_nobody_is_told_of_an_end_behind_a_cut() -> None:
    async def story() -> None:
        async with Network(2) as network:
            taken: list[asyncio.StreamWriter] = []

            async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                taken.append(writer)
                writer.write(b"here")

            port = network.ports[1]
            async with await asyncio.start_server(take, port.host, port.port):
                stream = await Stream.open(network, 0, 1)
                assert await stream.back(b"here")
                network.cut(1)
                taken[0].transport.abort()
                assert await stream.silent()
                network.heal(1)
                assert await stream.ended()
                stream.close()

    run(story())


def test_a_host_that_is_down_ends_a_stream_at_once() -> None:
    async def story() -> None:
        async with Network(2) as network:
            stream = await Stream.open(network, 0, 1)
            assert await stream.ended()
            stream.close()

    run(story())


@pytest.mark.parametrize("first", [hello("127.0.0.1:1"), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, hello("")])
def test_who_is_none_of_the_hosts_is_not_let_in(first: bytes) -> None:
    async def story() -> None:
        async with hosts(2) as network:
            stream = await Stream.dial(network, 1)
            stream.send(first)
            assert await stream.ended()
            stream.close()

    run(story())


def test_when_it_is_over_no_port_is_held() -> None:
    async def story() -> None:
        async with hosts(2) as network:
            stream = await Stream.open(network, 0, 1)
            assert await stream.back(hello(network.names[0]))
            addresses = [*network.names, *network.ports]
        assert await stream.ended()
        stream.close()
        for address in addresses:
            server = await asyncio.start_server(lambda *_: None, address.host, address.port)
            server.close()

    run(story())
