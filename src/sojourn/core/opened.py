"""Opened: what the id that a browser presented leads to, and how it is to change."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from sojourn.core.ids import SessionId
from sojourn.core.outcome import Event
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable


class Standing(Enum):
    """How the id that the browser presented relates to the record that was found."""

    NEW = auto()
    """No id, or none that opens anything. What is set begins a session under an id of our own."""
    OWN = auto()
    """The id opens its record."""
    FORWARDED = auto()
    """The id was renewed moments ago. Its record is served and written, and the new id is never told."""
    RETIRED = auto()
    """The id was rotated by a login moments ago. It opens nothing, and no cookie may overwrite the new one."""


class Opened(NamedTuple):
    """What ``open`` found: an empty NEW one, or a record, where it stands and by which id it was asked for."""

    standing: Standing = Standing.NEW
    id: SessionId | None = None
    key: bytes | None = None
    record: Record | None = None
    events: tuple[Event, ...] = ()
    floor: bytes = b""
    """What the browser had seen by its own account, see ``floor``."""
    retired: bytes | None = None
    """The private key that the browser presented, where its tombstone has led to another."""
    outage: StoreUnavailable | None = None
    """Why the store could not be asked, where policy then serves an anonymous visitor who can change nothing."""

    def current(self) -> tuple[bytes, Record]:
        """Return key and record; there are both in every standing but NEW and RETIRED."""
        assert self.key is not None
        assert self.record is not None
        return self.key, self.record

    def at(self, key: bytes, record: Record) -> Opened:
        """Return it as it stands on *record* under *key*.

        Another key says that it was renewed meanwhile: then the browser's id is an old one, which is neither told the
        new one nor handed out again, since that would overwrite the new one's cookie.
        """
        if key == self.key:
            return self._replace(record=record)
        old = self.retired or self.key
        return self._replace(standing=Standing.FORWARDED, id=None, key=key, record=record, retired=old)

    def tombstones(self, key: bytes) -> list[bytes]:
        """Return the keys of tombstones that have led to *key*, as far as this request has come upon them."""
        return [one for one in (self.retired, self.key) if one and one != key]


class Rotation(Enum):
    """Why the id is to change."""

    RENEWAL = auto()
    """Same privileges: the old id keeps serving requests in flight for the grace period."""
    LOGIN = auto()
    """Other privileges: the old id opens nothing from now on."""
