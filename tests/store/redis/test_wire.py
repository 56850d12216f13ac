"""The shared connection on real servers: who gets which reply, when it closes, and how much it takes on."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from hiredis import ProtocolError
from tests.servers.memcached import MemcachedServer
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.store.redis.loops import looped, on_each_loop

from sojourn.store.multiplex import MOST_BYTES, MOST_CALLS, Lost
from sojourn.store.redis.wire import Endpoint, ErrorReply, Wire, dial

pytestmark = pytest.mark.slow

PING = ("PING",)


@pytest.fixture(autouse=True)
def _fresh(redis_server: RedisServer) -> Iterator[None]:
    redis_server.fresh()
    yield
    redis_server.revive()


@asynccontextmanager
async def dialled(port: int, timeout: float = 5.0, greeting: Any = (PING,)) -> AsyncIterator[Wire]:
    wire = await dial(Endpoint("127.0.0.1", port), greeting, timeout)
    try:
        yield wire
    finally:
        wire.close(ConnectionAbortedError("the test is over"))
        await wire.closed()


def cause_of(reply: Any) -> BaseException | None:
    assert isinstance(reply, Lost)
    return reply.__cause__


# -- who gets which reply ------------------------------------------------------------------------------------------


@on_each_loop
async def test_each_call_gets_its_own_reply(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port) as wire:
        texts = [b"%d" % number * (1 + number % 7 * 1000) for number in range(1000)]
        assert await asyncio.gather(*(wire.call(("ECHO", text)) for text in texts)) == texts


@looped
async def test_what_one_turn_of_the_loop_asks_is_one_write(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port) as wire:
        writes = []
        send = wire._transport.write
        wire._transport.write = lambda data: writes.append(len(data)) or send(data)
        for _ in range(3):
            await asyncio.gather(*(wire.call(PING) for _ in range(8)))
    assert writes == [8 * len(b"*1\r\n$4\r\nPING\r\n")] * 3


@on_each_loop
async def test_a_cancelled_call_keeps_its_place_and_its_reply_is_thrown_away(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        async with dialled(proxy.port) as wire:
            proxy.hold_replies()
            calls = [wire.call(("ECHO", b"%d" % number)) for number in range(30)]
            while proxy.requested < 30 * 20:
                await asyncio.sleep(0.001)
            for call in calls[::3]:
                call.cancel()
            later = wire.call(("ECHO", b"later"))
            proxy.release()
            assert await later == b"later"
            replies = [None if call.cancelled() else call.result() for call in calls]
            assert replies == [b"%d" % number if number % 3 else None for number in range(30)]


@looped
async def test_a_call_that_is_cancelled_before_it_was_sent_never_is(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port) as wire:
        with redis_server.heard() as heard:
            calls = [wire.call(("ECHO", b"%d" % number)) for number in range(4)]
            calls[1].cancel()
            assert await asyncio.gather(*(calls[number] for number in (0, 2, 3))) == [b"0", b"2", b"3"]
        assert heard.commands == ["ECHO 0", "ECHO 2", "ECHO 3"]


@looped
async def test_an_error_is_the_reply_of_its_own_call_alone(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port) as wire:
        await wire.call(("SET", "text", "x"))
        before, error, after = [wire.call(PING), wire.call(("ZCARD", "text")), wire.call(PING)]
        assert await before == await after == b"PONG"
        reply = await error
        assert isinstance(reply, ErrorReply)
        assert reply.word == "WRONGTYPE"


# -- when it closes ------------------------------------------------------------------------------------------------


@looped
async def test_a_reply_that_nobody_asked_for_closes_the_connection(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port) as wire:
        await wire.call(("SUBSCRIBE", "news"))
        redis_server.admin.publish("news", "for nobody")
        await asyncio.wait_for(wire.closed(), 5)
        assert isinstance(wire.cause, ProtocolError)
        with pytest.raises(Lost):
            wire.call(PING)


@on_each_loop
async def test_a_part_of_a_reply_that_nobody_asked_for_closes_the_connection_too() -> None:
    """The next call would be answered by it when its end came."""
    writers = []

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(b"+PO")

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, dialled(server.sockets[0].getsockname()[1], greeting=()) as wire:
        await asyncio.wait_for(wire.closed(), 5)
        assert isinstance(wire.cause, ProtocolError)
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@looped
async def test_a_server_that_speaks_another_protocol_closes_the_connection() -> None:
    with MemcachedServer() as server:
        with pytest.raises(Lost) as raised:
            await dial(Endpoint("127.0.0.1", server.port), [PING], 5.0)
        assert isinstance(raised.value.__cause__, ProtocolError)


@looped
async def test_a_greeting_that_is_refused_leaves_no_connection(redis_server: RedisServer) -> None:
    before = len(redis_server.admin.client_list())
    with pytest.raises(ErrorReply, match="without any password"):
        await dial(Endpoint("127.0.0.1", redis_server.port), [("AUTH", "wrong"), PING], 5.0)
    await asyncio.sleep(0)
    assert len(redis_server.admin.client_list()) == before
    async with dialled(redis_server.port, greeting=[("CLIENT", "NOSUCH"), PING]) as wire:
        assert await wire.call(PING) == b"PONG", "a name that is refused is no reason to go"


@pytest.mark.parametrize("reset", [False, True])
@on_each_loop
async def test_a_connection_that_ends_in_the_middle_of_a_reply_fails_all_who_wait(
    redis_server: RedisServer, reset: bool
) -> None:
    with Proxy(redis_server.port) as proxy:
        async with dialled(proxy.port) as wire:
            redis_server.admin.set("large", b"x" * 100_000)
            proxy.cut_replies(50_000, reset=reset)
            calls = [wire.call(("GET", "large")), *(wire.call(PING) for _ in range(9))]
            replies = await asyncio.wait_for(asyncio.gather(*calls), 5)
            assert {type(cause_of(reply)) for reply in replies} == {ConnectionResetError}
            assert len({id(reply) for reply in replies}) == 10


@on_each_loop
async def test_a_hung_server_costs_one_timeout_and_no_more(redis_server: RedisServer) -> None:
    loop = asyncio.get_running_loop()
    async with dialled(redis_server.port, timeout=0.2) as wire:
        redis_server.pause()
        begun, calls = loop.time(), []
        while loop.time() < begun + 0.15:
            calls.append(wire.call(PING))
            await asyncio.sleep(0.01)
        replies = await asyncio.gather(*calls)
        assert {type(cause_of(reply)) for reply in replies} == {TimeoutError}
        assert 0.19 < loop.time() - begun < 0.35
        assert wire.cause


@looped
async def test_a_timeout_counts_from_the_oldest_call_also_when_others_are_answered(redis_server: RedisServer) -> None:
    """Replies that trickle in, each in time for the one before, must not make a late call wait for ever."""
    with Proxy(redis_server.port) as proxy:
        async with dialled(proxy.port, timeout=0.3) as wire:
            proxy.delay_replies(0.2)
            for _ in range(4):
                assert await wire.call(PING) == b"PONG"
            proxy.hold_replies()
            begun = asyncio.get_running_loop().time()
            assert isinstance(cause_of(await wire.call(PING)), TimeoutError)
            assert asyncio.get_running_loop().time() - begun < 0.45


@on_each_loop
async def test_a_loop_that_stood_still_is_not_taken_for_a_server_that_hangs(redis_server: RedisServer) -> None:
    redis_server.admin.set("large", b"x" * 1_000_000)
    async with dialled(redis_server.port, timeout=0.1) as wire:
        for _ in range(3):
            calls = [wire.call(("GET", "large")) for _ in range(4)] + [wire.call(PING)]
            await asyncio.sleep(0.01)  # they are sent
            time.sleep(0.3)
            assert [len(reply) for reply in await asyncio.gather(*calls)] == [1_000_000] * 4 + [4]


# -- how much it takes on ------------------------------------------------------------------------------------------


@looped
async def test_calls_beyond_the_bound_are_refused_at_once_and_memory_stays_flat(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port, timeout=1.0) as wire:
        redis_server.pause()
        tracemalloc.start()
        try:
            waiting, refused = [], 0
            for _ in range(20_000):
                try:
                    waiting.append(wire.call(("GET", b"x" * 64)))
                except Lost as error:
                    refused += isinstance(error.__cause__, BlockingIOError)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert len(waiting) == MOST_CALLS
        assert refused == 20_000 - MOST_CALLS
        assert peak < 8 << 20
        assert {type(cause_of(reply)) for reply in await asyncio.gather(*waiting)} == {TimeoutError}


@looped
async def test_a_command_that_is_refused_leaves_no_asking_to_another(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port) as wire:
        with redis_server.heard() as heard:
            waiting = [wire.call(PING) for _ in range(MOST_CALLS - 1)]
            with pytest.raises(Lost):
                wire.call_asking(("GET", "key"))
            assert await asyncio.gather(*waiting) == [b"PONG"] * (MOST_CALLS - 1)
        assert set(heard.commands) == {"PING"}


@looped
async def test_bytes_that_the_server_does_not_take_are_bounded(redis_server: RedisServer) -> None:
    async with dialled(redis_server.port, timeout=2.0) as wire:
        redis_server.pause()
        calls = []
        while not wire._full:
            calls.append(wire.call(("SET", "large", b"x" * 1_000_000)))
            await asyncio.sleep(0)
        with pytest.raises(Lost) as raised:
            wire.call(PING)
        assert isinstance(raised.value.__cause__, BlockingIOError)
        assert len(calls) * 1_000_000 < MOST_BYTES + (12 << 20), "what the kernel's own buffers take comes on top"
        redis_server.resume()
        async with asyncio.timeout(5):
            while wire._full:
                await asyncio.sleep(0.001)
        assert await wire.call(PING) == b"PONG"
