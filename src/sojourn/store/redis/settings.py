"""RedisSettings: what a store URL says about Redis or Valkey servers, checked where it is written.

    redis://[user[:password]@]host[:port][/db]      one server; rediss:// with TLS
    unix://[user[:password]@]/run/redis.sock        one server on this host
    redis+sentinel://h1[:26379],h2,h3/master[/db]   whichever server the Sentinels call the primary of that name
    redis+cluster://h1[:6379],h2                    a Cluster; the hosts tell where the others are

``valkey`` may stand for ``redis`` in each. Further settings follow after ``?``. IPv6 addresses stand in brackets; in
user and password every character that is not a letter or a digit may be written as %XX.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import hiredis  # noqa: F401  here, so that a missing driver is reported as soon as the URL is read
import redis  # noqa: F401

from sojourn.core.ops import AsyncStore, Store
from sojourn.drive import StorePair
from sojourn.errors import ConfigurationError
from sojourn.store.redis.commands import PREFIX
from sojourn.store.tls import context_of

PORT, SENTINEL_PORT = 6379, 26379
TIMEOUT = 1.0  # seconds
POOL = 32  # connections of one process to one server
LONGEST_PREFIX = 128  # bytes; every key has it

_TLS = {"rediss": "redis", "valkeys": "valkey"}
_HOST = re.compile(r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(:(?P<port>[0-9]{1,6}))?")
_MODES = {"": "standalone", "sentinel": "sentinel", "cluster": "cluster"}


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether nothing leaves this host on the way there."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, repr=False)
class RedisSettings:
    """How to reach the servers, and how long to wait for them. Made by :meth:`from_url`.

    Its text, also in messages, never shows user names and passwords.
    """

    scheme: str
    """As it was written, such as ``rediss+sentinel``."""
    mode: str
    """``standalone``, ``sentinel`` or ``cluster``."""
    addresses: tuple[Address, ...] = ()
    """The server, the Sentinels, or some nodes of the Cluster; empty for a unix socket."""
    path: str | None = None
    """The unix socket."""
    master: str | None = None
    """The name under which the Sentinels know the primary."""
    db: int = 0
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    tls: bool = False
    ca: str | None = None
    """File with the authorities to trust, PEM; None: the system's."""
    cert: str | None = None
    """File with the client's own certificate, PEM."""
    key: str | None = None
    """File with the key of that certificate, PEM; None: it is in the same file."""
    prefix: str = PREFIX
    """What every key begins with."""
    timeout: float = TIMEOUT
    """Seconds within which each call ends."""
    connect_timeout: float = TIMEOUT
    """Seconds of those that connecting may take."""
    pool: int = POOL
    """The most connections that one process opens to one server; a blocking call needs one for itself."""
    allow_insecure: bool = False
    """Whether a server on the network may be spoken to without TLS and without a password."""

    @classmethod
    def from_url(cls, url: str) -> RedisSettings:
        """Return what *url* says. Raises ConfigurationError for what it must not say."""
        return _checked(cls(**_read(url)))

    @property
    def masked(self) -> str:
        """The place without user names and passwords, for messages and logs."""
        place = self.path or ",".join(map(str, self.addresses)) + (f"/{self.master}" if self.master else "")
        return f"{self.scheme}://{place}" + (f"/{self.db}" if self.db and not self.path else "")

    @property
    def on_network(self) -> bool:
        """Whether the way to any of the addresses leaves this host."""
        return any(not address.is_loopback for address in self.addresses)

    def tls_context(self) -> ssl.SSLContext | None:
        """Return what verifies the servers; None without TLS. Raises ConfigurationError for files of no use."""
        return context_of(self.masked, self.ca, self.cert, self.key) if self.tls else None

    def __repr__(self) -> str:
        return f"<RedisSettings {self.masked}, {self.timeout:g} s>"


class RedisUrl:
    """The store URLs of Redis and Valkey."""

    @classmethod
    def from_url(cls, url: str) -> StorePair:
        """Return the store that *url* names, in both colours; each is made when it is first asked for.

        Asks nothing of any server. Raises ConfigurationError for a wrong setting.
        """
        settings = RedisSettings.from_url(url)

        def blocking() -> Store:
            from sojourn.store.redis.blocking import RedisStore  # noqa: PLC0415  the other colour need not pay for it

            return RedisStore.from_settings(settings)

        def loop() -> AsyncStore:
            from sojourn.store.redis.loop import AsyncRedisStore  # noqa: PLC0415

            return AsyncRedisStore.from_settings(settings)

        return StorePair(blocking, loop)


# -- reading a URL: each message names what is wrong with which setting, and none repeats the URL -------------------


def _read(url: str) -> dict[str, Any]:
    scheme, _, rest = url.partition("://")
    found = _scheme(scheme)
    if "#" in rest:
        raise _wrong(scheme, "a # ends a URL", "write it as %23, also in a password")
    place, _, query = rest.partition("?")
    authority, slash, path = place.partition("/")
    if "@" in path + query:  # looked at first, since it is a part of the password that other messages would show
        raise _wrong(scheme, "an @ stands behind a / or a ?", "write @ / and ? in a password as %40 %2F and %3F")
    userinfo, _, hosts = authority.rpartition("@")
    user, colon, password = userinfo.partition(":")
    found |= {"username": unquote(user) or None, "password": unquote(password) or None}
    if colon and not password:
        raise _wrong(scheme, "the password is empty", "write user:password@, or :password@ without a user")
    found |= _socket(scheme, hosts, slash + path) if scheme == "unix" else _network(scheme, found["mode"], hosts, path)
    settings = _query(scheme, found["mode"], query)
    return {**found, "connect_timeout": settings.get("timeout", TIMEOUT), **settings}


def _scheme(scheme: str) -> dict[str, Any]:
    if scheme == "unix":
        return {"scheme": scheme, "mode": "standalone"}
    base, _, mode = scheme.partition("+")
    if _TLS.get(base, base) not in _TLS.values() or mode not in _MODES:
        raise ConfigurationError(
            f"{scheme}:// is none of redis://, rediss://, unix://, redis+sentinel://, redis+cluster://"
        )
    return {"scheme": scheme, "mode": _MODES[mode], "tls": base in _TLS}


def _socket(scheme: str, hosts: str, path: str) -> dict[str, Any]:
    if hosts or len(path) < 2:
        raise _wrong(scheme, "there is no path of a socket", "write it with three slashes, unix:///run/redis.sock")
    return {"path": unquote(path)}


def _network(scheme: str, mode: str, hosts: str, path: str) -> dict[str, Any]:
    port = SENTINEL_PORT if mode == "sentinel" else PORT
    addresses = tuple(dict.fromkeys(_address(scheme, host, port) for host in hosts.split(",")))
    if mode == "standalone" and len(addresses) > 1:
        cure = "name one, or use redis+sentinel:// or redis+cluster://"
        raise _wrong(scheme, "several hosts are named, which are not one server", cure)
    words = [unquote(word) for word in path.split("/")]
    master = words.pop(0) if mode == "sentinel" else None
    if mode == "sentinel" and not master:
        raise _wrong(scheme, "the primary's name is missing", "write it as in sentinel.conf: …://h1,h2,h3/mymaster")
    db = _db(scheme, "/".join(words)) if words not in ([], [""]) else 0
    if db and mode == "cluster":
        raise _wrong(
            scheme, f"there is no database {db} in a Cluster", "leave it out; use prefix= to keep things apart"
        )
    return {"addresses": addresses, "master": master, "db": db}


def _address(scheme: str, text: str, default: int) -> Address:
    match = _HOST.fullmatch(text)
    if not match:
        raise _wrong(scheme, "a host is missing or ill-formed", "write host, host:port or [IPv6 address]:port")
    port = int(match["port"] or default)
    if not 0 < port < 65536:
        raise _wrong(scheme, f"{port} is no port", "use 1 to 65535")
    return Address((match["v6"] or match["name"]).lower(), port)


def _query(scheme: str, mode: str, query: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    known = _SETTINGS | (_ONLY_UNIX if scheme == "unix" else {}) | (_ONLY_SENTINEL if mode == "sentinel" else {})
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known:
            raise _wrong(scheme, f"there is no setting {name!r} here", f"there are {', '.join(sorted(known))}")
        if name in settings:
            raise _wrong(scheme, f"{name} is given twice", "keep one")
        settings[name] = known[name](scheme, name, value)
    return settings


def _seconds(scheme: str, name: str, value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 3600:
        raise _wrong(scheme, f"{name}={value} is no time to wait", "give seconds, 0.001 to 3600, such as 0.25")
    return seconds


def _count(scheme: str, name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or not 1 <= int(value[:6]) <= 10_000:
        raise _wrong(scheme, f"{name}={value} is no number of connections", "use 1 to 10000")
    return int(value)


def _db(scheme: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 5:
        raise _wrong(scheme, f"{value!r} is no database", "give its number, such as …/1")
    return int(value)


def _yes(scheme: str, name: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise _wrong(scheme, f"{name}={value} is neither yes nor no", "write yes or no")
    return value == "yes"


def _text(scheme: str, name: str, value: str) -> str:
    if not value:
        raise _wrong(scheme, f"{name} is empty", "give it a value, or leave it out")
    return value


_SETTINGS: dict[str, Callable[[str, str, str], Any]] = {
    "prefix": _text,
    "timeout": _seconds,
    "connect_timeout": _seconds,
    "pool": _count,
    "ca": _text,
    "cert": _text,
    "key": _text,
    "allow_insecure": _yes,
}
_ONLY_UNIX: dict[str, Callable[[str, str, str], Any]] = {"db": lambda scheme, _, value: _db(scheme, value)}
_ONLY_SENTINEL: dict[str, Callable[[str, str, str], Any]] = {"sentinel_username": _text, "sentinel_password": _text}


# -- what does not go together -------------------------------------------------------------------------------------


def _checked(settings: RedisSettings) -> RedisSettings:
    scheme = settings.scheme
    if not settings.tls and (settings.ca or settings.cert or settings.key):
        raise _wrong(scheme, "ca, cert and key are for TLS", "write rediss, with two s, in front of ://")
    if settings.key and not settings.cert:
        raise _wrong(scheme, "key is given without cert", "give the certificate that the key belongs to")
    if settings.username and not settings.password:
        raise _wrong(scheme, "a user is named without a password", "write user:password@")
    check_prefix(settings.prefix, cluster=settings.mode == "cluster")
    if settings.on_network and not (settings.tls or settings.password or settings.allow_insecure):
        raise insecure(settings.masked)
    unguarded = settings.mode == "sentinel" and not (settings.tls or settings.sentinel_password)
    if unguarded and settings.on_network and not settings.allow_insecure:
        raise _wrong(
            scheme,
            f"the Sentinels {', '.join(map(str, settings.addresses))} are on the network without TLS and without a "
            "password, so whoever reaches them can say which server gets every session and the password",
            "use rediss+sentinel:// or sentinel_password=, or accept the risk with ?allow_insecure=yes",
        )
    return settings


def check_prefix(prefix: str, *, cluster: bool = False) -> None:
    """Raise ConfigurationError for a *prefix* that no key can begin with, or that would put all keys on one node."""
    try:
        size = len(prefix.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"prefix={prefix!r} is no text; use letters, digits and colons") from None
    if not 0 < size <= LONGEST_PREFIX:
        raise ConfigurationError(f"prefix has {size} bytes; use 1 to {LONGEST_PREFIX}, such as {PREFIX!r}")
    if cluster and "{" in prefix:
        raise ConfigurationError(
            f"prefix={prefix!r} has a brace, by which a Cluster may put all sessions on one node; leave it out"
        )


def insecure(where: str) -> ConfigurationError:
    """Return what to raise for a server that must not be spoken to in clear and without a password."""
    return ConfigurationError(
        f"{where} is on the network without TLS and without a password, so whoever reaches it can read and change "
        "every session; use rediss:// and a password, or accept the risk with ?allow_insecure=yes"
    )


def _wrong(scheme: str, what: str, cure: str) -> ConfigurationError:
    return ConfigurationError(f"store {scheme}://…: {what}; {cure}")
