"""What some stores can do beyond the five verbs: find, scan, sweep, lock, examine themselves.

Each capability is a Protocol whose methods are the operations below; a store has it when its type has the methods, in
its own colour. What an application needs is checked when the manager is built (``SessionManager(needs=...)``).
The index of a principal is written before the record that it names, so that no session can exist outside of it; what
it names may be gone. Whoever reads it looks at the record itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from sojourn.core.record import Record


class Page(NamedTuple):
    """Some private keys, and where to go on."""

    keys: tuple[bytes, ...]
    cursor: bytes | None = None
    """Opaque; None: there are no more."""


class Finding(NamedTuple):
    """Something about a store that an operator should know, in one sentence each."""

    what: str
    """What is set up in which way."""
    risk: str
    """What can be lost, or who can get at what."""
    cure: str
    """What to change."""


# -- operations ------------------------------------------------------------------------------------------------


class LoadMany(NamedTuple):
    """Return the records under *keys*, or None for each that is missing, in their order. Not one atomic command."""

    keys: Sequence[bytes]

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.load_many(self.keys)


class DeleteMany(NamedTuple):
    """Remove the records under *keys*, whatever their versions; return how many there were. Each is atomic alone."""

    keys: Sequence[bytes]

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.delete_many(self.keys)


class Enlist(NamedTuple):
    """Note under *tag* that the record under *key* will be one of its principal's, to be kept until *until*.

    *now* and *until* are epoch seconds; entries of the tag whose own end has come by *now* may be buried.
    """

    tag: bytes
    key: bytes
    now: float
    until: float

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.enlist(*self)


class Delist(NamedTuple):
    """Take *keys* out of the index of *tag*; those that are not there are passed over."""

    tag: bytes
    keys: Sequence[bytes]

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.delist(*self)


class Find(NamedTuple):
    """Return a Page of about *limit* keys of *tag*, from *cursor* on; None begins.

    Whoever follows the cursors to their end has seen every key that was there all the time, some perhaps twice.
    """

    tag: bytes
    cursor: bytes | None = None
    limit: int = 256

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.find(*self)


class Scan(NamedTuple):
    """Return a Page of about *limit* keys of all sessions, from *cursor* on; None begins. Complete as Find is."""

    cursor: bytes | None = None
    limit: int = 256

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.scan(*self)


class Sweep(NamedTuple):
    """Bury what is dead at *now*, looking at *limit* deadlines at most; return how many were looked at.

    Fewer than *limit* says that it is done.
    """

    now: float
    limit: int = 64

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.sweep(*self)


class Acquire(NamedTuple):
    """Take the lock of *key* for *owner*, a random token, until *until* at the latest; True when it is ours.

    *now* and *until* are epoch seconds. A lock whose time is over is free.
    """

    key: bytes
    owner: bytes
    now: float
    until: float

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.acquire(*self)


class Release(NamedTuple):
    """Give the lock of *key* back if *owner* still holds it; False when it was lost meanwhile."""

    key: bytes
    owner: bytes

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.release(*self)


class LoadSeen(NamedTuple):
    """Return the record under *key* no older than *floor* says, or None; an empty floor asks for what is here.

    A floor is what ``Record.seen`` was for a browser that was shown the record. Raises StoreUnavailable where somebody
    who may have something newer cannot be asked. A floor that nobody can have given out is none.
    """

    key: bytes
    floor: bytes

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.load_seen(*self)


class Floor(NamedTuple):
    """Return what a browser has seen that was shown the record which is under *key* now; empty for none."""

    key: bytes

    def on(self, store: Any) -> Any:
        """Ask *store*."""
        return store.floor(self.key)


# -- capabilities ----------------------------------------------------------------------------------------------


@runtime_checkable
class Batched(Protocol):
    """Answers about many records at once."""

    def load_many(self, keys: Sequence[bytes]) -> Any:
        """Perform LoadMany."""

    def delete_many(self, keys: Sequence[bytes]) -> Any:
        """Perform DeleteMany."""


@runtime_checkable
class Indexed(Batched, Protocol):
    """Finds all sessions of one principal."""

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> Any:
        """Perform Enlist."""

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> Any:
        """Perform Delist."""

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Any:
        """Perform Find."""


@runtime_checkable
class Scannable(Batched, Protocol):
    """Goes through all sessions."""

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Any:
        """Perform Scan."""


@runtime_checkable
class Purgeable(Protocol):
    """Has its dead buried by its users; where a server does that by itself, the store lacks this."""

    def sweep(self, now: float, limit: int = 64) -> Any:
        """Perform Sweep."""


@runtime_checkable
class Lockable(Protocol):
    """Lets one request at a time work on a session. Correctness never depends on it: commits compare versions."""

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> Any:
        """Perform Acquire."""

    def release(self, key: bytes, owner: bytes) -> Any:
        """Perform Release."""


@runtime_checkable
class Examinable(Protocol):
    """Can look at its own set-up and say what puts sessions at risk."""

    def examine(self) -> Any:
        """Return a list of Finding; raise StoreUnavailable where the storage cannot be asked."""


@runtime_checkable
class Floored(Protocol):
    """Has several copies, of which one may be behind; knows whether a copy is older than what a browser has seen."""

    def load_seen(self, key: bytes, floor: bytes) -> Any:
        """Perform LoadSeen."""

    def floor(self, key: bytes) -> Any:
        """Perform Floor."""


def is_able(store: object, capability: type) -> bool:
    """Tell whether *store* has *capability*, one of the protocols above.

    By names, since from Python 3.12 on isinstance passes over methods that a wrapper hands on (``drive.as_async``).
    """
    parts = [part for part in capability.__mro__ if part.__module__ == __name__]
    names = [name for part in parts for name in vars(part) if not name.startswith("_")]
    return all(callable(getattr(store, name, None)) for name in names)


CAPABILITIES = (Batched, Indexed, Scannable, Purgeable, Lockable, Examinable, Floored)

Records = list[Record | None]
"""What LoadMany answers."""
