"""A crowd of visitors behind a balancer, who use the hosts while a test breaks them; and the history of it.

A visitor is one browser: it has a cookie, a seeded plan, and one request at a time. Everything it sends and hears is a
line of the history (see ``sim_history``), so that the checkers of simulated clusters judge real ones.

The balancer does what a careful proxy does: any host in turn, not one that failed a moment ago, and a request goes to
another host only where that is safe: nothing was sent, or the request changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import count
from random import Random
from threading import Event, Lock, Thread
from time import monotonic
from typing import NamedTuple

from tests.faults.peers.hosts import Host, Hosts
from tests.faults.peers.visits import Broken, Does, Request, Response
from tests.faults.peers.worker import GRACE, key_of
from tests.servers.process import until

from sojourn.testing.sim_history import Answered, Begins, History, Line, Sent, Trouble

PAUSES = (0.005, 0.03)  # seconds that a visitor thinks between two requests
PATIENCE = 20.0  # seconds until everybody must have been served again
PROXY = 5.0  # seconds after which the balancer gives a host up: longer than a busy machine needs for an answer
LOOK = 0.1  # seconds from one look of the balancer at a host that failed to the next, and for its answer
KEYS = "abcdef"
SAFE: tuple[Does, ...] = ("read", "probe", "ping")

PLAN: Mapping[Does, int] = {"write": 60, "read": 20, "renew": 5, "login": 4, "logout": 4, "probe": 7}
"""How often a visitor does what, in parts of a hundred."""


class Failure(NamedTuple):
    """A request without a good answer. *tried* is the host that it was sent to last, if any.

    *alone* is the host that alone had what the visitor wrote last, by what it has said; None: another one has it, too.
    """

    begun: float
    ended: float
    does: Does
    tried: Host | None
    why: str
    alone: Host | None = None


class Notes:
    """The history as it is written down, by many at once."""

    def __init__(self, begins: Begins) -> None:
        self.lines: History = [begins]
        self.origin = monotonic()
        self.requests, self.marks = count(1), count(1)
        self._lock = Lock()

    def note(self, line: Callable[[float], Line]) -> None:
        """Append what *line* makes of the moment, in seconds since the beginning."""
        with self._lock:
            self.lines.append(line(monotonic() - self.origin))

    def trouble(self, what: str, *hosts: Host) -> None:
        """Note what happens to hosts or the network."""
        self.note(lambda at: Trouble(at, what, tuple(host.name for host in hosts)))


class Balancer:
    """Sends requests to hosts. *proxy* is how many seconds one of them has for an answer.

    *sticky*: a visitor goes to one host while that serves; otherwise each request goes to any.
    """

    def __init__(self, hosts: Sequence[Host], *, proxy: float = PROXY, sticky: bool = False) -> None:
        self.hosts, self.proxy, self.sticky = list(hosts), proxy, sticky
        self._down: dict[Host, None] = {}
        self._closed = Event()
        self._looking = Thread(target=self._look, daemon=True)
        self._looking.start()

    def order(self, visitor: Visitor) -> list[Host]:
        """Return the hosts in the order in which they are to be tried."""
        first = visitor.number % len(self.hosts)
        hosts = (
            self.hosts[first:] + self.hosts[:first]
            if self.sticky
            else visitor.random.sample(self.hosts, len(self.hosts))
        )
        return sorted(hosts, key=lambda host: host in self._down)

    def failed(self, host: Host) -> None:
        """Leave a host alone until it serves."""
        self._down[host] = None

    def _look(self) -> None:
        while not self._closed.wait(LOOK):
            for host in list(self._down):
                with suppress(Broken):
                    if host.ask(Request("ping"), LOOK).ok:
                        self._down.pop(host, None)

    def close(self) -> None:
        """End the looking."""
        self._closed.set()
        self._looking.join()


class Visitor:
    """One browser."""

    def __init__(self, number: int, notes: Notes, balancer: Balancer, plan: Mapping[Does, int], seed: int) -> None:
        self.number, self.notes, self.balancer = number, notes, balancer
        self.random = Random(f"{seed} {number}")
        self._acts, self._weights = list(plan), list(plan.values())
        self.token: str | None = None
        self.former: list[str] = []
        self.failures: list[Failure] = []
        self.served: Counter[str] = Counter()
        self.written_at = 0.0
        self.alone: Host | None = None
        self.slowest = 0.0
        self.busy = False

    @property
    def session(self) -> str | None:
        """How the history names the session of the cookie."""
        return key_of(self.token) if self.token else None

    def visit(self, does: Does | None = None, host: Host | None = None) -> Response | None:
        """Send the next request, or one for something, through the balancer, or to one *host*."""
        does = does or self.random.choices(self._acts, self._weights)[0]
        if does == "probe" and not self.former:
            does = "read"
        mark = next(self.notes.marks)
        request = Request(does, self.number, self.token)
        if does == "probe":
            request.token = self.random.choice(self.former)
        elif does == "write":
            request.sets = {self.random.choice(KEYS): None if self.token and self.random.random() < 0.1 else mark}
        begun = monotonic()
        response = self._through(request, mark, [host] if host else self.balancer.order(self))
        self.slowest = max(self.slowest, monotonic() - begun)
        return response

    def _through(self, request: Request, mark: int, hosts: Sequence[Host]) -> Response | None:
        begun, tried, why = monotonic(), None, "no host"
        for host in hosts:
            number = next(self.notes.requests)
            tried = host
            try:
                response = self._send(number, request, mark, host)
            except Broken as error:
                why = str(error)
                self.balancer.failed(host)
                if error.sent and request.does not in SAFE:
                    break
                continue
            if response.ok:
                return response
            why = response.error or "503"
            if request.does not in SAFE:
                break
        self.failures.append(Failure(begun, monotonic(), request.does, tried, why, self.alone))
        return None

    def _send(self, number: int, request: Request, mark: int, host: Host) -> Response:
        session = key_of(request.token) if request.token else None
        sets = dict(request.sets)
        self.notes.note(
            lambda at: Sent(at, number, self.number, host.name, request.does, session, sets, mark)  # type: ignore[arg-type]
        )
        begun = monotonic()
        response = host.ask(request, self.balancer.proxy)
        self._take(request, response, begun, host)
        self.notes.note(lambda at: self._line(at, number, request, response))
        return response

    def _line(self, at: float, number: int, request: Request, response: Response) -> Answered:
        hosts = 0 if response.hosts is None else response.hosts
        presented = key_of(request.token) if request.does == "probe" and request.token else self.session
        return Answered(
            at, number, response.ok, response.found, response.reads, presented,
            response.wrote, response.ended, hosts, response.covered,
        )  # fmt: skip

    def _take(self, request: Request, response: Response, begun: float, host: Host) -> None:
        self.served[request.does if response.ok else "503"] += 1
        if request.does == "probe":
            return
        if response.token is not None:
            if self.token and key_of(self.token) != (key_of(response.token) if response.token else None):
                self.former.append(self.token)
            self.token = response.token or None
        if response.wrote and request.does == "write":
            self.written_at = begun
        if response.ok and response.wrote:
            self.alone = None if response.hosts else host
        elif response.ok and host is not self.alone:
            self.alone = None  # it has shown what the cookie names


class Crowd:
    """Visitors at work."""

    def __init__(
        self, hosts: Hosts, number: int, plan: Mapping[Does, int], begins: Begins, proxy: float, sticky: bool
    ) -> None:
        self.hosts, seed = hosts, begins.seed
        self.notes = Notes(begins)
        self.balancer = Balancer(hosts, proxy=proxy, sticky=sticky)
        self.visitors = [Visitor(one, self.notes, self.balancer, plan, seed) for one in range(number)]
        self._resting, self._open = Event(), Event()
        self._open.set()
        self._pool = ThreadPoolExecutor(number)
        self._work = [self._pool.submit(self._live, visitor) for visitor in self.visitors]

    def _live(self, visitor: Visitor) -> None:
        while not self._resting.wait(visitor.random.uniform(*PAUSES)):
            visitor.busy = True  # said before it is asked whether anybody may send: see ``still``
            if self._open.is_set():
                visitor.visit()
            visitor.busy = False
            self._open.wait(PATIENCE)

    def all_served(self, seconds: float = PATIENCE) -> float:
        """Wait until something was stored for everybody in a request that began from now on; return the seconds."""
        moment = monotonic()
        waiting = list(self.visitors)

        def nobody_waits() -> bool:
            waiting[:] = [visitor for visitor in waiting if visitor.written_at < moment]
            return not waiting

        until(nobody_waits, "everybody was served", seconds)
        return monotonic() - moment

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let nobody send anything meanwhile. What was under way is answered first."""
        self._open.clear()
        until(lambda: not any(visitor.busy for visitor in self.visitors), "nobody is waiting for an answer", PATIENCE)
        try:
            yield
        finally:
            self._open.set()

    def settle(self) -> float:
        """Let all copies become equal while nobody writes, and note that; return how many seconds it took."""
        with self.still():
            self.hosts.meet()
            taken = self.hosts.converge()
            self.trouble("quiet")
        return taken

    def go_on(self, seconds: float) -> None:
        """Let the visitors work for a while: the fault's own length."""
        time.sleep(seconds)

    def trouble(self, what: str, *hosts: Host) -> None:
        """Note what the test does."""
        self.notes.trouble(what, *hosts)

    def failures(self, since: float = 0.0) -> list[Failure]:
        """Return the requests without a good answer that ended after *since*."""
        found = [failure for visitor in self.visitors for failure in list(visitor.failures) if failure.ended > since]
        return sorted(found, key=lambda failure: failure.begun)

    def served(self) -> Counter[str]:
        """Return how many requests of which kind were answered."""
        return sum((visitor.served for visitor in self.visitors), Counter())

    def slowest(self) -> float:
        """Return the seconds that the longest request took, with all its tries."""
        return max(visitor.slowest for visitor in self.visitors)

    def rest(self) -> None:
        """Let each finish its request."""
        self._resting.set()
        self._open.set()
        try:
            for work in self._work:
                work.result()
        finally:
            self._pool.shutdown()
            self.balancer.close()

    def look_again(self) -> None:
        """Let each look on every host, and present everything that it gave up, on any. All hosts must be well."""
        time.sleep(GRACE)  # the grace of renewals is over
        for visitor in self.visitors:
            for host in self.hosts:
                visitor.visit("read", host)
        for visitor in self.visitors:
            former, visitor.former = visitor.former, []
            for token in former[-20:]:
                visitor.former = [token]
                visitor.visit("probe")


@contextmanager
def crowd(
    hosts: Hosts,
    *,
    number: int = 12,
    plan: Mapping[Does, int] = PLAN,
    seed: int = 1,
    proxy: float = PROXY,
    sticky: bool = False,
    acks: int | None = 1,
    alone: str = "accept",
) -> Iterator[Crowd]:
    """Let *number* visitors use the hosts; they rest at the end, whatever happens."""
    begins = Begins(seed, tuple(host.name for host in hosts), hosts.copies, acks, alone)
    some = Crowd(hosts, number, plan, begins, proxy, sticky)
    try:
        yield some
    finally:
        some.rest()
