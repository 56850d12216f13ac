"""A site and its browsers, without HTTP: whole requests as two flows that a test may interleave step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from sojourn.codec import Codec
from sojourn.core import floor, lifecycle, principals
from sojourn.core.delta import Resolver
from sojourn.core.floor import Presented
from sojourn.core.ids import SessionId
from sojourn.core.opened import Opened
from sojourn.core.ops import Flow, Performable
from sojourn.core.outcome import Action, Event, Outcome
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.core.terms import Terms
from sojourn.errors import StoreUnavailable
from sojourn.exclusive import ExclusiveBlock
from sojourn.testing.fakes import FakeClock, NumberedRandom

T = TypeVar("T")

Do = Callable[[Any], Any]
"""Performs one operation on the store under test, in whatever colour it has."""


class Site:
    """What a SessionManager is to a server, on top of *do*, with a clock and ids that a test controls."""

    def __init__(
        self,
        do: Do,
        policy: Policy | None = None,
        resolvers: Mapping[str, Resolver] | None = None,
        *,
        indexed: bool = False,
        floored: bool = False,
    ) -> None:
        self.do = do
        self.policy = policy or Policy(idle_timeout=1800, lifetime=86400, touch_interval=60, rotation_grace=10)
        self.resolvers = resolvers or {}
        self.clock = FakeClock()
        self.random = NumberedRandom()
        self.codec = Codec()
        self.indexed = indexed
        self.floored = floored
        self.asked: list[Performable] = []
        self.reported: list[Event] = []

    def save(self, session: Session) -> None:
        """Store late changes."""
        self.run(lifecycle.save(session, self.terms()))

    async def asave(self, session: Session) -> None:
        """Store late changes."""
        self.save(session)

    async def fetch(self, session: Session) -> None:
        """Fetch nothing: sessions are open from the start."""

    def exclusive(self, session: Session, wait: float, lease: float) -> ExclusiveBlock:
        """Return a block that holds the session's lock."""
        return ExclusiveBlock(self, session, wait, lease)

    async def arun(self, flow: Flow[T]) -> T:
        """Run *flow* without interruption."""
        return self.run(flow)

    def report(self, outcome: Outcome) -> Outcome:
        """Note the events."""
        self.reported.extend(outcome.events)
        return outcome

    def terms(self) -> Terms:
        """Return what a commit at this moment goes by."""
        tag_of = principals.tag_of if self.indexed else None
        return Terms(self.policy, self.clock(), self.new_id, self.resolvers, tag_of)

    def new_id(self) -> SessionId:
        """Return the next id."""
        return SessionId.from_random(self.random())

    def run(self, flow: Flow[T]) -> T:
        """Run *flow* without interruption."""
        steps = Steps(flow, self)
        while not steps.done:
            steps.step()
        result: T = steps.result
        return result

    def open(self, *ids: SessionId) -> Session:
        """Open a session as a server does when a handler first looks."""
        return self.opened(self.run(self.opening([Presented(id) for id in ids])))

    def opening(self, presented: Sequence[Presented]) -> Flow[Opened]:
        """Return the flow that opens a session for what a browser presents."""
        flow = lifecycle.open([one.id for one in presented], self.policy, self.clock())
        return floor.opening(flow, presented) if self.floored else flow

    def opened(self, found: Any) -> Session:
        """Return a session on what ``open`` found, already looked at."""
        session = Session(lambda: found, self)
        assert session.opened is found
        return session

    def commit(self, session: Session) -> Outcome:
        """Commit a session."""
        return self.run(self.committing(session))

    def committing(self, session: Session) -> Flow[Outcome]:
        """Return the flow of a commit."""
        flow = lifecycle.commit(session, session.delta(), self.terms())
        return floor.committing(flow, session) if self.floored else flow


class Browser:
    """Keeps the id it was given, and gives it back: a cookie jar for one cookie."""

    def __init__(self, site: Site, id: SessionId | None = None) -> None:
        self.site, self.id = site, id
        self.floor = b""

    def presents(self) -> list[Presented]:
        """Return what the cookie says."""
        return [Presented(self.id, self.floor)] if self.id else []

    def begin(self) -> Session:
        """Send a request; return its session while the handler runs."""
        return self.site.opened(self.site.run(self.site.opening(self.presents())))

    def finish(self, session: Session) -> Outcome:
        """Let the handler end, and take what the response says."""
        outcome = self.site.commit(session)
        self.take(outcome)
        return outcome

    def take(self, outcome: Outcome) -> None:
        """Take a response's cookie."""
        if outcome.action is not Action.KEEP:
            self.id, self.floor = outcome.id, outcome.floor

    def visit(self, handler: Callable[[Session], object] = lambda session: None) -> Outcome:
        """Send a request that *handler* serves, and take the response."""
        session = self.begin()
        handler(session)
        return self.finish(session)

    def sees(self) -> dict[str, Any]:
        """Return the values that a request sees."""
        return dict(self.begin())


class Steps:
    """A flow that is advanced one store operation at a time."""

    def __init__(self, flow: Flow[T], site: Site) -> None:
        self._flow: Generator[Performable, Any, Any] = flow
        self._site = site
        self._reply: Any = None
        self._failure: StoreUnavailable | None = None
        self.done = False
        self.result: Any = None

    def step(self) -> None:
        """Let the flow decide, and perform the one operation that it asks for."""
        try:
            op = self._flow.throw(self._failure) if self._failure else self._flow.send(self._reply)
        except StopIteration as end:
            self.done, self.result = True, end.value
            return
        self._site.asked.append(op)
        self._failure = self._reply = None
        try:
            self._reply = self._site.do(op)
        except StoreUnavailable as error:
            self._failure = error


def interleave(random: Random, *requests: Generator[None, None, None]) -> None:
    """Advance *requests* to their ends, choosing at each step which one goes on."""
    waiting = list(requests)
    while waiting:
        chosen = random.choice(waiting)
        try:
            next(chosen)
        except StopIteration:
            waiting.remove(chosen)


def in_steps(
    browser: Browser, handler: Callable[[Session], object], answers: list[Outcome]
) -> Generator[None, None, None]:
    """Serve one request of *browser*, pausing around each store operation. Its outcome is appended to *answers*.

    The browser takes no cookie from it: a test that wants that does it when the answer arrives.
    """
    site = browser.site
    found = yield from _paused(Steps(site.opening(browser.presents()), site))
    session = site.opened(found)
    handler(session)
    yield
    answers.append((yield from _paused(Steps(site.committing(session), site))))


def _paused(steps: Steps) -> Generator[None, None, Any]:
    while not steps.done:
        steps.step()
        yield
    return steps.result
