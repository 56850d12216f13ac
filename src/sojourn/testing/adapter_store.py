"""The store behind an adapter under test: it tells what it was asked, and can be made unable to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Any, ParamSpec, TypeVar

from sojourn.core.capability import Acquire, Delist, Enlist, Release
from sojourn.core.ops import Create, Delete, Load, Touch, Update, Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.memory import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")

EVERYTHING: frozenset[type[Any]] = frozenset({Load, Create, Update, Touch, Delete, Enlist, Delist, Acquire, Release})
"""All operations that a request can ask for."""

INSIDE = "cache-2.internal:6379"
"""What only operators may read of a store that cannot answer."""


class WatchedStore(MemoryStore):
    """A MemoryStore that notes what it is asked, and that can be made unable to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[type[Any]] = []
        self.down: frozenset[type[Any]] = frozenset()
        self.held_back = Event()
        """Set when somebody is refused a lock."""

    def load(self, key: bytes) -> Record | None:
        """Perform Load."""
        self._note(Load)
        return super().load(key)

    def create(self, key: bytes, record: Record) -> Written:
        """Perform Create."""
        self._note(Create)
        return super().create(key, record)

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Perform Update."""
        self._note(Update)
        return super().update(key, record, base)

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Perform Touch."""
        self._note(Touch)
        return super().touch(key, accessed_at, expires_at, base)

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Perform Delete."""
        self._note(Delete)
        return super().delete(key, base)

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Perform Enlist."""
        self._note(Enlist)
        super().enlist(tag, key, now, until)

    def delist(self, tag: bytes, keys: Any) -> None:
        """Perform Delist."""
        self._note(Delist)
        super().delist(tag, keys)

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Perform Acquire."""
        self._note(Acquire)
        taken = super().acquire(key, owner, now, until)
        if not taken:
            self.held_back.set()
        return taken

    def release(self, key: bytes, owner: bytes) -> bool:
        """Perform Release."""
        self._note(Release)
        return super().release(key, owner)

    def _note(self, op: type[Any]) -> None:
        self.asked.append(op)
        if op in self.down:
            raise StoreUnavailable(f"{INSIDE}: timed out after 250 ms", retry_after=7)


class AwaitedStore:
    """A store that is awaited, around one that is not: before and after each verb other tasks get their turn.

    It has locks and no index.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def load(self, key: bytes) -> Record | None:
        """Perform Load."""
        return await _awaited(self._store.load, key)

    async def create(self, key: bytes, record: Record) -> Written:
        """Perform Create."""
        return await _awaited(self._store.create, key, record)

    async def update(self, key: bytes, record: Record, base: int) -> Written:
        """Perform Update."""
        return await _awaited(self._store.update, key, record, base)

    async def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Perform Touch."""
        return await _awaited(self._store.touch, key, accessed_at, expires_at, base)

    async def delete(self, key: bytes, base: int | None = None) -> Written:
        """Perform Delete."""
        return await _awaited(self._store.delete, key, base)

    async def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Perform Acquire."""
        return await _awaited(self._store.acquire, key, owner, now, until)

    async def release(self, key: bytes, owner: bytes) -> bool:
        """Perform Release."""
        return await _awaited(self._store.release, key, owner)


async def _awaited(verb: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    await asyncio.sleep(0)
    try:
        return verb(*args, **kwargs)
    finally:
        await asyncio.sleep(0)
