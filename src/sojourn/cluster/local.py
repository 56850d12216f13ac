"""What the workers of a host and its agent say to each other, over a socket in the store's directory.

Frames as in ``wire``. A worker numbers its requests, and may send the next before the last is answered.
"""

from __future__ import annotations

from typing import Any

import msgspec


class _Message(msgspec.Struct, array_like=True, tag=True):
    """Base of all messages: an array, led by the name of its type."""


# -- requests ------------------------------------------------------------------------------------------------------


class Nudge(_Message):
    """Something was written: ship it. Needs no answer; if it is lost, the agent looks a moment later by itself."""


class Await(_Message):
    """Say when what was written at *time* under *name* is on as many other hosts as ``acks`` asks for."""

    number: int
    name: bytes
    time: int
    wait_ms: int


class Ask(_Message):
    """Bring what the other hosts have of a session that is missing here, or is older than its browser's *floor*."""

    number: int
    key: bytes
    floor: bytes
    wait_ms: int


READS = frozenset({"load", "load_many", "find", "scan"})
"""Verbs that change nothing: what may have been done already may be asked once more."""


class Forward(_Message):
    """Have a host that holds *key* perform an operation. The arguments are those of the store's method *verb*."""

    number: int
    key: bytes
    verb: str
    arguments: tuple[Any, ...]
    wait_ms: int
    shown: bool = False
    """Only the host will do that has shown the session to this worker, or has made its last write."""
    floor: bytes = b""
    """Where a session is loaded: what the browser has seen of it. Who has less is not the last to be asked."""


class Status(_Message):
    """Ask for the cluster as this agent sees it."""

    number: int
    unconfirmed: int = 0
    """How many writes of who asks got no answer from the agent. They are counted as being on too few hosts."""


class Forget(_Message):
    """A host that is dead will not come back: what it alone had is lost, and nobody waits for its answer any more."""

    number: int
    name: str


class Leave(_Message):
    """Leave the cluster for good: hand the sessions on, then end."""

    number: int
    wait_ms: int


# -- answers -------------------------------------------------------------------------------------------------------


class Settled(_Message):
    """Answer to Await: how many other hosts have it, and whether these are enough. Not enough: the time is over."""

    number: int
    hosts: int
    enough: bool
    minority: bool = False
    """Whether this host reaches fewer than half of the others."""


class Asked(_Message):
    """Answer to Ask. *known*: what there is is stored here by now; False: somebody who may have more is away."""

    number: int
    known: bool


class Forwarded(_Message):
    """Answer to Forward; *failed* says why there is none."""

    number: int
    answer: Any = None
    failed: str | None = None


class View(_Message):
    """Answer to Status, Forget and Leave: plain data, to be shown."""

    number: int
    view: dict[str, Any]


Request = Nudge | Await | Ask | Forward | Status | Forget | Leave
Answer = Settled | Asked | Forwarded | View


def failed(request: Await | Ask | Forward, why: str) -> Answer:
    """Return the answer to a *request* that could not be worked up."""
    match request:
        case Await():
            return Settled(request.number, 0, False)
        case Ask():
            return Asked(request.number, False)
        case Forward():
            return Forwarded(request.number, None, why)
