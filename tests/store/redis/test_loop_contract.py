"""The contracts over AsyncRedisStore on each kind of real server, and over clients of the application."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from tests.servers.redis import RedisServer
from tests.store.redis.harness import redis_harness
from tests.store.redis.loops import locked_server, locked_url, store_at

from sojourn.core.capability import Batched, Examinable, Indexed, Lockable, Scannable
from sojourn.store.redis.loop import AsyncRedisStore
from sojourn.testing import StoreHarness
from sojourn.testing.capability_contract import capabilities_of, stories_for
from sojourn.testing.session_contract import SESSION_STORIES
from sojourn.testing.state_machine import check_against_model
from sojourn.testing.store_contract import STORIES, Story, name_of

pytestmark = pytest.mark.slow

__all__ = ["locked_server"]  # a fixture

CAPABILITIES = {Batched, Indexed, Scannable, Lockable, Examinable}
PLACES = ["redis", "rediss", "unix", "sentinel", "cluster", "lent", "lent-pool", "lent-cluster"]
GROUPS = ["redis", "sentinel", "cluster"]


@pytest.fixture(scope="module")
def socket_server() -> Iterator[RedisServer]:
    """A server with a unix socket."""
    with RedisServer(unix=True) as server:
        yield server


@contextmanager
def harness_at(request: pytest.FixtureRequest, place: str) -> Iterator[StoreHarness]:
    kinds = {"rediss": "locked_server", "unix": "socket_server", "sentinel": "redis_sentinels"}
    servers: Any = request.getfixturevalue("redis_cluster" if "cluster" in place else kinds.get(place, "redis_server"))
    url = {"rediss": locked_url, "unix": lambda server: server.unix_url}.get(place, lambda server: server.url)(servers)
    make = partial(Lending, place, servers) if place.startswith("lent") else None
    with redis_harness(servers, loop=True, url=url, make=make) as harness:
        yield harness


class Lending(AsyncRedisStore):
    """A store on a client of the application with the client's own habits: RESP3, retries, text; closed with it.

    The pool tries to connect ten times, as redis-py does by itself, so that the deadline ends each call to a dead
    server; the client tries three times, so that the last error does, and its stories take seconds less.
    """

    def __init__(self, place: str, servers: Any) -> None:
        if place == "lent-cluster":
            self.client: Any = aredis.RedisCluster(host="127.0.0.1", port=servers.primaries()[0].port)
        else:
            more: dict[str, Any] = {} if place == "lent-pool" else {"retry": Retry(ExponentialBackoff(0.1, 0.01), 3)}
            self.client = aredis.Redis(host="127.0.0.1", port=servers.port, decode_responses=True, **more)
        super().__init__(self.client.connection_pool if place == "lent-pool" else self.client, timeout=2)

    async def aclose(self) -> None:
        await super().aclose()
        await self.client.aclose()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("story", STORIES, ids=name_of)
def test_store_keeps_its_promise(request: pytest.FixtureRequest, place: str, story: Story) -> None:
    with harness_at(request, place) as harness:
        story(harness)


@pytest.mark.parametrize("place", GROUPS)
@pytest.mark.parametrize("story", SESSION_STORIES, ids=name_of)
def test_sessions_keep_their_promise(request: pytest.FixtureRequest, place: str, story: Story) -> None:
    with harness_at(request, place) as harness:
        story(harness)


@pytest.mark.parametrize("place", ["redis", "cluster", "lent"])
@pytest.mark.parametrize("story", stories_for(CAPABILITIES), ids=name_of)
def test_capabilities_keep_their_promise(request: pytest.FixtureRequest, place: str, story: Story) -> None:
    with harness_at(request, place) as harness:
        story(harness)


def test_store_agrees_with_the_model_in_any_order_of_operations(redis_server: RedisServer) -> None:
    check_against_model(partial(redis_harness, redis_server, loop=True))


def test_the_store_has_the_capabilities_that_a_manager_looks_for(redis_server: RedisServer) -> None:
    assert capabilities_of(store_at(redis_server.url)) == CAPABILITIES
