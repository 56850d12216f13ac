"""The contracts' harness around memcached servers in both colours. The servers are real; so is their expiry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.servers.memcached import MemcachedServer, MemcachedServers
from tests.servers.process import LOOPBACK, HeldPort

from sojourn.core.ops import Performable
from sojourn.drive import aperform, perform
from sojourn.store.memcached.blocking import MemcachedStore
from sojourn.store.memcached.commands import RELATIVE, SLACK
from sojourn.store.memcached.loop import AsyncMemcachedStore
from sojourn.store.memcached.settings import Address, MemcachedSettings
from sojourn.testing import StoreHarness
from sojourn.testing.capability_harness import capabilities_of
from sojourn.testing.fakes import START

GONE_AT_ONCE = -1
TICKS = 2.0  # seconds that the ends which memcached tells may be off: it counts whole ones, from a start of its own


class MemcachedDoor:
    """The side door: other connections to the same servers."""

    def __init__(self, servers: MemcachedServers, settings: MemcachedSettings) -> None:
        self._by_name = {f"{LOOPBACK}:{server.port}": server for server in servers}
        self._placement, self.prefix = settings.placement, settings.prefix.encode()
        self._began, self._swept = time.time(), START

    def server_of(self, key: bytes) -> MemcachedServer:
        return self._by_name[self._placement.server_of(key)]

    def name(self, key: bytes) -> bytes:
        return self.prefix + key.hex().encode()

    def read(self, key: bytes) -> bytes | None:
        return self.server_of(key).get(self.name(key))

    def write(self, key: bytes, data: bytes) -> None:
        self.server_of(key).set(self.name(key), data, 3600)

    def dump(self) -> bytes:
        found = {}
        for server in self._by_name.values():
            for name in server.expiries():
                if (data := server.get(name)) is not None:
                    found[name] = data
        return b"".join(name + found[name] for name in sorted(found))

    def sweep(self, now: float) -> None:
        """Remove what the servers would have removed when the story's clock says *now*.

        That clock stands in another year. A record's life there is what the server says is left of it here, and began
        no earlier than the harness did. So nothing is removed too early, and at most some seconds late. What is left
        of a lock is shortened by as much as the story's clock has moved.
        """
        moved, self._swept = max(now - self._swept, 0.0), max(now, self._swept)
        for server in self._by_name.values():
            for name, end in server.expiries().items():
                if (data := server.get(name)) is None:
                    continue
                if name.startswith(self.prefix + b"lock:"):
                    left = int(end - time.time() - moved)
                    server.set(name, data, left if left > 0 else GONE_AT_ONCE)
                elif _is_over(data, end, self._began, now):
                    server.set(name, b"", GONE_AT_ONCE)


def _is_over(data: bytes, end: int, began: float, now: float) -> bool:
    if len(data) < 42 or end < 0:
        return False
    accessed = int.from_bytes(data[10:18], "big") / 1000
    life = end - began - SLACK
    if life > RELATIVE:  # it was given as a date
        return end - SLACK <= now
    return accessed + life + TICKS <= now


@contextmanager
def memcached_harness(servers: MemcachedServers, *, loop: bool = False, query: str = "") -> Iterator[StoreHarness]:
    """A harness around empty *servers*, blocking or on an event loop; *query* are settings of the store URL."""
    settings = MemcachedSettings.from_url(f"{servers.url}?timeout=5{query}")
    servers.fresh()
    door = MemcachedDoor(servers, settings)
    with on_a_loop(settings) if loop else in_threads(settings) as (store, do, do_all, outage):
        yield StoreHarness(do, do_all, door, door.sweep, outage, capabilities_of(store))


Doing = tuple[Any, Callable[[Performable], Any], Callable[[Sequence[Performable]], list[Any]], Callable[[], Any]]


@contextmanager
def in_threads(settings: MemcachedSettings) -> Iterator[Doing]:
    store = MemcachedStore(settings)

    def do(op: Performable) -> Any:
        return perform(op, store)

    @contextmanager
    def outage() -> Iterator[None]:
        store.close()
        with unreachable(list(store._pools.values())):
            yield

    with ThreadPoolExecutor(8) as pool:
        try:
            yield store, do, lambda ops: list(pool.map(do, ops)), outage
        finally:
            store.close()


@contextmanager
def on_a_loop(settings: MemcachedSettings) -> Iterator[Doing]:
    loop, store = asyncio.new_event_loop(), AsyncMemcachedStore(settings)
    run = loop.run_until_complete

    async def all_of(ops: Sequence[Performable]) -> list[Any]:
        return list(await asyncio.gather(*(aperform(op, store) for op in ops)))

    async def closed_servers() -> list[Any]:
        servers = [store._server(address.name) for address in settings.addresses]
        for server in servers:
            await server.aclose()
        return servers

    @contextmanager
    def outage() -> Iterator[None]:
        with unreachable(run(closed_servers())):
            yield

    try:
        yield store, lambda op: run(aperform(op, store)), lambda ops: run(all_of(ops)), outage
    finally:
        run(store.aclose())
        loop.close()


@contextmanager
def unreachable(parts: Sequence[Any]) -> Iterator[None]:
    """Let *parts* of a store look for their servers at a port where nobody listens."""
    port = HeldPort()
    before = [part._address for part in parts]
    for part in parts:
        part._address = Address(LOOPBACK, port.number)
    try:
        yield
    finally:
        for part, address in zip(parts, before, strict=True):
            part._address = address
        port.close()
