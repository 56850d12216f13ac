"""What is particular to Starlette and FastAPI: other middleware, mounts, background tasks, dependencies, TestClient."""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from tests.adapters.mounts import fastapi, starlette_async

from sojourn.adapters.starlette import SessionMiddleware, current_session, get_session
from sojourn.core.ops import Create, Load, Update
from sojourn.core.outcome import Happened
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.errors import ConfigurationError, SessionConflict, StoreUnavailable
from sojourn.manager import SessionManager
from sojourn.testing.adapter_harness import AdapterHarness
from sojourn.testing.adapter_routes import HandlerFailed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather use httpx2
    from starlette.testclient import TestClient

Visitor = Annotated[Session, Depends(current_session)]


def _user(session: Visitor) -> str | None:
    return session.principal


User = Annotated[str | None, Depends(_user)]


def starlette(*routes: Any, awaited: bool = False, **settings: Any) -> AdapterHarness:
    return AdapterHarness(partial(starlette_async, own=routes, **settings), awaited=awaited)


def put_early(request: Request) -> Response:
    request.session["early"] = 1
    return PlainTextResponse("put")


# -- other middleware ------------------------------------------------------------------------------------------


class Counts(BaseHTTPMiddleware):
    """Uses the session on the way in and on the way out."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        request.session["in"] = 1
        response: Response = await call_next(request)
        request.session["out"] = 1
        return response


def test_a_middleware_inside_may_use_the_session_on_its_way_in_and_out() -> None:
    with starlette(Route("/early", put_early), inside=[Middleware(Counts)]) as app:
        visitor = app.newcomer()
        app.issued(visitor.visit("/early"))
        assert visitor.sees() == {"in": 1, "early": 1, "out": 1}


@pytest.mark.parametrize("op", [Create, Load, Update])
def test_an_outage_is_503_through_a_middleware_that_wraps_the_answer(op: Any) -> None:
    with starlette(Route("/early", put_early), inside=[Middleware(Counts)]) as app:
        visitor = app.newcomer() if op is Create else app.visitor()
        with app.outage(op):
            answer = visitor.visit("/early")
        assert (answer.status, answer.values("retry-after"), app.told(answer)) == (503, ["7"], [])


def test_a_middleware_outside_has_no_session() -> None:
    with starlette(outside=[Middleware(Counts)]) as app:
        assert app.newcomer().visit("/show").status == 500
        assert "SessionMiddleware must be installed" in app.log.text


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_vary_joins_what_other_middleware_say(place: str) -> None:
    others = [
        Middleware(GZipMiddleware, minimum_size=0),
        Middleware(CORSMiddleware, allow_origins=["https://a.example", "https://b.example"], allow_credentials=True),
    ]
    with starlette(**{place: others}) as app:
        headers = [("accept-encoding", "gzip"), ("origin", "https://a.example")]
        answer = app.newcomer().visit("/put/0", headers=headers)
        assert sorted(answer.members("vary")) == ["accept-encoding", "cookie", "origin"]
        assert len(app.told(answer)) == 1


# -- mounts and files ------------------------------------------------------------------------------------------


def test_a_mounted_application_has_the_same_session() -> None:
    part = Starlette(routes=[Route("/early", put_early)])
    with starlette(Mount("/shop", app=part)) as app:
        visitor = app.visitor()
        visitor.visit("/shop/early")
        assert visitor.sees() == {"slot 0": 0, "cart": ["lamp"], "early": 1}


def test_static_files_cost_nothing_and_stay_cacheable(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("body {}")
    with starlette(Mount("/static", app=StaticFiles(directory=tmp_path))) as app:
        visitor = app.visitor()
        app.manager.opens = 0
        assert app.cost_of(visitor.visit, "/static/style.css") == []
        answer = visitor.visit("/static/style.css")
        assert (answer.body, answer.values("vary"), app.told(answer)) == (b"body {}", [], [])
        again = visitor.visit("/static/style.css", headers=[("if-none-match", answer.values("etag")[0])])
        assert (again.status, again.values("vary")) == (304, [])
        assert app.manager.opens == 0


# -- answers and errors ----------------------------------------------------------------------------------------


def test_redirects_and_http_errors_commit_up_to_499() -> None:
    async def leave(request: Request) -> Response:
        request.session["left"] = 1
        return RedirectResponse("/show", status_code=303)

    async def missing(request: Request) -> Response:
        request.session["missed"] = 1
        raise StarletteHTTPException(404)

    async def busy(request: Request) -> Response:
        request.session["half"] = "done"
        raise StarletteHTTPException(503)

    with starlette(Route("/leave", leave), Route("/missing", missing), Route("/busy", busy)) as app:
        visitor = app.newcomer()
        statuses = [visitor.visit(path).status for path in ("/leave", "/missing", "/busy")]
        assert statuses == [303, 404, 503]
        assert visitor.sees() == {"left": 1, "missed": 1}


@pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])
@pytest.mark.parametrize("op", [Load, Update])
def test_a_registered_handler_words_the_refusal_where_it_can_still_be_called(op: Any, awaited: bool) -> None:
    """Starlette calls no handler once it has begun to send, so an outage at the commit is answered in our words.

    It raises RuntimeError then, which would be a 500.
    """

    async def sorry(request: Request, error: Exception) -> Response:
        return PlainTextResponse("sorry", 503, {"retry-after": "60"})

    routes = [Route("/early", put_early)]
    with starlette(*routes, awaited=awaited, exception_handlers={StoreUnavailable: sorry}) as app:
        visitor = app.visitor()
        with app.outage(op):
            answer = visitor.visit("/early")
        assert (answer.status, app.told(answer)) == (503, [])
        assert answer.values("retry-after") == ["60" if op is Load else "7"]
        assert "early" not in visitor.sees()


def test_a_conflict_is_409_whatever_handlers_are_registered() -> None:
    async def sorry(request: Request, error: Exception) -> Response:
        pytest.fail("too late to be called")

    with starlette(exception_handlers={SessionConflict: sorry}) as app:
        app.restart(policy=Policy(on_conflict="refuse"))
        visitor = app.visitor()
        tab = visitor.twin()
        answer = app.overlap(lambda: visitor.visit("/slow/put/0"), lambda: tab.visit("/public"))
        assert answer.status == 409


@pytest.mark.parametrize("spec_version", ["2.0", "2.3", "2.4"])
@pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])
def test_streams_commit_and_are_refused_in_each_way_that_starlette_sends_them(spec_version: str, awaited: bool) -> None:
    """Before 2.4 a stream is sent from a task group, which turns one exception into a group of them."""
    with starlette(spec_version=spec_version, awaited=awaited) as app:
        visitor = app.newcomer()
        with app.outage(Create):
            assert visitor.visit("/stream").status == 503
        app.issued(visitor.visit("/stream"))
        assert visitor.visit("/stream/save").status == 200
        assert visitor.sees() == {"early": 1, "late": 1}


# -- background tasks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])
def test_a_background_task_keeps_a_change_by_reopen_and_save(awaited: bool) -> None:
    async def work(session: Session) -> None:
        session.reopen()
        session["report"] = "ready"
        await session.asave()

    async def start(request: Request) -> Response:
        return PlainTextResponse("started", background=BackgroundTask(work, get_session(request)))

    with starlette(Route("/start", start), awaited=awaited) as app:
        visitor = app.visitor()
        visitor.visit("/start")
        assert visitor.sees().get("report") == "ready"
        assert app.happened() == []


def test_a_background_task_in_a_thread_keeps_a_change() -> None:
    def work(session: Session) -> None:
        session.reopen()
        session["report"] = "ready"
        session.save()

    def start(request: Request) -> Response:
        return PlainTextResponse("started", background=BackgroundTask(work, get_session(request)))

    with starlette(Route("/start", start)) as app:
        visitor = app.visitor()
        visitor.visit("/start")
        assert visitor.sees().get("report") == "ready"


def test_a_background_task_that_just_changes_something_fails_and_is_no_silent_loss() -> None:
    def work(session: Session) -> None:
        session["report"] = "ready"

    def start(request: Request) -> Response:
        request.session["early"] = 1
        return PlainTextResponse("started", background=BackgroundTask(work, request.session))

    with starlette(Route("/start", start)) as app:
        visitor = app.visitor()
        assert visitor.visit("/start").body == b"started"
        assert "SessionSealed" in app.log.text
        assert visitor.sees().get("early") == 1


def test_a_background_task_that_forgets_to_save_is_reported() -> None:
    def work(session: Session) -> None:
        session["cart"].append("chair")

    def start(request: Request) -> Response:
        return PlainTextResponse(str(request.session["cart"]), background=BackgroundTask(work, request.session))

    with starlette(Route("/start", start)) as app:
        app.visitor().visit("/start")
        assert app.happened() == [(Happened.UNSAVED, ("cart",))]


# -- FastAPI ---------------------------------------------------------------------------------------------------


def serving(configure: Callable[[FastAPI], object]) -> AdapterHarness:
    return AdapterHarness(partial(fastapi, configure=configure))


def test_a_dependency_works_in_every_kind_of_endpoint() -> None:
    def configure(site: FastAPI) -> None:
        @site.get("/async")
        async def in_the_loop(session: Visitor) -> dict[str, Any]:
            session["async"] = 1
            return dict(session)

        @site.get("/sync")
        def in_a_thread(session: Visitor) -> dict[str, Any]:
            session["sync"] = 1
            return dict(session)

        @site.get("/in-a-thread")
        async def from_a_thread(session: Annotated[Session, Depends(get_session)]) -> None:
            session["from a thread"] = 1

        @site.get("/nested")
        def nested(session: Visitor, principal: User) -> str | None:
            session["nested"] = 1
            return principal

    with serving(configure) as app:
        visitor = app.newcomer()
        for path in ("/async", "/sync", "/in-a-thread", "/nested"):
            assert visitor.visit(path).status == 200
        assert visitor.sees() == {"async": 1, "sync": 1, "from a thread": 1, "nested": 1}


def test_an_async_endpoint_needs_no_thread_for_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are few, and blocking endpoints hold them all in a rush: an async endpoint should not queue there."""

    async def no_thread(*_: Any, **__: Any) -> None:
        raise HandlerFailed("a thread was asked for")

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", no_thread)
    with serving(lambda site: None) as app:
        assert app.newcomer().visit("/put/0").status == 200


def test_the_session_is_no_parameter_in_the_schema() -> None:
    def configure(site: FastAPI) -> None:
        @site.get("/own")
        def own(session: Visitor) -> None: ...

    with serving(configure) as app:
        schema = json.loads(app.newcomer().visit("/openapi.json").body)
        assert schema["paths"]["/own"]["get"].get("parameters", []) == []


def test_an_http_exception_commits_up_to_499() -> None:
    def configure(site: FastAPI) -> None:
        @site.get("/raise/{status}")
        def own(session: Visitor, status: int) -> None:
            session[f"raised {status}"] = 1
            raise HTTPException(status)

    with serving(configure) as app:
        visitor = app.newcomer()
        for status in (401, 404, 500, 503):
            assert visitor.visit(f"/raise/{status}").status == status
        assert visitor.sees() == {"raised 401": 1, "raised 404": 1}


def test_a_handler_for_every_exception_stores_nothing() -> None:
    """It runs outside our middleware, and answers for us."""

    def configure(site: FastAPI) -> None:
        @site.exception_handler(Exception)
        async def sorry(request: Request, error: Exception) -> Response:
            return JSONResponse({"error": "sorry"}, 500)

    with serving(configure) as app:
        visitor = app.visitor()
        answer = visitor.visit("/fail")
        assert (answer.status, answer.body) == (500, b'{"error":"sorry"}')
        assert "half" not in visitor.sees()
        with app.outage():
            assert visitor.visit("/show").status == 503


def test_a_dependency_that_cleans_up_after_the_response_cannot_change_the_session_unnoticed() -> None:
    """FastAPI runs what stands behind a dependency's yield when the response has been sent."""

    async def tidy(session: Visitor) -> AsyncIterator[None]:
        session["opened"] = 1
        yield
        session["tidied"] = 1

    def configure(site: FastAPI) -> None:
        @site.get("/own", dependencies=[Depends(tidy)])
        async def own() -> None: ...

    with serving(configure) as app:
        visitor = app.visitor()
        visitor.visit("/own")
        assert visitor.sees().get("opened") == 1
        assert ("tidied" in visitor.sees()) or "SessionSealed" in app.log.text


def test_a_dependency_without_the_middleware_names_the_cure() -> None:
    site = FastAPI()

    @site.get("/own")
    def own(session: Visitor) -> None: ...

    with pytest.raises(ConfigurationError, match=r"add sojourn\.adapters\.starlette\.SessionMiddleware"):
        TestClient(site).get("/own")


# -- TestClient ------------------------------------------------------------------------------------------------


def test_testclient_keeps_a_session_over_http_and_websockets() -> None:
    site = FastAPI()
    site.add_middleware(SessionMiddleware, store="memory:")

    @site.get("/login")
    async def log_in(session: Visitor) -> None:
        session.login("alice")

    @site.get("/me")
    async def me(session: Visitor) -> dict[str, Any]:
        return {"principal": session.principal, **session}

    @site.websocket("/chat")
    async def chat(websocket: WebSocket, session: Visitor) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            session["said"] = [*session.get("said", []), text]
            session.save()
            await websocket.send_text(f"{session.principal}: {text}")

    with TestClient(site, base_url="https://testserver") as client:
        assert client.get("/me").json() == {"principal": None}
        client.get("/login")
        with client.websocket_connect("wss://testserver/chat") as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "alice: hello"
        assert client.get("/me").json() == {"principal": "alice", "said": ["hello"]}


def test_testclient_takes_the_cookie_of_a_websocket() -> None:
    async def chat(websocket: Any) -> None:
        websocket.session["room"] = "lobby"
        await websocket.accept()
        await websocket.close()

    async def room(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    middleware = [Middleware(SessionMiddleware, store="memory:", insecure_dev=True)]
    site = Starlette(routes=[WebSocketRoute("/chat", chat), Route("/room", room)], middleware=middleware)
    with TestClient(site) as client:
        with client.websocket_connect("/chat") as socket:
            [line] = [value.decode() for name, value in socket.extra_headers or () if name == b"set-cookie"]
        client.cookies.set(*line.partition(";")[0].split("=", 1))
        assert client.get("/room").json() == {"room": "lobby"}


def test_the_lifespan_is_the_applications() -> None:
    steps: list[str] = []

    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        steps.append("up")
        yield
        steps.append("down")

    middleware = [Middleware(SessionMiddleware, store="memory:")]
    with TestClient(Starlette(middleware=middleware, lifespan=asynccontextmanager(lifespan))):
        assert steps == ["up"]
    assert steps == ["up", "down"]


def test_a_manager_may_be_made_before_the_application_and_shared() -> None:
    manager = SessionManager("memory:", insecure_dev=True)
    sites = [
        Starlette(
            routes=[Route("/early", put_early), Route("/show", lambda request: JSONResponse(dict(request.session)))],
            middleware=[Middleware(SessionMiddleware, manager=manager)],
        )
        for _ in range(2)
    ]
    first, second = (TestClient(site) for site in sites)
    first.get("/early")
    second.cookies.update(first.cookies)
    assert second.get("/show").json() == {"early": 1}
