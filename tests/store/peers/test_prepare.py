"""A server that starts: its agent runs, and its host has caught up, before the first request; or time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from tests.store.peers.harness import Hosts

from sojourn.adapters.asgi import SessionMiddleware
from sojourn.cluster.local import Answer, Status, View
from sojourn.cluster.settings import Settings
from sojourn.store.peers import loop
from sojourn.store.peers.loop import AsyncPeersStore
from sojourn.testing.store_contract import a_key


def prepare(settings: Settings, tables: Any) -> None:
    async def story() -> None:
        store = AsyncPeersStore(settings, tables)
        await store.prepare()
        await store.aclose()

    asyncio.run(story())


def test_a_server_that_starts_waits_until_its_host_has_caught_up(settings: Settings, tables: Any, agents: Any) -> None:
    asked: list[Any] = []

    def script(request: Any) -> Sequence[Answer]:
        asked.append(request)
        return [View(request.number, {"ready": len(asked) == 3})]

    agents(script)
    prepare(settings, tables)
    assert [type(request) for request in asked] == [Status] * 3


@pytest.mark.parametrize("there", [True, False], ids=["never ready", "no agent"])
def test_it_waits_for_no_longer_than_the_bound(
    settings: Settings, tables: Any, agents: Any, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "READY_WITHIN", 0.1)
    if there:
        agents(lambda request: [View(request.number, {"ready": False})])
    prepare(settings, tables)


@pytest.mark.slow
def test_after_the_start_of_a_server_the_first_request_of_all_is_answered() -> None:
    """Of hosts that were never there before: each has to find out that no other has what it lacks."""
    with Hosts(2, start=False) as hosts:
        first = asyncio.run(started(hosts[0].url, hosts[1].url))
        assert first == [None, None], "and not 503: a host that catches up cannot tell"


async def started(*urls: str) -> list[Any]:
    """Start a server on each host, and have it load a session that does not exist."""
    apps = [Starlette(middleware=[Middleware(SessionMiddleware, store=url)]) for url in urls]
    return await asyncio.gather(*map(first_request, apps))


async def first_request(app: Starlette) -> Any:
    complete, over = asyncio.Event(), asyncio.Event()
    messages = iter(["lifespan.startup", "lifespan.shutdown"])

    async def receive() -> dict[str, str]:
        kind = next(messages)
        if kind == "lifespan.shutdown":
            await over.wait()
        return {"type": kind}

    async def send(message: Any) -> None:
        if message["type"] == "lifespan.startup.complete":
            complete.set()

    server = asyncio.create_task(app({"type": "lifespan", "state": {}}, receive, send))
    await complete.wait()
    middleware: Any = app.middleware_stack
    while not isinstance(middleware, SessionMiddleware):
        middleware = middleware.app
    try:
        return await middleware.manager.loop_store().load(a_key())
    finally:
        over.set()
        await server
