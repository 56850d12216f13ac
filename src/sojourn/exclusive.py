"""Exclusive blocks: one request at a time works on a session, in either colour.

Opt-in and never needed for correctness: commits compare versions, so a holder that outlived its lease loses nothing and
overwrites nothing unseen. What it buys is that two requests need not be merged.
Waiting means to ask again, with pauses that grow and differ: a wait has a bound, and nobody has to be woken.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from sojourn.core import lifecycle
from sojourn.core.capability import Acquire, Release
from sojourn.core.ids import handle_of
from sojourn.core.ops import Flow
from sojourn.core.outcome import KEEP, Event, Happened, Outcome
from sojourn.core.session import Session
from sojourn.core.terms import Terms
from sojourn.errors import ConfigurationError, SessionBusy, StoreUnavailable

FIRST_PAUSE, LONGEST_PAUSE, GROWTH = 0.005, 0.1, 1.5  # seconds, seconds, factor from one pause to the next
LONGEST_LEASE = 3600.0  # seconds; a lock that outlives its holder keeps the visitor out for that long

OWNER_BYTES = 16

_log = logging.getLogger("sojourn")


class Surroundings(Protocol):
    """What a block needs of the manager."""

    def run(self, flow: Flow[Any]) -> Any:
        """Run a flow, blocking."""

    async def arun(self, flow: Flow[Any]) -> Any:
        """Run a flow on an event loop."""

    def terms(self) -> Terms:
        """Return what a commit at this moment goes by."""

    def random(self, size: int) -> bytes:
        """Return random bytes."""

    def report(self, outcome: Outcome) -> Outcome:
        """Log an outcome's events."""


class Held(NamedTuple):
    """A lock that is ours: the session's private key and the token that shows it."""

    key: bytes
    owner: bytes


class ExclusiveBlock:
    """What ``session.exclusive()`` returns. Not to be entered twice."""

    def __init__(self, around: Surroundings, session: Session, wait: float, lease: float) -> None:
        if not 0 <= wait < math.inf:
            raise ConfigurationError(f"wait is {wait!r}; use seconds, 0 to try once")
        if not 0 < lease <= LONGEST_LEASE:
            raise ConfigurationError(f"lease is {lease!r}; use seconds, at most {LONGEST_LEASE:g}")
        self._around, self._session, self._wait, self._lease = around, session, wait, lease
        self._held: Held | None = None

    def __enter__(self) -> None:
        if wanted := self._wanted():
            try:
                for pause in _pauses(self._wait, self._around.random):
                    if self._around.run(self._take(wanted)):
                        break
                    time.sleep(pause)
                else:
                    raise self._busy()
                self._around.report(self._around.run(self._refresh()))
            except BaseException:
                self._around.run(self._give_back())
                raise

    async def __aenter__(self) -> None:
        if wanted := self._wanted():
            try:
                for pause in _pauses(self._wait, self._around.random):
                    if await self._around.arun(self._take(wanted)):
                        break
                    await _pause(pause)
                else:
                    raise self._busy()
                self._around.report(await self._around.arun(self._refresh()))
            except BaseException:
                await _to_its_end(self._around.arun(self._give_back()))
                raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._held is None:
            return
        try:
            if error is None:
                self._around.report(self._around.run(self._store()))
        finally:
            self._around.report(self._around.run(self._give_back()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._held is None:
            return
        try:
            if error is None:
                self._around.report(await self._around.arun(self._store()))
        finally:
            self._around.report(await _to_its_end(self._around.arun(self._give_back())))

    # -- decisions, alike in both colours --------------------------------------------------------------------

    def _wanted(self) -> Held | None:
        """Return the lock to take; None for a session that is not stored, which nobody else can have."""
        opened = self._session.opened
        return Held(opened.current()[0], self._around.random(OWNER_BYTES)) if opened.record else None

    def _take(self, wanted: Held) -> Flow[bool]:
        now = self._around.terms().now
        self._held = wanted  # from here on it may be ours, also where no answer arrives
        if (yield Acquire(*wanted, now, now + self._lease)):
            return True
        self._held = None
        return False

    def _refresh(self) -> Flow[Outcome]:
        """Bring the session up to date. One that is to be rotated is left to its commit, which merges."""
        if self._session.rotation:
            return KEEP
        return (yield from lifecycle.refresh(self._session, self._around.terms()))

    def _store(self) -> Flow[Outcome]:
        return lifecycle.store_early(self._session, self._session.delta(), self._around.terms())

    def _give_back(self) -> Flow[Outcome]:
        """Give the lock back. A failure fails no request: what it did is stored, and the lease ends the lock."""
        held, self._held = self._held, None
        if held is None:
            return KEEP
        try:
            if (yield Release(*held)):
                return KEEP
        except StoreUnavailable as error:
            _log.warning("the lock of session=%s could not be given back: %s", handle_of(held.key), error)
            return KEEP
        return Outcome(events=(Event(Happened.LEASE_LOST, handle_of(held.key)),))

    def _busy(self) -> SessionBusy:
        return SessionBusy(f"another request held session={self._session.handle} for more than {self._wait:g} s")


def _pauses(wait: float, random: Callable[[int], bytes]) -> Iterator[float]:
    """Yield the seconds to pause after each attempt that fails, until *wait* is over; the store's time counts."""
    end, pause = time.monotonic() + wait, FIRST_PAUSE
    while (left := end - time.monotonic()) > 0:
        yield min(left, pause * (0.5 + random(1)[0] / 255))
        pause = min(LONGEST_PAUSE, pause * GROWTH)
    yield 0.0


async def _pause(seconds: float) -> None:
    from asyncio import sleep  # noqa: PLC0415  a tenth of what importing sojourn costs, and here it is loaded already

    await sleep(seconds)


async def _to_its_end(work: Awaitable[Any]) -> Any:
    """Await *work* even where the task is cancelled meanwhile: a lock not given back keeps the visitor waiting."""
    import asyncio  # noqa: PLC0415  as above

    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
