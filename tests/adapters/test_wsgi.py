"""What is particular to WSGI: write(), exc_info, generators, close(), file wrappers (PEP 3333)."""

from __future__ import annotations

import gc
import io
import sys
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper

import pytest
from tests.adapters.mounts import plain_wsgi
from tests.adapters.servers import Response, WsgiServer, environ_of

from sojourn.adapters.wsgi import ENVIRON_KEY, SessionMiddleware
from sojourn.core.ops import Create, Load, Update
from sojourn.core.outcome import Happened
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing.adapter_harness import AdapterHarness, AwaitedStore, Request
from sojourn.testing.adapter_routes import HandlerFailed

TEXT = [("content-type", "text/plain")]


def serving(endpoint: Any, *, validate: bool = True) -> AdapterHarness:
    """Return a site with one path of its own beside the contract's."""
    return AdapterHarness(partial(plain_wsgi, own={"/own": endpoint}, validate=validate))


def raw(app: AdapterHarness, **environ: Any) -> tuple[Iterable[bytes], Response]:
    """Call the application at ``/own`` as a server does; return its body before anything is taken from it."""
    assert isinstance(app.server, WsgiServer)
    response = Response()
    return app.server.app({**environ_of(Request("GET", "/own")), **environ}, response.start), response


# -- start_response and write ----------------------------------------------------------------------------------


def test_what_is_written_by_write_comes_after_the_cookie() -> None:
    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["seen"] = 1
        write = start_response("200 OK", TEXT)
        write(b"by write, ")
        return [b"by return"]

    with serving(endpoint) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/own")
        app.issued(answer)
        assert answer.body == b"by write, by return"
        assert visitor.sees() == {"seen": 1}


def test_an_error_page_in_place_of_a_response_carries_the_cookie_of_what_was_stored() -> None:
    """The first call has committed, so the browser must learn the id, or the session would be lost with it."""

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["seen"] = 1
        start_response("200 OK", TEXT)
        try:
            raise HandlerFailed
        except HandlerFailed:
            start_response("500 Internal Server Error", [*TEXT, ("x-note", "error page")], sys.exc_info())
        return [b"sorry"]

    with serving(endpoint) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/own")
        assert (answer.status, answer.body, answer.values("x-note")) == (500, b"sorry", ["error page"])
        app.issued(answer)
        assert answer.members("vary") == ["cookie"]
        assert visitor.sees() == {"seen": 1}
        assert app.store.asked == [Create, Load]


def test_an_error_page_that_says_404_commits_nothing_more() -> None:
    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        session = environ[ENVIRON_KEY]
        cart = session.setdefault("cart", [])
        start_response("200 OK", TEXT)
        cart.append("late")
        try:
            raise HandlerFailed
        except HandlerFailed:
            start_response("404 Not Found", TEXT, sys.exc_info())
        return iter([b"sorry"])

    with serving(endpoint) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/own")
        assert answer.status == 404
        app.issued(answer)
        assert visitor.sees() == {"cart": []}


def test_an_error_page_stores_nothing_of_what_the_handler_changed_after_the_first_call() -> None:
    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        session = environ[ENVIRON_KEY]
        cart = session.setdefault("cart", [])
        start_response("200 OK", TEXT)
        cart.append("late")
        try:
            raise HandlerFailed
        except HandlerFailed:
            start_response("500 Internal Server Error", TEXT, sys.exc_info())
        yield b"sorry"

    with serving(endpoint) as app:
        visitor = app.newcomer()
        visitor.visit("/own")
        assert visitor.sees() == {"cart": []}
        assert app.happened() == [(Happened.CREATED, ()), (Happened.UNSAVED, ("cart",))]


def test_an_error_after_the_head_went_out_is_raised_as_the_server_demands() -> None:
    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["seen"] = 1
        start_response("200 OK", TEXT)
        yield b"half"
        try:
            raise HandlerFailed
        except HandlerFailed:
            start_response("500 Internal Server Error", TEXT, sys.exc_info())
        yield b"never"

    with serving(endpoint) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/own")
        assert (answer.status, answer.body) == (200, b"half")
        assert "HandlerFailed" in app.log.text
        assert visitor.sees() == {"seen": 1}


def test_an_application_that_catches_everything_reports_no_false_success() -> None:
    """Its own 500 stands for our 503: it was told, and what it answers is its affair."""

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        try:
            environ[ENVIRON_KEY]["seen"] = 1
            start_response("200 OK", TEXT)
        except Exception:
            start_response("500 Internal Server Error", TEXT, sys.exc_info())
        return [b"whatever it was"]

    with serving(endpoint) as app:
        visitor = app.visitor()
        for op in (Load, Update):
            with app.outage(op):
                answer = visitor.visit("/own")
            assert (answer.status, app.told(answer)) == (500, [])
        assert "seen" not in visitor.sees()


# -- generators ------------------------------------------------------------------------------------------------


def generated(environ: Any, start_response: Any) -> Iterator[bytes]:
    """Be an application that is a generator: nothing of it runs until the first step."""
    environ[ENVIRON_KEY]["seen"] = 1
    start_response("200 OK", TEXT)
    yield b"one, "
    yield b"two"


def test_a_generator_commits_at_its_first_step() -> None:
    with serving(generated) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/own")
        app.issued(answer)
        assert answer.body == b"one, two"
        assert visitor.sees() == {"seen": 1}


@pytest.mark.parametrize("op", [Load, Update])
def test_an_outage_at_the_first_step_is_503(op: Any) -> None:
    with serving(generated) as app:
        visitor = app.visitor()
        with app.outage(op):
            answer = visitor.visit("/own")
        assert (answer.status, answer.values("retry-after"), app.told(answer)) == (503, ["7"], [])
        assert answer.body == b"The session store cannot answer. Please try again.\n"
        assert app.happened() == ([(Happened.UNSAVED, ("seen",))] if op is Update else [])


def test_a_generator_that_fails_at_its_first_step_stores_nothing() -> None:
    def endpoint(environ: Any, start_response: Any) -> Iterator[bytes]:
        environ[ENVIRON_KEY]["half"] = "done"
        yield from fail()

    def fail() -> Iterator[bytes]:
        raise HandlerFailed

    with serving(endpoint) as app:
        assert app.newcomer().visit("/own").status == 500
        assert app.store.frames == {}
        assert app.happened() == [(Happened.UNSAVED, ("half",))]


def test_an_outage_in_the_middle_of_a_stream_breaks_it_off() -> None:
    with AdapterHarness(plain_wsgi) as app:
        visitor = app.visitor()
        with app.outage(Update):
            answer = visitor.visit("/stream/save")
        assert answer.status == 200
        assert "StoreUnavailable" in app.log.text
        assert "start_response was called twice" not in app.log.text
        assert "late" not in visitor.sees()
        assert app.happened() == [(Happened.UNSAVED, ("late",))]


def test_an_outage_after_start_response_is_raised_to_the_server() -> None:
    """The response has begun, so there is nothing left to answer in its place."""

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        session = environ[ENVIRON_KEY]
        session["early"] = 1
        start_response("200 OK", TEXT)
        session.reopen()
        session["late"] = 2
        with app.outage(Update):
            session.save()
        return [b"never"]

    with serving(endpoint) as app:
        visitor = app.visitor()
        assert visitor.visit("/own").status == 500
        assert "StoreUnavailable" in app.log.text
        assert "start_response was called twice" not in app.log.text
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "early": 1}
        assert app.happened() == [(Happened.UNSAVED, ("late",))]


# -- close -----------------------------------------------------------------------------------------------------


class Body:
    """A body that notes whether it was closed, and fails where it is told to."""

    def __init__(self, start: Any = None, *, fails: bool = False) -> None:
        self.pieces = iter([b"one", b"two"])
        self.start, self.fails, self.closed = start, fails, 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.start:
            self.start("200 OK", TEXT)
            self.start = None
        if self.fails:
            raise HandlerFailed
        return next(self.pieces)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_the_applications_body_is_closed_once(late: bool, fails: bool, looks: bool) -> None:
    bodies: list[Body] = []

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        if looks:
            environ[ENVIRON_KEY]["seen"] = 1
        if not late:
            start_response("200 OK", TEXT)
        bodies.append(Body(start_response if late else None, fails=fails))
        return bodies[-1]

    with serving(endpoint) as app:
        answer = app.newcomer().visit("/own")
        assert answer.status == (500 if fails else 200)
        assert [body.closed for body in bodies] == [1]


def test_the_applications_body_is_closed_when_its_request_was_refused() -> None:
    bodies: list[Body] = []

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["seen"] = 1
        bodies.append(Body(start_response))
        return bodies[-1]

    with serving(endpoint) as app, app.outage():
        assert app.newcomer().visit("/own").status == 503
        assert [body.closed for body in bodies] == [1]


def test_the_applications_body_is_closed_when_the_browser_hangs_up() -> None:
    bodies: list[Body] = []

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["seen"] = 1
        start_response("200 OK", TEXT)
        bodies.append(Body())
        return bodies[-1]

    with serving(endpoint, validate=False) as app:
        body: Any = raw(app)[0]
        assert next(iter(body)) == b"one"
        body.close()
        assert [body.closed for body in bodies] == [1]


def test_a_body_that_fails_to_close_is_still_asked_for_losses() -> None:
    class Unclosable(Body):
        def close(self) -> None:
            raise HandlerFailed

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        cart = environ[ENVIRON_KEY].setdefault("cart", [])
        start_response("200 OK", TEXT)
        cart.append("late")
        return Unclosable()

    with serving(endpoint) as app:
        app.newcomer().visit("/own")
        assert (Happened.UNSAVED, ("cart",)) in app.happened()


# -- what the server may see -----------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [False, True])
def test_a_servers_file_wrapper_reaches_the_server(looks: bool) -> None:
    """It sends the file without reading it, and can do that only with its own object."""

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        if looks:
            environ[ENVIRON_KEY]["downloads"] = 1
        start_response("200 OK", TEXT)
        body: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"a file"))
        return body

    with serving(endpoint, validate=False) as app:
        body, response = raw(app, **{"wsgi.file_wrapper": FileWrapper})
        assert type(body) is FileWrapper
        assert b"".join(body) == b"a file"
        assert ("set-cookie" in dict(response.headers)) is looks


def test_a_file_is_sent_where_the_server_has_no_wrapper() -> None:
    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["downloads"] = 1
        start_response("200 OK", TEXT)
        return FileWrapper(io.BytesIO(b"a file"))

    with serving(endpoint) as app:
        answer = app.newcomer().visit("/own")
        app.issued(answer)
        assert answer.body == b"a file"


def test_a_server_may_count_the_pieces_of_a_list() -> None:
    """So that the server of the standard library adds Content-Length to an answer of one piece."""

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        environ[ENVIRON_KEY]["seen"] = 1
        start_response("200 OK", [*TEXT])
        return [b"whole"]

    with serving(endpoint) as app:
        sent, environ = io.BytesIO(), environ_of(Request("GET", "/own"))
        handler = SimpleHandler(environ["wsgi.input"], sent, io.StringIO(), environ)
        handler.run(SessionMiddleware(endpoint, app.manager))
        head, _, body = sent.getvalue().partition(b"\r\n\r\n")
        assert b"Content-Length: 5" in head
        assert b"set-cookie: __Host-sid=" in head
        assert body == b"whole"


def test_head_is_answered_as_get_is() -> None:
    with AdapterHarness(plain_wsgi) as app:
        answer = app.request("HEAD", "/put/0")
        app.issued(answer)
        assert (answer.status, answer.body) == (200, b"")


def test_cookies_that_a_server_joined_with_a_comma_are_not_split() -> None:
    """A comma may stand in a neighbour's value, and whoever sets that one would forge ours."""
    with AdapterHarness(plain_wsgi) as app:
        visitor = app.visitor()
        joined = [("cookie", "theme=dark"), ("cookie", f"__Host-sid={visitor.id}")]
        assert app.cost_of(lambda: app.request("GET", "/show", headers=joined)) == []


# -- settings and memory ---------------------------------------------------------------------------------------


def test_settings_are_checked_when_the_application_is_built() -> None:
    def nothing(environ: Any, start_response: Any) -> Iterable[bytes]:
        return []

    with pytest.raises(ConfigurationError, match="AwaitedStore is async"):
        SessionMiddleware(nothing, store=AwaitedStore(MemoryStore()))
    with pytest.raises(ConfigurationError, match="no store"):
        SessionMiddleware(nothing)
    with pytest.raises(ConfigurationError, match="store are both given"):
        SessionMiddleware(nothing, SessionManager("memory:"), store="memory:")


def test_a_session_is_gone_with_its_request() -> None:
    """No cycle keeps requests alive until the garbage collector runs."""
    sessions: list[weakref.ref[Any]] = []

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        sessions.append(weakref.ref(environ[ENVIRON_KEY]))
        environ[ENVIRON_KEY]["seen"] = len(sessions)
        start_response("200 OK", TEXT)
        return [b"list"] if len(sessions) % 2 else iter([b"iterator"])

    gc.collect()
    gc.disable()
    try:
        with serving(endpoint, validate=False) as app:
            visitor = app.newcomer()
            for _ in range(4):
                visitor.visit("/own")
            assert [session() for session in sessions] == [None] * 4
    finally:
        gc.enable()


def test_the_log_of_a_refusal_names_the_drivers_own_error() -> None:
    cause = TimeoutError("250 ms")

    class Down(MemoryStore):
        def load(self, key: bytes) -> Any:
            raise StoreUnavailable("cache-2: timed out") from cause

    def endpoint(environ: Any, start_response: Any) -> Iterable[bytes]:
        raise AssertionError(environ[ENVIRON_KEY]["seen"])

    with AdapterHarness(plain_wsgi) as app:
        id = app.visitor().id
        server = WsgiServer(SessionMiddleware(endpoint, store=Down()))
        assert server.request(Request("GET", "/", [("cookie", f"__Host-sid={id}")])).status == 503
        assert "TimeoutError('250 ms')" in app.log.text
