"""The servers that the tests of this directory share."""

from tests.servers.fixtures import redis_cluster, redis_sentinels, redis_server

__all__ = ["redis_cluster", "redis_sentinels", "redis_server"]
