"""The same small Starlette application without a session, with ours and with Starlette's own."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware as SignedCookieMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from bench import visitor
from bench.exchange import BARE, Keeps
from sojourn.adapters.starlette import SessionMiddleware
from sojourn.core.ops import Store

LOCAL = "sojourn local:"
PEER = "Starlette's signed cookie"

SessionOf = Callable[[Request], MutableMapping[str, Any]]


KEEPS = {
    BARE: Keeps.NOWHERE,
    "bare again": Keeps.NOWHERE,  # what is measured between the two bare ones is noise
    LOCAL: Keeps.SERVER,
    "sojourn memory:": Keeps.SERVER,
    PEER: Keeps.BROWSER,
}
"""The applications by name, and where each keeps the visitor's data."""


def applications(place: Path) -> dict[str, ASGIApp]:
    """Return the applications in the order of KEEPS."""
    made: tuple[ASGIApp, ...] = (
        bare(),
        bare(),
        with_ours(f"local:{place}/local?sync=no"),
        with_ours("memory:"),
        SignedCookieMiddleware(with_session(), secret_key="bench " * 6),
    )
    return dict(zip(KEEPS, made, strict=True))


def with_ours(store: Store | str) -> ASGIApp:
    """Return the application with our session in *store*."""
    return SessionMiddleware(with_session(), store=store)


def bare() -> Starlette:
    """Return the application with a plain dict."""
    data: dict[str, Any] = {}
    return _application(lambda request: data)


def with_session() -> Starlette:
    """Return the application for a middleware to provide ``request.session``."""
    return _application(lambda request: request.session)


def _application(session_of: SessionOf) -> Starlette:
    async def begin(request: Request) -> PlainTextResponse:
        session_of(request).update(visitor.data())
        return PlainTextResponse("welcome")

    async def never(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    async def greet(request: Request) -> PlainTextResponse:
        return PlainTextResponse(visitor.greet(session_of(request)))

    async def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(visitor.show(session_of(request)))

    async def write(request: Request) -> PlainTextResponse:
        return PlainTextResponse(visitor.change(session_of(request)))

    return Starlette(routes=[Route(f"/{view.__name__}", view) for view in (begin, never, greet, read, write)])
