"""Harnesses around the Redis stores in both colours, over one server, Sentinel and Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import inf
from time import monotonic
from typing import Any

from tests.servers.cluster import RedisCluster
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Sentinels

from sojourn.core.capability import Acquire, Batched, Enlist, Examinable, Indexed, Lockable, Scannable
from sojourn.drive import aperform, perform
from sojourn.store.redis.blocking import RedisStore
from sojourn.store.redis.commands import PREFIX, SLACK, Commands
from sojourn.store.redis.settings import RedisSettings
from sojourn.testing import StoreHarness

Servers = RedisServer | Sentinels | RedisCluster

CAPABILITIES = frozenset({Batched, Indexed, Scannable, Lockable, Examinable})
PATIENT = "timeout=5"  # seconds; a story is about answers, and a busy machine must not make them late
EVERYTHING = "+@all"
NOTHING = [
    "-get",
    "-set",
    "-mget",
    "-unlink",
    "-eval",
    "-evalsha",
    "-scan",
    "-zscan",
    "-zrem",
    "-info",
]  # as a store asks


@contextmanager
def redis_harness(
    servers: Servers,
    *,
    loop: bool = False,
    url: str | None = None,
    make: Callable[[], Any] | None = None,
    prefix: str = PREFIX,
) -> Iterator[StoreHarness]:
    """Give a harness around a store on empty *servers*. *url* replaces their own, *make* makes the store otherwise."""
    for server in primaries(servers):
        server.flush()
    settings = RedisSettings.from_url(with_query(url or servers.url, f"{PATIENT}&prefix={prefix}"))
    door = Door(servers, prefix)
    with (asynchronous if loop else blocking)(settings, make) as (do, do_all):
        yield StoreHarness(
            door.noting(do), door.noting_all(do_all), door, door.sweep, partial(outage, servers), CAPABILITIES
        )


def with_query(url: str, query: str) -> str:
    """Return *url* with further settings."""
    return f"{url}{'&' if '?' in url else '?'}{query}"


def primaries(servers: Servers) -> Sequence[RedisServer]:
    """Return the servers that hold keys."""
    if isinstance(servers, RedisServer):
        return [servers]
    return [servers.primary()] if isinstance(servers, Sentinels) else servers.primaries()


# -- performing operations -----------------------------------------------------------------------------------------

Doing = AbstractContextManager[tuple[Callable[[Any], Any], Callable[[Sequence[Any]], list[Any]]]]


@contextmanager
def blocking(settings: RedisSettings, make: Callable[[], Any] | None) -> Iterator[Any]:
    store = make() if make else RedisStore.from_settings(settings)
    try:
        with ThreadPoolExecutor(8) as pool:
            yield lambda op: perform(op, store), lambda ops: list(pool.map(lambda op: perform(op, store), ops))
    finally:
        store.close()


@contextmanager
def asynchronous(settings: RedisSettings, make: Callable[[], Any] | None) -> Iterator[Any]:
    from sojourn.store.redis.loop import AsyncRedisStore

    with asyncio.Runner() as runner:
        store = make() if make else AsyncRedisStore.from_settings(settings)

        async def do_all(ops: Sequence[Any]) -> list[Any]:
            return list(await asyncio.gather(*(aperform(op, store) for op in ops)))

        try:
            yield lambda op: runner.run(aperform(op, store)), lambda ops: runner.run(do_all(ops))
        finally:
            runner.run(store.aclose())


# -- behind the store's back ---------------------------------------------------------------------------------------


class Door:
    """The side door into the servers, and their clock.

    The times of stories lie years ahead, while what Redis is told is how long to keep something. So a sweep lets that
    time pass: what the server says to have *ms* left will be gone *ms* after it was written. It is taken a little
    later, by the age of the harness, so that nothing is buried too early.
    """

    def __init__(self, servers: Servers, prefix: str) -> None:
        self._servers, self._commands, self._begun = servers, Commands(prefix), monotonic()
        self._since: dict[bytes, float] = {}  # the story's time from which the life of a lock or an index counts

    def noting(self, do: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return *do*, noting the times that the server is not told."""

        def perform(op: Any) -> Any:
            answer = do(op)
            self._note(op, answer)
            return answer

        return perform

    def noting_all(self, do_all: Callable[[Sequence[Any]], list[Any]]) -> Callable[[Sequence[Any]], list[Any]]:
        def perform_all(ops: Sequence[Any]) -> list[Any]:
            answers = do_all(ops)
            for op, answer in zip(ops, answers, strict=True):
                self._note(op, answer)
            return answers

        return perform_all

    def _note(self, op: Any, answer: Any) -> None:
        if isinstance(op, Acquire) and answer:
            self._since[b"lock:" + op.key.hex().encode()] = op.now
        if isinstance(op, Enlist):
            self._since[b"of:" + op.tag.hex().encode()] = op.now

    def read(self, key: bytes) -> bytes | None:
        value: bytes | None = self._holder(key).admin.get(self._commands.name(key))
        return value

    def write(self, key: bytes, data: bytes) -> None:
        self._holder(key).admin.set(self._commands.name(key), data, keepttl=True)

    def dump(self) -> bytes:
        found = [(name, at_rest(server, name)) for server in primaries(self._servers) for name in names(server)]
        return b"".join(name + value for name, value in sorted(found))

    def sweep(self, now: float) -> None:
        for server in primaries(self._servers):
            for name, left in server.lifetimes().items():
                if self._end(server, name, left) <= now * 1000:
                    server.admin.delete(name)

    def _end(self, server: RedisServer, name: bytes, left: int) -> float:
        """Return when the key will be gone, in the milliseconds of stories."""
        if left < 0:
            return inf
        age = (monotonic() - self._begun) * 1000
        rest = name.removeprefix(self._commands.prefix)
        if rest in self._since:
            return self._since[rest] * 1000 + left + age
        accessed = int.from_bytes(server.admin.execute_command("GETRANGE", name, 10, 17), "big")
        return accessed + left - SLACK + age

    def _holder(self, key: bytes) -> RedisServer:
        if isinstance(self._servers, RedisCluster):
            return self._servers.primary_of(self._commands.name(key))
        return primaries(self._servers)[0]


def names(server: RedisServer) -> list[bytes]:
    return list(server.admin.scan_iter(count=1000))


def at_rest(server: RedisServer, name: bytes) -> bytes:
    """Return the value plainly; DUMP would compress it."""
    if server.admin.type(name) == b"zset":
        return b"".join(
            b"%b%d" % (member, score) for member, score in server.admin.zrange(name, 0, -1, withscores=True)
        )
    return server.admin.get(name) or b""


@contextmanager
def outage(servers: Servers) -> Iterator[None]:
    """Let one server be down. Several ones, which would elect another, refuse instead to do anything for the store."""
    if isinstance(servers, RedisServer):
        servers.keep()
        servers.stop()
        try:
            yield
        finally:
            servers.start()
    else:
        holders = primaries(servers)
        for server in holders:
            server.admin.execute_command("ACL", "SETUSER", "default", *NOTHING)
        try:
            yield
        finally:
            for server in holders:
                server.admin.execute_command("ACL", "SETUSER", "default", EVERYTHING)
