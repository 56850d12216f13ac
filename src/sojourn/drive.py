"""Where a flow meets a store, in both colours."""

from __future__ import annotations

from typing import Any, TypeVar

from sojourn.core.ops import AsyncStore, Flow, Op, Store, Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError

T = TypeVar("T")


def perform(op: Op, store: Store) -> Any:
    """Perform one operation and return its answer. Raises StoreUnavailable."""
    return op.on(store)


async def aperform(op: Op, store: AsyncStore) -> Any:
    """Perform one operation and return its answer. Raises StoreUnavailable."""
    return await op.on(store)


def run(flow: Flow[T], store: Store) -> T:
    """Run *flow* to its end and return its result."""
    reply: Any = None
    try:
        while True:
            reply = flow.send(reply).on(store)
    except StopIteration as end:
        result: T = end.value
        return result


async def arun(flow: Flow[T], store: AsyncStore) -> T:
    """Run *flow* to its end and return its result."""
    reply: Any = None
    try:
        while True:
            reply = await flow.send(reply).on(store)
    except StopIteration as end:
        result: T = end.value
        return result


def as_async(store: Store) -> AsyncStore:
    """Return the async colour of a store that never waits. Raises ConfigurationError for one that does."""
    if store.waits:
        raise ConfigurationError(
            f"{type(store).__name__} blocks while it waits and would stop the event loop; use its async store"
        )
    return _Waitless(store)


class _Waitless:
    """The async colour of a store that answers at once: called directly, since a hop to a thread costs far more."""

    waits = False

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self, key: bytes) -> Record | None:
        return self._store.load(key)

    async def create(self, key: bytes, record: Record) -> Written:
        return self._store.create(key, record)

    async def update(self, key: bytes, record: Record, base: int) -> Written:
        return self._store.update(key, record, base)

    async def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        return self._store.touch(key, accessed_at, expires_at, base)

    async def delete(self, key: bytes, base: int | None = None) -> Written:
        return self._store.delete(key, base)
