"""What a balancer is told: where it listens and which nodes stand behind it. Checked when built.

Every text that a configuration file takes over from these objects has been through a pattern here, so no host and
no path can bring a directive of its own along.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from sojourn.errors import ConfigurationError

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing (RFC 9110, 9.2.1): the only ones repeated once a node may have seen the request."""

DIAL_TIMEOUT = 1  # seconds for a connection; a live node of the same network takes milliseconds
TRY_FOR = 5  # seconds of looking for a node that answers, before the visitor is told
AVOID_FOR = 1  # seconds without the node that failed; short, since the next refused dial costs nothing but a retry

_LABEL = r"[0-9A-Za-z](?:[0-9A-Za-z-]{0,61}[0-9A-Za-z])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")  # RFC 1123, 2.1
_NUMERIC = re.compile(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*|(?:.*\.)?[0-9]+")  # an IPv6 address, or a last label of digits
_PATH = re.compile(r"/(?:[0-9A-Za-z._~-]+/)*[0-9A-Za-z._~-]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a host name or an IP address, and a port. Raises ConfigurationError."""

    host: str
    port: int

    def __post_init__(self) -> None:
        if not _is_host(self.host):
            raise ConfigurationError(f"host {ascii(self.host)[:80]}: give a host name or an IP address, nothing else")
        if type(self.port) is not int or not 0 < self.port < 65536:
            raise ConfigurationError(f"port {ascii(self.port)[:80]}: give a number from 1 to 65535")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Aside:
    """A path that one other server answers, and the page there that tells a visitor why no node did.

    *prefix* and *sorry* are paths; *sorry* lies under *prefix*. Raises ConfigurationError.
    """

    prefix: str
    to: Address
    sorry: str

    def __post_init__(self) -> None:
        for name in ("prefix", "sorry"):
            if not _PATH.fullmatch(getattr(self, name)):
                raise ConfigurationError(
                    f"{name} {ascii(getattr(self, name))[:80]}: give a plain path such as /status/"
                )
        if not (len(self.prefix) > 1 and self.prefix.endswith("/") and self.sorry.startswith(self.prefix)):
            raise ConfigurationError(f"prefix {self.prefix!r} must end in / and {self.sorry!r} must lie under it")


@dataclass(frozen=True, slots=True)
class Site:
    """One address in front of one or more nodes. Raises ConfigurationError."""

    listen: Address
    nodes: tuple[Address, ...]
    aside: Aside | None = None

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ConfigurationError("nodes is empty; a balancer needs at least one node to send requests to")
        if len(set(self.nodes)) < len(self.nodes):
            raise ConfigurationError("nodes names an address twice; each node has one of its own")


def _is_host(host: object) -> bool:
    if not isinstance(host, str) or len(host) > 253:
        return False
    if _NUMERIC.fullmatch(host):
        return _is_ip(host)
    return _NAME.fullmatch(host) is not None


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
