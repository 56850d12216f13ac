"""An asyncio client or pool of the application, lent to AsyncRedisStore. Slower than the store's own connections.

redis-py lends a connection to one call at a time and closes it when the call is cancelled in the middle of a reply.
That is done here once more, so that a version of redis-py that forgets it gives nobody another's reply.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import redis.asyncio as redis
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from sojourn.errors import ConfigurationError
from sojourn.store.redis.client import cluster_place_of, link_of, place_of
from sojourn.store.redis.cluster import Cluster
from sojourn.store.redis.commands import Command, with_source
from sojourn.store.redis.examine import Link
from sojourn.store.redis.failures import unavailable
from sojourn.store.redis.settings import Address
from sojourn.store.redis.topology import Shard, Terms, Then
from sojourn.store.redis.wire import Endpoint

Client = redis.Redis | redis.RedisCluster | redis.ConnectionPool
"""What can be lent: a client, with Sentinel's among them, or a pool."""


class LentPool:
    """The way to the server over the application's pool. Its deadline holds whatever the pool's own settings say.

    Nothing is sent twice: commands do not go through the client, whose retries may repeat what was executed.
    """

    splits = False

    def __init__(self, pool: Any, timeout: float, then: Then) -> None:
        self._pool, self._timeout, self._then = pool, timeout, then
        self._place = place_of(pool)

    async def ask(self, command: Command, server: object = None) -> Any:
        """Return the reply to *command*. Raises StoreUnavailable."""
        due = asyncio.get_running_loop().time() + self._timeout
        try:
            async with asyncio.timeout_at(due):
                try:
                    reply = await self._once(command)
                except NoScriptError:
                    reply = await self._once(with_source(command))
        except (RedisError, OSError, UnicodeError) as error:
            late = isinstance(error, TimeoutError)
            raise unavailable(self._place, RedisTimeout() if late else error, self._timeout) from error
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self._then()
        return reply

    async def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to *commands*."""
        return [await self.ask(command) for command in commands]

    async def shards(self) -> Sequence[Shard]:
        """Return the one server."""
        return (Shard(0, self._place, None),)

    async def close(self) -> None:
        """Close nothing: the pool is the application's."""

    async def _once(self, command: Command) -> Any:
        connection: Any = await self._pool.get_connection()
        try:
            await connection.send_command(*command)
            return await connection.read_response(disable_decoding=True)
        except ResponseError:  # a reply, too
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:  # shielded, or a cancelled call takes its place in the pool with it
            await asyncio.shield(self._pool.release(connection))


def way_of(client: Client, timeout: float) -> tuple[str, Callable[[Then], Any], Link]:
    """Return the name of what *client* reaches, what makes the way there, and what it is. Raises ConfigurationError."""
    if isinstance(client, redis.RedisCluster):
        return _cluster(client, timeout)
    pool: Any = client.connection_pool if isinstance(client, redis.Redis) else client
    if not isinstance(pool, redis.ConnectionPool):
        raise ConfigurationError(
            f"{type(client).__module__}.{type(client).__name__} is no client or pool of redis.asyncio; "
            "for a blocking one use RedisStore"
        )
    return place_of(pool), lambda then: LentPool(pool, timeout, then), link_of(pool)


def _cluster(client: redis.RedisCluster, timeout: float) -> tuple[str, Callable[[Then], Any], Link]:
    """Return a Cluster by the nodes and the credentials of *client*.

    The connections are our own: the client would send a write again that may have been executed, and sends ASKING
    on another connection than the command that it is for.
    """
    options = client.connection_kwargs
    if options.get("credential_provider"):
        raise ConfigurationError(
            "a RedisCluster with a credential_provider cannot be lent; use a store URL with user and password"
        )
    user, password = options.get("username"), options.get("password")
    greeting: list[Command] = [("AUTH", user, password) if user else ("AUTH", password)] if password else []
    tls = _tls_of(options)
    nodes = client.nodes_manager.startup_nodes.values()
    addresses = [Address(node.host, int(node.port)) for node in nodes]
    seeds = [Endpoint(*address, tls=tls) for address in addresses]
    place = cluster_place_of(addresses, tls=tls is not None)
    terms = Terms(place, timeout, timeout, (*greeting, ("CLIENT", "SETNAME", "sojourn")))
    network = not all(address.is_loopback for address in addresses)
    return place, lambda then: Cluster(terms, seeds, then), Link(network, tls is not None, bool(password), cluster=True)


def _tls_of(options: dict[str, Any]) -> ssl.SSLContext | None:
    kind = options.get("connection_class")
    if kind is None or not issubclass(kind, redis.SSLConnection):
        return None
    connection: Any = kind(host="unused", **{name: value for name, value in options.items() if name.startswith("ssl")})
    context: ssl.SSLContext = connection.ssl_context.get()
    return context
