"""The small Flask application with its session on Redis: ours, by both of our adapters, and Flask-Session's.

Flask-Session is used as its documentation says, with a client of its own for the same server: redis-py's, with hiredis.
By default it stores the session and sends its cookie again with each response (SESSION_REFRESH_EACH_REQUEST); the
second one has that switched off, and so does not keep a session alive that is read only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import flask
import redis
from flask import Flask
from flask_session import Session as FlaskSession  # type: ignore[import-untyped]

from bench import wsgi_apps
from bench.exchange import BARE, Keeps
from bench.wsgi_apps import Session
from sojourn.adapters.wsgi import ENVIRON_KEY, SessionMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

AGAIN = "bare again"
EXTENSION, MIDDLEWARE = "sojourn redis: in Flask", "sojourn redis: around Flask"
PEER, PEER_QUIET = "Flask-Session", "Flask-Session, no refresh"

KEEPS = {
    BARE: Keeps.NOWHERE,
    AGAIN: Keeps.NOWHERE,
    EXTENSION: Keeps.SERVER,
    MIDDLEWARE: Keeps.SERVER,
    PEER: Keeps.SERVER_RESENDS,
    PEER_QUIET: Keeps.SERVER_RESENDS_CHANGES,
}
"""The applications by name, and where each keeps the visitor's data."""


def in_flask(url: str, client: redis.Redis) -> dict[str, WSGIApplication]:
    """Return the applications, in the order of KEEPS."""
    data, more = wsgi_apps.own_dict(), wsgi_apps.own_dict()
    made = (
        wsgi_apps.in_flask_with(lambda: data({})),
        wsgi_apps.in_flask_with(lambda: more({})),
        wsgi_apps.with_sessions(url),
        SessionMiddleware(wsgi_apps.in_flask_with(_session_in_environ), store=url),
        _flask_session(client, refresh=True),
        _flask_session(client, refresh=False),
    )
    return dict(zip(KEEPS, made, strict=True))


def _session_in_environ() -> Session:
    return cast(Session, flask.request.environ[ENVIRON_KEY])


def _flask_session(client: redis.Redis, *, refresh: bool) -> Flask:
    app = wsgi_apps.in_flask_with(wsgi_apps.flask_session)
    app.config |= {"SESSION_TYPE": "redis", "SESSION_REDIS": client, "SESSION_REFRESH_EACH_REQUEST": refresh}
    FlaskSession(app)
    return app
