"""What a redis-py pool of the application says about its server: the name, and what the way there is like.

For both colours: `client_blocking` and `client_loop` use what the application lends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis
import redis.asyncio

from sojourn.store.redis.examine import Link
from sojourn.store.redis.settings import Address

_TLS = (redis.SSLConnection, redis.asyncio.SSLConnection)


def place_of(pool: Any) -> str:
    """Return the server's name without secrets."""
    if name := getattr(pool, "service_name", None):
        return f"redis+sentinel://{name}"
    options = pool.connection_kwargs
    if path := options.get("path"):
        return f"unix://{path}"
    return f"{'rediss' if has_tls(pool) else 'redis'}://{_address(options)}"


def cluster_place_of(addresses: Iterable[Address], *, tls: bool) -> str:
    """Return the name of a Cluster with nodes at *addresses*."""
    return f"{'rediss' if tls else 'redis'}+cluster://{','.join(map(str, addresses))}"


def link_of(pool: Any) -> Link:
    """Return what the way to the server is like. Who is found by Sentinels may be anywhere."""
    options = pool.connection_kwargs
    network = hasattr(pool, "service_name") or not (options.get("path") or _address(options).is_loopback)
    secret = options.get("password") or options.get("credential_provider")
    return Link(network, has_tls(pool), bool(secret))


def has_tls(pool: Any) -> bool:
    """Tell whether the connections of *pool* are encrypted."""
    return issubclass(pool.connection_class, _TLS)


def _address(options: dict[str, Any]) -> Address:
    return Address(str(options.get("host", "localhost")), int(options.get("port", 6379)))
