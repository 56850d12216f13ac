"""Sessions for Flask: ``flask.session`` as ever, with sojourn underneath."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Flask, Request, Response, request
from flask.sessions import SessionInterface, SessionMixin
from werkzeug.datastructures import Headers

from sojourn.adapters.refusal import FAILED, Refused, Refusing, refusal
from sojourn.adapters.wsgi import read_cookies
from sojourn.core.outcome import KEEP
from sojourn.core.session import MAX_COOKIE_AGE, Session
from sojourn.errors import ConfigurationError
from sojourn.manager import SessionManager, configured
from sojourn.transport.cookie import Cookie

EXTENSION = "sojourn"
"""Key of ``app.extensions`` under which an application's SessionManager stands."""

# Flask's setting: ours. Flask's defaults are older than ours, so only what an application has changed counts.
_COOKIE_SETTINGS = {
    "SESSION_COOKIE_NAME": "name",
    "SESSION_COOKIE_DOMAIN": "domain",
    "SESSION_COOKIE_PATH": "path",
    "SESSION_COOKIE_SECURE": "secure",
    "SESSION_COOKIE_HTTPONLY": "http_only",
    "SESSION_COOKIE_SAMESITE": "same_site",
    "SESSION_COOKIE_PARTITIONED": "partitioned",
}


class FlaskSession(Session, SessionMixin):
    """A Session that also answers to the attributes which Flask's sessions have."""

    permanent_age: float
    """Seconds that ``permanent = True`` asks the browser to keep the cookie: PERMANENT_SESSION_LIFETIME."""

    @property
    def permanent(self) -> bool:
        """True where the cookie outlives the browser. Setting it is a call of ``remember``."""
        self._look()
        return self.cookie_age is not None

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.remember(self.permanent_age if value else -1)

    @property
    def new(self) -> bool:  # type: ignore[override]  # an attribute in the mixin
        """True while nothing is stored."""
        return self.is_new

    @property
    def modified(self) -> bool:
        """True once something differs from what was stored. It is measured, so setting it does nothing."""
        return bool(self.unsaved())

    @modified.setter
    def modified(self, value: bool) -> None:
        pass

    @property
    def accessed(self) -> bool:
        """True once the handler has looked. Flask sets it whenever it hands the session out, which is no look yet."""
        return self.looked

    @accessed.setter
    def accessed(self, value: bool) -> None:
        pass


class Sessions(SessionInterface):
    """The Flask extension: ``Sessions(app, store="local:")``, or ``init_app`` in a factory.

    Give a *manager*, or the arguments of SessionManager as keywords. SESSION_COOKIE_* settings that the application
    has changed are honoured, and PERMANENT_SESSION_LIFETIME.
    A response of 500 or above commits nothing: the handler failed, and half of its changes are worse than none.
    """

    def __init__(self, app: Flask | None = None, manager: SessionManager | None = None, **settings: Any) -> None:
        self._given, self._settings = manager, settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Install sessions in *app*. Raises ConfigurationError."""
        settings = self._settings if self._given else _with_cookie(app, self._settings)
        manager = app.extensions[EXTENSION] = configured(self._given, settings)
        _check_lifetime(app)
        manager.blocking_store()  # an async store is refused here, not on a request
        app.session_interface = self
        for error in Refusing:
            app.register_error_handler(error, _refused)

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """Begin the request's session. Flask calls this."""
        manager: SessionManager = app.extensions[EXTENSION]
        session = manager.begin(read_cookies, request.environ.get("HTTP_COOKIE"), FlaskSession)
        assert isinstance(session, FlaskSession)
        session.permanent_age = app.permanent_session_lifetime.total_seconds()
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Commit, and write the answer into *response*. Flask calls this before the response begins."""
        assert isinstance(session, FlaskSession)
        manager: SessionManager = app.extensions[EXTENSION]
        streamed, failed = response.is_streamed, response.status_code >= FAILED
        if session.asked:
            try:
                self._commit(manager, session, response)
            except Refusing as error:
                failed = True
                _refuse(error, response)
        session.seal()
        response.call_on_close(partial(manager.finish, session, thorough=streamed or failed))

    def _commit(self, manager: SessionManager, session: FlaskSession, response: Response) -> None:
        outcome = KEEP if response.status_code >= FAILED else manager.commit(session)
        host = request.environ.get("HTTP_HOST", "")  # request.host raises for one that Flask does not trust
        headers = manager.respond(outcome, list(response.headers), scheme=request.scheme, host=host)
        response.headers = Headers(headers)


def _check_lifetime(app: Flask) -> None:
    lifetime = app.permanent_session_lifetime.total_seconds()
    if not 0 < lifetime <= MAX_COOKIE_AGE:
        raise ConfigurationError(
            f"PERMANENT_SESSION_LIFETIME is {lifetime:g} seconds; browsers keep a cookie for 400 days at most"
        )


def _with_cookie(app: Flask, settings: dict[str, Any]) -> dict[str, Any]:
    changed = {
        ours: app.config[theirs]
        for theirs, ours in _COOKIE_SETTINGS.items()
        if app.config.get(theirs) != Flask.default_config.get(theirs)
    }
    if not changed or "cookie" in settings:
        return settings
    rest = {name: value for name, value in settings.items() if name != "insecure_dev"}
    make = Cookie.insecure_dev if settings.get("insecure_dev") else Cookie
    return {**rest, "cookie": make(**changed)}


def _refused(error: Refused) -> Response:
    response = Response()
    _refuse(error, response)
    return response


def _refuse(error: Refused, response: Response) -> None:
    """Turn *response* into the refusal, and let go of the body that it had."""
    if close := getattr(response.response, "close", None):
        close()
    response.direct_passthrough = False
    answer = refusal(error)
    response.status_code = answer.status
    response.headers = Headers(answer.headers)
    response.set_data(answer.body)
