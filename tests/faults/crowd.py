"""Crowds of visitors, in threads and on an event loop, who use a store while a test breaks it, and remember all.

A visitor is one browser: it has a cookie, a seeded plan, and one request at a time. When a commit fails it does as
people do and tries the same again. After the fault each looks once more, and presents every id it ever had.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from random import Random
from threading import Event
from time import monotonic
from typing import Any, NamedTuple, Protocol, TypeVar

from tests.faults.history import NOBODY, Act, Answer, Loss, Seen, Span, Verdict, Visit, judge, name_of
from tests.faults.stalls import Stalls
from tests.servers.process import until

from sojourn.core.ops import Flow
from sojourn.core.outcome import Action, Happened, Outcome
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.errors import SessionConflict, StoreUnavailable
from sojourn.manager import SessionManager

T = TypeVar("T")

GRACE = 0.5  # seconds for which a renewed id serves; short, so that runs get beyond it
POLICY = Policy(touch_interval=0.05, rotation_grace=GRACE)
PAUSES = (0.005, 0.03)  # seconds that a visitor thinks between two requests
MARGIN = 1.5  # seconds by which a loaded machine may miss a deadline
PATIENCE = 30.0  # seconds until everybody must have been served again

PLAN: Mapping[Act, int] = {
    Act.APPEND: 60,
    Act.READ: 12,
    Act.ROTATE: 6,
    Act.LOGIN: 6,
    Act.LOGOUT: 4,
    Act.REVOKE: 4,
    Act.PROBE: 8,
}
"""How often a visitor does what, in parts of a hundred."""


class Call(NamedTuple):
    """One operation on the store: its name, when it was, and whether it failed."""

    name: str
    span: Span
    failed: bool

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.span.ended - self.span.begun


class WatchedManager(SessionManager):
    """A manager that notes how long each operation on the store took."""

    def __init__(self, store: Any, calls: list[Call], **settings: Any) -> None:
        self.calls = calls
        super().__init__(store, **settings)

    def run(self, flow: Flow[T]) -> T:
        return super().run(_timed(flow, self.calls))

    async def arun(self, flow: Flow[T]) -> T:
        return await super().arun(_timed(flow, self.calls))


def _timed(flow: Flow[T], calls: list[Call]) -> Flow[T]:
    try:
        op = next(flow)
        while True:
            begun = monotonic()
            try:
                answer = yield op
            except StoreUnavailable as error:
                calls.append(Call(type(op).__name__, Span(begun, monotonic()), failed=True))
                op = flow.throw(error)
            else:
                calls.append(Call(type(op).__name__, Span(begun, monotonic()), failed=False))
                op = flow.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def add_items(read: Any, found: Any, written: Any) -> Any:
    """Keep what both requests appended. A write that the store did twice would double its items.

    A visitor who tries again appends under the same name, with another number of the try: where the first try was
    executed after all, and after the second had looked, both are there. They are two requests, and nothing is doubled.
    """
    return [*(found or ()), *(written or ())[len(read or ()) :]]


# -- one visitor -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errand:
    """One request that a visitor is about to send."""

    visitor: str
    act: Act
    presented: str | None
    secret: str
    item: str

    def handle(self, session: Session) -> Seen | None:
        """Do as an application's handler does, and return what it saw first; None where the store cannot be asked."""
        if not session.available:
            self._change_in_vain(session)
            return None
        seen = Seen(session.get("secret", None if session.is_new else ""), tuple(session.get("items", ())))
        if self.act in (Act.APPEND, Act.LOGIN):
            session.setdefault("secret", self.secret)
        if self.act is Act.APPEND and self.stored(seen) == self.item:
            session.setdefault("items", []).append(self.item)
        elif self.act is Act.ROTATE:
            session.rotate()
        elif self.act is Act.LOGIN:
            session.login(self.visitor)
        elif self.act is Act.LOGOUT:
            session.logout()
        return seen

    def stored(self, seen: Seen) -> str:
        """Return the item that stands for this errand after it: its own, or that of an earlier try that was *seen*."""
        name = name_of(self.item)
        return next((item for item in seen.items if name_of(item) == name), self.item)

    def _change_in_vain(self, session: Session) -> None:
        """Try to change a session that the store cannot be asked for, where policy serves an anonymous visitor."""
        assert (len(session), session.principal) == (0, None)
        if self.act is Act.LOGOUT:
            session.logout()
        elif self.act not in (Act.READ, Act.PROBE):
            session["secret"] = self.secret


class Visitor:
    """A browser with a plan."""

    def __init__(self, name: str, plan: Mapping[Act, int] = PLAN, seed: int = 1) -> None:
        self.name, self.random = name, Random(f"{seed} {name}")
        self._acts, self._weights = list(plan), list(plan.values())
        self.id: str | None = None
        self.former: list[str] = []
        self.visits: list[Visit] = []
        self._number = 0
        self._item: str | None = None  # one that is not acknowledged yet

    def errand(self, act: Act | None = None, presented: str | None = None) -> Errand:
        """Return the next request; a doubtful append is tried again before anything else."""
        self._number += 1
        act = act or (Act.APPEND if self._item else self.random.choices(self._acts, self._weights)[0])
        if act is Act.PROBE and presented is None:
            presented = self.random.choice(self.former) if self.former else None
        text = f"{self.name}/{self._number:06d}"
        if act is Act.APPEND:
            self._item = self._item or text
        item = f"{self._item}.{self._number:06d}" if act is Act.APPEND else ""
        id = presented if act is Act.PROBE else self.id
        return Errand(self.name, act, id, f"{text}/{self.random.randbytes(12).hex()}", item)

    def note(self, errand: Errand, begun: float, seen: Seen | None, result: Outcome | BaseException | None) -> Visit:
        """Remember a request by what its commit returned or raised."""
        cookies: list[str | None] = []
        if isinstance(result, Outcome) and errand.act is not Act.PROBE and result.action is not Action.KEEP:
            cookies = [result.id.public if result.id else None]
        error = result if isinstance(result, BaseException) else None
        return self.remember(errand, begun, seen, _answer(errand, seen, result), cookies, error)

    def remember(
        self,
        errand: Errand,
        begun: float,
        seen: Seen | None,
        answer: Answer,
        cookies: Sequence[str | None],
        error: BaseException | None = None,
    ) -> Visit:
        """Remember a request, and take the response's cookie, None for one that is taken back."""
        for cookie in cookies:
            if self.id:
                self.former.append(self.id)
            self.id = cookie
        if errand.act is Act.APPEND and answer in (Answer.DONE, Answer.LOST):
            self._item = None
        issued = cookies[0] if cookies else None
        act, presented, secret, item = errand.act, errand.presented, errand.secret, errand.stored(seen or NOBODY)
        span = Span(begun, monotonic())
        self.visits.append(Visit(self.name, act, span, presented, secret, item, seen, answer, issued, error))
        return self.visits[-1]

    def served_since(self, moment: float) -> bool:
        """Tell whether something was stored for this visitor in a request that began after *moment*."""
        return any(
            visit.act is Act.APPEND and visit.answer is Answer.DONE and visit.span.begun > moment
            for visit in self.visits[:-60:-1]
        )

    def last_errands(self) -> Iterator[tuple[Errand, bool]]:
        """Yield the looks at the end, and whether each is to happen after the grace of renewals."""
        yield self.errand(Act.READ), False
        for id in self.former:
            yield self.errand(Act.PROBE, id), True


def _answer(errand: Errand, seen: Seen | None, result: Outcome | BaseException | None) -> Answer:
    if isinstance(result, SessionConflict):
        return Answer.REFUSED
    if isinstance(result, BaseException):
        return Answer.DOUBTFUL if seen is not None or errand.act is Act.REVOKE else Answer.REFUSED
    lost = result is not None and any(event.kind is Happened.LOST for event in result.events)
    return Answer.LOST if lost else Answer.DONE


# -- requests in both colours ------------------------------------------------------------------------------------------


def fields_of(manager: SessionManager, id: str | None) -> tuple[str, ...]:
    """Return the Cookie header fields of a browser that holds *id*."""
    return (f"{manager.cookie.name}={id}",) if id else ()


def at_once() -> None:
    """Let the handler end without a pause."""


def visit(manager: SessionManager, visitor: Visitor, errand: Errand, pause: Callable[[], object] = at_once) -> Visit:
    """Send one request, blocking; the handler does its work, then *pause*."""
    begun, seen = monotonic(), None
    result: Outcome | BaseException | None = None
    try:
        if errand.act is Act.REVOKE:
            manager.revoke(errand.visitor)
        else:
            session = manager.begin(lambda id: fields_of(manager, id), errand.presented)
            seen = errand.handle(session)
            pause()
            result = manager.commit(session)
    except Exception as error:
        result = error
    return visitor.note(errand, begun, seen, result)


async def avisit(
    manager: SessionManager, visitor: Visitor, errand: Errand, pause: Callable[[], object] = at_once
) -> Visit:
    """Send one request on an event loop."""
    begun, seen = monotonic(), None
    result: Outcome | BaseException | None = None
    try:
        if errand.act is Act.REVOKE:
            await manager.arevoke(errand.visitor)
        else:
            session = await manager.abegin(lambda id: fields_of(manager, id), errand.presented)
            seen = errand.handle(session)
            pause()
            result = await manager.acommit(session)
    except Exception as error:
        result = error
    return visitor.note(errand, begun, seen, result)


class Node:
    """An application server with *store*, in one colour, which serves one request at a time. Used in one thread."""

    def __init__(self, store: Any, *, loop: bool, **settings: Any) -> None:
        self.calls: list[Call] = []
        settings = {"policy": POLICY, "insecure_dev": True, "resolvers": {"items": add_items}} | settings
        self.manager = WatchedManager(store, self.calls, **settings)
        self._runner = asyncio.Runner() if loop else None

    def visit(self, visitor: Visitor, act: Act, *, presented: str | None = None, pause: Any = at_once) -> Visit:
        """Send the visitor's request for *act* and return what came of it."""
        errand = visitor.errand(act, presented)
        if self._runner:
            return self._runner.run(avisit(self.manager, visitor, errand, pause))
        return visit(self.manager, visitor, errand, pause)

    def close(self) -> None:
        """Close the connections."""
        if self._runner:
            self._runner.run(self.manager.aclose())
            self._runner.close()
        else:
            self.manager.close()


@contextmanager
def node(store: Any, *, loop: bool, **settings: Any) -> Iterator[Node]:
    """Give a node, and close it."""
    one = Node(store, loop=loop, **settings)
    try:
        yield one
    finally:
        one.close()


# -- many --------------------------------------------------------------------------------------------------------------


class Crowd(Protocol):
    """Visitors at work on one store in one colour."""

    name: str
    visitors: Sequence[Visitor]
    calls: list[Call]

    def rest(self) -> None:
        """Let each finish its request and look for the last time."""


class _AnyCrowd:
    name = ""

    def __init__(self, stores: Sequence[Any], count: int, plan: Mapping[Act, int], seed: int, **settings: Any) -> None:
        self.visitors = [Visitor(f"{self.name} {number}", plan, seed) for number in range(count)]
        self.calls: list[Call] = []
        settings = {"policy": POLICY, "insecure_dev": True, "resolvers": {"items": add_items}} | settings
        self.nodes = [WatchedManager(store, self.calls, **settings) for store in stores]
        after = {"clock": lambda: time.time() + GRACE + 1, **settings}  # the grace of renewals is over
        self.late = [WatchedManager(node.store, self.calls, **after) for node in self.nodes]
        self._resting = Event()


class Threads(_AnyCrowd):
    """A crowd in threads, with the blocking store."""

    name = "thread"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._pool = ThreadPoolExecutor(len(self.visitors))
        self._work = [self._pool.submit(self._live, visitor) for visitor in self.visitors]

    def rest(self) -> None:
        """Let each finish its request and look for the last time."""
        self._resting.set()
        try:
            for work in self._work:
                work.result()
        finally:
            self._pool.shutdown()
            for node in self.nodes:
                node.close()

    def _live(self, visitor: Visitor) -> None:
        while not self._resting.wait(visitor.random.uniform(*PAUSES)):
            visit(visitor.random.choice(self.nodes), visitor, visitor.errand())
        for errand, late in visitor.last_errands():
            visit((self.late if late else self.nodes)[0], visitor, errand)


class Tasks(_AnyCrowd):
    """A crowd of tasks on an event loop in a thread of its own, with the async store."""

    name = "task"

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._pool = ThreadPoolExecutor(1)
        self._work = self._pool.submit(lambda: asyncio.run(self._live_all()))

    def rest(self) -> None:
        """Let each finish its request and look for the last time."""
        self._resting.set()
        try:
            self._work.result()
        finally:
            self._pool.shutdown()

    async def _live_all(self) -> None:
        try:
            await asyncio.gather(*map(self._live, self.visitors))
        finally:
            for node in self.nodes:
                await node.aclose()

    async def _live(self, visitor: Visitor) -> None:
        while not self._resting.is_set():
            await asyncio.sleep(visitor.random.uniform(*PAUSES))
            await avisit(visitor.random.choice(self.nodes), visitor, visitor.errand())
        for errand, late in visitor.last_errands():
            await avisit((self.late if late else self.nodes)[0], visitor, errand)


class People:
    """Two crowds, one in each colour, on the same servers."""

    def __init__(self, crowds: Sequence[Crowd], stalls: Stalls) -> None:
        self.crowds, self.stalls = crowds, stalls
        self.visitors = [visitor for crowd in crowds for visitor in crowd.visitors]

    def all_served(self, since: float | None = None, seconds: float = PATIENCE) -> float:
        """Wait until something was stored for everybody in a request begun after *since*, or from now on.

        Return how many seconds that took.
        """
        moment = monotonic() if since is None else since
        waiting = list(self.visitors)

        def nobody_waits() -> bool:
            waiting[:] = [visitor for visitor in waiting if not visitor.served_since(moment)]
            return not waiting

        until(nobody_waits, "everybody was served", seconds)
        return monotonic() - moment

    def visits(self) -> list[Visit]:
        """Return all visits up to now, each visitor's in their order."""
        return [visit for visitor in self.visitors for visit in list(visitor.visits)]

    def errors(self) -> Counter[str]:
        """Return what StoreUnavailable said, with the numbers left out."""
        return Counter(str(visit.error)[:100] for visit in self.visits() if visit.error)

    def rest(self) -> None:
        """Let all finish and look for the last time. The servers must be well."""
        with ExitStack() as stack:
            stack.callback(self.stalls.close)
            for crowd in self.crowds:
                stack.callback(crowd.rest)

    def slowest(self) -> float:
        """Return the seconds that the longest operation took."""
        return max(call.seconds for crowd in self.crowds for call in crowd.calls)

    def longest(self, visits: Sequence[Visit]) -> float:
        """Return the seconds of the longest of *visits*, but for those in which this process stood still."""
        return max(visit.span.ended - visit.span.begun - self.stalls.within(visit.span) for visit in visits)

    def verdict(self, *losses: Loss, timeout: float, margin: float = MARGIN) -> Verdict:
        """Return the judgement of all that happened. *timeout* is the stores', in seconds.

        An operation is not late by the time in which this process stood still.
        """
        found = judge(self.visits(), losses, grace=GRACE)
        for crowd in self.crowds:
            for call in crowd.calls:
                if call.seconds > timeout + margin and call.seconds - self.stalls.within(call.span) > timeout + margin:
                    found.wrong.append(f"late: {crowd.name} {call.name} took {call.seconds:.2f} s of {timeout} s")
        return found

    def assert_kept(self, *losses: Loss, timeout: float, margin: float = MARGIN) -> Verdict:
        """Rest, judge, print the counts, and fail for anything wrong."""
        self.rest()
        found = self.verdict(*losses, timeout=timeout, margin=margin)
        still = max((gap.ended - gap.begun for gap in self.stalls.gaps), default=0.0)
        print(f"{found}; slowest operation {self.slowest():.3f} s; this process stood still for {still:.3f} s at most")
        assert not found.wrong, "\n".join(found.wrong[:20])
        return found


@contextmanager
def people(
    *urls: str | Callable[[], Any],
    count: int = 25,
    plan: Mapping[Act, int] = PLAN,
    seed: int = 1,
    colours: Sequence[type[_AnyCrowd]] = (Threads, Tasks),
    **settings: Any,
) -> Iterator[People]:
    """Let *count* visitors in each colour use one store; they rest at the end, whatever happens.

    Each of *urls* is the way of one node to that store, or a function that makes it; balancers choose among the nodes.
    """
    crowds: list[Any] = []
    stalls = Stalls()
    try:
        for kind in colours:
            crowds.append(kind([url() if callable(url) else url for url in urls], count, plan, seed, **settings))
        yield People(crowds, stalls)
    finally:
        stalls.close()
        for crowd in crowds:
            crowd.rest()


def without(*acts: Act) -> dict[Act, int]:
    """Return the plan without *acts*, such as a revocation where the store has no index."""
    return {act: share for act, share in PLAN.items() if act not in acts}


def anonymous(visits: Sequence[Visit], since: float) -> int:
    """Return how many looks that began after *since* found nobody."""
    return sum(visit.seen == NOBODY for visit in visits if visit.span.begun > since and visit.act is not Act.PROBE)
