"""Who makes the store ready, and who closes it: the middleware by the server's lifespan, or the manager's owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from tests.adapters.servers import http_scope

from sojourn.adapters.asgi import SessionMiddleware
from sojourn.manager import SessionManager
from sojourn.store.memory import MemoryStore
from sojourn.testing.adapter_harness import AwaitedStore, Request

STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


class ClosableStore(AwaitedStore):
    """Notes among what is sent to the server when it is closed. It has nothing to prepare."""

    def __init__(self, steps: list[str], *, fails: bool = False) -> None:
        super().__init__(MemoryStore())
        self.steps, self.fails = steps, fails

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.steps.append("store closed")
        if self.fails:
            raise OSError("the connection was gone already")


class PreparedStore(ClosableStore):
    """Notes also when it is made ready."""

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        self.steps.append("store ready")
        if self.fails:
            raise OSError("nobody listens")


async def run_lifespan(app: Any, steps: list[str], *messages: dict[str, str]) -> None:
    """Be the server: hand out *messages*, and note what is sent."""
    incoming = list(messages)

    async def receive() -> dict[str, str]:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        steps.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)


def starlette_app(steps: list[str], **settings: Any) -> Starlette:
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        steps.append("up")
        yield
        steps.append("down")

    middleware = [Middleware(SessionMiddleware, **settings)]
    return Starlette(middleware=middleware, lifespan=asynccontextmanager(lifespan))


def test_a_manager_made_of_settings_is_closed_after_the_application_and_before_the_server_goes_on() -> None:
    """A server may stop the event loop as soon as it is told that the application has ended."""
    steps: list[str] = []
    app = starlette_app(steps, store=ClosableStore(steps))
    asyncio.run(run_lifespan(app, steps, STARTUP, SHUTDOWN))
    assert steps == ["up", "lifespan.startup.complete", "down", "store closed", "lifespan.shutdown.complete"]


def test_a_manager_that_was_given_is_left_to_its_owner() -> None:
    steps: list[str] = []
    app = starlette_app(steps, manager=SessionManager(ClosableStore(steps)))
    asyncio.run(run_lifespan(app, steps, STARTUP, SHUTDOWN))
    assert steps == ["up", "lifespan.startup.complete", "down", "lifespan.shutdown.complete"]


def test_the_store_is_ready_before_the_server_lets_requests_come() -> None:
    steps: list[str] = []
    app = starlette_app(steps, store=PreparedStore(steps))
    asyncio.run(run_lifespan(app, steps, STARTUP, SHUTDOWN))
    assert steps[:3] == ["up", "store ready", "lifespan.startup.complete"]
    assert steps[3:] == ["down", "store closed", "lifespan.shutdown.complete"]


def test_a_store_that_is_not_ready_keeps_no_server_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    steps: list[str] = []
    app = starlette_app(steps, store=PreparedStore(steps, fails=True))
    asyncio.run(run_lifespan(app, steps, STARTUP, SHUTDOWN))
    assert steps[:3] == ["up", "store ready", "lifespan.startup.complete"]
    assert "not made ready" in caplog.text


def test_the_store_of_a_manager_that_was_given_is_made_ready_by_its_owner() -> None:
    steps: list[str] = []
    manager = SessionManager(PreparedStore(steps))
    asyncio.run(run_lifespan(starlette_app(steps, manager=manager), steps, STARTUP, SHUTDOWN))
    assert "store ready" not in steps
    asyncio.run(manager.aprepare())
    assert steps[-1] == "store ready"


@pytest.mark.parametrize("ended", ["lifespan.startup.failed", "lifespan.shutdown.failed"])
def test_an_application_that_fails_to_start_or_to_end_has_its_store_closed_too(ended: str) -> None:
    steps: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": ended, "message": "no"})

    app = SessionMiddleware(application, store=ClosableStore(steps))
    asyncio.run(run_lifespan(app, steps, STARTUP))
    assert steps == ["store closed", ended]


def test_a_store_that_fails_to_close_keeps_no_server_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    steps: list[str] = []
    app = starlette_app(steps, store=ClosableStore(steps, fails=True))
    asyncio.run(run_lifespan(app, steps, STARTUP, SHUTDOWN))
    assert steps[-2:] == ["store closed", "lifespan.shutdown.complete"]
    assert "not closed properly" in caplog.text
    assert "OSError" in caplog.text


def test_an_application_without_lifespan_is_served_and_tells_the_server_so_itself() -> None:
    steps: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http", "no lifespan here"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    app: Any = SessionMiddleware(application, store=ClosableStore(steps))

    async def serve() -> None:
        with pytest.raises(AssertionError, match="no lifespan here"):
            await run_lifespan(app, steps, STARTUP, SHUTDOWN)

        async def send(message: Any) -> None:
            steps.append(message["type"])

        await app(http_scope(Request("GET", "/")), None, send)

    asyncio.run(serve())
    assert steps == ["http.response.start", "http.response.body"]


def test_an_application_that_ignores_the_lifespan_may_return() -> None:
    steps: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        pass

    asyncio.run(run_lifespan(SessionMiddleware(application, store=ClosableStore(steps)), steps, STARTUP))
    assert steps == []


def test_a_store_without_connections_needs_no_closing() -> None:
    steps: list[str] = []
    app = starlette_app(steps, store="memory:")
    asyncio.run(run_lifespan(app, steps, STARTUP, SHUTDOWN))
    assert steps == ["up", "lifespan.startup.complete", "down", "lifespan.shutdown.complete"]
