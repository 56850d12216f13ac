"""Sessions for any WSGI application: ``environ["sojourn.session"]``, committed when it calls start_response."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sojourn.adapters.refusal import FAILED, Refused, Refusing, refusal
from sojourn.core.outcome import KEEP, Outcome
from sojourn.core.session import Session
from sojourn.manager import SessionManager, configured
from sojourn.transport.response import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ENVIRON_KEY = "sojourn.session"


class SessionMiddleware:
    """Put a Session into ``environ["sojourn.session"]`` and commit it when the response begins (PEP 3333).

    Give a *manager*, or the arguments of SessionManager as keywords, such as ``store="local:"``.
    A response of 500 or above commits nothing: the handler failed, and half of its changes are worse than none.
    """

    def __init__(self, app: WSGIApplication, manager: SessionManager | None = None, **settings: Any) -> None:
        self.app = app
        self.manager = configured(manager, settings)
        self.manager.blocking_store()  # an async store is refused here, not on a request

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        session: Session = self.manager.begin(read_cookies, environ.get("HTTP_COOKIE"))
        environ[ENVIRON_KEY] = session
        exchange = _Exchange(self.manager, session, environ, start_response)
        try:
            body = exchange.call(self.app)
        except BaseException:
            exchange.finish(streamed=False)
            raise
        if exchange.begun and _is_data(body, environ):
            exchange.finish(streamed=False)
            return body
        return _Body(body, exchange)


class _Exchange:
    """One request's way from the first byte in to the last byte out."""

    def __init__(
        self, manager: SessionManager, session: Session, environ: WSGIEnvironment, start_response: StartResponse
    ) -> None:
        self.manager, self.session = manager, session
        self.begun, self.failed = False, True
        self._environ, self._start_response = environ, start_response
        self._outcome: Outcome = KEEP

    def call(self, app: WSGIApplication) -> Iterable[bytes]:
        """Call the application."""
        try:
            return app(self._environ, self.start_committed)
        except Refusing as error:
            return self.refuse(error)

    def start_committed(self, status: str, headers: Headers, exc_info: Any = None, /) -> Callable[[bytes], object]:
        """Commit, then start the response. A second call, for an error page, carries the first one's cookie."""
        if self.session.asked:
            if not self.begun and int(status[:3]) < FAILED:
                self._outcome = self.manager.commit(self.session)
            scheme, host = self._environ["wsgi.url_scheme"], self._environ.get("HTTP_HOST", "")
            headers = self.manager.respond(self._outcome, headers, scheme=scheme, host=host)
        self.session.seal()
        if not self.begun:
            self.begun, self.failed = True, int(status[:3]) >= FAILED
        return self._start_response(status, headers, exc_info) if exc_info else self._start_response(status, headers)

    def refuse(self, error: Refused) -> Iterable[bytes]:
        """Answer in the application's place, or raise where the response has begun."""
        if self.begun:
            raise error
        self.begun = True
        answer = refusal(error)
        self._start_response(f"{answer.status} {answer.reason}", answer.headers)
        return [answer.body]

    def finish(self, *, streamed: bool) -> None:
        """Report what was changed and not stored."""
        self.manager.finish(self.session, thorough=streamed or self.failed)


def _is_data(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Tell whether *body* runs no more code of the application: a server may see it as it is, and send a file fast."""
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(body, (list, tuple)) or (isinstance(wrapper, type) and isinstance(body, wrapper))


class _Body:
    """The application's body, with a look at the session when it is closed.

    An application written as a generator calls start_response at the first step, so refusals come up here too.
    """

    def __init__(self, body: Iterable[bytes], exchange: _Exchange) -> None:
        self._body, self._exchange = body, exchange
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._steps is None:
                self._steps = iter(self._body)
            return next(self._steps)
        except Refusing as error:
            self._steps = iter(self._exchange.refuse(error))
            return next(self._steps)

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close:
                close()
        finally:
            self._exchange.finish(streamed=True)


def read_cookies(cookie: str | None) -> tuple[str, ...]:
    """Return the request's Cookie header fields, which WSGI servers join into one."""
    return (cookie,) if cookie else ()
