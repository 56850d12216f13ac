"""A whole cluster in virtual time, with the rules and the frames of real hosts, and what goes over its network counted.

Bytes are those of frames: TLS adds 22 to each write of a stream, TCP and IP 52 to each packet. A message takes half a
millisecond, some ten times as long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple

from bench.rounds import Broken, check
from bench.scale_host import LIFE, names_of, settings_of
from bench.sessions import Records, key_of
from sojourn.cluster import ring, wire
from sojourn.core.capability import LoadSeen
from sojourn.core.ops import Flow, Update, Written
from sojourn.core.record import Record
from sojourn.testing.sim_host import SimHost
from sojourn.testing.sim_network import SimNetwork

TRIES = 10  # of a write that finds its owner behind
DEADLINE = 120.0  # virtual seconds that a cluster may take for anything that is waited for here


class Traffic(NamedTuple):
    """Messages and their bytes."""

    messages: float
    bytes: float

    def over(self, number: float) -> Traffic:
        """Return the share of one in *number*."""
        return Traffic(self.messages / number, self.bytes / number)


class CountedNetwork(SimNetwork):
    """A network that counts what is sent, by what it is for and by who sends it."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.messages: Counter[tuple[str, str]] = Counter()
        self.sizes: Counter[tuple[str, str]] = Counter()
        self._carries: dict[tuple[str, str], str] = {}
        self._last: tuple[wire.Message | None, int] = None, 0

    def send(self, link: int, message: wire.Message) -> None:
        """Count a message, and put it into a stream."""
        if half := self._outgoing.get(link):
            what = half.writer, self._kind(half.writer, half.reader, message)
            if self._last[0] is not message:  # a ping goes to everybody
                self._last = message, len(wire.to_frame(message))
            self.messages[what] += 1
            self.sizes[what] += self._last[1]
        super().send(link, message)

    def _kind(self, writer: str, reader: str, message: wire.Message) -> str:
        """Tell shipping from mere notes about how far a log was read; an acknowledgement is of what it answers."""
        match message:
            case wire.Changes():
                kind = self._carries[writer, reader] = "ship" if message.changes else "note"
                return kind
            case wire.Stored():
                return self._carries.get((reader, writer), "ship")
        return type(message).__name__

    def forget_counts(self) -> None:
        """Begin to count anew."""
        self.messages.clear()
        self.sizes.clear()

    def traffic(self, *kinds: str, by: str | None = None) -> Traffic:
        """Return what was sent of these kinds, or of all; by all hosts or one."""
        chosen = [what for what in self.messages if (not kinds or what[1] in kinds) and by in (None, what[0])]
        return Traffic(sum(self.messages[what] for what in chosen), sum(self.sizes[what] for what in chosen))


class SimCluster:
    """Hosts that all know each other, and sessions on those that keep them."""

    def __init__(self, hosts: int, copies: int | None, *, seed: int = 4) -> None:
        self.random = Random(seed)
        self.network = CountedNetwork(self.random)
        self.clock = self.network.clock
        self.copies, self.names = copies, names_of(hosts)
        self.hosts = {name: self.add(name) for name in self.names}
        self.keys: list[bytes] = []
        self.records = Records(2048)

    def add(self, name: str) -> SimHost:
        """Return another host. It is down."""
        return SimHost(self.network, settings_of(self.names, name, self.copies), self.random, [])

    def start(self) -> None:
        """Start all hosts, and wait until each sees all others alive and is ready."""
        for host in self.hosts.values():
            host.start()
        self.wait(lambda: all(map(self.sees_all, self.hosts.values())), "the cluster is ready")

    def sees_all(self, host: SimHost) -> bool:
        """Tell whether a host is ready and all others are alive to it."""
        members = host.node.host.members.all()
        return host.node.host.members.me.ready and self.seen(host, "alive") == len(members) == len(self.hosts)

    def seen(self, host: SimHost, state: str) -> int:
        """Return how many hosts a host sees in a state."""
        return sum(member.state == state for member in host.node.host.members.all())

    def wait(self, condition: Callable[[], bool], what: str, pace: float = 0.005) -> float:
        """Let time pass until *condition* holds; return the virtual seconds. Raises Broken after many of them."""
        begun = self.clock.now
        while not condition():
            check(self.clock.now - begun < DEADLINE, f"within {DEADLINE} s {what}")
            self.pass_time(pace)
        return self.clock.now - begun

    def pass_time(self, seconds: float) -> None:
        """Let so many virtual seconds pass."""
        self.clock.run(self.clock.now + seconds)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def owners(self, key: bytes) -> Sequence[str]:
        """Return the hosts that keep a session, of those that are there."""
        return ring.owners(key, list(self.hosts), self.copies)

    def fill(self, sessions: int) -> None:
        """Create sessions of 2 KB, each on a host that keeps it, and wait until they are on all that should."""
        for number in range(sessions):
            key = key_of(number)
            host = self.hosts[self.random.choice(self.owners(key))]
            now = host.wall()
            record = self.records.make(number, now + LIFE)._replace(created_at=now, accessed_at=now)
            check(host.tables.perform("create", (key, record)).answer is Written.DONE, "a session begins")
            self.keys.append(key)
        self.wait(self.is_settled, "all copies are there", 0.25)

    def is_settled(self) -> bool:
        """Tell whether each session is on exactly the hosts that should have it."""
        held = {name: set(host.tables.some_names(None, len(self.keys) + 1)) for name, host in self.hosts.items()}
        wanted: dict[str, set[bytes]] = {name: set() for name in self.hosts}
        for key in self.keys:
            for owner in self.owners(key):
                wanted[owner].add(key)
        return held == wanted

    def copies_on(self, name: str) -> int:
        """Return how many sessions a host keeps."""
        return len(self.hosts[name].tables.some_names(None, len(self.keys) + 1))

    # -- visits ------------------------------------------------------------------------------------------------------

    def visit(self, host: SimHost, key: bytes, *, writes: bool, seen: bytes = b"") -> bytes:
        """Let a browser that has *seen* so much visit a host; return what it has seen then."""
        shown: list[bytes] = []
        host.run(host.perform(_visit(key, seen, writes), []), shown.append)
        self.wait(lambda: bool(shown), "a visit is answered", 0.001)
        return shown[0]


def _visit(key: bytes, floor: bytes, writes: bool) -> Flow[bytes]:
    """Read a session; count up in it. Where an owner is behind what the browser has seen that is done again."""
    for _ in range(TRIES):
        record: Any = yield LoadSeen(key, floor)
        check(isinstance(record, Record), "the session is found")
        count = int.from_bytes(record.values.get("count", b""), "big") + 1
        values = {**record.values, "count": count.to_bytes(4, "big")}
        after = record._replace(values=values, version=record.version + 1)
        if not writes or (yield Update(key, after, record.version)) is Written.DONE:
            return bytes(record.seen)
    raise Broken("an update is never done")


@contextmanager
def counted(cluster: SimCluster) -> Iterator[CountedNetwork]:
    """Count what happens in here alone."""
    cluster.network.forget_counts()
    yield cluster.network


# -- experiments ---------------------------------------------------------------------------------------------------


class Quiet(NamedTuple):
    """A second of a cluster in which nobody writes."""

    pings: Traffic
    """Of one host."""
    digests: Traffic
    """Of one host."""
    cluster: Traffic
    """All of all hosts."""


def quiet(cluster: SimCluster, seconds: int) -> Quiet:
    """Let nothing happen."""
    with counted(cluster) as network:
        cluster.pass_time(seconds)
    each = len(cluster.hosts) * seconds
    pings, compares = network.traffic("Ping").over(each), network.traffic("Digests", "Names").over(each)
    return Quiet(pings, compares, network.traffic().over(seconds))


class Writing(NamedTuple):
    """Writes of hosts that keep the session, one at a time: nothing shares a frame."""

    write: Traffic
    """Changes and acknowledgements, of the whole cluster, for one write."""
    notes: Traffic
    """Of one host in a second."""


def writing(cluster: SimCluster, writes: int) -> Writing:
    """Count up in sessions, each on a host that keeps it."""
    # A host that has written nothing for long sends more of a session than it has changed: not so in an open shop.
    for host in cluster.hosts.values():
        if mine := [key for key in cluster.keys if host.name in cluster.owners(key)]:
            cluster.visit(host, mine[0], writes=True)
    cluster.pass_time(2.5)
    begun = cluster.clock.now
    with counted(cluster) as network:
        for number in range(writes):
            key = cluster.keys[number % len(cluster.keys)]
            host = cluster.hosts[cluster.random.choice(cluster.owners(key))]
            cluster.visit(host, key, writes=True)
            cluster.pass_time(0.005)
        cluster.pass_time(0.05)
    notes = network.traffic("note").over(len(cluster.hosts) * (cluster.clock.now - begun))
    return Writing(network.traffic("ship", "Copies").over(writes), notes)


class Visiting(NamedTuple):
    """Visits that a balancer sends to any host, of sessions of 2 KB."""

    asked: float
    """The share of visits for which another host is asked."""
    read: Traffic
    write: Traffic
    """For the visit, what is shipped included."""


QUESTIONS = "Do", "Did", "Fetch", "Copies"


def visiting(cluster: SimCluster, visits: int) -> Visiting:
    """Visit sessions on hosts at random: reads, then as many writes."""
    asked, traffic = 0, []
    seen: dict[bytes, bytes] = {}
    for writes in (False, True):
        cluster.pass_time(0.1)
        with counted(cluster) as network:
            for _ in range(visits):
                key = cluster.random.choice(cluster.keys)
                before = network.traffic("Do", "Fetch").messages
                host = cluster.hosts[cluster.random.choice(cluster.names)]
                seen[key] = cluster.visit(host, key, writes=writes, seen=seen.get(key, b""))
                asked += not writes and network.traffic("Do", "Fetch").messages > before
            cluster.pass_time(0.05)
        traffic.append(network.traffic(*QUESTIONS, "ship").over(visits))
    return Visiting(asked / visits, *traffic)


class Moving(NamedTuple):
    """Copies that were moved since a host died or came."""

    seconds: float
    """Until the last was there, in virtual time: without the time that bytes take."""
    copies: int
    """That the host had, or has."""
    moved: Traffic
    """What carried copies, for each of them."""
    found: Traffic
    """What told which copies to move, altogether."""
    gossip: Traffic
    """Pings and hellos, of a host in a second."""


class Death(NamedTuple):
    """A host dies."""

    killed: float
    """Seconds until no host waits for it, where its streams break."""
    silent: float
    """The same for one that falls silent: its power went, or it stands still."""
    dead: float
    """Seconds until all agree that it is dead."""
    moving: Moving


def death(cluster: SimCluster) -> Death:
    """Kill a host, restart it, cut its power."""
    victim = cluster.hosts[cluster.names[-1]]
    others = [host for host in cluster.hosts.values() if host is not victim]
    victim.kill()
    killed = cluster.wait(lambda: all(cluster.seen(host, "suspect") for host in others), "it is suspect", 0.0005)
    victim.start()
    cluster.wait(lambda: all(map(cluster.sees_all, cluster.hosts.values())), "it is back", 0.05)
    cluster.pass_time(2.0)
    lost, began = cluster.copies_on(victim.name), cluster.clock.now
    with counted(cluster):
        victim.kill(power=True)
        silent = cluster.wait(lambda: all(cluster.seen(host, "suspect") for host in others), "it is suspect")
        dead = silent + cluster.wait(lambda: all(cluster.seen(host, "dead") for host in others), "it is dead", 0.02)
        del cluster.hosts[victim.name]
        moved = cluster.wait(cluster.is_settled, "its sessions are elsewhere", 0.05)
    return Death(killed, silent, dead, _moved(cluster, began, dead + moved, lost))


def joining(cluster: SimCluster, name: str) -> tuple[float, Moving]:
    """Start a host with nothing; return the seconds until all see it alive, and what moved."""
    cluster.pass_time(2.0)
    began = cluster.clock.now
    with counted(cluster):
        host = cluster.hosts[name] = cluster.add(name)
        host.start()
        known = cluster.wait(
            lambda: all(cluster.seen(one, "alive") == len(cluster.hosts) for one in cluster.hosts.values()),
            "all see it",
            0.01,
        )
        ready = known + cluster.wait(lambda: host.node.host.members.me.ready, "it is ready", 0.01)
        settled = ready + cluster.wait(cluster.is_settled, "all copies are where they belong", 0.05)
    return known, _moved(cluster, began, settled, cluster.copies_on(name))


def _moved(cluster: SimCluster, began: float, seconds: float, copies: int) -> Moving:
    network = cluster.network
    moved = network.traffic("Copies", "Took", "Fetch", "ship", "Pull")
    found = network.traffic("Digests", "Names", "Offer", "Lacks")
    gossip = network.traffic("Ping", "Hello").over(len(cluster.hosts) * (cluster.clock.now - began))
    return Moving(seconds, copies, moved.over(max(copies, 1)), found, gossip)
