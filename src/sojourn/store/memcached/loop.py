"""AsyncMemcachedStore: sessions in memcached, for callers on an event loop.

One connection for each server and event loop, shared by all tasks (``wire.py``). Round trips: as in ``blocking.py``.
Connecting begins with the first call that needs it and is shared by those that come meanwhile. When it fails, all of
them are told, and the next call tries again: there is nothing that runs on in the background.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from sojourn.core.capability import Finding
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.memcached import commands
from sojourn.store.memcached.commands import Commands, Flow
from sojourn.store.memcached.examine import findings, report
from sojourn.store.memcached.protocol import ErrorReply, Malformed, is_read
from sojourn.store.memcached.settings import Address, MemcachedSettings
from sojourn.store.memcached.trouble import unavailable
from sojourn.store.memcached.wire import Wire, dial
from sojourn.store.multiplex import Lost

T = TypeVar("T")


class AsyncMemcachedStore:
    """A session lives on one of the servers, chosen by its key. Several event loops may share the store.

    A server that does not answer makes its own sessions unavailable, and no others: each has a connection of its own.
    """

    waits = True

    def __init__(self, settings: MemcachedSettings) -> None:
        self._settings, self._placement = settings, settings.placement
        self._commands = Commands(settings.prefix, settings.max_item)
        self._servers: dict[asyncio.AbstractEventLoop, dict[str, _Server]] = {}
        self._unexamined = {address.name: address for address in settings.addresses}
        _stores.add(self)

    # -- the five verbs --------------------------------------------------------------------------------------

    async def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        return await self._run(key, self._commands.load(key))

    async def create(self, key: bytes, record: Record) -> Written:
        """Store a new record. Raises SessionTooLarge before anything is sent."""
        return await self._run(key, self._commands.create(key, record))

    async def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*. Raises SessionTooLarge before anything is sent."""
        return await self._run(key, self._commands.update(key, record, base))

    async def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        return await self._run(key, self._commands.touch(key, accessed_at, expires_at, base))

    async def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        return await self._run(key, self._commands.delete(key, base))

    # -- Lockable, Examinable --------------------------------------------------------------------------------

    async def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Take the lock of *key* for *owner* until *until*, in whole seconds and one or two more."""
        return await self._run(key, self._commands.acquire(key, owner, now, until))

    async def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lock of *key* back if *owner* still holds it."""
        return await self._run(key, self._commands.release(key, owner))

    async def examine(self) -> list[Finding]:
        """Ask every server about itself, and return what should be changed."""
        return [finding for address in self._settings.addresses for finding in await self._examine(address)]

    async def aclose(self) -> None:
        """Close this event loop's connections. The next operation opens new ones."""
        for server in self._servers.pop(asyncio.get_running_loop(), {}).values():
            await server.aclose()

    def _run(self, key: bytes, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        name = self._placement.server_of(key)
        return self._run_first(name, flow) if name in self._unexamined else self._server(name).run(flow)

    async def _run_first(self, name: str, flow: Flow[T]) -> T:
        result = await self._server(name).run(flow)
        if address := self._unexamined.pop(name, None):
            await self._examine_once(address)
        return result

    def _server(self, name: str) -> _Server:
        loop = asyncio.get_running_loop()
        servers = self._servers.get(loop)
        if servers is None:
            servers = {address.name: _Server(address, self._settings, loop) for address in self._settings.addresses}
            self._servers = {loop: servers} | {old: kept for old, kept in self._servers.items() if not old.is_closed()}
        return servers[name]

    async def _examine(self, address: Address) -> list[Finding]:
        return findings(address, self._settings, *await self._server(address.name).run(commands.examine()))

    async def _examine_once(self, address: Address) -> None:
        with suppress(StoreUnavailable):  # what it does not tell about itself is no fault of the request's
            report(await self._examine(address))

    def forget(self) -> None:
        """In a forked child: use nothing of the parent's. It is kept, since closing it would reach into its loop."""
        _the_parents.append(self._servers)
        self._servers = {}


class _Server:
    """One server as one event loop knows it: the connection to it, or the attempt to get one."""

    def __init__(self, address: Address, settings: MemcachedSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._address, self._settings = address, settings
        self._timeout, self._time = settings.timeout, loop.time
        self._name = settings.describe(address)
        self._wire: Wire | None = None
        self._dialing: asyncio.Task[Wire] | None = None

    async def run(self, flow: Flow[T]) -> T:
        """Run *flow* to its end on one connection. Raises StoreUnavailable, and what the flow raises before it asks."""
        request = next(flow)
        due = self._time() + self._timeout
        wire, fresh = self._wire, False
        try:
            while True:
                if wire is None or wire.cause:
                    wire, fresh = await self._connected(due), True
                reply = await wire.call(request, due)
                if not isinstance(reply, Lost):
                    request, fresh = flow.send(reply), True
                elif fresh or not _is_worth_repeating(request, reply):
                    raise reply
        except StopIteration as end:
            result: T = end.value
            return result
        except Lost as lost:
            raise self._unavailable(lost.__cause__ or lost) from lost.__cause__
        except (OSError, ErrorReply, Malformed) as error:
            if wire is not None and _is_out_of_step_after(error):
                wire.close(error)
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> StoreUnavailable:
        return unavailable(self._name, error, self._timeout)

    async def aclose(self) -> None:
        """Close the connection, or the attempt to make it."""
        if self._dialing:
            self._dialing.cancel()
            await asyncio.wait([self._dialing])
        if self._wire:
            self._wire.close(ConnectionError("the store was closed"))
            await self._wire.closed()

    async def _connected(self, due: float) -> Wire:
        """Return a connection that works. Whoever asks first begins to make it; one who is cancelled spoils nothing."""
        if self._dialing is None:
            self._dialing = asyncio.create_task(self._dial(due))
            self._dialing.add_done_callback(self._dialed)
        await asyncio.wait([dialing := self._dialing])  # which leaves it alone when the waiter is cancelled
        if dialing.cancelled():
            raise ConnectionError("the store was closed")
        return dialing.result()

    async def _dial(self, due: float) -> Wire:
        seconds = min(self._settings.connect_timeout, due - self._time())
        try:
            async with asyncio.timeout(seconds):
                self._wire = await dial(self._address, self._settings.tls_context, self._timeout / 2)
            return self._wire
        except TimeoutError as error:
            raise ConnectionError(f"no connection within {self._settings.connect_timeout:g} s") from error

    def _dialed(self, dialing: asyncio.Task[Wire]) -> None:
        self._dialing = None
        if not dialing.cancelled():
            dialing.exception()  # looked at, also when all who waited have been cancelled


def _is_worth_repeating(request: bytes, lost: Lost) -> bool:
    """Tell whether *request* may be sent again after its connection ended: a read, and its time is not over."""
    cause = lost.__cause__
    return is_read(request) and isinstance(cause, OSError) and not isinstance(cause, TimeoutError)


def _is_out_of_step_after(error: Exception) -> bool:
    """Tell whether the next reply on the connection may not be the one to the next request.

    So when memcached took a request for something else: what it makes of the rest of it is anybody's guess.
    """
    return isinstance(error, Malformed) or (
        isinstance(error, ErrorReply) and str(error).startswith(("CLIENT", "ERROR"))
    )


# -- forks ---------------------------------------------------------------------------------------------------

_stores: WeakSet[AsyncMemcachedStore] = WeakSet()
_the_parents: list[object] = []


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
