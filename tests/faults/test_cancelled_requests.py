"""Whole requests through the ASGI adapter on Redis, cancelled at every await, while neighbours look for their secrets.

A coroutine of asyncio is suspended at each await that really waits. At each of them in turn the request is cancelled,
at each of three moments.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager
from enum import Enum, auto
from http.cookies import SimpleCookie
from time import monotonic
from typing import Any

import pytest
from tests.adapters.servers import Exchange, http_scope
from tests.faults.crowd import POLICY, Errand, Visitor, add_items
from tests.faults.history import Act, Answer, Seen, Visit, judge
from tests.servers.redis import RedisServer
from tests.store.redis.loops import looped

from sojourn.adapters.asgi import SessionMiddleware
from sojourn.errors import StoreUnavailable
from sojourn.manager import SessionManager
from sojourn.testing.adapter_harness import Request

pytestmark = pytest.mark.slow

NEIGHBOURS = 12
TIMEOUT = 10.0  # seconds; nothing is late here
ACTS = [Act.READ, Act.APPEND, Act.ROTATE, Act.LOGIN, Act.LOGOUT]


class Moment(Enum):
    """When within a suspension."""

    AT_ONCE = auto()
    """Before what was to be sent is sent: that happens in the loop's next turn."""
    UNDER_WAY = auto()
    """When it is sent, and not answered."""
    ANSWERED = auto()
    """When the answer is there."""


class CancelledAt:
    """Awaits *work* and cancels it at its suspension *number*, counted from 0, at one *moment* of it.

    `done` tells whether it ended by itself.
    """

    def __init__(self, work: Coroutine[Any, Any, None], number: int, moment: Moment) -> None:
        self._work, self._number, self._moment = work, number, moment
        self.done = False

    def __await__(self) -> Generator[Any, Any, None]:
        number = 0
        step: Callable[[], Any] = lambda: self._work.send(None)  # noqa: E731
        try:
            while True:
                waited = step()
                mine, number = number == self._number, number + 1
                if mine:
                    self._cancel()
                step = yield from self._wait(waited)
                if mine and self._moment is Moment.ANSWERED:
                    step = lambda: self._work.throw(asyncio.CancelledError())  # noqa: E731
        except StopIteration:
            self.done = True
        finally:
            self._work.close()

    def _cancel(self) -> None:
        task = asyncio.current_task()
        assert task
        if self._moment is Moment.AT_ONCE:
            task.cancel()
        elif self._moment is Moment.UNDER_WAY:
            asyncio.get_running_loop().call_soon(task.cancel)  # behind the sending, which was called for before

    def _wait(self, waited: Any) -> Generator[Any, Any, Any]:
        """Hand on what is waited for; return the next step."""
        try:
            yield waited
        except BaseException as error:
            raised = error
            return lambda: self._work.throw(raised)
        return lambda: self._work.send(None)


class Site:
    """An application whose handler does what the errand in the scope says."""

    def __init__(self, url: str, *, exclusive: bool = False) -> None:
        self.manager = SessionManager(url, policy=POLICY, insecure_dev=True, resolvers={"items": add_items})
        self.app: Any = SessionMiddleware(self._handle, self.manager)
        self._exclusive = exclusive

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        session, errand = scope["session"], scope["errand"]
        if self._exclusive and errand.act is Act.APPEND:
            async with session.exclusive():
                scope["seen"] = errand.handle(session)
        else:
            scope["seen"] = errand.handle(session)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    def request(self, errand: Errand) -> tuple[dict[str, Any], Exchange, Coroutine[Any, Any, None]]:
        """Return the scope, the exchange and the work of a request."""
        cookies = [("cookie", f"sid={errand.presented}")] if errand.presented else []
        scope: Any = http_scope(Request("GET", "/", cookies))
        scope["errand"], exchange = errand, Exchange()
        return scope, exchange, self.app(scope, exchange.receive, exchange.send)


def note(visitor: Visitor, errand: Errand, begun: float, seen: Seen | None, sent: list[Any] | None) -> Visit:
    """Remember a request that was answered with *sent*, or cancelled, which leaves it in doubt."""
    if sent and sent[0]["status"] == 200:
        fields = [value.decode() for name, value in sent[0]["headers"] if name == b"set-cookie"]
        cookies = [SimpleCookie(field)["sid"].value or None for field in fields]
        return visitor.remember(errand, begun, seen, Answer.DONE, cookies if errand.act is not Act.PROBE else [])
    answer = Answer.REFUSED if seen is None else Answer.DOUBTFUL
    return visitor.remember(errand, begun, seen, answer, [], StoreUnavailable("503") if sent else None)


async def served(site: Site, visitor: Visitor, act: Act, presented: str | None = None) -> Visit:
    """Serve one request to its end."""
    errand, begun = visitor.errand(act, presented), monotonic()
    scope, exchange, work = site.request(errand)
    await work
    return note(visitor, errand, begun, scope.get("seen"), exchange.sent)


async def cancelled(site: Site, visitor: Visitor, act: Act, number: int, moment: Moment) -> bool:
    """Serve one request and cancel it at its suspension *number*; return whether it ended before."""
    errand, begun = visitor.errand(act), monotonic()
    scope, exchange, work = site.request(errand)
    steps = CancelledAt(work, number, moment)

    async def serve() -> None:
        await steps

    [result] = await asyncio.gather(asyncio.create_task(serve()), return_exceptions=True)
    assert result is None or isinstance(result, asyncio.CancelledError), result
    note(visitor, errand, begun, scope.get("seen"), exchange.sent if steps.done else None)
    return steps.done


@asynccontextmanager
async def busy(site: Site) -> AsyncIterator[list[Visitor]]:
    """Let neighbours visit *site* all the time."""
    visitors, over = [Visitor(f"neighbour {number}") for number in range(NEIGHBOURS)], asyncio.Event()

    async def live(visitor: Visitor) -> None:
        while not over.is_set():
            await served(site, visitor, visitor.random.choice([Act.READ, Act.APPEND, Act.APPEND, Act.ROTATE]))

    tasks = [asyncio.create_task(live(visitor)) for visitor in visitors]
    try:
        yield visitors
    finally:
        over.set()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("act", [*ACTS, "exclusive append"])
@pytest.mark.parametrize("cold", [False, True], ids=["connected", "not connected"])
@looped
async def test_a_request_that_is_cancelled_at_any_await_leaves_all_sessions_as_they_should_be(
    redis_server: RedisServer, act: Act | str, cold: bool
) -> None:
    redis_server.fresh()
    site = Site(f"{redis_server.url}?timeout={TIMEOUT}", exclusive=not isinstance(act, Act))
    does = act if isinstance(act, Act) else Act.APPEND
    victims: list[Visitor] = []
    try:
        async with busy(site) as neighbours:
            for moment in Moment:
                number, ended = 0, False
                while not ended:
                    victim = Visitor(f"victim {act} {moment.name} {number}")
                    victims.append(victim)
                    for begin in (Act.APPEND, Act.LOGIN, Act.APPEND):
                        await served(site, victim, begin)
                    await asyncio.sleep(POLICY.touch_interval if does is Act.READ else 0)  # so that a look is written
                    if cold:
                        await site.manager.aclose()
                    ended = await cancelled(site, victim, does, number, moment)
                    for after in (Act.READ, Act.APPEND, Act.READ):
                        await served(site, victim, after)
                    number += 1
        for visitor in (*victims, *neighbours):
            for id in [visitor.id, *visitor.former[-5:]]:
                await served(site, visitor, Act.PROBE, id)
    finally:
        await site.manager.aclose()
    visits = [visit for visitor in (*victims, *neighbours) for visit in visitor.visits]
    found = judge(visits, grace=POLICY.rotation_grace)
    print(f"{len(victims)} requests cancelled; {found}")
    assert not found.wrong, found.wrong[:10]
    assert len(victims) >= 3 * 3  # a load, a write, and the one that was not cancelled
    if not cold:
        assert not [visit for visit in visits if visit.error]
