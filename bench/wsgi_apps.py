"""The same small application for WSGI: as a plain function and in Flask, without a session and with several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import flask
from flask import Flask

from bench import visitor
from bench.exchange import BARE, Keeps
from sojourn.adapters.flask import Sessions
from sojourn.adapters.wsgi import ENVIRON_KEY, SessionMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LOCAL = "sojourn local:"
PEER = "Flask's signed cookie"

Session = MutableMapping[str, Any]

PLAIN_KEEPS = {
    BARE: Keeps.NOWHERE,
    "bare again": Keeps.NOWHERE,
    LOCAL: Keeps.SERVER,
    "sojourn memory:": Keeps.SERVER,
}
FLASK_KEEPS = {**PLAIN_KEEPS, PEER: Keeps.BROWSER}


def plain(place: Path) -> dict[str, WSGIApplication]:
    """Return the applications that are plain functions, in the order of PLAIN_KEEPS."""
    made: tuple[WSGIApplication, ...] = (
        function(own_dict()),
        function(own_dict()),
        SessionMiddleware(function(session_in), store=f"local:{place}/wsgi?sync=no"),
        SessionMiddleware(function(session_in), store="memory:"),
    )
    return dict(zip(PLAIN_KEEPS, made, strict=True))


def in_flask(place: Path) -> dict[str, WSGIApplication]:
    """Return the Flask applications, in the order of FLASK_KEEPS."""
    data, more = own_dict(), own_dict()
    made = (
        in_flask_with(lambda: data({})),
        in_flask_with(lambda: more({})),
        with_sessions(f"local:{place}/flask?sync=no"),
        with_sessions("memory:"),
        in_flask_with(flask_session, secret_key="bench " * 6),
    )
    return dict(zip(FLASK_KEEPS, made, strict=True))


def own_dict() -> Callable[[WSGIEnvironment], Session]:
    """Return what gives every request the same plain dict."""
    data: dict[str, Any] = {}
    return lambda environ: data


def session_in(environ: WSGIEnvironment) -> Session:
    """Return what our WSGI middleware provides."""
    return cast(Session, environ[ENVIRON_KEY])


def _begin(session: Session) -> str:
    session.update(visitor.data())
    return "welcome"


def function(session_of: Callable[[WSGIEnvironment], Session]) -> WSGIApplication:
    """Return an application that is as small as WSGI allows."""
    views: dict[str, Callable[[WSGIEnvironment], str]] = {
        "/begin": lambda environ: _begin(session_of(environ)),
        "/never": lambda environ: "hello",
        "/greet": lambda environ: visitor.greet(session_of(environ)),
        "/read": lambda environ: visitor.show(session_of(environ)),
        "/write": lambda environ: visitor.change(session_of(environ)),
    }

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = views[environ["PATH_INFO"]](environ).encode()
        start_response("200 OK", [("content-type", "text/plain"), ("content-length", str(len(body)))])
        return [body]

    return application


def flask_session() -> Session:
    """Return ``flask.session``."""
    return cast(Session, flask.session)


def with_sessions(store: str) -> Flask:
    """Return the Flask application with our extension."""
    app = in_flask_with(flask_session)
    Sessions(app, store=store)
    return app


def in_flask_with(session_of: Callable[[], Session], secret_key: str | None = None) -> Flask:
    """Return the Flask application. Without a secret key Flask's own session does nothing."""
    app = Flask(__name__)
    app.secret_key = secret_key
    app.add_url_rule("/begin", "begin", lambda: _begin(session_of()))
    app.add_url_rule("/never", "never", lambda: "hello")
    app.add_url_rule("/greet", "greet", lambda: visitor.greet(session_of()))
    app.add_url_rule("/read", "read", lambda: visitor.show(session_of()))
    app.add_url_rule("/write", "write", lambda: visitor.change(session_of()))
    return app
