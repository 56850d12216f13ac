"""Record: a session at rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Record(NamedTuple):
    """What a store keeps under one key. All times are seconds since the epoch, kept to the millisecond.

    A *retired* record is a tombstone: the id was rotated away. It holds no values; where the rotation was a mere
    renewal it names its successor, so that requests already in flight are served from the new record.
    """

    values: Mapping[str, bytes]
    """Encoded values by key; nothing is decoded until a handler asks for it."""
    created_at: float
    """When the visitor arrived or logged in; the absolute lifetime counts from here."""
    accessed_at: float
    """When it was last looked at, to within the touch interval; the idle timeout counts from here."""
    expires_at: float
    """The deadline. The record says it and ``open`` judges it; a store's own expiry is housekeeping."""
    version: int = 1
    """Grows by one with every update. An update or delete names the version it has seen."""
    principal: str | None = None
    """Who is logged in."""
    cookie_age: int | None = None
    """Seconds the browser was asked to keep the cookie; None: until it closes."""
    retired: bool = False
    """True for a tombstone."""
    successor: bytes | None = None
    """Private key of the record that took over, only in the tombstone of a renewal."""
    seen: bytes = b""
    """What a browser that is shown this record has seen, for stores with several copies (``floor``). Not stored."""

    def __repr__(self) -> str:
        kind = "tombstone" if self.retired else f"{len(self.values)} keys"
        return f"<Record version {self.version}: {kind}, expires at {self.expires_at:.3f}>"
