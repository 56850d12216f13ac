"""Simulated browsers: each has one cookie, waits for an answer before it sends again, and goes to any host that is up.

What a request does on its host are the flows of the core, as adapters run them. All of it goes into the history.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, NamedTuple, TypeVar

from sojourn.cluster.local import Settled
from sojourn.core import floor, lifecycle, principals
from sojourn.core.capability import Floor
from sojourn.core.floor import Presented
from sojourn.core.ids import SessionId
from sojourn.core.ops import Flow
from sojourn.core.outcome import KEEP, Action, Happened, Outcome
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.errors import SessionConflict, StoreUnavailable
from sojourn.testing.sim_forgery import forged
from sojourn.testing.sim_history import Answered, Does, History, Sent
from sojourn.testing.sim_host import Process, SimHost
from sojourn.testing.sim_known import PEEKING
from sojourn.testing.site import Site

T = TypeVar("T")

PATIENCE = 4.0  # seconds until a browser gives a request up


class Shared:
    """What all browsers of a simulation have in common: the policy, the numbers of requests, the history."""

    def __init__(self, random: Random, history: History, policy: Policy, hosts: Callable[[], list[SimHost]]) -> None:
        """*hosts* returns those that a balancer would choose from."""
        self.random, self.history, self.policy, self.hosts = random, history, policy, hosts
        self.numbers = 0

    def made_up_id(self) -> SessionId:
        """Return an id that nobody was given."""
        return SessionId.from_random(self.random.randbytes(32))

    def site(self, host: SimHost) -> Site:
        """Return the application as it runs on a host."""
        site = Site(_no_store, self.policy, indexed=True, floored=True)
        site.clock = host.wall  # type: ignore[assignment]
        site.new_id = partial(self._new_id, host)  # type: ignore[method-assign]
        return site

    def _new_id(self, host: SimHost) -> SessionId:
        """Return a fresh id, by preference one that the host keeps, as a manager does."""
        for _ in range(256):
            id = SessionId.from_random(self.random.randbytes(32))
            if host.places(id.private):
                break
        return id


def _no_store(op: object) -> None:
    raise AssertionError("the flows of a simulated site are run by its host")


class _Reply(NamedTuple):
    """What a host answers a browser."""

    answered: Answered
    outcome: Outcome = KEEP
    revoked: bool = False
    """Whether all sessions of the browser's principal were ended."""


class SimBrowser:
    """One browser. *sticks* is how likely it stays with the host that answered last."""

    def __init__(self, shared: Shared, number: int, *, sticks: float = 0.6) -> None:
        self.number = number
        self.cookie: Presented | None = None
        self.stolen: Presented | None = None
        """A cookie of a session that this browser has ended."""
        self.principal = f"visitor {number // 2}"
        self._made_up = shared.made_up_id()
        self._shared, self._sticks = shared, sticks
        self._host: SimHost | None = None
        self._awaits = 0

    @property
    def is_busy(self) -> bool:
        """Whether it waits for an answer."""
        return bool(self._awaits)

    def send(self, does: Does, host: SimHost | None = None, done: Callable[[], None] = lambda: None) -> None:
        """Send a request; *done* is called when it was answered, or given up."""
        shared = self._shared
        host = host or self._pick()
        cookie = self._presents(does)
        self._awaits = shared.numbers = number = shared.numbers + 1
        sets = self._wishes(number) if does == "write" or (does in ("login", "renew") and number % 2) else {}
        mark = number if sets else 0
        who = self.principal if does in ("login", "revoke") else None
        shared.history.append(
            Sent(host.clock.now, number, self.number, host.name, does, _name(cookie), sets, mark, who)
        )
        lost = partial(self._give_up, number, done)
        answered = partial(self._answered, number, host, done, does in PEEKING)
        host.run(self._request(host, number, does, cookie, sets), answered, lost)
        host.clock.after(PATIENCE, lost)

    def _presents(self, does: Does) -> Presented | None:
        if does == "probe":
            return self.stolen
        if does != "forge":
            return self.cookie
        random = self._shared.random
        made_up = Presented(self._made_up)
        return forged(random, random.choice((self.cookie or made_up, made_up)))

    def _pick(self) -> SimHost:
        hosts = self._shared.hosts()
        if self._host in hosts and self._shared.random.random() < self._sticks:
            return self._host
        return self._shared.random.choice(hosts)

    def _wishes(self, number: int) -> dict[str, int | None]:
        """Return what a handler is to set: own keys, one that all set, one that comes and goes."""
        random = self._shared.random
        keys = [f"own{self.number}{letter}" for letter in "ab"] + ["all"]
        sets: dict[str, int | None] = dict.fromkeys(random.sample(keys, random.choice((1, 1, 2))), number)
        if random.random() < 0.3:
            sets[f"now{self.number}"] = number if random.random() < 0.5 else None
        return sets

    def _answered(self, number: int, host: SimHost, done: Callable[[], None], peeks: bool, reply: _Reply) -> None:
        if self._awaits != number:
            return  # nobody listens any more
        self._awaits, self._host = 0, host
        answered, outcome, revoked = reply
        if revoked:
            self.stolen, answered.ended = self.cookie, True
        if not peeks:
            self._take(outcome)
        answered.at, answered.session = host.clock.now, _name(self.cookie)
        self._shared.history.append(answered)
        done()

    def _take(self, outcome: Outcome) -> None:
        """Take a response's cookie."""
        if outcome.action is Action.ISSUE and outcome.id:
            self.cookie = Presented(outcome.id, outcome.floor)
        elif outcome.action is Action.EXPIRE:
            self.stolen, self.cookie = self.cookie, None

    def _give_up(self, number: int, done: Callable[[], None]) -> None:
        if self._awaits == number:
            self._awaits, self._host = 0, None
            done()

    # -- on the host ---------------------------------------------------------------------------------------------

    def _request(
        self, host: SimHost, number: int, does: Does, cookie: Presented | None, sets: dict[str, int | None]
    ) -> Process[_Reply]:
        site, told = self._shared.site(host), list[Settled]()
        try:
            opened = yield from host.perform(site.opening([cookie] if cookie else []), told)
            session = site.opened(opened)
            reads = {key: int(session[key]) for key in session}
            found = opened.record is not None
            self._handle(session, does, sets)
            if does == "revoke":
                yield from host.perform(principals.revoke(principals.tag_of(self.principal), lambda _: True), told)
            revoked = does == "revoke"
            yield self._shared.random.choice((0.0, 0.001, 0.01, 0.1))
            if lifecycle.is_settled(session, session.delta(), site.policy, site.clock()) and floor.is_settled(session):
                return _Reply(
                    _summary(number, session, KEEP, reads, found, revoked and bool(told), told), revoked=revoked
                )
            silent: list[bool] = []
            outcome: Outcome = yield from host.perform(_noting(site.committing(session), silent), told)
        except (StoreUnavailable, SessionConflict):
            return _Reply(Answered(0.0, number, False))
        writes = bool(sets) or (revoked and bool(told))
        answered = _summary(number, session, outcome, reads, found, writes, told)
        answered.covered = answered.covered and not silent
        return _Reply(answered, outcome, revoked)

    def _handle(self, session: Session, does: Does, sets: dict[str, int | None]) -> None:
        """Do what an application's handler does."""
        if does == "login":
            session.login(self.principal)
        elif does == "renew" and session.opened.record:
            session.rotate()
        elif does == "logout":
            session.destroy()
        for key, value in sets.items():
            if value is not None:
                session[key] = value
            else:
                session.pop(key, None)


def _noting(flow: Flow[T], silent: list[bool]) -> Flow[T]:
    """Return *flow*; add to *silent* where the store cannot say what the browser has seen by now."""
    try:
        op: Any = next(flow)
        while True:
            try:
                answer = yield op
            except StoreUnavailable as error:
                silent += [True] if isinstance(op, Floor) else []
                op = flow.throw(error)
            else:
                op = flow.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def _summary(
    number: int,
    session: Session,
    outcome: Outcome,
    reads: dict[str, int],
    found: bool,
    writes: bool,
    told: list[Settled],
) -> Answered:
    kinds = {event.kind for event in outcome.events}
    record = session.opened.record
    rotated = found and bool(kinds & {Happened.ROTATED, Happened.LOGGED_IN})
    return Answered(
        0.0,
        number,
        ok=True,
        found=found,
        reads=reads,
        wrote=writes and Happened.LOST not in kinds and record is not None,
        ended=Happened.ENDED in kinds or rotated,
        hosts=min((settled.hosts for settled in told), default=0),
        covered=session.opened.id is not None and (outcome.action is not Action.ISSUE or bool(outcome.floor)),
        fresh=rotated and record is not None and not reads.keys() <= record.values.keys(),
    )


def _name(cookie: Presented | None) -> str | None:
    return cookie.id.private.hex()[:8] if cookie else None
