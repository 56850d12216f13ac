"""All sessions of one principal: find them, revoke them, keep them to a bound. Flows, like everything in lifecycle.

The index is written before the record (see ``capability``), and an entry is not taken out merely because its record is
missing: it may be one that is about to be created.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container
from contextlib import suppress
from typing import Any, NamedTuple

from sojourn.core.capability import DeleteMany, Delist, Enlist, Find, LoadMany, Page, Records, Scan
from sojourn.core.ids import handle_of
from sojourn.core.ops import Flow, Performable
from sojourn.core.policy import Policy
from sojourn.core.record import Record
from sojourn.core.session import ValueCodec
from sojourn.core.terms import Terms
from sojourn.errors import StoreUnavailable

PASSES = 4  # a pass finds what a renewal moved behind the one before; a session renewed that often is found later
MOST_PAGES = 1_000_000  # more is a store whose cursors go round in circles


def tag_of(principal: str, namespace: str = "") -> bytes:
    """Return the 32 bytes under which a store lists the principal's sessions: a hash, so no name lies in storage."""
    return hashlib.sha256(f"{namespace}\0principal\0{principal}".encode()).digest()


class SessionInfo:
    """One live session of a principal, for a page that lists them. It shows no id, and changes nothing."""

    def __init__(self, key: bytes, record: Record, codec: ValueCodec) -> None:
        self._record, self._codec = record, codec
        self.handle = handle_of(key)
        """The short name, as ``session.handle`` shows it to the session itself; ``revoke(only=...)`` takes it."""
        self.created_at = record.created_at
        """When the principal logged in, in seconds since the epoch."""
        self.accessed_at = record.accessed_at
        """When it was last looked at, to within the touch interval, in seconds since the epoch."""
        self.expires_at = record.expires_at
        """When it ends unless it is used, in seconds since the epoch."""

    def get(self, key: str, default: Any = None) -> Any:
        """Return the session's value under *key*, such as the name of a device. Raises ValueUnreadable."""
        data = self._record.values.get(key)
        return default if data is None else self._codec.decode(data, key)

    def __repr__(self) -> str:
        return f"<SessionInfo {self.handle}>"


class Live(NamedTuple):
    """A session that may still be used."""

    key: bytes
    record: Record


def live_sessions(tag: bytes, principal: str, policy: Policy, now: float) -> Flow[list[Live]]:
    """Return the principal's live sessions, the oldest login first."""
    live: dict[bytes, Live] = {}
    cursor: bytes | None = None
    for _ in range(MOST_PAGES):
        page: Page = yield Find(tag, cursor)
        keys = [key for key in page.keys if key not in live]
        records: Records = (yield LoadMany(keys)) if keys else []
        for key, record in zip(keys, records, strict=True):
            if record and record.principal == principal and not record.retired and policy.is_live(record, now):
                live[key] = Live(key, record)
        if (cursor := page.cursor) is None:
            return sorted(live.values(), key=lambda one: (one.record.created_at, one.key))
    raise _endless()


def revoke(tag: bytes, ends: Callable[[bytes], bool]) -> Flow[int]:
    """End the sessions listed under *tag* whose private key *ends* accepts; return how many there were.

    Repeated until nothing is found: a renewal may have moved a session to where this pass had already looked. A login
    that is under way at this moment either is found or counts as one that came after. What took over from a session
    that is listed ends with it: where hosts keep the index each for itself, that may not be listed here yet.
    """
    return (yield from _delete_all(lambda cursor: Find(tag, cursor), ends, follow=True))


def revoke_all(kept: Container[bytes] = ()) -> Flow[int]:
    """End every session in the store, but for the *kept* private keys; return how many there were."""
    return (yield from _delete_all(Scan, lambda key: key not in kept, follow=False))


def enlist(key: bytes, record: Record, terms: Terms) -> Flow[None]:
    """List a session under its principal before it is created, so that none is beyond the reach of a revocation."""
    if terms.tag_of and record.principal:
        until = record.created_at + terms.policy.lifetime
        yield Enlist(terms.tag_of(record.principal), key, terms.now, until)


def delist(key: bytes, record: Record, terms: Terms) -> Flow[None]:
    """Take what has ended off its principal's list. A failure costs nothing: an entry ends with the lifetime, too."""
    if terms.tag_of and record.principal:
        with suppress(StoreUnavailable):
            yield Delist(terms.tag_of(record.principal), (key,))


def keep_to_bound(principal: str, terms: Terms) -> Flow[int]:
    """End the principal's oldest sessions beyond the policy's bound, and return how many there were.

    Called after a login has created its own.

    However many log in at once, the last to ask sees them all, and all agree on the order: the bound holds. Where the
    store cannot answer, the next login makes it good.
    """
    ended = 0
    if terms.tag_of and (most := terms.policy.max_sessions):
        with suppress(StoreUnavailable):
            tag = terms.tag_of(principal)
            for _ in range(PASSES):  # a renewal may have moved one away from the key that was listed
                live = yield from live_sessions(tag, principal, terms.policy, terms.now)
                if not (beyond := [one.key for one in live[:-most]]):
                    break
                ended += yield DeleteMany(beyond)
                yield Delist(tag, beyond)
    return ended


def _and_successors(keys: list[bytes], ends: Callable[[bytes], bool]) -> Flow[list[bytes]]:
    """Return *keys*, and those of the records that took over from them and *ends* accepts."""
    found = newest = keys
    for _ in range(PASSES):
        records: Records = yield LoadMany(newest)
        successors = [record.successor for record in records if record and record.successor]
        newest = [key for key in dict.fromkeys(successors) if key not in found and ends(key)]
        if not newest:
            break
        found = found + newest
    return found


def _delete_all(
    pages: Callable[[bytes | None], Performable], ends: Callable[[bytes], bool], *, follow: bool
) -> Flow[int]:
    ended = 0
    for number in range(PASSES):
        before, cursor, several = ended, None, False
        for _ in range(MOST_PAGES):
            page: Page = yield pages(cursor)
            if keys := [key for key in page.keys if ends(key)]:
                ended += yield DeleteMany((yield from _and_successors(keys, ends)) if follow else keys)
            if (cursor := page.cursor) is None:
                break
            several = True
        else:
            raise _endless()
        if ended == before and (number or not several):  # in a first pass of several pages one may have slipped by
            break
    return ended


def _endless() -> StoreUnavailable:
    return StoreUnavailable(f"the store's list of sessions did not end after {MOST_PAGES} pages: its answers are wrong")
