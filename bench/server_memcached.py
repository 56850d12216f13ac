"""memcached: the store in both colours, pymemcache and aiomcache, as calls on one private server.

pymemcache is given a timeout, as any server-side use of it should: without one it makes two system calls less, and a
server that hangs holds the caller for ever. aiomcache knows no timeouts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import aiomcache
from pymemcache.client.base import PooledClient  # type: ignore[import-untyped]
from tests.servers.memcached import MemcachedServer

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
from sojourn.store.memcached.settings import MemcachedUrl

LOCALHOST = "127.0.0.1"
RATIO = 1.25
ASYNC_LOAD, FLOORS = 25.0, 25 / 8  # µs, and multiples of the floor: the goals of Redis

GET, SET = {"get": 1}, {"set": 1}
SWAP = {"get": 1, "cas": 1}
BESIDE_CAS = {"set": 1}  # it is counted as a set, too


@contextmanager
def blocking(server: MemcachedServer) -> Iterator[Sequence[Call]]:
    """Yield the calls from one thread."""
    store: Any = MemcachedUrl.from_url(server.url).blocking
    held = Held(1)
    store.create(held.key, held.record())  # after its first call the store looks at the server's settings
    client = PooledClient((LOCALHOST, server.port), timeout=1, connect_timeout=1, default_noreply=False, no_delay=True)
    data = held.packed()
    client.set(b"raw", data)

    def swap(name: bytes, value: bytes) -> object:
        return client.cas(name, value, client.gets(name)[1])

    yield (
        Call("pymemcache get", gets(client.get, held.name), GET),
        Call("MemcachedStore.load", loads(store, held), GET, None, "pymemcache get", RATIO),
        Call("pymemcache set", sets(client.set, b"raw", data), SET),
        Call("pymemcache gets and cas", sets(swap, b"raw", data), SWAP, BESIDE_CAS),
        Call(
            "MemcachedStore.update",
            updates(store, held),
            SWAP,
            BESIDE_CAS,
            "pymemcache gets and cas",
            RATIO,
            afterwards=at_version(store, held),
        ),
    )
    client.close()
    store.close()


@contextmanager
def on_loop(server: MemcachedServer, runner: asyncio.Runner) -> Iterator[Sequence[Call]]:
    """Yield the calls from an event loop."""
    store: Any = MemcachedUrl.from_url(server.url).loop
    all_held = [Held(100 + number) for number in range(TASKS)]
    for held in all_held:
        runner.run(store.create(held.key, held.record()))
    client = aiomcache.Client(LOCALHOST, server.port, pool_size=TASKS)
    bare = runner.run(floor.dial_memcached(server.port))
    names, raw = [held.name for held in all_held], [b"raw%d" % number for number in range(TASKS)]
    data = all_held[0].packed()
    runner.run(_put(client, raw, data))

    async def swap(name: bytes, value: bytes) -> object:
        _, token = await client.gets(name)
        return await client.cas(name, value, token or 0)

    yield (
        Call("floor: get", gets_async(bare.get, names, runner), GET),
        Call("aiomcache get", gets_async(client.get, names, runner), GET, None, "floor: get"),
        Call(
            "AsyncMemcachedStore.load",
            loads_async(store, all_held, runner),
            GET,
            None,
            "floor: get",
            FLOORS,
            ASYNC_LOAD,
        ),
        Call("aiomcache gets and cas", sets_async(swap, raw, data, runner), SWAP, BESIDE_CAS, "floor: get"),
        Call(
            "AsyncMemcachedStore.update",
            updates_async(store, all_held, runner),
            SWAP,
            BESIDE_CAS,
            "floor: get",
            afterwards=at_version_async(store, all_held, runner),
        ),
    )
    bare.close()
    runner.run(client.close())
    runner.run(store.aclose())


async def _put(client: aiomcache.Client, names: Sequence[bytes], data: bytes) -> None:
    for name in names:
        await client.set(name, data)
