"""A store URL becomes a store. The setting that decides where sessions live is one string."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import cast

from sojourn.core.ops import AsyncStore, Store
from sojourn.core.policy import Policy
from sojourn.drive import StorePair
from sojourn.errors import ConfigurationError

Factory = Callable[[str], Store | AsyncStore | StorePair]

ENTRY_POINTS = "sojourn.stores"
"""Entry point group by which other packages add schemes: each names a callable from a URL to a store."""

_REDIS = ("sojourn.store.redis.settings", "RedisUrl", "redis")
_MEMCACHED = ("sojourn.store.memcached.settings", "MemcachedUrl", None)
_PEERS = ("sojourn.store.peers", "PeersUrl", "peers")

_CREDENTIALS = re.compile(r"//.*@")

# scheme: where its factory is, and the extra that brings its driver
_BUILT_IN = {
    "memory": ("sojourn.store.memory", "MemoryStore", None),
    "local": ("sojourn.store.local", "LocalStore", "local"),
    "peers": _PEERS,
    "memcached": _MEMCACHED,
    "memcacheds": _MEMCACHED,
    "memcached+unix": _MEMCACHED,
    "unix": _REDIS,
    **{
        f"{server}{kind}": _REDIS
        for server in ("redis", "rediss", "valkey", "valkeys")
        for kind in ("", "+sentinel", "+cluster")
    },
}


def connect(url: str) -> Store | AsyncStore | StorePair:
    """Return the store that *url* names; in both colours where it is a server.

    It makes its directory, and asks nothing before the first operation. Raises ConfigurationError for an unknown
    scheme, a missing driver or a wrong setting in the URL.
    """
    scheme, colon, _ = url.partition(":")
    if not colon:
        raise ConfigurationError(f"store={url!r} is no store URL; known schemes: {', '.join(schemes())}")
    return _factory(scheme)(url)


def is_store(store: object) -> bool:
    """Tell whether *store* is something that a manager can use: a URL, a store, or both colours of one."""
    return isinstance(store, (str, StorePair)) or hasattr(store, "load")


def is_async(store: Store | AsyncStore) -> bool:
    """Tell the colour of *store*."""
    from inspect import iscoroutinefunction  # noqa: PLC0415  it brings ast and tokenize, for this one question

    return iscoroutinefunction(store.load)


def introduce(store: object, policy: Policy, *, sealed: bool) -> None:
    """Tell a replicating store how long an ended session must be remembered, and hear what it cannot do.

    Raises ConfigurationError where records are *sealed* as a whole and the store merges them value by value.
    """
    if callable(bound_by := getattr(store, "bound_by", None)):
        bound_by(policy)
    if sealed and getattr(store, "merges", False):
        raise ConfigurationError(
            "keys= seals a session as a whole, and this store merges what hosts change in it value by value; "
            "leave keys out and encrypt the disk that it is on"
        )


def without_password(url: str) -> str:
    """Return a store URL as it may be shown: what stands before its @ is left out."""
    return _CREDENTIALS.sub("//…@", url)


def schemes() -> list[str]:
    """Return the installed schemes, sorted, such as ``local:``."""
    return sorted(f"{name}:" for name in {*_BUILT_IN, *_plugins()})


def _factory(scheme: str) -> Factory:
    if built_in := _BUILT_IN.get(scheme):
        return _load_built_in(scheme, *built_in)
    if plugin := _plugins().get(scheme):
        return plugin()
    raise ConfigurationError(f"no store for {scheme + ':'!r} is installed; known schemes: {', '.join(schemes())}")


def _load_built_in(scheme: str, module: str, name: str, extra: str | None) -> Factory:
    try:
        return cast(Factory, getattr(import_module(module), name).from_url)
    except ImportError as error:
        raise ConfigurationError(
            f"the store {scheme}: needs {error.name}; install it with: pip install 'sojourn[{extra}]'"
        ) from error


def _plugins() -> dict[str, Callable[[], Factory]]:
    from importlib.metadata import entry_points  # noqa: PLC0415  costs milliseconds, and only unknown schemes need it

    return {point.name: point.load for point in entry_points(group=ENTRY_POINTS)}
