"""Asynchronous tests, each in an event loop of its own, and the stores and fixtures that they share."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest
from tests.servers.redis import RedisServer
from tests.store.redis.harness import PATIENT, with_query

from sojourn.store.redis.loop import AsyncRedisStore
from sojourn.store.redis.settings import RedisSettings


def looped(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test to its end; fixtures come as usual."""

    @wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run an asynchronous test on asyncio's loop and on uvloop's."""

    @wraps(test)
    def run(*arguments: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop], **named: Any) -> None:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(test(*arguments, **named))

    # pytest looks at the signature for fixtures, and the one of the test lacks this one
    signature = inspect.signature(test)
    parameter = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), parameter])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])(run)


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


LOOPS = [asyncio.new_event_loop, _uvloop]


@pytest.fixture(scope="module")
def locked_server() -> Iterator[RedisServer]:
    """A server with TLS and a password."""
    with RedisServer(tls=True, password="p@ss/word") as server:
        yield server


@pytest.fixture(autouse=True)
def fresh_servers(request: pytest.FixtureRequest) -> None:
    for name in ("redis_server", "redis_sentinels", "redis_cluster"):
        if name in request.fixturenames:
            request.getfixturevalue(name).fresh()


def store_at(url: str, query: str = PATIENT) -> AsyncRedisStore:
    return AsyncRedisStore.from_settings(RedisSettings.from_url(with_query(url, query)))


def locked_url(server: RedisServer) -> str:
    return f"rediss://:p%40ss%2Fword@{server.address}?ca={server.authority}"


@asynccontextmanager
async def opened(url: str, query: str = PATIENT) -> AsyncIterator[AsyncRedisStore]:
    store = store_at(url, query)
    try:
        yield store
    finally:
        await store.aclose()


def ours(server: RedisServer) -> int:
    return sum(client["name"] == "sojourn" for client in server.admin.client_list())
