"""Sessions for Starlette and FastAPI: ``request.session``, and two ways to get it with its type."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from sojourn.adapters.asgi import SessionMiddleware
from sojourn.core.session import Session
from sojourn.errors import ConfigurationError

__all__ = ["SessionMiddleware", "current_session", "get_session"]


def get_session(connection: HTTPConnection) -> Session:
    """Return the connection's session, typed. Raises ConfigurationError where SessionMiddleware is not installed.

    On a path that the middleware excludes ``await session.fetch()`` comes before the first look.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        raise ConfigurationError("no session here; add sojourn.adapters.starlette.SessionMiddleware to the application")
    return session


async def current_session(connection: HTTPConnection) -> Session:
    """Return what :func:`get_session` does, as a dependency: ``Annotated[Session, Depends(current_session)]``.

    On a path that the middleware excludes the session is fetched here, so that routes need not know. A coroutine
    function, since FastAPI sends every other dependency to a thread. Raises StoreUnavailable.
    """
    session = get_session(connection)
    await session.fetch()
    return session
