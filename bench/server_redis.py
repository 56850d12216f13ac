"""Redis: the store in both colours, redis-py in both, and the floor, as calls on one private server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
import redis.asyncio
from tests.servers.redis import RedisServer

from bench import floor
from bench.counting import Call
from bench.server_calls import (
    TASKS,
    Held,
    at_version,
    at_version_async,
    gets,
    gets_async,
    loads,
    loads_async,
    sets,
    sets_async,
    updates,
    updates_async,
)
from sojourn.core.ops import AsyncStore, Store
from sojourn.store.redis.settings import RedisUrl

LOCALHOST = "127.0.0.1"
RATIO = 1.25
ASYNC_LOAD = 25.0  # µs, on a processor where the floor takes 8
FLOORS = ASYNC_LOAD / 8

GET, SET, SCRIPT = {"get": 1}, {"set": 1}, {"evalsha": 1}
IN_SCRIPT = {"getrange": 1, "set": 1}


@contextmanager
def blocking(server: RedisServer) -> Iterator[Sequence[Call]]:
    """Yield the calls from one thread."""
    store: Any = RedisUrl.from_url(server.url).blocking
    held = Held(1)
    _prepare(store, held)
    with redis.Redis(LOCALHOST, server.port) as client:
        client.ping()
        yield (
            Call("redis-py get", gets(client.get, held.name), GET),
            Call("RedisStore.load", loads(store, held), GET, None, "redis-py get", RATIO),
            Call("redis-py set", sets(client.set, b"raw", held.packed()), SET),
            Call(
                "RedisStore.update",
                updates(store, held),
                SCRIPT,
                IN_SCRIPT,
                "redis-py set",
                RATIO,
                afterwards=at_version(store, held),
            ),
        )
    store.close()


@contextmanager
def on_loop(server: RedisServer, runner: asyncio.Runner) -> Iterator[Sequence[Call]]:
    """Yield the calls from an event loop."""
    store: Any = RedisUrl.from_url(server.url).loop
    all_held = [Held(100 + number) for number in range(TASKS)]
    runner.run(_prepare_async(store, all_held))
    bare = runner.run(floor.dial_redis(server.port))
    client = redis.asyncio.Redis(host=LOCALHOST, port=server.port)
    runner.run(_connect(client))
    names, raw = [held.name for held in all_held], [b"raw%d" % number for number in range(TASKS)]
    data = all_held[0].packed()
    yield (
        Call("floor: get", gets_async(bare.get, names, runner), GET),
        Call("redis.asyncio get", gets_async(client.get, names, runner), GET, None, "floor: get"),
        Call(
            "AsyncRedisStore.load",
            loads_async(store, all_held, runner),
            GET,
            None,
            "floor: get",
            FLOORS,
            ASYNC_LOAD,
        ),
        Call("redis.asyncio set", sets_async(client.set, raw, data, runner), SET, None, "floor: get"),
        Call(
            "AsyncRedisStore.update",
            updates_async(store, all_held, runner),
            SCRIPT,
            IN_SCRIPT,
            "floor: get",
            afterwards=at_version_async(store, all_held, runner),
        ),
    )
    bare.close()
    runner.run(client.aclose())
    runner.run(store.aclose())


async def _connect(client: redis.asyncio.Redis) -> None:
    """Have the client's pool connect as often as tasks will ask at once."""
    pool: Any = client.connection_pool
    for connection in [await pool.get_connection() for _ in range(TASKS)]:
        await pool.release(connection)


# After the first call a store looks at the server's settings; the first script is sent as text.


def _prepare(store: Store, held: Held) -> None:
    store.create(held.key, held.record())
    [record] = held.next(1)
    store.update(held.key, record, 1)


async def _prepare_async(store: AsyncStore, all_held: Sequence[Held]) -> None:
    for held in all_held:
        await store.create(held.key, held.record())
        [record] = held.next(1)
        await store.update(held.key, record, 1)
