"""What an application's own client says about its server: the same in both colours, and without secrets."""

from __future__ import annotations

from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as LoopSentinel
from redis.sentinel import Sentinel

from sojourn.store.redis.client import cluster_place_of, link_of, place_of
from sojourn.store.redis.examine import Link
from sojourn.store.redis.settings import Address

COLOURS = pytest.mark.parametrize("client", [redis.Redis, redis.asyncio.Redis], ids=["blocking", "async"])
PLACES: list[tuple[dict[str, Any], str, Link]] = [
    ({}, "redis://localhost:6379", Link(network=False, tls=False, password=False)),
    ({"host": "::1", "port": 7000}, "redis://[::1]:7000", Link(network=False, tls=False, password=False)),
    ({"host": "cache", "password": "x", "ssl": True}, "rediss://cache:6379", Link(True, tls=True, password=True)),
    ({"unix_socket_path": "/run/r.sock"}, "unix:///run/r.sock", Link(network=False, tls=False, password=False)),
]


@COLOURS
@pytest.mark.parametrize(("options", "place", "link"), PLACES, ids=[place for _, place, _ in PLACES])
def test_a_client_says_where_its_server_is(client: Any, options: dict[str, Any], place: str, link: Link) -> None:
    pool = client(**options).connection_pool
    assert (place_of(pool), link_of(pool)) == (place, link)


@pytest.mark.parametrize("sentinel", [Sentinel, LoopSentinel], ids=["blocking", "async"])
def test_who_is_named_by_sentinels_may_be_anywhere(sentinel: Any) -> None:
    """So that what is sent in clear there is a finding, also when the Sentinel itself is on this host."""
    pool = sentinel([("localhost", 26379)]).master_for("main", password="x").connection_pool
    assert (place_of(pool), link_of(pool)) == ("redis+sentinel://main", Link(True, tls=False, password=True))


def test_a_cluster_is_called_by_its_nodes() -> None:
    assert cluster_place_of([Address("h1", 1), Address("::1", 2)], tls=True) == "rediss+cluster://h1:1,[::1]:2"
