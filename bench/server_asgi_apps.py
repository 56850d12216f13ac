"""The small Starlette and Litestar applications with their sessions on Redis: ours, and those that others bring.

Every session library is used as its documentation says, with the settings that it has by default, and with a client of
its own for the same server: redis-py's asyncio client, with hiredis, where it is not ours.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any, cast

import redis.asyncio
from litestar import Litestar, Request, get
from litestar.enums import MediaType
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.redis import RedisStore as LitestarStore
from starlette.types import ASGIApp
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as Starsessions
from starsessions.stores.redis import RedisStore as StarsessionsStore

from bench import asgi_apps, visitor
from bench.exchange import BARE, Keeps
from sojourn.adapters.asgi import SessionMiddleware

AGAIN, OURS = "bare again", "sojourn redis:"
STARSESSIONS, LITESTAR = "starsessions", "Litestar's server-side session"

BARE_KEEPS = {BARE: Keeps.NOWHERE, AGAIN: Keeps.NOWHERE}
STARLETTE_KEEPS = {**BARE_KEEPS, OURS: Keeps.SERVER, STARSESSIONS: Keeps.SERVER_RESENDS}
LITESTAR_KEEPS = {**BARE_KEEPS, OURS: Keeps.SERVER, LITESTAR: Keeps.SERVER_RESENDS}

Session = MutableMapping[str, Any]
SessionOf = Callable[[Request[Any, Any, Any]], Session]


def in_starlette(url: str, client: redis.asyncio.Redis) -> dict[str, ASGIApp]:
    """Return the Starlette applications, in the order of STARLETTE_KEEPS."""
    loaded = SessionAutoloadMiddleware(asgi_apps.with_session())
    made: tuple[ASGIApp, ...] = (
        asgi_apps.bare(),
        asgi_apps.bare(),
        asgi_apps.with_ours(url),
        Starsessions(loaded, store=StarsessionsStore(connection=client)),
    )
    return dict(zip(STARLETTE_KEEPS, made, strict=True))


def in_litestar(url: str, client: redis.asyncio.Redis) -> dict[str, ASGIApp]:
    """Return the Litestar applications, in the order of LITESTAR_KEEPS."""
    data: Session = {}
    more: Session = {}
    config = ServerSideSessionConfig()
    theirs = _litestar(_session, middleware=[config.middleware], stores={"sessions": LitestarStore(client)})
    made = (
        _litestar(lambda request: data),
        _litestar(lambda request: more),
        SessionMiddleware(cast(Any, _litestar(_session)), store=url),
        theirs,
    )
    return dict(zip(LITESTAR_KEEPS, cast(tuple[ASGIApp, ...], made), strict=True))


def _session(request: Request[Any, Any, Any]) -> Session:
    return request.session


def _litestar(session_of: SessionOf, **settings: Any) -> Litestar:
    @get("/begin", media_type=MediaType.TEXT)
    async def begin(request: Request[Any, Any, Any]) -> str:
        session_of(request).update(visitor.data())
        return "welcome"

    @get("/never", media_type=MediaType.TEXT)
    async def never() -> str:
        return "hello"

    @get("/greet", media_type=MediaType.TEXT)
    async def greet(request: Request[Any, Any, Any]) -> str:
        return visitor.greet(session_of(request))

    @get("/read", media_type=MediaType.TEXT)
    async def read(request: Request[Any, Any, Any]) -> str:
        return visitor.show(session_of(request))

    @get("/write", media_type=MediaType.TEXT)
    async def write(request: Request[Any, Any, Any]) -> str:
        return visitor.change(session_of(request))

    return Litestar([begin, never, greet, read, write], openapi_config=None, logging_config=None, **settings)
