"""The shared connection to a memcached: its deadlines, and what closes it. The rest is in Redis's test_wire.py."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.servers.memcached import MemcachedServer
from tests.servers.proxy import Proxy

from sojourn.store.memcached.protocol import ErrorReply, Item, Malformed, add, get
from sojourn.store.memcached.settings import Address
from sojourn.store.memcached.wire import Wire, dial
from sojourn.store.multiplex import Lost

pytestmark = pytest.mark.slow


@asynccontextmanager
async def dialled(port: int, patience: float = 0.5) -> AsyncIterator[Wire]:
    wire = await dial(Address("127.0.0.1", port), None, patience)
    try:
        yield wire
    finally:
        wire.close(ConnectionAbortedError("the test is over"))
        await wire.closed()


def test_a_call_without_time_left_is_not_sent_and_spoils_it_for_nobody(server: MemcachedServer) -> None:
    async def main() -> None:
        now = asyncio.get_running_loop().time
        async with dialled(server.port) as wire:
            before = wire.call(add(b"one", b"1", 0), now() + 5)
            with pytest.raises(Lost) as raised:
                wire.call(add(b"two", b"2", 0), now() - 0.001)
            assert isinstance(raised.value.__cause__, TimeoutError)
            assert await before == b"STORED"
            assert await wire.call(get(b"two"), now() + 5) == b"END"

    asyncio.run(main())


def test_a_short_call_is_not_late_by_the_time_of_a_long_one(server: MemcachedServer) -> None:
    async def main(proxy: Proxy) -> None:
        now = asyncio.get_running_loop().time
        async with dialled(proxy.port) as wire:
            proxy.hold_replies()
            long, begun = wire.call(get(b"one"), now() + 20), now()
            await asyncio.sleep(0)
            short = wire.call(get(b"two"), now() + 0.1)
            for call in (short, long):
                reply = await call
                assert isinstance(reply, Lost)
                assert isinstance(reply.__cause__, TimeoutError)
            assert 0.09 < now() - begun < 5
            proxy.release()

    with Proxy(server.port) as proxy:
        asyncio.run(main(proxy))


@pytest.mark.parametrize("sent", [False, True])
def test_a_loop_that_stood_still_is_not_taken_for_a_server_that_hangs(server: MemcachedServer, sent: bool) -> None:
    data = bytes(900_000)

    async def main() -> None:
        now = asyncio.get_running_loop().time
        async with dialled(server.port) as wire:
            assert await wire.call(add(b"large", data, 0), now() + 5) == b"STORED"
            calls = [wire.call(get(b"large"), now() + 0.1) for _ in range(4)]
            if sent:
                await asyncio.sleep(0.01)
            time.sleep(0.7)
            assert await asyncio.gather(*calls) == [Item(b"large", data)] * 4

    asyncio.run(main())


def test_what_nobody_asked_for_closes_the_connection(server: MemcachedServer) -> None:
    async def main() -> None:
        async with dialled(server.port) as wire:
            reply = await wire.call(b"get one\r\nget two\r\n", asyncio.get_running_loop().time() + 5)
            assert reply == b"END"
            await asyncio.wait_for(wire.closed(), 5)
            assert isinstance(wire.cause, Malformed)

    asyncio.run(main())


def test_a_server_that_refuses_before_it_is_asked_is_quoted() -> None:
    """memcached says so to a connection too many as soon as it is made, mostly before the first request is there."""

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ERROR Too many open connections\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with server, dialled(server.sockets[0].getsockname()[1]) as wire:
            await wire.closed()
            with pytest.raises(Lost) as raised:
                wire.call(get(b"one"), asyncio.get_running_loop().time() + 5)
        assert isinstance(raised.value.__cause__, ErrorReply)
        assert str(raised.value.__cause__) == "ERROR Too many open connections"

    asyncio.run(main())
