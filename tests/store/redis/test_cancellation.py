"""Cancelled calls and broken networks: no reply ever reaches another call.

Each session carries a secret of its own, and every load checks that it got its own. (A reply to another would show as
None, too: the frame is bound to its key and does not open elsewhere. That counts as foreign here.)
"""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import redis.asyncio as aredis
from tests.servers.cluster import RedisCluster
from tests.servers.process import until
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Sentinels
from tests.store.redis.harness import primaries, with_query
from tests.store.redis.loops import looped, on_each_loop

from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.redis.loop import AsyncRedisStore
from sojourn.store.redis.settings import RedisSettings
from sojourn.testing.fakes import START
from sojourn.testing.store_contract import a_key, a_record

pytestmark = pytest.mark.slow

CROWD = 50
LOOKS = 3  # loads by each of the crowd while one call is cancelled

Call = Callable[[AsyncRedisStore], Awaitable[Any]]

KEY, TAG, OTHERS = a_key(1000), b"t" * 32, [a_key(1000 + number) for number in range(300)]
CALLS: dict[str, Call] = {
    "load": lambda store: store.load(KEY),
    "create": lambda store: store.create(KEY, a_record()),
    "update": lambda store: store.update(KEY, a_record(version=2), 1),
    "touch": lambda store: store.touch(KEY, START + 2, START + 1802, 1),
    "delete": lambda store: store.delete(KEY, 1),
    "delete any": lambda store: store.delete(KEY),
    "load_many": lambda store: store.load_many(OTHERS),
    "delete_many": lambda store: store.delete_many(OTHERS),
    "scan": lambda store: store.scan(None, 10),
    "enlist": lambda store: store.enlist(TAG, KEY, START, START + 1800),
    "delist": lambda store: store.delist(TAG, [KEY]),
    "find": lambda store: store.find(TAG),
    "acquire": lambda store: store.acquire(KEY, b"me", START, START + 30),
    "release": lambda store: store.release(KEY, b"me"),
    "examine": lambda store: store.examine(),
}


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> Iterator[None]:
    names = [name for name in ("redis_server", "redis_sentinels", "redis_cluster") if name in request.fixturenames]
    for name in names:
        request.getfixturevalue(name).fresh()
    yield
    if "redis_server" in names:
        request.getfixturevalue("redis_server").revive()


def secret(number: int) -> Record:
    return a_record(principal=f"user {number}", values={"secret": b"%d" % number * (1 + number * 37)})


def store_at(url: str, timeout: float) -> AsyncRedisStore:
    return AsyncRedisStore.from_settings(RedisSettings.from_url(with_query(url, f"timeout={timeout}")))


@asynccontextmanager
async def crowded(make: Callable[[], AsyncRedisStore]) -> AsyncIterator[AsyncRedisStore]:
    """Give a store in which each of the crowd has a session."""
    store = make()
    try:
        await asyncio.gather(*(store.create(a_key(number), secret(number)) for number in range(CROWD)))
        yield store
    finally:
        await store.aclose()


async def looks(store: AsyncRedisStore, number: int, times: int = LOOKS) -> int:
    """Load one's own session again and again; return how often it was there, when the store could answer at all."""
    seen = 0
    for _ in range(times):
        try:
            found = await store.load(a_key(number))
        except StoreUnavailable:
            await asyncio.sleep(0.005)
            continue
        assert found == secret(number), "somebody else's reply"
        seen += 1
    return seen


# -- a task is cancelled at every await ----------------------------------------------------------------------------


async def cancel_at_every_turn(
    call: Call, make: Callable[[], AsyncRedisStore], *, forget: Callable[[], object]
) -> None:
    """Cancel *call* after 0, 1, 2 … turns of the loop, until it ends by itself, while the crowd looks on."""
    async with crowded(make) as store:
        for cold in (False, True):
            turns, ended = 0, False
            while not ended:
                forget()
                if cold:
                    await store.aclose()  # the call, or one of the crowd, connects
                task = asyncio.ensure_future(call(store))
                crowd = [asyncio.ensure_future(looks(store, number)) for number in range(CROWD)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                ended = task.done()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert await asyncio.gather(*crowd) == [LOOKS] * CROWD
                turns += 1


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@looped
async def test_a_call_cancelled_at_any_await_leaves_its_reply_to_nobody(redis_server: RedisServer, call: Call) -> None:
    make = partial(store_at, redis_server.url, 10)
    await cancel_at_every_turn(call, make, forget=redis_server.admin.script_flush)


@pytest.mark.parametrize("call", [CALLS["load"], CALLS["update"]], ids=["load", "update"])
@on_each_loop
async def test_that_holds_on_each_loop(redis_server: RedisServer, call: Call) -> None:
    make = partial(store_at, redis_server.url, 10)
    await cancel_at_every_turn(call, make, forget=redis_server.admin.script_flush)


@pytest.mark.parametrize("name", ["load", "update", "load_many", "scan"])
@looped
async def test_that_holds_in_a_cluster(redis_cluster: RedisCluster, name: str) -> None:
    make = partial(store_at, redis_cluster.url, 10)
    await cancel_at_every_turn(CALLS[name], make, forget=redis_cluster.primary_of(b"x").admin.script_flush)


@pytest.mark.parametrize("name", ["load", "update"])
@looped
async def test_that_holds_behind_sentinels(redis_sentinels: Sentinels, name: str) -> None:
    make = partial(store_at, redis_sentinels.url, 10)
    await cancel_at_every_turn(CALLS[name], make, forget=redis_sentinels.primary().admin.script_flush)


@pytest.mark.parametrize("kind", ["redis", "sentinel", "cluster"])
@looped
async def test_a_cancelled_connect_leaves_no_connection_behind(request: pytest.FixtureRequest, kind: str) -> None:
    fixture = {"redis": "redis_server", "sentinel": "redis_sentinels", "cluster": "redis_cluster"}[kind]
    servers: Any = request.getfixturevalue(fixture)
    for turns in range(40):
        store = store_at(servers.url, 10)
        task = asyncio.ensure_future(store.load(KEY))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.aclose()
    gc.collect()  # what was forgotten would be a ResourceWarning, which is an error here
    assert until(lambda: connections(servers) == 0, "all connections are closed")


def connections(servers: Any) -> int:
    return sum(client["name"] == "sojourn" for server in primaries(servers) for client in server.admin.client_list())


class Lending(AsyncRedisStore):
    """A store on a client of the application, which is closed with it."""

    def __init__(self, server: RedisServer) -> None:
        self.client = aredis.Redis(host="127.0.0.1", port=server.port)
        super().__init__(self.client, timeout=10)

    async def aclose(self) -> None:
        await super().aclose()
        await self.client.aclose()


@pytest.mark.parametrize("name", ["load", "update"])
@looped
async def test_that_holds_for_a_lent_client(redis_server: RedisServer, name: str) -> None:
    make = partial(Lending, redis_server)
    await cancel_at_every_turn(CALLS[name], make, forget=redis_server.admin.script_flush)


@on_each_loop
async def test_that_holds_when_calls_are_cancelled_at_random_under_delay(redis_server: RedisServer) -> None:
    chance = random.Random(7)
    with Proxy(redis_server.port) as proxy:
        async with crowded(partial(store_at, f"redis://{proxy.address}", 10)) as store:
            proxy.delay_replies(0.002)
            for _ in range(40):
                doomed = [asyncio.ensure_future(chance.choice([*CALLS.values()])(store)) for _ in range(20)]
                crowd = [asyncio.ensure_future(looks(store, number)) for number in range(CROWD)]
                await asyncio.sleep(chance.random() * 0.004)
                for task in doomed:
                    task.cancel()
                await asyncio.gather(*doomed, return_exceptions=True)
                assert await asyncio.gather(*crowd) == [LOOKS] * CROWD


# -- networks ------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_replies_that_come_after_the_deadline_reach_nobody(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        async with crowded(partial(store_at, f"redis://{proxy.address}", 0.25)) as store:
            loop = asyncio.get_running_loop()
            for _ in range(3):
                proxy.hold_replies()
                begun = loop.time()
                assert await asyncio.gather(*(looks(store, number, 1) for number in range(CROWD))) == [0] * CROWD
                assert loop.time() - begun < 0.6
                proxy.release()  # now the late replies arrive
                assert await asyncio.gather(*(looks(store, number, 1) for number in range(CROWD))) == [1] * CROWD


@pytest.mark.parametrize("reset", [False, True], ids=["cut", "reset"])
@looped
async def test_connections_that_end_in_the_middle_of_replies_mix_nothing_up(
    redis_server: RedisServer, reset: bool
) -> None:
    with Proxy(redis_server.port) as proxy:
        async with crowded(partial(store_at, f"redis://{proxy.address}", 5)) as store:
            for after in range(0, 6000, 97):
                proxy.cut_replies(after, reset=reset, once=True)
                await asyncio.gather(*(looks(store, number, 1) for number in range(CROWD)))
            proxy.heal()
            assert await asyncio.gather(*(looks(store, number) for number in range(CROWD))) == [LOOKS] * CROWD


@looped
async def test_a_connection_that_is_dropped_again_and_again_mixes_nothing_up(redis_server: RedisServer) -> None:
    with Proxy(redis_server.port) as proxy:
        async with crowded(partial(store_at, f"redis://{proxy.address}", 5)) as store:
            crowd = [asyncio.ensure_future(looks(store, number, 20)) for number in range(CROWD)]
            for number in range(10):
                await asyncio.sleep(0.003)
                proxy.drop(reset=bool(number % 2))
            assert sum(await asyncio.gather(*crowd)) > 0
            assert await asyncio.gather(*(looks(store, number) for number in range(CROWD))) == [LOOKS] * CROWD


# -- a server that hangs -------------------------------------------------------------------------------------------


@on_each_loop
async def test_of_a_hung_server_all_calls_end_in_time_and_memory_stays_flat(redis_server: RedisServer) -> None:
    async with crowded(partial(store_at, redis_server.url, 0.5)) as store:
        redis_server.pause()
        assert await slowest_of(store, 500) < 1.0, "calls under way"
        assert await slowest_of(store, 500) < 1.0, "calls that wait for a connection"
        held = []
        tracemalloc.start()  # makes all slower, so time is measured above
        try:
            for _ in range(8):  # 4,000 attempts
                await slowest_of(store, 500)
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[-1] - held[1] < 500_000, held  # what 3,000 attempts left; an exception each would be megabytes
        redis_server.resume()
        async with asyncio.timeout(10):  # it has thousands of commands to get through whose callers have gone
            while await looks(store, 0) < LOOKS:
                pass
        assert await asyncio.gather(*(looks(store, number) for number in range(CROWD))) == [LOOKS] * CROWD


async def slowest_of(store: AsyncRedisStore, attempts: int) -> float:
    """Load so many sessions at once; return the seconds until the last call has failed."""
    begun = asyncio.get_running_loop().time()
    return max(await asyncio.gather(*(attempt(store, number) for number in range(attempts)))) - begun


async def attempt(store: AsyncRedisStore, number: int) -> float:
    """Load once; return when it ended."""
    with pytest.raises(StoreUnavailable):
        await store.load(a_key(number))
    return asyncio.get_running_loop().time()
