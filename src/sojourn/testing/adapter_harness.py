"""An application behind the adapter under test, and all that lies around it: a server, browsers, a store, the log."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier, Event
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from sojourn.core.outcome import Event as SessionEvent
from sojourn.core.outcome import Happened
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.manager import SessionManager
from sojourn.testing.adapter_routes import PATIENCE, ROUTES, Fields, Page
from sojourn.testing.adapter_store import EVERYTHING, INSIDE, AwaitedStore, WatchedStore
from sojourn.testing.fakes import FakeClock

__all__ = [
    "INSIDE",
    "ISSUED",
    "PATIENCE",
    "TAKEN_BACK",
    "AdapterHarness",
    "AdapterStory",
    "Answer",
    "AwaitedStore",
    "Log",
    "Request",
    "Server",
    "Visitor",
    "WatchedManager",
    "WatchedStore",
]

# -- what a harness is given: a server around the application --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """What a browser sends. *headers* are in order and may repeat a name; cookies are among them."""

    method: str
    path: str
    headers: Fields = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a browser receives. The names of *headers* are in lower case."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def values(self, name: str) -> list[str]:
        """Return the values of all fields *name*, in order."""
        return [value for key, value in self.headers if key == name]

    def members(self, name: str) -> list[str]:
        """Return the members of the list in the fields *name*, in lower case."""
        joined = ",".join(self.values(name)).lower()
        return [member.strip() for member in joined.split(",")] if joined else []


class Server(Protocol):
    """A server around the application under test.

    It answers 500 for an application that raises before its response, and logs the exception as servers do.
    """

    def request(self, request: Request) -> Answer:
        """Send one request and return the whole answer. Threads call this at the same time."""

    def close(self) -> None:
        """Stop, and let go of everything."""


# -- a manager and a log that tell ---------------------------------------------------------------------------------


class WatchedManager(SessionManager):
    """A SessionManager that counts how often it was asked to read a request's cookies."""

    opens = 0

    def open(self, cookies: Any) -> Any:
        """Note it, and do what SessionManager does."""
        self.opens += 1
        return super().open(cookies)


class Log(logging.Handler):
    """Everything that anybody logs, tracebacks included, as text."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one record."""
        self.lines.append(self.format(record))

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)


ISSUED = re.compile(r"__Host-sid=([A-Za-z0-9_-]{43}); Path=/; Secure; HttpOnly; SameSite=Lax")
"""The line that hands out an id, with the default attributes."""
TAKEN_BACK = "__Host-sid=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; HttpOnly; SameSite=Lax"
"""The line that takes it back."""


# -- the harness -----------------------------------------------------------------------------------------------


class AdapterHarness:
    """An application behind the adapter under test, and all that lies around it. Use it in a ``with`` statement.

    *mount* builds the application on ``app.manager`` and returns a server around it. With *awaited* the store has to be
    awaited, so that an adapter on an event loop cannot fetch at the first look.
    """

    def __init__(self, mount: Callable[[AdapterHarness], Server], *, awaited: bool = False) -> None:
        self._mount = mount
        self.store = WatchedStore()
        self.preloads = awaited
        """True where the record is fetched before the handler runs, since a look cannot wait."""
        self.clock = FakeClock()
        self.events: list[SessionEvent] = []
        self.log = Log()
        self._held: set[str] = set()
        self._pause = _Pause()
        self.server: Server | None = None

    def __enter__(self) -> Self:
        self.restart()
        self._level = logging.root.level
        logging.root.setLevel(logging.DEBUG)
        logging.root.addHandler(self.log)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close()
        logging.root.removeHandler(self.log)
        logging.root.setLevel(self._level)
        if error is None:
            self.check_log()

    def check_log(self) -> None:
        """Fail where a line of the log shows an id that a browser holds."""
        shown = [line for line in self.log.lines if any(id in line for id in self._held)]
        assert not shown, f"the log shows what a browser holds: {shown}"

    def restart(self, **settings: Any) -> None:
        """Start the application, or start it again with other *settings* of SessionManager. The store stays."""
        self._close()
        settings.setdefault("policy", Policy(idle_timeout=1800, lifetime=86400, touch_interval=60, rotation_grace=10))
        store = AwaitedStore(self.store) if self.preloads else self.store
        self.manager = WatchedManager(store, clock=self.clock, on_event=self.events.append, **settings)
        self.server = self._mount(self)

    def _close(self) -> None:
        if self.server:
            self.server.close()

    # -- for the view that mounts the routes --

    def answer(self, path: str, session: Session) -> Page:
        """Do what the route at *path* does, in an application that may block."""
        page = Page(ROUTES[path], session, self._pause.hold)
        page.work()
        return page

    async def aanswer(self, path: str, session: Session) -> Page:
        """Do what the route at *path* does, in an application on an event loop."""
        page = Page(ROUTES[path], session, self._pause.hold)
        await page.awork()
        return page

    # -- for the stories --

    def request(
        self, method: str, path: str, *, headers: Fields = (), cookies: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request. *cookies* go into one Cookie field, after *headers*."""
        pairs = "; ".join(f"{name}={value}" for name, value in (cookies or {}).items())
        fields = [*headers, *([("cookie", pairs)] if pairs else [])]
        assert self.server is not None
        answer = self.server.request(Request(method, path, fields))
        assert all(name == name.lower() for name, _ in answer.headers), "the server owes names in lower case"
        self._held.update(re.findall(r"[A-Za-z0-9_-]{43,}", str([*fields, *answer.values("set-cookie")])))
        return answer

    def overlap(self, slow: Callable[[], Answer], meanwhile: Callable[[], object]) -> Answer:
        """Send *slow*, whose route pauses; do *meanwhile* while it does; let it go on and return its answer."""
        self._pause = _Pause()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(slow)
            try:
                self._pause.wait_until_held(answer)
                meanwhile()
            finally:
                self._pause.go_on.set()
            return answer.result(PATIENCE)

    def queue(self, first: Callable[[], Answer], second: Callable[[], Answer]) -> list[Answer]:
        """Send *first*, whose route pauses in its exclusive block, then *second*; let *first* go on once that waits."""
        waiting: list[Future[Answer]] = []

        def wait_for_second() -> None:
            self.store.held_back.clear()
            waiting.append(pool.submit(second))
            while not self.store.held_back.wait(0.01):
                assert not waiting[0].done(), f"it did not have to wait: {waiting[0].result()}"

        with ThreadPoolExecutor(1) as pool:
            answer = self.overlap(first, wait_for_second)
            return [answer, waiting[0].result(PATIENCE)]

    def at_once(self, *requests: Callable[[], Answer]) -> list[Answer]:
        """Send *requests* at the same time; return their answers in order."""
        start = Barrier(len(requests))

        def send(request: Callable[[], Answer]) -> Answer:
            start.wait(PATIENCE)
            return request()

        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(send, requests))

    def cost_of(self, request: Callable[..., Answer], *args: Any) -> list[type[Any]]:
        """Send a request and return what it asked of the store."""
        before = len(self.store.asked)
        request(*args)
        return self.store.asked[before:]

    @contextmanager
    def outage(self, *ops: type[Any]) -> Iterator[None]:
        """Make the store unable to answer *ops*, or anything."""
        self.store.down = frozenset(ops) or EVERYTHING
        try:
            yield
        finally:
            self.store.down = frozenset()

    def happened(self) -> list[tuple[Happened, tuple[str, ...]]]:
        """Return the kinds and keys of the events since the last call."""
        happened = [(event.kind, event.keys) for event in self.events]
        self.events.clear()
        return happened

    def told(self, answer: Answer) -> list[str]:
        """Return the lines of *answer* that set or take back the session cookie."""
        return [line for line in answer.values("set-cookie") if self.manager.cookie.owns(line)]

    def issued(self, answer: Answer) -> str:
        """Return the id in the one line of *answer* that hands out the session cookie with the default attributes."""
        lines = self.told(answer)
        assert len(lines) == 1, f"one line was due, and {lines} came with {answer}"
        match = ISSUED.fullmatch(lines[0])
        assert match, lines
        return match[1]

    def newcomer(self) -> Visitor:
        """Return a browser that was never here."""
        return Visitor(self)

    def holder(self, value: str) -> Visitor:
        """Return a browser whose session cookie holds *value*, planted or stolen."""
        visitor = Visitor(self)
        visitor.jar[_Place(self.manager.cookie.name)] = (value, None)
        return visitor

    def visitor(self) -> Visitor:
        """Return a browser with a session that holds ``slot 0`` and a cart with a lamp."""
        visitor = Visitor(self)
        visitor.visit("/put/0")
        visitor.visit("/cart")
        self.events.clear()
        return visitor


class _Place(NamedTuple):
    """What makes two cookies the same cookie to a browser."""

    name: str
    domain: str | None = None
    path: str | None = "/"
    partitioned: bool = False


class Visitor:
    """A browser: keeps the cookies it is given, sends them back, drops them when their time is over."""

    def __init__(self, app: AdapterHarness) -> None:
        self.app = app
        self.jar: dict[_Place, tuple[str, float | None]] = {}
        """Value and end of each cookie, by its place."""

    def visit(self, path: str, *, headers: Fields = ()) -> Answer:
        """Send a request and take the cookies of the answer."""
        answer = self.send(path, headers=headers)
        self.take(answer)
        return answer

    def send(self, path: str, *, headers: Fields = ()) -> Answer:
        """Send a request and leave the answer alone."""
        return self.app.request("GET", path, headers=headers, cookies=self.cookies())

    def cookies(self) -> dict[str, str]:
        """Return the cookies whose time is not over."""
        now = self.app.clock()
        return {place.name: value for place, (value, end) in self.jar.items() if end is None or now < end}

    def take(self, answer: Answer) -> None:
        """Keep and drop what *answer* says (RFC 6265bis, 5.7)."""
        for line in answer.values("set-cookie"):
            pair, *rest = [part.strip() for part in line.split(";")]
            name, _, value = pair.partition("=")
            given = {key.lower(): value for key, _, value in (part.partition("=") for part in rest)}
            host_only = given.get("path") == "/" and "secure" in given and "domain" not in given
            if name.startswith("__Host-") and not host_only:
                continue  # a browser drops the line, and tells nobody
            place = _Place(name, given.get("domain"), given.get("path"), "partitioned" in given)
            age = int(given["max-age"]) if "max-age" in given else None
            if age is not None and age <= 0:
                self.jar.pop(place, None)
            else:
                self.jar[place] = (value, None if age is None else self.app.clock() + age)

    def twin(self) -> Visitor:
        """Return a browser with a copy of the cookies: a thief, or a second tab."""
        twin = Visitor(self.app)
        twin.jar.update(self.jar)
        return twin

    @property
    def id(self) -> str | None:
        """What the session cookie holds."""
        return self.cookies().get(self.app.manager.cookie.name)

    def sees(self) -> dict[str, Any]:
        """Return the values that a request with these cookies sees. It leaves no trace in this browser."""
        values: dict[str, Any] = self._shown()["values"]
        return values

    def is_logged_in_as(self) -> str | None:
        """Return the principal of a request with these cookies."""
        principal: str | None = self._shown()["principal"]
        return principal

    def _shown(self) -> Any:
        answer = self.send("/show")
        assert answer.status == 200, f"the server answered {answer}"
        return json.loads(answer.body)


class _Pause:
    """Holds the one request that pauses until the story lets it go on."""

    def __init__(self) -> None:
        self.held, self.go_on = Event(), Event()

    def hold(self) -> None:
        self.held.set()
        assert self.go_on.wait(PATIENCE), "the story never let the request go on"

    def wait_until_held(self, answer: Future[Answer]) -> None:
        while not self.held.wait(0.01):
            assert not answer.done(), f"the request was answered before it paused: {answer.result()}"


AdapterStory = Callable[[AdapterHarness], None]
"""One promise of the contract. It raises where the promise is broken."""
