"""The language spoken to stores: five operations, four answers, and the two protocols that stores implement.

There is no ``save``: ``create`` must not overwrite, ``update`` must not create, ``touch`` writes no values, and
each answers. A store never looks at the clock. An operation knows its verb: ``op.on(store)`` asks a blocking store for
the answer, and an async one for a coroutine of it.
"""

from __future__ import annotations

from collections.abc import Generator
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

from sojourn.core.record import Record

T = TypeVar("T")


class Written(Enum):
    """What a write answers."""

    DONE = "done"
    EXISTS = "exists"
    """``create`` found the key taken and wrote nothing."""
    GONE = "gone"
    """There is no such record. Somebody ended it; writing it again would log them back in."""
    STALE = "stale"
    """The record has another version than the one named, and was left as it is."""


class Load(NamedTuple):
    """Return the record under *key*, or None. Expired and retired records are returned as they are."""

    key: bytes

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.load(self.key)


class Create(NamedTuple):
    """Store a new record: DONE, or EXISTS. Must not overwrite."""

    key: bytes
    record: Record

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.create(*self)


class Update(NamedTuple):
    """Replace the record if it still has version *base*: DONE, GONE or STALE.

    Must not create: a missing key means that someone logged out.
    """

    key: bytes
    record: Record
    base: int

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.update(*self)


class Touch(NamedTuple):
    """Move the two times of the record with version *base*: DONE, GONE or STALE. Writes no values.

    It names the version so that a slow reader cannot prolong a tombstone; it does not raise it, so that a
    reader never makes a writer stale.
    """

    key: bytes
    accessed_at: float
    expires_at: float
    base: int

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.touch(*self)


class Delete(NamedTuple):
    """Remove the record if it has version *base*, or whatever it has when *base* is None: DONE, GONE or STALE."""

    key: bytes
    base: int | None = None

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.delete(*self)


Op = Load | Create | Update | Touch | Delete


class Performable(Protocol):
    """An operation: one of the five above, or one that some stores can do (see ``capability``)."""

    def on(self, store: Any) -> Any:
        """Ask *store*: the answer of a blocking one, a coroutine of an async one."""


Flow = Generator[Performable, Any, T]
"""A decision in progress: it yields operations, is sent their answers, and returns a T. It does no I/O itself.

An operation that the store cannot answer is thrown in as StoreUnavailable; a flow that does not catch it ends with it.
"""


class Store(Protocol):
    """Where records live, for callers that may block. Every method raises StoreUnavailable when it cannot answer.

    Each verb is one atomic command: no reader sees half of it and two callers cannot both get DONE for one base.
    """

    waits: bool
    """False: answers from this host's own memory in microseconds, so that an event loop may call it directly."""

    def load(self, key: bytes) -> Record | None:
        """Perform Load."""

    def create(self, key: bytes, record: Record) -> Written:
        """Perform Create."""

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Perform Update."""

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Perform Touch."""

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Perform Delete."""


class AsyncStore(Protocol):
    """The same five verbs for callers on an event loop."""

    async def load(self, key: bytes) -> Record | None:
        """Perform Load."""

    async def create(self, key: bytes, record: Record) -> Written:
        """Perform Create."""

    async def update(self, key: bytes, record: Record, base: int) -> Written:
        """Perform Update."""

    async def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Perform Touch."""

    async def delete(self, key: bytes, base: int | None = None) -> Written:
        """Perform Delete."""
