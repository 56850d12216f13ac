"""Outcome: what to tell the browser after a commit, and what happened on the way."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import NamedTuple

from sojourn.core.ids import SessionId


class Action(Enum):
    """What becomes of the browser's cookie."""

    KEEP = "keep"
    """Say nothing."""
    ISSUE = "issue"
    """Hand out the id."""
    EXPIRE = "expire"
    """Take it back."""


class Happened(StrEnum):
    """The kinds of event, as they appear in logs and metrics."""

    CREATED = "created"
    ROTATED = "rotated"
    LOGGED_IN = "logged-in"
    ENDED = "ended"
    EXPIRED = "expired"
    UNKNOWN_ID = "unknown-id"
    DUPLICATE_TOKEN = "duplicate-token"  # noqa: S105  (the name of an event)
    CONFLICT = "conflict"
    """Two parallel requests changed the same keys; the later commit won."""
    LOST = "lost"
    """The session ended, or its id was retired, before this request's changes could be stored."""
    REVOKED = "revoked"
    """Sessions were ended from outside: a principal's, those beyond ``max_sessions``, or all."""
    OUTAGE = "outage"
    """The store could not answer, and by policy the visitor was served as an anonymous one."""
    LEASE_LOST = "lease-lost"
    """An exclusive block outlasted its lease, so another request may have worked on the session meanwhile."""
    UNSAVED = "unsaved"
    """Values were changed after the commit and nobody called ``save()``."""


class Event(NamedTuple):
    """One thing that happened to a session. *session* is its log-safe handle; *keys* are session keys."""

    kind: Happened
    session: str | None = None
    keys: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """What to tell the browser, and the events for logs and metrics."""

    action: Action = Action.KEEP
    id: SessionId | None = None
    cookie_age: int | None = None
    """Seconds that the browser should keep an issued id; None: until it closes."""
    events: tuple[Event, ...] = ()
    floor: bytes = b""
    """What the browser has seen with this response, see ``floor``; goes into the token."""

    def after(self, *events: Event) -> Outcome:
        """Return this outcome with *events* in front of its own."""
        return self._replace(events=(*events, *self.events)) if events else self


KEEP = Outcome()
"""The outcome of nearly every request: no header, no event."""
