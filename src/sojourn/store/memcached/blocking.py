"""MemcachedStore: sessions in memcached, for callers that may block.

Round trips: 1 for ``load``, ``create``, ``acquire`` and a ``delete`` of any version, 2 for the others, and two more for
each writer that comes between. The first operation on each server asks that one, once, whether it is set up well: two
trips more. ``commands.py`` says what is asked.

It speaks the protocol itself and needs no driver; docs/decisions.md says why.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TypeVar

from sojourn.core.capability import Finding
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.memcached import commands
from sojourn.store.memcached.commands import Commands, Flow
from sojourn.store.memcached.examine import findings, report
from sojourn.store.memcached.pool import Pool
from sojourn.store.memcached.settings import Address, MemcachedSettings

T = TypeVar("T")


class MemcachedStore:
    """A session lives on one of the servers, chosen by its key. Threads share the store, and so do forked workers.

    A server that does not answer makes its own sessions unavailable, and no others: each has a pool of connections.
    """

    waits = True

    def __init__(self, settings: MemcachedSettings) -> None:
        self._settings, self._placement = settings, settings.placement
        self._commands = Commands(settings.prefix, settings.max_item)
        self._pools = {address.name: Pool(address, settings) for address in settings.addresses}
        self._unexamined = {address.name: address for address in settings.addresses}

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        return self._run(key, self._commands.load(key))

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record. Raises SessionTooLarge before anything is sent."""
        return self._run(key, self._commands.create(key, record))

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*. Raises SessionTooLarge before anything is sent."""
        return self._run(key, self._commands.update(key, record, base))

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        return self._run(key, self._commands.touch(key, accessed_at, expires_at, base))

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        return self._run(key, self._commands.delete(key, base))

    # -- Lockable, Examinable --------------------------------------------------------------------------------

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Take the lock of *key* for *owner* until *until*, in whole seconds and one or two more."""
        return self._run(key, self._commands.acquire(key, owner, now, until))

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lock of *key* back if *owner* still holds it."""
        return self._run(key, self._commands.release(key, owner))

    def examine(self) -> list[Finding]:
        """Ask every server about itself, and return what should be changed."""
        return [finding for address in self._settings.addresses for finding in self._examine(address)]

    def close(self) -> None:
        """Close this process's connections. The next operation opens new ones."""
        for pool in self._pools.values():
            pool.close()

    def _run(self, key: bytes, flow: Flow[T]) -> T:
        server = self._placement.server_of(key)
        result = self._pools[server].run(flow)
        if self._unexamined and (address := self._unexamined.pop(server, None)):
            self._examine_once(address)
        return result

    def _examine(self, address: Address) -> list[Finding]:
        return findings(address, self._settings, *self._pools[address.name].run(commands.examine()))

    def _examine_once(self, address: Address) -> None:
        with suppress(StoreUnavailable):  # what it does not tell about itself is no fault of the request's
            report(self._examine(address))
