"""What is particular to ASGI: websockets, other scopes, odd messages, and what a framework does with an exception."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from tests.adapters.mounts import plain_asgi
from tests.adapters.servers import AsgiServer, Exchange, http_scope

from sojourn.adapters.asgi import TRY_AGAIN_LATER, SessionMiddleware
from sojourn.core.ops import Load, Update
from sojourn.core.outcome import Happened
from sojourn.errors import ConfigurationError, SessionSealed, StoreUnavailable, ValueNotStorable
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing.adapter_harness import AdapterHarness, Request, Visitor
from sojourn.testing.adapter_routes import HandlerFailed

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
ACCEPT = {"type": "websocket.accept"}
BOTH_STORES = pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])


def serving(endpoint: Any, *, awaited: bool = False) -> AdapterHarness:
    """Return a site with one path of its own beside the contract's."""
    return AdapterHarness(partial(plain_asgi, own={"/own": endpoint}), awaited=awaited)


def server_of(app: AdapterHarness) -> AsgiServer:
    assert isinstance(app.server, AsgiServer)
    return app.server


def cookie_of(visitor: Visitor) -> str:
    return f"__Host-sid={visitor.id}"


# -- scopes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lifespan", "mqtt", "http.unheard.of"])
def test_other_scopes_pass_untouched(kind: str) -> None:
    seen: list[tuple[Any, ...]] = []

    async def application(*given: Any) -> None:
        seen.append(given)

    given = ({"type": kind}, object(), object())
    asyncio.run(SessionMiddleware(application, SessionManager("memory:"))(*given))  # type: ignore[arg-type]
    assert seen[0][0] is given[0]
    assert seen == [({"type": kind}, given[1], given[2])]


def test_receive_is_handed_on_as_it_is() -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(receive)
        await send(START)

    exchange = Exchange()
    middleware: Any = SessionMiddleware(application, store="memory:")
    asyncio.run(middleware(http_scope(Request("GET", "/")), receive := exchange.receive, exchange.send))
    assert seen == [receive]


@pytest.mark.parametrize("fields", [1, 2, 10])
@BOTH_STORES
def test_the_cookie_is_found_in_any_of_several_fields(fields: int, awaited: bool) -> None:
    """Item 10: HTTP/2 and HTTP/3 split the Cookie field (RFC 9113, 8.2.3)."""
    with AdapterHarness(plain_asgi, awaited=awaited) as app:
        visitor = app.visitor()
        for place in range(fields):
            crumbs = [("cookie", cookie_of(visitor) if n == place else f"crumb{n}=x") for n in range(fields)]
            answer = app.request("GET", "/show", headers=crumbs)
            assert json.loads(answer.body)["values"] == visitor.sees()


# -- odd messages ----------------------------------------------------------------------------------------------


def test_a_response_without_a_headers_key_gets_its_cookie() -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["seen"] = 1
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with serving(endpoint) as app:
        answer = app.newcomer().visit("/own")
        app.issued(answer)
        assert answer.members("vary") == ["cookie"]


def test_a_route_that_never_looks_has_its_messages_handed_on_as_they_are() -> None:
    sent = [dict(START), {"type": "http.response.body", "body": b"x"}]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    got: list[Any] = []

    async def send(message: Any) -> None:
        got.append(message)

    middleware: Any = SessionMiddleware(application, store="memory:")
    asyncio.run(middleware(http_scope(Request("GET", "/")), None, send))
    assert all(one is other for one, other in zip(got, sent, strict=True))


def test_the_applications_message_is_not_changed_in_place() -> None:
    start = {**START, "headers": [(b"x-note", b"1")]}

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["seen"] = 1
        await send(start)
        await send({"type": "http.response.body"})

    with serving(endpoint) as app:
        for _ in range(2):
            assert len(app.told(app.newcomer().visit("/own"))) == 1
    assert start == {**START, "headers": [(b"x-note", b"1")]}


def test_what_comes_before_the_response_begins_commits_nothing() -> None:
    """Early hints and extensions carry no cookie: browsers may ignore one on a 1xx answer."""
    early = {"type": "http.response.early_hint", "links": [b"</style.css>"]}
    got: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["seen"] = 1
        await send(early)
        scope["session"]["more"] = 2
        await send(START)

    async def send(message: Any) -> None:
        got.append(message)

    store = MemoryStore()
    middleware: Any = SessionMiddleware(application, store=store)
    asyncio.run(middleware(http_scope(Request("GET", "/")), None, send))
    assert got[0] is early
    assert [name for name, _ in got[1]["headers"]] == [b"vary", b"cache-control", b"set-cookie"]


def test_a_second_start_is_handed_on_and_commits_nothing_more() -> None:
    """Not allowed by ASGI. Whatever a server makes of it, there is one commit and one cookie."""
    got: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["seen"] = 1
        await send(START)
        await send(START)

    async def send(message: Any) -> None:
        got.append(message)

    store = MemoryStore()
    middleware: Any = SessionMiddleware(application, store=store)
    asyncio.run(middleware(http_scope(Request("GET", "/")), None, send))
    assert len(store.frames) == 1
    assert got[1] is START


# -- exceptions ------------------------------------------------------------------------------------------------


@BOTH_STORES
def test_an_exception_after_the_response_began_breaks_it_off(awaited: bool) -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["early"] = 1
        await send(START)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise HandlerFailed

    with serving(endpoint, awaited=awaited) as app:
        visitor = app.newcomer()
        answer = visitor.visit("/own")
        assert (answer.status, answer.body, server_of(app).last.whole) == (200, b"half", False)
        assert visitor.sees() == {"early": 1}
        assert "HandlerFailed" in app.log.text


@BOTH_STORES
def test_an_outage_in_the_middle_of_a_stream_breaks_it_off(awaited: bool) -> None:
    with AdapterHarness(plain_asgi, awaited=awaited) as app:
        visitor = app.visitor()
        with app.outage(Update):
            answer = visitor.visit("/stream/save")
        assert (answer.status, server_of(app).last.whole) == (200, False)
        assert "StoreUnavailable" in app.log.text
        assert app.happened() == [(Happened.UNSAVED, ("late",))]
        assert "late" not in visitor.sees()


@BOTH_STORES
def test_an_application_may_word_its_own_refusal(awaited: bool) -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        try:
            scope["session"]["seen"] = 1
            await send(START)
        except StoreUnavailable as error:
            retry = [(b"retry-after", str(error.retry_after).encode())]
            await send({"type": "http.response.start", "status": 503, "headers": retry})
        await send({"type": "http.response.body", "body": b"in our own words"})

    with serving(endpoint, awaited=awaited) as app:
        visitor = app.visitor()
        for op in (Load, Update):
            with app.outage(op):
                answer = visitor.visit("/own")
            assert (answer.status, answer.body) == (503, b"in our own words")
            assert app.told(answer) == []


def test_an_error_that_only_reminds_of_an_outage_is_the_applications() -> None:
    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        try:
            scope["session"]["seen"] = 1
        except StoreUnavailable:
            raise HandlerFailed("the handler's own mistake, made while it handled the outage") from None

    with serving(endpoint) as app:
        visitor = app.visitor()
        with app.outage():
            assert visitor.visit("/own").status == 500


@BOTH_STORES
def test_a_request_that_is_cancelled_stores_nothing(awaited: bool) -> None:
    """Item 109, at the adapter: a browser that hangs up leaves no half of a handler's work."""

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["half"] = "done"
        await asyncio.sleep(60)

    async def cancelled(app: AdapterHarness, visitor: Visitor) -> None:
        scope = http_scope(Request("GET", "/own", [("cookie", cookie_of(visitor))]))
        exchange = Exchange()
        task = asyncio.ensure_future(server_of(app).app(scope, exchange.receive, exchange.send))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert exchange.sent == []

    with serving(endpoint, awaited=awaited) as app:
        visitor = app.visitor()
        asyncio.run(cancelled(app, visitor))
        assert "half" not in visitor.sees()
        assert app.happened() == [(Happened.UNSAVED, ("half",))]


# -- websockets ------------------------------------------------------------------------------------------------


@BOTH_STORES
def test_a_websocket_hands_out_the_cookie_when_it_is_accepted(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["room"] = "lobby"
        await send({**ACCEPT, "subprotocol": "chat", "headers": [(b"x-note", b"1")]})

    with serving(chat, awaited=awaited) as app:
        visitor = app.newcomer()
        talk = server_of(app).talk("/own")
        visitor.take(talk.answer)
        assert app.issued(talk.answer) == visitor.id
        assert (talk.sent[0]["subprotocol"], talk.answer.values("x-note")) == ("chat", ["1"])
        assert visitor.sees() == {"room": "lobby"}


@BOTH_STORES
def test_a_websocket_that_only_reads_is_told_nothing(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": str(dict(scope["session"]))})

    with serving(chat, awaited=awaited) as app:
        visitor = app.visitor()
        talk = server_of(app).talk("/own", cookie=cookie_of(visitor))
        assert talk.sent == [ACCEPT, {"type": "websocket.send", "text": str(visitor.sees())}]
        assert app.happened() == []


@BOTH_STORES
def test_a_websocket_keeps_changes_by_save(awaited: bool) -> None:
    """D14, D47: after the accept the session stays open, and each save stores what was said so far."""
    saved: list[Any] = []

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        await receive()
        await send(ACCEPT)
        while (message := await receive())["type"] == "websocket.receive":
            session.setdefault("said", []).append(message["text"])
            await session.asave()
            saved.append(list(session["said"]))

    with serving(chat, awaited=awaited) as app:
        visitor = app.visitor()
        talk = server_of(app).talk("/own", "one", "two", cookie=cookie_of(visitor))
        assert (talk.error, saved) == (None, [["one"], ["one", "two"]])
        assert visitor.sees().get("said") == ["one", "two"]
        assert app.happened() == []


@BOTH_STORES
def test_a_websocket_sees_and_keeps_what_others_store_meanwhile(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        assert session["slot 0"] == 0
        await send(ACCEPT)
        visitors[0].visit("/put/1")
        session["late"] = 1
        await session.asave()
        assert session["slot 1"] == 1

    visitors: list[Visitor] = []
    with serving(chat, awaited=awaited) as app, AdapterHarness(plain_asgi) as other_process:
        other_process.store.frames = app.store.frames
        visitor = app.visitor()
        visitors.append(other_process.holder(str(visitor.id)))
        talk = server_of(app).talk("/own", cookie=cookie_of(visitor))
        assert talk.error is None
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "slot 1": 1, "late": 1}


@BOTH_STORES
@pytest.mark.parametrize("raises", [False, True])
def test_a_websocket_that_forgets_to_save_is_reported(raises: bool, awaited: bool) -> None:
    """Also where it ends by an exception, as most do: a framework raises when the browser hangs up."""

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        scope["session"]["late"] = 1
        if raises:
            raise HandlerFailed

    with serving(chat, awaited=awaited) as app:
        visitor = app.visitor()
        talk = server_of(app).talk("/own", cookie=cookie_of(visitor))
        assert isinstance(talk.error, HandlerFailed) is raises
        assert "late" not in visitor.sees()
        assert app.happened() == [(Happened.UNSAVED, ("late",))]


def test_a_websocket_cannot_begin_a_session_or_change_the_id_after_the_accept() -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        await send(ACCEPT)
        for change in (session.rotate, partial(session.login, "alice")):
            with pytest.raises(SessionSealed):
                change()
        if session.is_new:
            session["late"] = 1
            with pytest.raises(SessionSealed):
                await session.asave()

    with serving(chat) as app:
        for visitor in (app.newcomer(), app.visitor()):
            frames = dict(app.store.frames)
            talk = server_of(app).talk("/own", cookie=cookie_of(visitor))
            assert talk.error is None
            assert app.store.frames == frames


def test_a_websocket_may_log_out() -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        scope["session"].logout()
        await scope["session"].asave()

    with serving(chat) as app:
        visitor = app.visitor()
        assert server_of(app).talk("/own", cookie=cookie_of(visitor)).error is None
        assert visitor.sees() == {}


def test_a_logout_in_a_websocket_is_an_event_as_any_other() -> None:
    """Item 118."""

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        scope["session"].logout()
        await scope["session"].asave()

    with serving(chat) as app:
        server_of(app).talk("/own", cookie=cookie_of(app.visitor()))
        assert app.happened() == [(Happened.ENDED, ())]


@BOTH_STORES
@pytest.mark.parametrize("op", [Load, Update])
def test_a_websocket_is_refused_while_the_store_cannot_answer(op: Any, awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["room"] = "lobby"
        await send(ACCEPT)
        pytest.fail("it was accepted")

    with serving(chat, awaited=awaited) as app:
        visitor = app.visitor()
        with app.outage(op):
            talk = server_of(app).talk("/own", cookie=cookie_of(visitor))
        assert (talk.sent, talk.error) == ([{"type": "websocket.close", "code": TRY_AGAIN_LATER}], None)
        assert "room" not in visitor.sees()


@BOTH_STORES
def test_an_outage_after_the_accept_is_the_applications_to_handle(awaited: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        scope["session"]["late"] = 1
        await scope["session"].asave()

    with serving(chat, awaited=awaited) as app:
        visitor = app.visitor()
        with app.outage(Update):
            talk = server_of(app).talk("/own", cookie=cookie_of(visitor))
        assert talk.sent == [ACCEPT]
        assert isinstance(talk.error, StoreUnavailable)


def test_a_websocket_that_is_turned_away_stores_nothing() -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["half"] = "done"
        await send({"type": "websocket.close", "code": 1008})

    with serving(chat) as app:
        talk = server_of(app).talk("/own")
        assert talk.sent == [{"type": "websocket.close", "code": 1008}]
        assert app.store.frames == {}
        assert app.happened() == [(Happened.UNSAVED, ("half",))]


@pytest.mark.parametrize(("status", "stored"), [(401, True), (503, False)])
def test_a_denial_response_is_a_response(status: int, stored: bool) -> None:
    """The websocket.http.response extension: an ordinary answer in place of the accept."""

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["tries"] = 1
        await send({"type": "websocket.http.response.start", "status": status, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    with serving(chat) as app:
        talk = server_of(app).talk("/own")
        assert talk.answer.members("vary") == ["cookie"]
        assert bool(app.told(talk.answer)) is bool(app.store.frames) is stored
        assert app.happened() == ([(Happened.CREATED, ())] if stored else [(Happened.UNSAVED, ("tries",))])


@pytest.mark.parametrize(
    ("scheme", "warned"),
    [
        ("wss", False),
        ("ws", True),
    ],
)
def test_a_websocket_is_warned_of_plain_http_only_where_it_is_plain(scheme: str, warned: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["room"] = "lobby"
        await send(ACCEPT)

    with serving(chat) as app:
        server_of(app).talk("/own", scheme=scheme)
        assert ("plain http" in app.log.text) is warned


# -- settings --------------------------------------------------------------------------------------------------


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


def test_settings_are_checked_when_the_application_is_built() -> None:
    class Blocking(MemoryStore):
        waits = True

    with pytest.raises(ConfigurationError, match="Blocking blocks while it waits"):
        SessionMiddleware(nothing, store=Blocking())
    with pytest.raises(ConfigurationError, match="no store"):
        SessionMiddleware(nothing)
    with pytest.raises(ConfigurationError, match="store are both given"):
        SessionMiddleware(nothing, SessionManager("memory:"), store="memory:")


def test_a_value_that_cannot_be_stored_reaches_the_application() -> None:
    """Where it is raised, a developer's debugger stops in the handler's own frame."""
    raised: list[Exception] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["bad"] = object()
        try:
            await send(START)
        except ValueNotStorable as error:
            raised.append(error)
            raise

    with serving(endpoint) as app:
        assert app.newcomer().visit("/own").status == 500
        assert raised


# -- memory ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@BOTH_STORES
def test_a_session_is_gone_with_its_request(awaited: bool) -> None:
    """No cycle keeps requests alive until the garbage collector runs."""
    sessions: list[weakref.ref[Any]] = []

    async def endpoint(scope: Any, receive: Any, send: Any) -> None:
        sessions.append(weakref.ref(scope["session"]))
        if len(sessions) % 2:
            scope["session"]["seen"] = 1
        await send(START)
        await send({"type": "http.response.body"})

    with serving(endpoint, awaited=awaited) as app:
        visitor = app.newcomer()
        for _ in range(4):
            visitor.visit("/own")
        assert [session() for session in sessions[:3]] == [None] * 3  # the last may still be on its way out
