"""Floors: the browser's token says what it has seen, so that no host shows it an older session.

For stores whose copies may be behind one another (``Floored``). A floor is bytes that only the store understands; here
it is carried: from the token into the look, and from what was looked at or written into the next token. It is no secret
and no proof: a forged one costs the store a question. Responses that overtake each other can leave a browser with the
lower of two floors, which weakens the promise for that browser and harms no data.

Source: Terry, Demers, Petersen, Spreitzer, Theimer, Welch: Session Guarantees for Weakly Consistent Replicated Data
(PDIS 1994); reading one's own writes, and monotonic reads.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from sojourn.core.capability import Floor, LoadSeen
from sojourn.core.ids import SessionId
from sojourn.core.opened import Opened
from sojourn.core.ops import Flow, Load
from sojourn.core.outcome import Action, Outcome
from sojourn.core.session import Session
from sojourn.errors import StoreUnavailable

T = TypeVar("T")

MARK = "."  # between id and floor; no base64url has it
MOST = 1_024  # characters of a floor in a token: leaves the cookie well within what browsers keep


class Presented(NamedTuple):
    """An id, and what the browser that presents it has seen."""

    id: SessionId
    floor: bytes = b""


def parse(token: str, namespace: str = "") -> Presented | None:
    """Return what *token* spells, ``id`` or ``id.floor``; None for what was not made by :func:`spell`."""
    text, mark, written = token.partition(MARK)
    id = SessionId.parse(text, namespace)
    floor = _from_text(written)
    if id is None or floor is None or bool(mark) != bool(floor):
        return None
    return Presented(id, floor)


def spell(id: SessionId, floor: bytes) -> str:
    """Return the token of *id* for a browser that has seen *floor*."""
    return f"{id.public}{MARK}{_to_text(floor)}" if floor and len(_to_text(floor)) <= MOST else id.public


def opening(flow: Flow[Opened], presented: Iterable[Presented]) -> Flow[Opened]:
    """Return *flow*, which opens a session, with looks that say what the browser has seen."""
    floors = {one.id.private: one.floor for one in presented}
    opened = yield from _looking(flow, floors)
    return opened._replace(floor=floors[opened.id.private]) if opened.id else opened


def is_settled(session: Session) -> bool:
    """Tell whether the browser's token says already what it has seen. Without floors it always does."""
    if not session.looked:
        return True
    opened = session.opened
    return opened.record is None or opened.id is None or opened.record.seen == opened.floor


def committing(flow: Flow[Outcome], session: Session) -> Flow[Outcome]:
    """Return *flow*, which commits *session*, with an outcome whose token says what the browser sees by then.

    Where it has to look again, after a STALE, it looks for no older session than the request was shown: a host that is
    behind must not have its changes merged into what it has, and show that to the browser as the newest.
    """
    outcome = yield from _looking(flow, _shown(session))
    opened = session.opened
    if outcome.action is Action.EXPIRE or opened.record is None or opened.id is None or opened.key is None:
        return outcome
    try:
        seen: bytes = yield Floor(opened.key)
    except StoreUnavailable:
        return outcome  # what was written is written; a token without a floor promises less
    if outcome.action is Action.ISSUE:
        return outcome._replace(floor=seen)
    if not seen or seen == opened.floor:
        return outcome
    return Outcome(Action.ISSUE, opened.id, opened.record.cookie_age, outcome.events, seen)


def _shown(session: Session) -> Mapping[bytes, bytes]:
    opened = session.opened if session.looked else None
    return {opened.key: opened.record.seen} if opened and opened.key and opened.record else {}


def _looking(flow: Flow[T], floors: Mapping[bytes, bytes]) -> Flow[T]:
    try:
        op: Any = next(flow)
        while True:
            try:
                answer = yield LoadSeen(op.key, floors.get(op.key, b"")) if isinstance(op, Load) else op
            except StoreUnavailable as error:
                op = flow.throw(error)
            else:
                op = flow.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        flow.close()


def _to_text(floor: bytes) -> str:
    return binascii.b2a_base64(floor, newline=False).translate(_URL_SAFE, b"=").decode("ascii")


def _from_text(text: str) -> bytes | None:
    """Return the bytes that *text* spells in base64url without padding, in its one canonical spelling."""
    if len(text) > MOST or not text.isascii():
        return None
    try:
        floor = binascii.a2b_base64(text.translate(_FROM_URL) + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        return None
    return floor if _to_text(floor) == text else None


_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URL = str.maketrans("-_", "+/")
