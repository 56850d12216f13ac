"""Servers that tests share for a whole run; a test begins with ``fresh()`` instead of a restart.

`tests/conftest.py` imports these names. A test that changes a server for good starts its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.servers.cluster import RedisCluster
from tests.servers.memcached import MemcachedServers
from tests.servers.redis import RedisServer
from tests.servers.sentinel import Sentinels


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis server that keeps nothing on disk."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_sentinels() -> Iterator[Sentinels]:
    """A primary, two replicas, three Sentinels."""
    with Sentinels() as sentinels:
        yield sentinels


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three primaries with a replica each."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def memcached_servers() -> Iterator[MemcachedServers]:
    """Three memcached servers."""
    with MemcachedServers() as servers:
        yield servers
