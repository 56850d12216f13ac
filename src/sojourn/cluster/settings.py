"""Settings of a cluster: what a ``peers:`` URL says, checked where it is written.

    peers://host1:7946,host2:7946?tls=/etc/sojourn[&copies=all|2&acks=1&alone=accept&wait=1s&path=/var/lib/shop…]

All hosts have the same URL. It names some hosts that are asked first, by the names under which the others reach them;
which of them this one is says ``self=``, the caller, or a look at this machine's addresses. IPv6 addresses stand in
brackets. There is nothing secret in it.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from sojourn.errors import ConfigurationError

PORT = 7946
LONGEST_HOST = 255
LONGEST_NAME = LONGEST_HOST + 6  # with its port
MOST_SEEDS = 256  # as many hosts as a cluster may have
MOST_PATTERNS = 256  # of names that may be in it
MOST_COPIES = 16
SMALLEST, LARGEST = 4 << 20, 1 << 46  # bytes, as of ``local:``
WAIT = 1.0  # seconds

_HOST = re.compile(r"(\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[\w.-]+))(:(?P<port>[0-9]{1,6}))?")
_CLUSTER = re.compile(r"[\w.-]{1,64}")
_LABEL = re.compile(r"[0-9a-z_]([0-9a-z_-]{0,61}[0-9a-z_])?", re.ASCII)  # of a host's name, between two dots
_SCHEME = "peers"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the hosts of a cluster find each other and what they promise. All times are seconds."""

    seeds: tuple[str, ...]
    """``host:port`` of hosts that are asked first."""
    me: str
    """The ``host:port`` under which the others reach this host; its certificate names the host."""
    listen: str
    """The ``host:port`` that is bound; ``me`` unless an address is translated on the way."""
    path: str
    """The directory of this host's storage."""
    cluster: str = "sojourn"
    members: tuple[str, ...] = ()
    """Who may be in the cluster: names and addresses, and ``*.example.com`` for one label more. Empty: who has a
    certificate of the authority."""
    copies: int | None = None
    """Hosts that keep a session; None: all."""
    acks: int | None = 1
    """Other hosts that must have a write before it is answered; None: all that should."""
    alone: str = "accept"
    """What becomes of a write that too few hosts acknowledge in time: ``accept`` it, or ``refuse`` with 503."""
    wait: float = WAIT
    """The longest a write waits for acknowledgements, and a read for other hosts."""
    tls: str | None = None
    """The directory of ``ca.pem``, ``host.pem``, ``host.key`` and perhaps ``crl.pem``."""
    sync: bool | None = None
    """Whether each commit waits for the disk; None: yes where an operator named a path."""
    max_size: int = 64 << 30
    """Bytes, see ``local:``."""
    suspect_after: float = 1.0
    """Without a word for so long a host is suspect: nobody waits for it."""
    dead_after: float = 10.0
    """Suspect for so long it is dead: its sessions are copied elsewhere."""
    beat: float = 0.25
    """Between two pings."""

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        own: str | None = None,
        is_mine: Callable[[str], bool] | None = None,
        default_path: Callable[[str], str] | None = None,
    ) -> Settings:
        """Return what *url* says. Raises ConfigurationError for what it must not say.

        *own* is the name of this host where the URL lacks ``self=``; *is_mine* tells of a host whether its address is
        one of this machine; *default_path* returns the directory of the host of a name. All three are None for a URL
        that says it all, as :attr:`url` does.
        """
        seeds, said = _read(url)
        me = _self(seeds, said.pop("self", None), own, is_mine)
        chosen = "path" in said
        if not chosen and default_path is None:
            raise _wrong("there is no path=", "name a directory for this host's sessions")
        path = said.pop("path") if chosen or default_path is None else default_path(me)
        listen = said.pop("listen", me)
        sync = said.pop("sync", chosen)
        return _checked(cls(seeds=seeds, me=me, listen=listen, path=path, sync=sync, **said))

    @property
    def url(self) -> str:
        """The URL that says all of this, whoever reads it."""
        said = {_BY_FIELD.get(field.name, field.name): getattr(self, field.name) for field in fields(self)}
        said["copies"], said["acks"] = _or_all(self.copies), _or_all(self.acks)
        said["members"] = ",".join(self.members) or None
        said["sync"] = None if self.sync is None else "yes" if self.sync else "no"
        query = {name: value for name, value in said.items() if name != "seeds" and value is not None}
        return f"{_SCHEME}://{','.join(self.seeds)}?{urlencode(query, quote_via=quote, safe='/:[],*')}"

    def admits(self, host: str) -> bool:
        """Tell whether *host*, a name or an address without a port, may be in the cluster."""
        named = not host.startswith("*.") and host in self.members  # a certificate for many hosts names none of them
        return not self.members or named or _widened(host) in self.members

    def __str__(self) -> str:
        return f"{_SCHEME}://{','.join(self.seeds)}"


_BY_FIELD = {"me": "self"}


def host_of(name: str) -> str:
    """Return the host in ``host:port``, an IPv6 address without its brackets."""
    return name.rpartition(":")[0].strip("[]")


def port_of(name: str) -> int:
    """Return the port in ``host:port``."""
    return int(name.rpartition(":")[2])


def is_name(text: str) -> bool:
    """Tell whether *text*, which another host has sent, can be a ``host:port``. It is logged, and told to all."""
    return 0 < len(text) <= LONGEST_NAME and ":" in text and text.isprintable()


def is_loopback(name: str) -> bool:
    """Tell whether nothing leaves this machine on the way to ``host:port``."""
    host = host_of(name)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _widened(host: str) -> str | None:
    """Return the pattern that stands for *host* and its neighbours; None where its first label is none."""
    label, _, rest = host.partition(".")
    return f"*.{rest}" if _LABEL.fullmatch(label) else None


def _or_all(number: int | None) -> str:
    return "all" if number is None else str(number)


# -- reading a URL -------------------------------------------------------------------------------------------------


def _read(url: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    scheme, mark, rest = url.partition("://")
    if scheme != _SCHEME or not mark:
        raise _wrong("there are no hosts", f"write {_SCHEME}://host1:{PORT},host2:{PORT}?tls=/etc/sojourn")
    if "#" in rest:
        raise _wrong("a # ends a URL", "write it as %23")
    place, _, query = rest.partition("?")
    hosts, _, path = place.partition("/")
    if "@" in hosts:
        raise _wrong("a user or a password is given", "leave it out: hosts know each other by certificates, see tls=")
    if path:
        raise _wrong("there is a path behind the hosts", "give the directory as path=/var/lib/…")
    seeds = tuple(dict.fromkeys(_name(host) for host in hosts.split(",")))
    if len(seeds) > MOST_SEEDS:
        raise _wrong(f"{len(seeds)} hosts are named", f"name {MOST_SEEDS} at most; they tell of the others")
    return seeds, _query(query)


def _query(query: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _SETTINGS:
            raise _wrong(f"there is no setting {name!r} here", f"there are {', '.join(sorted(_SETTINGS))}")
        if name in said:
            raise _wrong(f"{name} is given twice", "keep one")
        said[name] = _SETTINGS[name](name, value)
    return said


def _name(text: str) -> str:
    """Return a host in the one spelling that all compare."""
    match = _HOST.fullmatch(text)
    if not match:
        raise _wrong("a host is missing or ill-formed", "write host, host:port or [IPv6 address]:port")
    port = int(match["port"] or PORT)
    if not 0 < port < 65536:
        raise _wrong(f"{port} is no port", "use 1 to 65535")
    if match["name"]:
        return f"{match['name'].lower()}:{port}"
    try:
        return f"[{ipaddress.IPv6Address(match['v6'])}]:{port}"
    except ValueError:
        raise _wrong(f"[{match['v6']}] is no IPv6 address", "write it as in [fd00::1]:7946") from None


def _address(_: str, value: str) -> str:
    return _name(value)


def _members(name: str, value: str) -> tuple[str, ...]:
    patterns = tuple(dict.fromkeys(_pattern(name, one) for one in value.split(",")))
    if len(patterns) > MOST_PATTERNS:
        raise _wrong(f"{name}= has {len(patterns)} names", f"give {MOST_PATTERNS} at most, or patterns")
    return patterns


def _pattern(name: str, text: str) -> str:
    """Return a name, an address or ``*.`` and a name, in the one spelling that certificates are read in."""
    pattern = text.lower().strip("[]")
    labels = pattern.removeprefix("*.").split(".")
    if all(map(_LABEL.fullmatch, labels)) and len(pattern) <= LONGEST_HOST and not labels[-1].isdecimal():
        return pattern
    try:
        return str(ipaddress.ip_address(pattern))
    except ValueError:
        raise _wrong(
            f"{name}={text[:80]} is no name",
            "write names as certificates have them, without a port, or *.example.com for all names of one label more",
        ) from None


def _copies(name: str, value: str) -> int | None:
    return None if value == "all" else _whole(name, value, 1, MOST_COPIES)


def _acks(name: str, value: str) -> int | None:
    return None if value == "all" else _whole(name, value, 0, MOST_COPIES)


def _whole(name: str, value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 6) or not least <= int(value) <= most:
        raise _wrong(f"{name}={value} is no number of hosts", f"use {least} to {most}, or all")
    return int(value)


def _alone(name: str, value: str) -> str:
    if value not in ("accept", "refuse"):
        raise _wrong(f"{name}={value} is neither accept nor refuse", "write one of them")
    return value


def _seconds(name: str, value: str) -> float:
    """Return seconds: ``1``, ``1s``, ``0.25`` or ``250ms``."""
    number, factor = (value[:-2], 1000) if value.endswith("ms") else (value.removesuffix("s"), 1)
    try:
        seconds = float(number) / factor
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 3600:
        raise _wrong(f"{name}={value} is no time to wait", "give seconds, 0.001 to 3600, such as 1s or 250ms")
    return seconds


def _directory(name: str, value: str) -> str:
    if not value.startswith("/"):
        raise _wrong(f"{name}={value} is no absolute path", "workers may run anywhere; begin it with /")
    return value


def _cluster(name: str, value: str) -> str:
    if not _CLUSTER.fullmatch(value):
        raise _wrong(f"{name}={value} is no name", "use up to 64 letters, digits, dots and dashes")
    return value


def _yes(name: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise _wrong(f"{name}={value} is neither yes nor no", "write yes or no")
    return value == "yes"


def _size(name: str, value: str) -> int:
    for suffix, factor in (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("", 1)):
        digits = value.removesuffix(suffix)
        size = int(digits) * factor if value.endswith(suffix) and digits.isdecimal() and len(digits) <= 18 else 0
        if SMALLEST <= size <= LARGEST:
            return size
    raise _wrong(f"{name}={value} is no size of a file", "write 4MiB to 64TiB: bytes, or with KiB, MiB or GiB")


_SETTINGS: dict[str, Callable[[str, str], Any]] = {
    "self": _address,
    "listen": _address,
    "path": _directory,
    "cluster": _cluster,
    "members": _members,
    "copies": _copies,
    "acks": _acks,
    "alone": _alone,
    "wait": _seconds,
    "tls": _directory,
    "sync": _yes,
    "max_size": _size,
    "suspect_after": _seconds,
    "dead_after": _seconds,
    "beat": _seconds,
}


# -- which of the hosts this one is --------------------------------------------------------------------------------


def _self(seeds: tuple[str, ...], said: str | None, own: str | None, is_mine: Callable[[str], bool] | None) -> str:
    own = None if own is None else _name(own)
    if said and own and said != own:
        raise _wrong(f"self={said}, and SOJOURN_SELF is {own}", "keep one of them")
    if name := said or own:
        return name
    mine = [] if is_mine is None else [seed for seed in seeds if is_mine(host_of(seed))]
    if len(mine) == 1:
        return mine[0]
    problem = f"{' and '.join(mine)} are all this machine" if mine else "none of the hosts is this machine"
    example = (mine or [f"host:{PORT}"])[0]
    raise _wrong(
        problem,
        f"say under which name the others reach it, with self={example} here or SOJOURN_SELF={example} in the "
        "environment",
    )


# -- what does not go together -------------------------------------------------------------------------------------


def _checked(settings: Settings) -> Settings:
    if not settings.tls:
        for name in (*settings.seeds, settings.me, settings.listen):
            if not is_loopback(name):
                raise _wrong(
                    f"{name} is on the network, where whoever reaches a host could read and change every session",
                    "give tls=DIRECTORY with ca.pem, host.pem and host.key; sojourn cluster certs makes them",
                )
    for name in (*settings.seeds, settings.me):
        if not settings.admits(host_of(name)):
            raise _wrong(f"{name} is no member by members={','.join(settings.members)}", "add its name there")
    if settings.copies and settings.acks and settings.acks >= settings.copies:
        raise _wrong(
            f"acks={settings.acks} other hosts are to have a write of which there are copies={settings.copies} in all",
            f"use acks={settings.copies - 1} at most, or acks=all",
        )
    if settings.alone == "refuse" and settings.acks == 0:
        raise _wrong("alone=refuse waits for nobody with acks=0", "use acks=1 or more, or leave alone out")
    if settings.beat * 2 > settings.suspect_after:
        raise _wrong(
            f"a ping every beat={settings.beat:g} s is too rare for suspect_after={settings.suspect_after:g} s",
            "make the beat half of it at most, or one late ping makes a host suspect",
        )
    return settings


def _wrong(what: str, cure: str) -> ConfigurationError:
    return ConfigurationError(f"store {_SCHEME}://…: {what}; {cure}")
