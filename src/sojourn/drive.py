"""Where a flow meets a store, in both colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from sojourn.core.ops import AsyncStore, Flow, Performable, Store, Written
from sojourn.core.record import Record
from sojourn.errors import ConfigurationError, StoreUnavailable

T = TypeVar("T")


def perform(op: Performable, store: Store) -> Any:
    """Perform one operation and return its answer. Raises StoreUnavailable."""
    return op.on(store)


async def aperform(op: Performable, store: AsyncStore) -> Any:
    """Perform one operation and return its answer. Raises StoreUnavailable."""
    return await op.on(store)


def run(flow: Flow[T], store: Store) -> T:
    """Run *flow* to its end and return its result. Where the store cannot answer, the flow may say what then."""
    try:
        op = next(flow)
        while True:
            try:
                reply = op.on(store)
            except StoreUnavailable as error:
                op = flow.throw(error)
            else:
                op = flow.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()


async def arun(flow: Flow[T], store: AsyncStore) -> T:
    """Run *flow* to its end and return its result. Where the store cannot answer, the flow may say what then."""
    try:
        op = next(flow)
        while True:
            try:
                reply = await op.on(store)
            except StoreUnavailable as error:
                op = flow.throw(error)
            else:
                op = flow.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()


def as_async(store: Store) -> AsyncStore:
    """Return the async colour of a store that never waits. Raises ConfigurationError for one that does."""
    if store.waits:
        raise ConfigurationError(
            f"{type(store).__name__} blocks while it waits and would stop the event loop; use its async store"
        )
    return _Waitless(store)


class StorePair:
    """One place in both colours: each is made when it is first asked for, so that nobody pays for the other.

    What a store URL of a server becomes. *blocking* and *loop* make the two stores.
    """

    def __init__(self, blocking: Callable[[], Store], loop: Callable[[], AsyncStore]) -> None:
        self._make_blocking, self._make_loop = blocking, loop

    @property
    def made(self) -> Store | AsyncStore:
        """A colour that was asked for already; the blocking one where none was."""
        return self.loop if "loop" in vars(self) and "blocking" not in vars(self) else self.blocking

    @cached_property
    def blocking(self) -> Store:
        """The store for callers that may block."""
        return self._make_blocking()

    @cached_property
    def loop(self) -> AsyncStore:
        """The store for callers on an event loop."""
        return self._make_loop()


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

    async def aclose(self) -> None:
        """Close the store where it has something to close; its next operation opens it again."""
        if callable(close := getattr(self._store, "close", None)):
            close()

    def __getattr__(self, name: str) -> Any:
        """Give each capability that the store has, and none that it lacks, as a coroutine function."""
        method = getattr(self._store, name)

        async def answer(*arguments: Any) -> Any:
            return method(*arguments)

        return answer
