"""Greeting: which hosts are dialed and when, and which are let in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sojourn.cluster.clock import ORIGIN_BYTES
from sojourn.cluster.host import Host, Link, rules_of
from sojourn.cluster.member import MOST_MEMBERS
from sojourn.cluster.settings import LONGEST_NAME, host_of, is_name
from sojourn.cluster.wire import VERSIONS, Hello

SOONEST, LATEST = 0.05, 2.0  # seconds between two attempts to dial a host
MOST_LOGS = 4096


@dataclass(slots=True)
class _Attempt:
    at: float
    delay: float = 0.0
    open: bool = False
    """Whether a stream is being opened, or is open."""
    tried: bool = False
    let_in: bool = False
    """Whether the stream has become one on which both have said hello."""
    since: float = float("-inf")
    """When this host was let in last."""


class Dialing:
    """Which hosts to dial: those of the settings, and all that are known and have not left."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._attempts: dict[str, _Attempt] = {}
        self._myself: set[str] = {host.me}

    def _wanted(self) -> dict[str, _Attempt]:
        names = {*self.host.seeds(), *self.host.members.others()} - self._myself
        return {name: self._attempts.setdefault(name, _Attempt(self.host.now)) for name in names}

    def now(self) -> list[str]:
        """Return the hosts that it is time to dial, once."""
        wanted = self._wanted()
        self._attempts = {name: one for name, one in self._attempts.items() if name in wanted or one.open}
        names = []
        for name, attempt in wanted.items():
            if attempt.open or attempt.at > self.host.now:
                continue
            if self.host.members.state(name) == "left":
                attempt.at, attempt.tried = self.host.now + LATEST, True
            else:
                attempt.open = True
                names.append(name)
        return names

    def due(self) -> float:
        """Return when the next is to be dialed."""
        return min((one.at for one in self._attempts.values() if not one.open), default=float("inf"))

    def untried(self) -> bool:
        """Tell whether a host has not even been dialed yet: whether it is there is still to be seen."""
        return any(not attempt.tried for attempt in self._wanted().values())

    def greeted(self, name: str) -> None:
        """A host has let this one in."""
        attempt = self._attempts.setdefault(name, _Attempt(self.host.now))
        attempt.open = attempt.tried = attempt.let_in = True
        attempt.since = self.host.now

    def failed(self, name: str, *, refused: bool = False) -> None:
        """A stream was not opened, or is gone: try again a little later, each time later than before, never in step."""
        attempt = self._attempts.setdefault(name, _Attempt(self.host.now))
        attempt.tried = True
        if self._is_open(name):
            return  # another attempt was luckier
        if attempt.let_in and not self._was_let_in_lately(attempt):
            attempt.delay = 0.0  # it was good for a while; one that breaks at once is tried less and less often
        attempt.open = attempt.let_in = False
        attempt.delay = LATEST if refused else min(max(attempt.delay * 2, SOONEST), LATEST)
        jitter = int.from_bytes(self.host.random(2), "big") / 0xFFFF
        attempt.at = self.host.now + attempt.delay * (0.5 + jitter / 2)

    def soon(self, name: str) -> None:
        """A host has dialed this one: it is there. An attempt from before may hang for long, and is not waited for.

        A stream that broke soon after the hello is no reason to hurry, or two hosts would drive each other on.
        """
        attempt = self._attempts.get(name)
        if attempt and not self._is_open(name) and not self._was_let_in_lately(attempt):
            attempt.at, attempt.delay, attempt.open = self.host.now, 0.0, False

    def _was_let_in_lately(self, attempt: _Attempt) -> bool:
        return attempt.since + LATEST >= self.host.now

    def _is_open(self, name: str) -> bool:
        peer = self.host.peers.get(name)
        return peer is not None and peer.out is not None

    def is_myself(self, name: str) -> None:
        """A name has turned out to be another one of this host."""
        self._myself.add(name)
        self._attempts.pop(name, None)


ITSELF = "this is the host itself, under another of its names"


def why_not(host: Host, link: Link, hello: Hello) -> str | None:
    """Return why a host that says *hello* is not let in, for its operator to read; None: it is."""
    for check in _CHECKS:
        if why := check(host, link, hello):
            return why
    return None


def _version(host: Host, link: Link, hello: Hello) -> str | None:
    if set(VERSIONS) & set(hello.versions):
        return None
    return f"{host.me} speaks versions {_list(VERSIONS)} of the protocol and not {_list(hello.versions)}: update one"


def _cluster(host: Host, link: Link, hello: Hello) -> str | None:
    if hello.cluster == host.settings.cluster:
        return None
    return f"{host.me} belongs to the cluster {host.settings.cluster!r} and not to {hello.cluster[:64]!r}"


def _rules(host: Host, link: Link, hello: Hello) -> str | None:
    if hello.rules == rules_of(host.settings):
        return None
    return f"{host.me} has {rules_of(host.settings)}, not {hello.rules[:64]!r}: set the same on all hosts"


def _myself(host: Host, link: Link, hello: Hello) -> str | None:
    if hello.name == host.me and hello.origin == host.tables.origin:
        return ITSELF
    if hello.name == host.me:
        return f"{host.me} is the name of another host: give each its own (self=)"
    if hello.origin == host.tables.origin:
        return f"the storage is a copy of that of {host.me}: begin with an empty directory"
    return None


def why_turned_away(host: Host, link: Link) -> str | None:
    """Return why a stream is not even listened to: no name in its certificate may be in this cluster."""
    if link.identities is None or any(map(host.settings.admits, link.identities)):
        return None
    names = ", ".join(sorted(link.identities))[:LONGEST_NAME]
    return f"{host.me} has members=, and none of them is the certificate's {names or 'name, since there is none'}"


def _member(host: Host, link: Link, hello: Hello) -> str | None:
    if host.admits(hello.name):
        return None
    return f"{host.me} has members=, and {hello.name[:LONGEST_NAME]} is none of them"


def _identity(host: Host, link: Link, hello: Hello) -> str | None:
    if link.identities is None or host_of(hello.name).lower() in {identity.lower() for identity in link.identities}:
        return None
    return f"the certificate is not one of {hello.name[:LONGEST_NAME]}"


def _name(host: Host, link: Link, hello: Hello) -> str | None:
    if link.dialed and hello.name != link.name:
        return f"{link.name} calls itself {hello.name[:LONGEST_NAME]!r}: write its name the same on all hosts"
    return None if is_name(hello.name) else "the name is no host:port"


def _bounds(host: Host, link: Link, hello: Hello) -> str | None:
    fits = len(hello.members) <= MOST_MEMBERS and len(hello.progress) <= MOST_LOGS
    if not fits or len(hello.origin) != ORIGIN_BYTES:
        return "the hello is malformed"
    full = len(host.members.all()) >= MOST_MEMBERS and host.members.state(hello.name) is None
    return f"{host.me} knows {MOST_MEMBERS} hosts, more than which a cluster cannot have" if full else None


def _twin(host: Host, link: Link, hello: Hello) -> str | None:
    peer = host.peers.get(hello.name)
    if peer and peer.into and not link.dialed and peer.origin != hello.origin and _is_alive(host, hello.name):
        return f"another host is called {hello.name}: give each its own name (self=)"
    for other in host.peers.values():
        if other.name != hello.name and other.origin == hello.origin and _is_alive(host, other.name):
            return f"the storage is a copy of that of {other.name}: begin with an empty directory"
    return None


def _is_alive(host: Host, name: str) -> bool:
    return host.members.state(name) == "alive"


_CHECKS: tuple[Callable[[Host, Link, Hello], str | None], ...] = (
    _version,
    _cluster,
    _rules,
    _myself,
    _name,
    _member,
    _identity,
    _bounds,
    _twin,
)


def _list(versions: tuple[int, ...]) -> str:
    return ", ".join(map(str, versions[:8]))
