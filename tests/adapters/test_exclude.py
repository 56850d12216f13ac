"""Paths that opt out of fetching beforehand: what each request costs, and how a handler fetches on use."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from tests.adapters.servers import AsgiServer

from sojourn.adapters.asgi import TRY_AGAIN_LATER, SessionMiddleware, route_path
from sojourn.adapters.paths import PathPatterns
from sojourn.adapters.starlette import current_session, get_session
from sojourn.core.ops import Create, Load, Update
from sojourn.core.outcome import Happened
from sojourn.core.session import Session
from sojourn.errors import ConfigurationError, SessionNotFetched, SessionSealed
from sojourn.testing.adapter_harness import AdapterHarness, Visitor

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
ACCEPT = {"type": "websocket.accept"}
BOTH_STORES = pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])
Current = Annotated[Session, Depends(current_session)]


def answering(act: Any) -> Any:
    """Return an ASGI application that answers what *act* finds out of the session."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        text = await act(scope["session"])
        await send(START)
        await send({"type": "http.response.body", "body": json.dumps(text).encode()})

    return application


async def leave_alone(session: Session) -> None:
    pass


async def look(session: Session) -> Any:
    return dict(session)


async def fetch(session: Session) -> Any:
    await session.fetch()
    return dict(session)


async def fetch_and_put(session: Session) -> Any:
    await session.fetch()
    session["put"] = 1


ACTS = {
    "/static/x": leave_alone,
    "/healthz": leave_alone,
    "/api/look": look,
    "/api/see": fetch,
    "/api/put": fetch_and_put,
}


def excluding(*patterns: str, awaited: bool = True, **settings: Any) -> AdapterHarness:
    """Return a site with the paths above and, elsewhere, the contract's ``/put/0`` and ``/show``."""

    def mount(app: AdapterHarness) -> AsgiServer:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            if act := ACTS.get(scope["path"]):
                await answering(act)(scope, receive, send)
                return
            page = await app.aanswer(scope["path"], scope["session"])
            await send(START)
            await send({"type": "http.response.body", "body": page.text.encode()})

        return AsgiServer(SessionMiddleware(application, app.manager, exclude=patterns))

    return AdapterHarness(mount, awaited=awaited)


# -- what a request costs --------------------------------------------------------------------------------------


def test_an_excluded_path_costs_no_store_call_even_with_a_cookie() -> None:
    with excluding("/static/*", "/healthz", "/api/*") as app:
        visitor = app.visitor()
        app.manager.opens = 0
        for path in ("/static/x", "/healthz"):
            assert app.cost_of(visitor.visit, path) == []
            answer = visitor.visit(path)
            assert (answer.status, answer.values("vary"), app.told(answer)) == (200, [], [])
        assert app.manager.opens == 0, "the cookies were read"
        assert app.cost_of(visitor.visit, "/show") == [Load]


def test_a_fetch_on_an_excluded_path_costs_one_call_and_a_look_after_it_none() -> None:
    with excluding("/api/*") as app:
        visitor = app.visitor()
        assert app.cost_of(visitor.visit, "/api/see") == [Load]
        answer = visitor.visit("/api/see")
        assert json.loads(answer.body) == visitor.sees()
        assert answer.members("vary") == ["cookie"]
        assert app.cost_of(visitor.visit, "/api/put") == [Load, Update]
        assert visitor.sees().get("put") == 1


def test_a_fetch_of_an_anonymous_visitor_costs_no_call() -> None:
    with excluding("*") as app:
        assert app.cost_of(app.newcomer().visit, "/api/see") == []
        assert app.cost_of(app.holder("malformed").visit, "/api/see") == []
        visitor = app.newcomer()
        assert app.cost_of(visitor.visit, "/api/put") == [Create]
        assert json.loads(visitor.visit("/api/see").body) == {"put": 1}


def test_a_path_that_is_not_excluded_is_fetched_beforehand_and_fetch_costs_nothing_more() -> None:
    with excluding("/static/*") as app:
        visitor = app.visitor()
        for path in ("/api/see", "/api/look", "/healthz"):
            assert app.cost_of(visitor.visit, path) == [Load], path


def test_fetching_many_times_asks_once() -> None:
    async def often(session: Session) -> Any:
        for _ in range(3):
            await session.fetch()
        return len(session)

    with excluding("/api/*") as app, pytest.MonkeyPatch.context() as patch:
        patch.setitem(ACTS, "/api/see", often)
        assert app.cost_of(app.visitor().visit, "/api/see") == [Load]


def test_with_a_store_that_never_waits_nothing_changes() -> None:
    with excluding("*", awaited=False) as app:
        visitor = app.visitor()
        for path, cost in (("/healthz", []), ("/api/look", [Load]), ("/api/see", [Load]), ("/show", [Load])):
            assert app.cost_of(visitor.visit, path) == cost
            assert visitor.visit(path).status == 200


# -- what goes wrong -------------------------------------------------------------------------------------------


def test_a_look_without_a_fetch_is_500_and_the_log_names_the_cure() -> None:
    with excluding("/api/*") as app:
        visitor = app.visitor()
        assert app.cost_of(visitor.visit, "/api/look") == []
        answer = visitor.visit("/api/look")
        assert (answer.status, app.told(answer)) == (500, [])
        assert "SessionNotFetched" in app.log.text
        assert "await session.fetch() first" in app.log.text
        assert app.happened() == []


def test_a_look_that_was_refused_leaves_nothing_behind() -> None:
    async def look_then_fetch(session: Session) -> Any:
        for attempt in (session.keys, session.logout, session.clear, session.rotate, session.exclusive):
            with pytest.raises(SessionNotFetched):
                attempt()
        return await fetch(session)

    with excluding("/api/*") as app, pytest.MonkeyPatch.context() as patch:
        patch.setitem(ACTS, "/api/see", look_then_fetch)
        visitor = app.visitor()
        assert json.loads(visitor.visit("/api/see").body) == visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}


def test_an_outage_at_the_fetch_is_503_and_leaves_the_cookie() -> None:
    with excluding("/api/*") as app:
        visitor = app.visitor()
        with app.outage():
            for path in ("/api/see", "/api/put"):
                answer = visitor.visit(path)
                assert (answer.status, answer.values("retry-after"), app.told(answer)) == (503, ["7"], [])
            assert visitor.visit("/healthz").status == 200
            app.restart(outage="anonymous")
            answer = visitor.visit("/api/see")
            assert (answer.status, json.loads(answer.body), answer.members("vary")) == (200, {}, ["cookie"])
            assert visitor.visit("/api/put").status == 503
        assert app.happened() == [(Happened.OUTAGE, ())]
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"]}


def test_a_fetch_after_the_response_began_needs_reopen() -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        await send(START)
        with pytest.raises(SessionSealed):
            await session.fetch()
        session.reopen()
        await session.fetch()
        session["late"] = 1
        await session.asave()
        await send({"type": "http.response.body"})

    with (
        AdapterHarness(
            lambda app: AsgiServer(SessionMiddleware(late, app.manager, exclude=["*"])), awaited=True
        ) as app,
        excluding() as other,
    ):
        other.store.frames = app.store.frames
        visitor = other.visitor()
        answer = app.holder(str(visitor.id)).visit("/")
        assert (answer.status, answer.values("vary")) == (200, [])
        assert visitor.sees().get("late") == 1


# -- websockets ------------------------------------------------------------------------------------------------


def talking(chat: Any, *patterns: str) -> AdapterHarness:
    def mount(app: AdapterHarness) -> AsgiServer:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "websocket":
                await chat(scope, receive, send)
            else:
                page = await app.aanswer(scope["path"], scope["session"])
                await send(START)
                await send({"type": "http.response.body", "body": page.text.encode()})

        return AsgiServer(SessionMiddleware(application, app.manager, exclude=patterns))

    return AdapterHarness(mount, awaited=True)


def cookie_of(visitor: Visitor) -> str:
    return f"__Host-sid={visitor.id}"


@pytest.mark.parametrize("late", [False, True], ids=["before the accept", "after it"])
def test_a_websocket_on_an_excluded_path_fetches_on_use(late: bool) -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        if not late:
            await session.fetch()
        await send(ACCEPT)
        await session.fetch()
        session["said"] = "hello"
        await session.asave()

    with talking(chat, "/chat") as app:
        visitor = app.visitor()
        assert isinstance(app.server, AsgiServer)
        before = len(app.store.asked)
        talk = app.server.talk("/chat", cookie=cookie_of(visitor))
        assert (talk.error, app.store.asked[before:]) == (None, [Load, Update])
        assert visitor.sees().get("said") == "hello"


def test_a_websocket_on_an_excluded_path_costs_nothing_and_may_not_look() -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        if "look" in scope["path"]:
            len(scope["session"])

    with talking(chat, "/chat/*") as app:
        cookie = cookie_of(app.visitor())
        assert isinstance(app.server, AsgiServer)
        before = len(app.store.asked)
        assert app.server.talk("/chat/1", cookie=cookie).error is None
        assert isinstance(app.server.talk("/chat/look", cookie=cookie).error, SessionNotFetched)
        assert app.store.asked[before:] == []


def test_a_websocket_whose_fetch_fails_is_closed_with_try_again_later() -> None:
    async def chat(scope: Any, receive: Any, send: Any) -> None:
        await scope["session"].fetch()
        await send(ACCEPT)

    with talking(chat, "/chat") as app:
        cookie = cookie_of(app.visitor())
        assert isinstance(app.server, AsgiServer)
        with app.outage():
            talk = app.server.talk("/chat", cookie=cookie)
        assert (talk.sent, talk.error) == ([{"type": "websocket.close", "code": TRY_AGAIN_LATER}], None)


# -- Starlette and FastAPI -------------------------------------------------------------------------------------


def test_the_dependency_fetches_only_where_it_is_asked_for() -> None:
    """``exclude=("*",)``: routes that declare the session get it, in async functions, threads and websockets."""
    site = FastAPI()

    @site.get("/plain")
    async def plain() -> str:
        return "plain"

    @site.get("/put/{slot}")
    async def put(slot: int, session: Current) -> None:
        session[f"slot {slot}"] = slot

    @site.get("/cart")
    def cart(session: Current) -> list[str]:
        session.setdefault("cart", []).append("lamp")
        lines: list[str] = session["cart"]
        return lines

    @site.get("/show")
    async def show(session: Current) -> dict[str, Any]:
        return {"values": dict(session), "principal": session.principal}

    @site.websocket("/chat")
    async def chat(socket: WebSocket, session: Current) -> None:
        session["room"] = "lobby"
        await socket.accept()

    def mount(app: AdapterHarness) -> AsgiServer:
        site.add_middleware(SessionMiddleware, manager=app.manager, exclude=("*",))  # type: ignore[arg-type]
        return AsgiServer(site)

    with AdapterHarness(mount, awaited=True) as app:
        newcomer = app.newcomer()
        assert app.cost_of(newcomer.visit, "/show") == app.cost_of(newcomer.visit, "/plain") == []
        visitor = app.visitor()
        assert app.cost_of(visitor.visit, "/plain") == []
        assert app.cost_of(visitor.visit, "/show") == [Load]
        assert app.cost_of(visitor.visit, "/cart") == [Load, Update]
        assert isinstance(app.server, AsgiServer)
        assert app.server.talk("/chat", cookie=cookie_of(visitor)).error is None
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp", "lamp"], "room": "lobby"}
        with app.outage():
            assert visitor.visit("/plain").status == 200
            assert visitor.visit("/show").status == 503


@BOTH_STORES
def test_in_starlette_a_look_on_an_excluded_path_is_500_and_a_fetch_mends_it(awaited: bool) -> None:
    async def forgetful(request: StarletteRequest) -> Response:
        return PlainTextResponse(str(request.session.get("slot 0")))

    async def careful(request: StarletteRequest) -> Response:
        session = get_session(request)
        await session.fetch()
        return PlainTextResponse(str(session.get("slot 0")))

    async def put(request: StarletteRequest) -> Response:
        get_session(request)["slot 0"] = 0
        return PlainTextResponse("")

    def mount(app: AdapterHarness) -> AsgiServer:
        ours = Middleware(SessionMiddleware, manager=app.manager, exclude=("/api/*",))
        inner = Starlette(routes=[Route("/forgetful", forgetful), Route("/careful", careful)])
        return AsgiServer(Starlette(routes=[Route("/put", put), Mount("/api", inner)], middleware=[ours]))

    with AdapterHarness(mount, awaited=awaited) as app:
        visitor = app.newcomer()
        visitor.visit("/put")
        assert visitor.visit("/api/forgetful").status == (500 if awaited else 200)
        assert ("await session.fetch() first" in app.log.text) is awaited
        answer = visitor.visit("/api/careful")
        assert (answer.body, answer.members("vary")) == (b"0", ["cookie"])


# -- patterns --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matched", "others"),
    [
        ("/healthz", ["/healthz"], ["/healthz/", "/healthz/x", "/x/healthz", "/HEALTHZ", "healthz", ""]),
        ("/static/*", ["/static/", "/static/a.css", "/static/a/b.css", "/static/\n"], ["/static", "/x/static/a", "/"]),
        ("*.ico", ["/favicon.ico", "/a/b.ico"], ["/favicon.ico/x", "/favicon.icon", "/faviconico"]),
        ("/a*b*c", ["/abc", "/a1b2c", "/a/b/c", "/abbcc"], ["/ac", "/acb", "/abcd", "/xabc"]),
        ("/a**c", ["/ac", "/abc"], ["/a"]),
        ("*", ["/", "/a/b", ""], []),
        ("/a?[b].c", ["/a?[b].c"], ["/aXb.c", "/ab.c", "/a?[b]xc"]),
    ],
)
def test_a_pattern_matches_whole_paths_and_its_star_crosses_slashes(
    pattern: str, matched: list[str], others: list[str]
) -> None:
    patterns = PathPatterns("exclude", ["/never", pattern])
    assert [path for path in (*matched, *others) if path in patterns] == matched


def test_no_patterns_match_nothing() -> None:
    assert not any(path in PathPatterns("exclude", ()) for path in ("", "/", "/x"))


def test_a_path_of_any_length_is_matched_in_linear_time() -> None:
    """A browser chooses the path: with backtracking, eight stars on 60,000 characters would take years."""
    patterns = PathPatterns("exclude", ["*a*a*a*a*a*a*a*b", "/*/*/*/*/*/*.css"])
    began = time.process_time()
    assert "a" * 60_000 not in patterns
    assert "/" * 60_000 not in patterns
    assert time.process_time() - began < 1


@pytest.mark.parametrize("wrong", ["static/*", "", "?", ".css", b"/static/*", None, 7, "https://shop.example/"])
def test_a_pattern_that_can_match_no_path_is_refused_when_the_application_is_built(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="begins with '/' or"):
        SessionMiddleware(answering(look), store="memory:", exclude=["/fine", wrong])


def test_one_pattern_in_place_of_several_is_refused_with_the_cure() -> None:
    with pytest.raises(ConfigurationError, match=r"\('/static/\*',\)"):
        SessionMiddleware(answering(look), store="memory:", exclude="/static/*")


@pytest.mark.parametrize(
    ("path", "root", "seen"),
    [
        ("/static/x", "", "/static/x"),
        ("/shop/static/x", "/shop", "/static/x"),  # uvicorn, Starlette: the root path is in front
        ("/static/x", "/shop", "/static/x"),  # servers that leave it out
        ("/shopping/x", "/shop", "/shopping/x"),
        ("/shop", "/shop", "/"),
        ("/x", "/", "/x"),
        ("", "", "/"),
    ],
)
def test_a_path_is_what_the_applications_own_routes_see(path: str, root: str, seen: str) -> None:
    assert route_path({"path": path, "root_path": root}) == seen


def test_a_server_may_leave_the_root_path_out_of_the_scope() -> None:
    assert route_path({"path": "/x"}) == "/x"


def test_patterns_of_a_mounted_applications_own_middleware_are_relative_to_the_mount() -> None:
    async def leave(request: StarletteRequest) -> Response:
        return JSONResponse(1)

    def mount(app: AdapterHarness) -> AsgiServer:
        ours = Middleware(SessionMiddleware, manager=app.manager, exclude=("/static/*",))
        inner = Starlette(routes=[Route("/{path:path}", leave)], middleware=[ours])
        return AsgiServer(Starlette(routes=[Mount("/shop", inner)]))

    with AdapterHarness(mount, awaited=True) as app, excluding() as other:
        other.store.frames = app.store.frames
        visitor = app.holder(str(other.visitor().id))
        assert app.cost_of(visitor.visit, "/shop/static/x") == []
        assert app.cost_of(visitor.visit, "/shop/x") == [Load]
