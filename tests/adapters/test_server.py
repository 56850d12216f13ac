"""One real server, two real browsers and a real websocket: what the servers without sockets might have got wrong."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.sync.client import connect

from sojourn.adapters import starlette, wsgi
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing.adapter_harness import AwaitedStore

pytestmark = pytest.mark.slow


async def add(request: Request) -> JSONResponse:
    request.session.setdefault("cart", []).append(request.query_params["item"])
    return JSONResponse(request.session["cart"])


async def log_in(request: Request) -> JSONResponse:
    starlette.get_session(request).login(request.query_params["as"])
    return JSONResponse({})


async def show(request: Request) -> JSONResponse:
    session = starlette.get_session(request)
    return JSONResponse({"principal": session.principal, **session})


async def stream(request: Request) -> StreamingResponse:
    session = starlette.get_session(request)
    session["early"] = 1

    async def pieces() -> Any:
        yield "one"
        session.reopen()
        session["late"] = 1
        await session.asave()
        yield "two"

    return StreamingResponse(pieces())


async def chat(socket: WebSocket) -> None:
    session = starlette.get_session(socket)
    await socket.accept()
    async for text in socket.iter_text():
        session["said"] = text
        await session.asave()
        await socket.send_text(f"{session.principal}: {text}")


async def count(request: Request) -> JSONResponse:
    session = starlette.get_session(request)
    await session.fetch()
    async with session.exclusive(wait=20):
        session["count"] = session.get("count", 0) + 1
        return JSONResponse(session["count"])


def site_with(**settings: Any) -> Starlette:
    handlers = {"/add": add, "/login": log_in, "/show": show, "/stream": stream, "/count": count}
    routes = [*(Route(path, handler) for path, handler in handlers.items()), WebSocketRoute("/chat", chat)]
    return Starlette(routes=routes, middleware=[Middleware(starlette.SessionMiddleware, **settings)])


@contextmanager
def uvicorn_serving(site: Starlette) -> Iterator[str]:
    config = uvicorn.Config(site, log_config=None, lifespan="on", ws="websockets-sansio")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("awaited", [False, True], ids=["at-the-first-look", "awaited"])
def test_uvicorn_serves_two_browsers_at_once(awaited: bool) -> None:
    store = MemoryStore()
    manager = SessionManager(AwaitedStore(store) if awaited else store, insecure_dev=True)
    with uvicorn_serving(site_with(manager=manager)) as address, ThreadPoolExecutor(2) as pool:
        clients = [httpx.Client(base_url=f"http://{address}") for _ in range(2)]

        def shop(number: int) -> dict[str, Any]:
            client = clients[number]
            for step in range(20):
                client.get("/add", params={"item": f"{number}-{step}"})
            client.get("/login", params={"as": f"user {number}"})
            seen: dict[str, Any] = client.get("/show").json()
            return seen

        seen = list(pool.map(shop, range(2)))
        for number in range(2):
            assert seen[number] == {
                "principal": f"user {number}",
                "cart": [f"{number}-{step}" for step in range(20)],
            }
        assert clients[0].get("/stream").text == "onetwo"
        assert clients[0].get("/show").json() == {**seen[0], "early": 1, "late": 1}

        cookie = f"sid={clients[1].cookies['sid']}"
        with connect(f"ws://{address}/chat", additional_headers={"Cookie": cookie}) as talk:
            talk.send("hello")
            assert talk.recv() == "user 1: hello"
        assert clients[1].get("/show").json()["said"] == "hello"
        for client in clients:
            client.close()


class ClosableStore(AwaitedStore):
    """Notes that it was closed, on an event loop that is still running."""

    closed = False

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed = True


def test_uvicorn_serves_clicks_in_turn_on_an_excluded_path_and_ends_with_the_store_closed() -> None:
    store = ClosableStore(MemoryStore())
    site = site_with(store=store, exclude=["/count"], insecure_dev=True)
    with uvicorn_serving(site) as address, httpx.Client(base_url=f"http://{address}") as client:
        assert client.get("/count").json() == 1
        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(lambda _: client.get("/count").json(), range(16))) == list(range(2, 18))
        assert not store.closed
    assert store.closed


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_the_standard_librarys_wsgi_server_serves_a_browser() -> None:
    def application(environ: Any, start_response: Any) -> list[bytes]:
        session = environ[wsgi.ENVIRON_KEY]
        session["visits"] = session.get("visits", 0) + 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(session["visits"]).encode()]

    middleware = wsgi.SessionMiddleware(application, store="memory:", insecure_dev=True)
    with make_server("127.0.0.1", 0, middleware, handler_class=Quiet) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}") as client:
                assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
        finally:
            server.shutdown()
            thread.join()
