"""What every adapter answers when a session cannot be fetched or stored."""

from __future__ import annotations

import logging
from typing import NamedTuple

from sojourn.errors import SessionBusy, SessionConflict, StoreUnavailable

Refused = StoreUnavailable | SessionConflict | SessionBusy

Refusing = (StoreUnavailable, SessionConflict, SessionBusy)
"""The exceptions that become an answer of their own. The cookie and the data stay as they are."""

FAILED = 500
"""From this status on a response commits nothing: the handler failed, and half of its changes are worse than none."""

_log = logging.getLogger("sojourn")


class Refusal(NamedTuple):
    """An answer in plain text that says nothing about the inside."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


def refusal(error: Refused) -> Refusal:
    """Return 503 with Retry-After for a store or a session that is not to be had, 409 for a refused conflict.

    The log is told what the browser is not.
    """
    cause = f" ({error.__cause__!r})" if error.__cause__ else ""
    _log.error("a request was refused: %s%s", error, cause)
    if isinstance(error, StoreUnavailable):
        retry = [("retry-after", str(error.retry_after))]
        return _refusal(503, "Service Unavailable", "The session store cannot answer. Please try again.\n", retry)
    if isinstance(error, SessionBusy):
        retry = [("retry-after", str(error.retry_after))]
        return _refusal(503, "Service Unavailable", "Another request is still at work. Please try again.\n", retry)
    return _refusal(409, "Conflict", "Another request changed the same data. Please reload and try again.\n", [])


def _refusal(status: int, reason: str, text: str, more: list[tuple[str, str]]) -> Refusal:
    body = text.encode()
    headers = [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        *more,
    ]
    return Refusal(status, reason, headers, body)
