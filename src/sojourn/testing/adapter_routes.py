"""The application that every adapter is tested with: the same routes in each framework, and what they answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sojourn.core.session import Session
from sojourn.errors import SessionSealed

Act = Callable[[Session], object]
"""What a route does with the session. What it returns is the text of the answer; errors are raised."""

Fields = Sequence[tuple[str, str]]

PATIENCE = 20.0  # seconds until a request that hangs fails its story; on a sound adapter nothing waits for it


@dataclass(frozen=True, slots=True)
class Route:
    """What a route does with the session, and how it answers."""

    act: Act
    """What it does before the response begins."""
    status: int = 200
    headers: Fields = ()
    late: Act | None = None
    """What it does after the first piece of the body: the response is a stream."""
    saves: bool = False
    """Stores what *late* changed, by ``save()`` or ``asave()``."""
    pauses: bool = False
    """Waits until the story lets it go on: in the stream, in the exclusive block, or else before the answer."""
    alone: Act | None = None
    """What it does after *act* in an exclusive block."""
    wait: float = PATIENCE
    """Seconds that it waits for the block."""


class HandlerFailed(Exception):
    """What a handler with a mistake raises."""


def ignore(session: Session) -> None:
    """Leave the session alone."""


def show(session: Session) -> str:
    """Say all that the session holds, and whose it is."""
    return json.dumps({"values": dict(session), "principal": session.principal})


def put(key: str, value: object) -> Act:
    """Return an act that sets one key."""
    return lambda session: session.__setitem__(key, value)


def doing(*acts: Act) -> Act:
    """Return an act that does *acts* in turn."""
    return lambda session: [act(session) for act in acts]


def add_to_cart(session: Session) -> None:
    """Change a list in place, once it is there."""
    session.setdefault("cart", []).append("lamp")


def count(session: Session) -> str:
    """Add one to a number, in the way that loses when two do it at once."""
    session["count"] = session.get("count", 0) + 1
    return str(session["count"])


def log_in(session: Session) -> None:
    """Log alice in."""
    session.login("alice")


def remember(session: Session) -> None:
    """Ask the browser to keep the cookie for an hour."""
    session.remember(3600)


def fail(session: Session) -> None:
    """Raise, as a handler with a mistake does."""
    raise HandlerFailed("the handler has a mistake")


def ask_for_everything(session: Session) -> None:
    """Do all that can ask for a cookie, in one request."""
    session["a"] = 1
    session.rotate()
    session.remember(60)
    session.destroy()
    session["b"] = 2
    session.login("alice")
    session.rotate()
    session.remember(120)


def holding_on(change: Callable[[list[str]], object]) -> tuple[Act, Act]:
    """Return an act that takes the cart out of the session, and one that changes it without asking the session."""
    held: list[list[str]] = []
    return lambda session: held.append(session["cart"]), lambda session: change(held.pop())


def _miss(session: Session) -> str:
    try:
        return f"found {session['no such key']}"
    except KeyError:
        return "no such key"


LOOKS: Mapping[str, Act] = {
    "in": lambda session: "seen" in session,
    "len": len,
    "iteration": list,
    "bool": bool,
    "keys": lambda session: list(session.keys()),
    "values": lambda session: list(session.values()),
    "items": lambda session: list(session.items()),
    "get": lambda session: session.get("seen"),
    "failed lookup": _miss,
    "equality": lambda session: session == {},
    "principal": lambda session: session.principal,
    "is_new": lambda session: session.is_new,
    "created_at": lambda session: session.created_at,
    "expires_at": lambda session: session.expires_at,
    "handle": lambda session: session.handle,
    "available": lambda session: session.available,
}
"""Every way to find out something about a visitor."""

TAKE_CART, CHANGE_CART = holding_on(lambda cart: cart.append("chair"))

STATUSES = (200, 201, 302, 303, 400, 401, 404, 410, 422, 500, 502, 503)
SLOTS = range(8)

ROUTES: Mapping[str, Route] = {
    "/hello": Route(ignore),
    "/show": Route(show),
    **{f"/look/{name.replace(' ', '-')}": Route(look) for name, look in LOOKS.items()},
    **{f"/put/{slot}": Route(put(f"slot {slot}", slot)) for slot in SLOTS},
    "/cart": Route(add_to_cart),
    "/login": Route(log_in),
    "/rotate": Route(Session.rotate),
    "/logout": Route(Session.logout),
    "/logout-and-put": Route(doing(Session.logout, put("after", 1))),
    "/remember": Route(doing(put("kept", 1), remember)),
    "/everything": Route(ask_for_everything),
    # how the application answers
    **{f"/status/{n}": Route(put("answered", n), n, [("location", "/")]) for n in STATUSES},
    "/vary": Route(show, headers=[("vary", "Accept-Encoding")]),
    "/vary/twice": Route(show, headers=[("vary", "Accept"), ("vary", "Origin")]),
    "/vary/star": Route(show, headers=[("vary", "*")]),
    "/vary/cookie": Route(show, headers=[("vary", "accept, cookie")]),
    "/public": Route(put("slot 0", 2), headers=[("cache-control", "public, max-age=60, s-maxage=600")]),
    "/public/login": Route(log_in, headers=[("cache-control", "public, max-age=60, s-maxage=600")]),
    "/public/logout": Route(Session.logout, headers=[("cache-control", "public, max-age=60, s-maxage=600")]),
    "/private/login": Route(log_in, headers=[("cache-control", "private, max-age=60")]),
    "/networks/login": Route(
        log_in,
        headers=[("cdn-cache-control", "max-age=60"), ("surrogate-control", "max-age=60"), ("x-accel-expires", "60")],
    ),
    "/fields/login": Route(
        log_in, headers=[("set-cookie", "theme=dark; Path=/"), ("x-note", "1"), ("x-note", "2"), ("etag", '"1"')]
    ),
    "/own-cookie/login": Route(log_in, headers=[("set-cookie", "__Host-sid=mine; Path=/; Secure")]),
    # what goes wrong
    "/fail": Route(doing(put("half", "done"), fail)),
    "/unstorable": Route(doing(put("fine", 1), put("bill", ["lamp", {"price": object()}]))),
    "/oversize": Route(doing(put("fine", 1), put("blob", "x" * 70_000))),
    # requests that overlap
    "/slow/put": Route(put("slow", 1), pauses=True),
    "/slow/put/0": Route(put("slot 0", "slow"), pauses=True),
    "/slow/show": Route(show, pauses=True),
    "/slow/rotate": Route(Session.rotate, pauses=True),
    # exclusive blocks
    "/alone/show": Route(ignore, alone=show),
    "/alone/count": Route(ignore, alone=count),
    "/alone/count/slow": Route(ignore, alone=count, pauses=True),
    "/alone/count/now": Route(put("early", 1), alone=count, wait=0),
    "/alone/count/503": Route(ignore, alone=count, status=503),
    "/alone/fail": Route(ignore, alone=doing(put("half", "done"), fail)),
    "/alone/unstorable": Route(ignore, alone=put("bill", object())),
    "/alone/remember": Route(ignore, alone=doing(put("kept", 1), remember)),
    "/alone/login": Route(ignore, alone=log_in),
    "/alone/logout": Route(ignore, alone=Session.logout),
    "/login/alone": Route(log_in, alone=count),
    "/logout/alone": Route(Session.logout, alone=count),
    # what happens after the response began
    "/stream": Route(put("early", 1), late=ignore),
    "/stream/slow": Route(put("early", 1), late=ignore, pauses=True),
    "/stream/change": Route(show, late=put("late", 1)),
    "/stream/change-unseen": Route(ignore, late=put("late", 1)),
    "/stream/look": Route(ignore, late=show),
    "/stream/save": Route(show, late=doing(Session.reopen, put("late", 1)), saves=True),
    "/stream/save-unseen": Route(ignore, late=doing(Session.reopen, put("late", 1)), saves=True),
    "/stream/save-slow": Route(show, late=doing(Session.reopen, put("late", 1)), saves=True, pauses=True),
    "/stream/forget": Route(show, late=doing(Session.reopen, put("late", 1))),
    "/stream/forget-unseen": Route(ignore, late=doing(Session.reopen, put("late", 1))),
    "/stream/forget-nested": Route(show, late=lambda session: session["cart"].append("chair")),
    "/stream/forget-held": Route(TAKE_CART, late=CHANGE_CART),
}
"""What each path does. One view mounts them all, whatever the method."""


class Page:
    """What a route answers: *text*, or a stream during which the session is still there."""

    def __init__(self, route: Route, session: Session, hold: Callable[[], None]) -> None:
        self.text = ""
        self.status = route.status
        self.headers = [("content-type", "text/plain"), *route.headers]
        self.streams = route.late is not None
        self._route, self._session, self._hold = route, session, hold

    def work(self) -> None:
        """Do what the route does before the response begins, in an application that may block."""
        self.text = str(self._route.act(self._session))
        if self._route.alone:
            with self._session.exclusive(self._route.wait):
                self.text = str(self._route.alone(self._session))
                self.hold()
        elif not self.streams:
            self.hold()

    async def awork(self) -> None:
        """Do the same in an application on an event loop."""
        self.text = str(self._route.act(self._session))
        if self._route.alone:
            async with self._session.exclusive(self._route.wait):
                self.text = str(self._route.alone(self._session))
                await self.ahold()
        elif not self.streams:
            await self.ahold()

    def pieces(self) -> Iterator[bytes]:
        """Return the stream, for an application that may block."""
        yield self.text.encode()
        self.hold()
        try:
            said = self._say_late()
            if self._route.saves:
                self._session.save()
        except SessionSealed:
            said = SEALED
        yield said.encode()

    async def apieces(self) -> AsyncIterator[bytes]:
        """Return the stream, for an application on an event loop."""
        yield self.text.encode()
        await self.ahold()
        try:
            said = self._say_late()
            if self._route.saves:
                await self._session.asave()
        except SessionSealed:
            said = SEALED
        yield said.encode()

    def hold(self) -> None:
        """Wait until the story lets the request go on, where the route pauses."""
        if self._route.pauses:
            self._hold()

    async def ahold(self) -> None:
        """Do the same on an event loop. Other tasks get their turn in any case, as in a handler that awaits."""
        await (asyncio.to_thread(self._hold) if self._route.pauses else asyncio.sleep(0))

    def _say_late(self) -> str:
        return str(self._route.late(self._session)) if self._route.late else ""


SEALED = "[sealed]"
"""The last piece of a stream in which the session refused."""
