"""A client or a pool of connections that the application has made, and lends to the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import ResponseError
from redis.retry import Retry

from sojourn.errors import ConfigurationError
from sojourn.store.redis.client import cluster_place_of, link_of, place_of
from sojourn.store.redis.commands import Command
from sojourn.store.redis.pool import Connector, Reply, ask, ask_many
from sojourn.store.redis.servers import Cluster, One, Servers
from sojourn.store.redis.settings import Address

Client = redis.Redis | redis.RedisCluster | redis.ConnectionPool
"""What can be lent: a client, with Sentinel's among them, or a pool."""

_DEFAULT_TIMEOUT = signature(AbstractConnection).parameters["socket_timeout"].default


def servers_of(client: Client) -> Servers:
    """Return what *client* reaches. Raises ConfigurationError for one that a hung server could stop for ever."""
    if isinstance(client, redis.RedisCluster):
        return _cluster(client)
    pool: Any = client.connection_pool if isinstance(client, redis.Redis) else client
    if not isinstance(pool, redis.ConnectionPool):
        raise ConfigurationError(
            f"{type(client).__module__}.{type(client).__name__} is no blocking redis-py client or pool; "
            "for one of redis.asyncio use AsyncRedisStore"
        )
    timeout = _timeout_of(pool)
    return One(LentPool(place_of(pool), pool, timeout), timeout, link_of(pool))


class LentPool:
    """A redis-py pool of the application. Its own settings say how long it waits, and how often it tries to connect.

    Nothing is sent twice: commands do not go through the client, whose retries may repeat what was executed.
    """

    def __init__(self, where: str, pool: redis.ConnectionPool, timeout: float) -> None:
        self.where, self._pool, self._timeout = where, pool, timeout

    def ask(self, command: Command, deadline: float, *, again: bool = False) -> Reply:
        """Return the reply to *command*."""
        return self._use(lambda connection: ask(connection, command, monotonic() + self._timeout, self._timeout))

    def ask_many(self, commands: Sequence[Command], deadline: float) -> list[Reply]:
        """Return the replies to *commands*, sent all at once."""
        replies: list[Reply] = self._use(
            lambda connection: ask_many(connection, commands, monotonic() + self._timeout, self._timeout)
        )
        return replies

    def renew(self) -> None:
        """Close the idle connections."""
        self._pool.disconnect(inuse_connections=False)

    def _use(self, work: Callable[[Any], Any]) -> Any:
        connection: Any = self._pool.get_connection()
        try:
            return work(connection)
        except ResponseError:  # a reply, too
            raise
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)


def _cluster(client: Any) -> Cluster:
    """Return a Cluster with the settings and the nodes of *client*.

    The connections are our own: the client would send a write again that may have been executed.
    """
    pool = client.get_redis_connection(client.get_default_node()).connection_pool
    timeout = _timeout_of(pool)
    options = dict(pool.connection_kwargs)
    for name in ("host", "port", "redis_connect_func", "retry_on_error", "retry_on_timeout"):
        options.pop(name, None)  # the function would let replicas answer where reads may go to them
    options["retry"] = Retry(NoBackoff(), 0)
    if chosen := client.user_on_connect_func:
        options["redis_connect_func"] = chosen
    connect_timeout = options.get("socket_connect_timeout") or timeout
    addresses = [Address(other.host, other.port) for other in client.get_nodes()]
    connector = Connector(pool.connection_class, options, timeout, connect_timeout)
    link = link_of(pool)._replace(cluster=True)
    return Cluster(cluster_place_of(addresses, tls=link.tls), addresses, connector, pool.max_connections, link)


def _timeout_of(pool: Any) -> float:
    """Return the seconds that *pool*'s connections wait for a reply."""
    timeout: float | None = pool.connection_kwargs.get("socket_timeout", _DEFAULT_TIMEOUT)
    if not timeout:
        raise ConfigurationError(
            "the Redis client has no socket_timeout, so a server that hangs would hold every request for ever; "
            "make the client with socket_timeout=1.0"
        )
    if isinstance(pool, redis.BlockingConnectionPool) and pool.timeout is None:
        raise ConfigurationError(
            "the pool waits for ever for a free connection; make it with BlockingConnectionPool(timeout=1.0)"
        )
    if getattr(pool, "cache", None) is not None:
        raise ConfigurationError(
            "the Redis client keeps copies of what it has read (cache_config=), which may be sessions that have ended; "
            "give the sessions a client of their own"
        )
    return timeout
