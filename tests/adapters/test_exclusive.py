"""Exclusive blocks where frameworks differ: websockets, streams, an application's own words for a busy session."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import flask
import pytest
from flask import Flask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.adapters.mounts import flask_app, plain_asgi, plain_wsgi, starlette_async
from tests.adapters.servers import AsgiServer

from sojourn.adapters import wsgi
from sojourn.adapters.asgi import TRY_AGAIN_LATER
from sojourn.core.capability import Acquire, Lockable, Release
from sojourn.core.ops import Load, Update
from sojourn.errors import ConfigurationError, SessionBusy
from sojourn.manager import SessionManager
from sojourn.testing.adapter_harness import AdapterHarness, AwaitedStore, Visitor
from sojourn.testing.fakes import ScriptedStore

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
ACCEPT = {"type": "websocket.accept"}
BOTH_STORES = pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])


def serving(endpoint: Any, *, awaited: bool = False) -> AdapterHarness:
    return AdapterHarness(partial(plain_asgi, own={"/own": endpoint}), awaited=awaited)


def talk(app: AdapterHarness, visitor: Visitor) -> Any:
    assert isinstance(app.server, AsgiServer)
    return app.server.talk("/own", cookie=f"__Host-sid={visitor.id}")


def occupied(app: AdapterHarness) -> Visitor:
    """Return a visitor whose session somebody holds for half a minute of the harness's clock."""
    before = set(app.store.frames)
    visitor = app.visitor()
    [key] = set(app.store.frames) - before
    assert app.store.acquire(key, b"somebody", app.clock(), app.clock() + 30)
    return visitor


# -- websockets ------------------------------------------------------------------------------------------------


@BOTH_STORES
def test_a_websocket_whose_session_is_busy_is_closed_with_try_again_later(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        async with scope["session"].exclusive(wait=0):
            await send(ACCEPT)

    with serving(chat, awaited=awaited) as app:
        visitor = occupied(app)
        said = talk(app, visitor)
        assert (said.sent, said.error) == ([{"type": "websocket.close", "code": TRY_AGAIN_LATER}], None)
        app.clock.advance(seconds=31)
        assert talk(app, visitor).sent[0]["type"] == "websocket.accept"


@BOTH_STORES
def test_a_websocket_that_is_accepted_handles_a_busy_session_itself(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        async with scope["session"].exclusive(wait=0):
            pytest.fail("it was let in")

    with serving(chat, awaited=awaited) as app:
        said = talk(app, occupied(app))
        assert said.sent == [ACCEPT]
        assert isinstance(said.error, SessionBusy)


@BOTH_STORES
def test_a_block_after_the_accept_stores_by_itself(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        await send(ACCEPT)
        for _ in range(2):
            async with session.exclusive():
                session["count"] = session.get("count", 0) + 1

    with serving(chat, awaited=awaited) as app:
        visitor = app.visitor()
        before = len(app.store.asked)
        assert talk(app, visitor).error is None
        one_block = [Acquire, Load, Update, Release]
        assert app.store.asked[before:] == [Load, *one_block, *one_block]
        assert visitor.sees().get("count") == 2
        assert app.happened() == []


# -- streams ---------------------------------------------------------------------------------------------------


@BOTH_STORES
def test_a_block_in_a_stream_stores_after_reopen(awaited: bool) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        await send(START)
        session.reopen()
        async with session.exclusive():
            session["late"] = 1
        await send({"type": "http.response.body"})

    with serving(stream, awaited=awaited) as app:
        visitor = app.visitor()
        assert visitor.visit("/own").status == 200
        assert visitor.sees().get("late") == 1
        assert app.happened() == []


def test_a_block_in_a_wsgi_stream_stores_after_reopen() -> None:
    def stream(environ: Any, start_response: Any) -> Any:
        session = environ[wsgi.ENVIRON_KEY]
        start_response("200 OK", [("content-type", "text/plain")])
        yield b"one"
        session.reopen()
        with session.exclusive():
            session["late"] = 1

    with AdapterHarness(partial(plain_wsgi, own={"/own": stream})) as app:
        visitor = app.visitor()
        assert visitor.visit("/own").body == b"one"
        assert visitor.sees().get("late") == 1
        assert app.happened() == []


@BOTH_STORES
def test_an_answer_that_is_sent_within_a_block_is_stored_and_gives_the_lock_back(awaited: bool) -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        async with scope["session"].exclusive():
            scope["session"]["count"] = 1
            await send(START)
            await send({"type": "http.response.body"})

    with serving(endpoint, awaited=awaited) as app:
        visitor = app.visitor()
        assert visitor.visit("/own").status == 200
        assert (visitor.sees().get("count"), app.store.locks, app.happened()) == (1, {}, [])


# -- an application's own words --------------------------------------------------------------------------------


@BOTH_STORES
def test_starlette_lets_an_application_word_the_refusal(awaited: bool) -> None:
    async def alone(request: Request) -> Response:
        async with request.session.exclusive(wait=0):  # type: ignore[attr-defined]
            return PlainTextResponse("alone")

    async def busy(request: Request, error: Any) -> Response:
        return PlainTextResponse("one moment", 429, {"retry-after": str(error.retry_after)})

    mount = partial(starlette_async, own=[Route("/alone", alone)], exception_handlers={SessionBusy: busy})
    with AdapterHarness(mount, awaited=awaited) as app:
        answer = occupied(app).visit("/alone")
        assert (answer.status, answer.body, answer.values("retry-after")) == (429, b"one moment", ["1"])
        assert app.visitor().visit("/alone").body == b"alone"


def test_flask_lets_an_application_word_the_refusal() -> None:
    def configure(site: Flask) -> None:
        @site.route("/alone")
        def alone() -> str:
            with flask.session.exclusive(wait=0):  # type: ignore[attr-defined]
                return "alone"

        @site.errorhandler(SessionBusy)
        def busy(error: SessionBusy) -> Any:
            return "one moment", 429, {"retry-after": str(error.retry_after)}

    with AdapterHarness(partial(flask_app, configure=configure)) as app:
        answer = occupied(app).visit("/alone")
        assert (answer.status, answer.body, answer.values("retry-after")) == (429, b"one moment", ["1"])
        assert app.visitor().visit("/alone").body == b"alone"


def test_the_log_says_which_session_was_busy_and_the_page_does_not() -> None:
    with AdapterHarness(plain_asgi) as app:
        visitor = occupied(app)
        answer = visitor.visit("/alone/count/now")
        handle = visitor.visit("/look/handle").body
        assert f"session={handle.decode()}" in app.log.text
        assert handle not in answer.body


# -- what a store must be able to do ---------------------------------------------------------------------------


def test_a_store_without_locks_is_a_configuration_error_that_is_seen_early_where_it_is_asked_for() -> None:
    with pytest.raises(ConfigurationError, match="ScriptedStore is not Lockable"):
        SessionManager(ScriptedStore(), needs=[Lockable])
    manager = SessionManager(ScriptedStore())
    session = manager.begin(lambda _: (), None)
    with pytest.raises(ConfigurationError, match="ScriptedStore is not Lockable"):
        session.exclusive()


def test_a_blocking_block_over_an_awaited_store_names_the_cure() -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        with scope["session"].exclusive():
            pytest.fail("it was let in")

    with serving(endpoint, awaited=True) as app:
        assert app.visitor().visit("/own").status == 500
        assert f"{AwaitedStore.__name__} is async, and a blocking caller needs a blocking store" in app.log.text


def test_blocks_in_threads_and_on_the_loop_of_one_application_exclude_each_other() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def in_thread(request: Request) -> Response:
        with request.session.exclusive():  # type: ignore[attr-defined]
            entered.set()
            assert go_on.wait(10)
            request.session["count"] = request.session.get("count", 0) + 1
        return PlainTextResponse("")

    async def on_loop(request: Request) -> Response:
        async with request.session.exclusive(wait=20):  # type: ignore[attr-defined]
            request.session["count"] = request.session.get("count", 0) + 1
        return PlainTextResponse("")

    mount = partial(starlette_async, own=[Route("/thread", in_thread), Route("/loop", on_loop)])
    with AdapterHarness(mount) as app:
        visitor = app.visitor()

        def enter_second() -> Any:
            assert entered.wait(10)
            return visitor.send("/loop")

        def let_go() -> Any:
            assert app.store.held_back.wait(10)
            go_on.set()

        app.at_once(lambda: visitor.send("/thread"), enter_second, let_go)  # type: ignore[arg-type, return-value]
        assert visitor.sees().get("count") == 2
        assert app.happened() == []
