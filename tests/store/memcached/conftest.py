"""Servers and colours for the tests of memcached."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.memcached import MemcachedServer, MemcachedServers


@pytest.fixture(scope="module")
def three() -> Iterator[MemcachedServers]:
    """Three servers that the tests of a file share."""
    with MemcachedServers() as servers:
        yield servers


@pytest.fixture
def servers(three: MemcachedServers) -> MemcachedServers:
    """Three servers, running and empty."""
    three.fresh()
    return three


@pytest.fixture
def server(servers: MemcachedServers) -> MemcachedServer:
    """One of them."""
    return servers[0]


@pytest.fixture(params=[False, True], ids=["blocking", "async"])
def loop(request: pytest.FixtureRequest) -> bool:
    """Whether the store is called on an event loop."""
    return bool(request.param)
