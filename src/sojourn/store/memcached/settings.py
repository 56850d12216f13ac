"""The store URL of memcached: ``memcached://h1,h2,h3?...``, read and checked, and the pair of stores that it names."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable
from functools import cached_property
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sojourn.drive import StorePair
from sojourn.errors import ConfigurationError
from sojourn.store.memcached.commands import MAX_ITEM, PREFIX
from sojourn.store.memcached.placement import Placement
from sojourn.store.tls import context_of

PORT = 11211
TIMEOUT = 1.0  # seconds that a call may take
POOL = 32  # connections of one process to one server, in blocking applications
LONGEST_PREFIX = 64  # of the 250 bytes that a memcached key may have; the rest is the store's


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int
    path: str | None = None
    """A unix socket instead of host and port."""

    @property
    def name(self) -> str:
        """What the placement of keys knows it by: ``host:port``, or the socket's path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.path or f"{host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether what is sent to it stays on this host."""
        return self.path is not None or self.host == "localhost" or _is_loopback(self.host)


class MemcachedSettings:
    """What a store URL says. Raises ConfigurationError for what it must not say.

    *timeout* and *connect_timeout* are seconds, *max_item* is bytes with all overhead, *pool* counts connections.
    """

    def __init__(
        self,
        addresses: tuple[Address, ...],
        *,
        prefix: str = PREFIX,
        timeout: float = TIMEOUT,
        connect_timeout: float | None = None,
        pool: int = POOL,
        max_item: int = MAX_ITEM,
        tls: bool = False,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        allow_insecure: bool = False,
    ) -> None:
        self.addresses, self.prefix, self.pool, self.max_item = addresses, prefix, pool, max_item
        self.timeout, self.connect_timeout = timeout, min(connect_timeout or timeout, timeout)
        self.tls, self.ca, self.cert, self.key = tls, ca, cert, key
        self.allow_insecure = allow_insecure
        _check_names([address.name for address in addresses])
        self._check_tls()
        self._check_secure()

    @classmethod
    def from_url(cls, url: str) -> MemcachedSettings:
        """Return the settings in *url*."""
        parts = _parts(url)
        settings: dict[str, Any] = {}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in _SETTINGS:
                raise ConfigurationError(f"{parts.scheme}: has no setting {name!r}; there are {', '.join(_SETTINGS)}")
            if name in settings:
                raise ConfigurationError(f"{name} is given twice in the store URL; keep one")
            settings[name] = _SETTINGS[name](name, value)
        return cls(_addresses(parts), tls=parts.scheme == "memcacheds", **settings)

    def describe(self, address: Address) -> str:
        """Return *address* as messages name it."""
        scheme = "memcached+unix" if address.path else "memcacheds" if self.tls else "memcached"
        return f"{scheme}://{address.name}"

    @cached_property
    def placement(self) -> Placement:
        """Which server keeps a key."""
        return Placement([address.name for address in self.addresses])

    @cached_property
    def tls_context(self) -> ssl.SSLContext | None:
        """What verifies the servers; None without TLS."""
        return context_of("the store URL", self.ca, self.cert, self.key) if self.tls else None

    def _check_tls(self) -> None:
        if not self.tls and (self.ca or self.cert or self.key):
            raise ConfigurationError("ca=, cert= and key= are for TLS; write memcacheds://")
        if self.key and not self.cert:
            raise ConfigurationError("key= belongs to a certificate; give cert=, too")
        _ = self.tls_context  # read now, so that a wrong path is found when the store is made

    def _check_secure(self) -> None:
        open_ones = [address.name for address in self.addresses if not address.is_local]
        if open_ones and not self.tls and not self.allow_insecure:
            raise ConfigurationError(
                f"memcached on {', '.join(open_ones)} is reached over the network, without encryption, and serves "
                f"everybody who reaches it: whoever is on that network can read, change and end all sessions. Use "
                f"memcacheds:// (memcached -Z), or say allow_insecure=yes where the network is yours alone"
            )


class MemcachedUrl:
    """Makes the pair of stores that a URL names."""

    @staticmethod
    def from_url(url: str) -> StorePair:
        """Return both colours for ``memcached://``, ``memcacheds://`` or ``memcached+unix://``; connects to nothing.

        Raises ConfigurationError.
        """
        settings = MemcachedSettings.from_url(url)
        return StorePair(lambda: _blocking(settings), lambda: _loop(settings))


def _blocking(settings: MemcachedSettings) -> Any:
    from sojourn.store.memcached.blocking import MemcachedStore  # noqa: PLC0415  a colour that is not used costs nothing

    return MemcachedStore(settings)


def _loop(settings: MemcachedSettings) -> Any:
    from sojourn.store.memcached.loop import AsyncMemcachedStore  # noqa: PLC0415  as above

    return AsyncMemcachedStore(settings)


# -- where ---------------------------------------------------------------------------------------------------


def _parts(url: str) -> SplitResult:
    if not url.isprintable() or " " in url:  # urlsplit would pass over some of them, and they end memcached's commands
        raise ConfigurationError("the store URL holds spaces or control characters; write them as %20 and so on")
    try:
        parts = urlsplit(url)
    except ValueError:  # whose text may repeat the URL
        raise ConfigurationError(
            "the store URL cannot be read; put IPv6 addresses into [ ], and use ASCII in the names of hosts"
        ) from None
    if parts.fragment:
        raise ConfigurationError("a memcached URL has no #; write it as %23")
    if "@" in parts.netloc + (parts.path if parts.netloc else "") + parts.query:
        # Looked at first, since other messages would show a part of what may be a password.
        raise ConfigurationError(
            "memcached takes no user and password here; remove what stands before the @, or write it as %40"
        )
    return parts


def _addresses(parts: SplitResult) -> tuple[Address, ...]:
    if parts.scheme == "memcached+unix":
        return (_socket(parts),)
    if parts.path.strip("/"):
        raise ConfigurationError(f"a memcached URL has no path, and this one has {parts.path!r}; give prefix= instead")
    if not parts.netloc:
        raise ConfigurationError(f"{parts.scheme}: names no server; write {parts.scheme}://host")
    return tuple(map(_address, parts.netloc.split(",")))


def _socket(parts: SplitResult) -> Address:
    if parts.netloc or not parts.path.strip("/"):
        raise ConfigurationError("write the path with three slashes: memcached+unix:///run/memcached/memcached.sock")
    return Address("", 0, unquote(parts.path))


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(PORT)
    bare = host.removeprefix("[").removesuffix("]").lower()
    if not bare or (":" in bare) != host.startswith("[") or not _is_host(bare):
        raise ConfigurationError(f"{text!r} is no server; write host, host:port or [IPv6 address]:port")
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ConfigurationError(f"{text!r} has no port from 1 to 65535 after its colon")
    return Address(bare, int(port))


def _is_host(text: str) -> bool:
    """Tell whether resolvers take *text*: each label of a name has 1 to 63 characters (RFC 1035, section 2.3.4)."""
    if ":" in text:
        return _is_address(text)
    labels = text.removesuffix(".").split(".")
    return text.isascii() and all(re.fullmatch(r"[a-z0-9_-]{1,63}", label) for label in labels)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ip_address(host).is_loopback


def _check_names(names: list[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(f"{', '.join(sorted(twice))} is named twice in the store URL; name each server once")


# -- settings ------------------------------------------------------------------------------------------------


def _yes_or_no(name: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ConfigurationError(f"{name}={value!r} in the store URL; use yes or no")
    return value == "yes"


def _seconds(name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 3600:
        raise ConfigurationError(f"{name}={value!r} in the store URL; write seconds, such as 0.25")
    return seconds


def _count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal() and 0 < int(value) <= 10_000):
        raise ConfigurationError(f"{name}={value!r} in the store URL; write a whole number from 1 to 10000")
    return int(value)


def _size(name: str, value: str) -> int:
    for suffix, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("", 1)):
        number = value.removesuffix(suffix)
        if value.endswith(suffix) and number.isascii() and number.isdecimal() and len(number) < 12:
            if 1 << 10 <= int(number) * factor <= 1 << 30:  # what memcached's own option -I takes
                return int(number) * factor
            break
    raise ConfigurationError(f"{name}={value!r} in the store URL; write 1KiB to 1024MiB, as memcached's option -I says")


def _prefix(name: str, value: str) -> str:
    if not (value.isascii() and value.isprintable() and " " not in value and 0 < len(value) <= LONGEST_PREFIX):
        raise ConfigurationError(
            f"{name}={value!r} in the store URL; write 1 to {LONGEST_PREFIX} printable ASCII characters without spaces"
        )
    return value


def _path(name: str, value: str) -> str:
    if not value:
        raise ConfigurationError(f"{name}= in the store URL is empty; name a file")
    return value


_SETTINGS: dict[str, Callable[[str, str], Any]] = {
    "prefix": _prefix,
    "timeout": _seconds,
    "connect_timeout": _seconds,
    "pool": _count,
    "max_item": _size,
    "ca": _path,
    "cert": _path,
    "key": _path,
    "allow_insecure": _yes_or_no,
}
