"""Host: what the parts of a node share: settings, storage, the other hosts and the streams to them, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from sojourn.cluster import local, ring
from sojourn.cluster.clock import Origin
from sojourn.cluster.digests import PairDigests
from sojourn.cluster.effects import Close, Effect, Reply, Report, Send
from sojourn.cluster.limits import Bucket
from sojourn.cluster.member import Members
from sojourn.cluster.settings import Settings, host_of
from sojourn.cluster.tables import Clash, Holds, Tables, View
from sojourn.cluster.wire import Change, Member, Message, Progress, weight
from sojourn.core.ids import handle_of
from sojourn.errors import StoreUnavailable

PLACE = 32  # bytes at the front of a name that say where it belongs: the private key, or the tag of an index entry
KEPT_OWNERS = 8192  # names whose owners are remembered: the same ones are asked for several times in a row
MOST_TOLD = 512  # logs in a hello: each life of a host's storage has one, and a hello has a bound
PARCEL = 1 << 20  # bytes of copies in one message, about
REMARKS = 20  # a second: log lines about sessions; more are counted only


@dataclass(slots=True)
class Link:
    """One stream."""

    number: int
    dialed: bool
    name: str
    """Who is at the other end; empty until a stream that was accepted has said hello."""
    since: float
    identities: frozenset[str] | None = None
    greeted: bool = False
    blocked: bool = False


@dataclass(slots=True)
class Peer:
    """Another host, as long as a stream leads to it or from it."""

    name: str
    origin: Origin
    out: Link | None = None
    """The stream that this host has opened: it ships and asks on it."""
    into: Link | None = None
    """The one that the other has opened."""
    progress: dict[Origin, Progress] = field(default_factory=dict)
    """How far it had read each log when it last said so."""
    deaf: bool = False
    """Whether it says that it does not hear this host."""
    states: dict[str, str] = field(default_factory=dict)
    """In which state it last said that each host is."""
    said_ms: int = 0
    """When it said that, by its own clock: what comes on the other stream may be from before."""


@dataclass(slots=True)
class Call:
    """A question to another host, by its number. Exactly one of the two is called, once."""

    link: int
    answered: Callable[[Message], bool]
    """Takes an answer; says whether that was all of it."""
    lost: Callable[[], None]
    """The stream broke before."""


class Host:
    """The state that all parts of one node see. *now* is set by the node at each input."""

    def __init__(self, settings: Settings, tables: Tables, now: float, random: Callable[[int], bytes]) -> None:
        self.settings, self.tables, self.now, self.random = settings, tables, now, random
        tables.follows = settings.copies is None
        self.out: list[Effect] = []
        self.links: dict[int, Link] = {}
        self.peers: dict[str, Peer] = {}
        view = tables.view()
        self.members = Members(_myself(settings, tables, view), view.members, *_patience(settings), now, self.admits)
        self.known = {origin: one for origin, one in tables.progress().items() if origin != tables.origin}
        self.clashes = 0
        self.started = now
        self.epoch = 0
        """Grows when sessions are to be spread over other hosts than before."""
        self.settled = True
        """Whether what this host is to hold since then has come, from all who can be reached."""
        self._placed = self.members.placed()
        self._owners: dict[bytes, tuple[str, ...]] = {}
        self.digests = PairDigests(self)
        self.expected = 0
        """Other hosts that there should be: those known that have not left, and those of the settings."""
        self.workers_know = False
        """Whether the workers have been told who is there."""
        self._remarks = Bucket(REMARKS, REMARKS, 0.0, now)
        self._calls: dict[int, Call] = {}
        self._numbers = 0

    # -- what is to be done ------------------------------------------------------------------------------------------

    def send(self, link: Link, message: Message) -> None:
        """Put a message into a stream."""
        self.out.append(Send(link.number, message))

    def close(self, link: Link, why: str) -> None:
        """Close a stream; the node forgets it by itself."""
        self.out.append(Close(link.number, why))

    def reply(self, worker: int, answer: local.Answer) -> None:
        """Answer a worker."""
        self.out.append(Reply(worker, answer))

    def report(self, level: str, text: str) -> None:
        """Write into the log."""
        self.out.append(Report(level, text))

    def remark(self, text: str) -> None:
        """Write a warning into the log, unless there are too many of them."""
        if not self._remarks.empty(self.now):
            self._remarks.spend(self.now)
            self.report("warning", text)

    def unusable(self, error: StoreUnavailable) -> None:
        """Report that the storage does not answer."""
        self.remark(f"the storage of this host cannot be used: {error}")

    def clashed(self, clashes: Iterable[Clash]) -> None:
        """Count and report keys that two hosts changed at the same time."""
        for clash in clashes:
            self.clashes += 1
            self.remark(
                f"session {handle_of(clash.key)}: {len(clash.keys)} keys were changed on two hosts at the same time; "
                "the later change was kept"
            )

    # -- who is there ------------------------------------------------------------------------------------------------

    @property
    def me(self) -> str:
        """The name of this host."""
        return self.settings.me

    def admits(self, name: str) -> bool:
        """Tell whether the host that others call *name* may be in the cluster at all, by the settings."""
        return self.settings.admits(host_of(name))

    @property
    def leaving(self) -> bool:
        """Whether this host hands its sessions on, to leave."""
        return self.members.me.state == "left"

    def connected(self) -> list[Peer]:
        """Return the hosts that can be shipped to and asked."""
        return [peer for peer in self.peers.values() if peer.out]

    def reachable(self, name: str) -> bool:
        """Tell whether a host can be asked, and may be expected to answer."""
        peer = self.peers.get(name)
        return bool(peer and peer.out and not peer.deaf and self.members.state(name) == "alive")

    def seeds(self) -> set[str]:
        """Return the hosts that the settings name, other than this one."""
        return set(self.settings.seeds) - {self.me}

    def unheard(self) -> bool:
        """Tell whether there is a host of which nothing was heard yet, not even that it has left.

        The settings name it, or it died before this host joined: others call it dead, and may have nothing of what it
        wrote last.
        """
        return bool(self._unheard_of())

    def _unheard_of(self) -> set[str]:
        said = {one for peer in self.peers.values() for one in peer.states.items()}
        left = {name for name, state in said if state == "left"}
        dead = {name for name, state in said if state == "dead"}
        there = (self.seeds() | dead) - left - {self.me}
        return {name for name in there if self.members.state(name) is None}

    def told(self, peer: Peer, members: Iterable[Member]) -> None:
        """Note in which state a host says that each is."""
        peer.states = self.members.states(members)
        self._count_expected()

    def is_unheard_by(self, members: Iterable[Member]) -> bool:
        """Tell whether somebody says of this host, among others, that it is not heard."""
        return any(member.name == self.me and member.state == "suspect" for member in members)

    def _count_expected(self) -> None:
        self.expected = len(self.members.others()) + len(self._unheard_of())

    def progress(self) -> dict[Origin, Progress]:
        """Return how far each log is stored here, as others are told: of those that ended long ago nobody asks."""
        known = self.tables.progress()
        if len(known) <= MOST_TOLD:
            return known
        used = {member.origin for member in self.members.all()}
        latest = sorted(known, key=lambda origin: (origin in used, known[origin].level), reverse=True)
        return {origin: known[origin] for origin in latest[:MOST_TOLD]}

    def members_changed(self) -> bool:
        """Let the workers know; return whether sessions are to be spread anew."""
        self._count_expected()
        placed = self.members.placed()
        moved = placed != self._placed
        self._placed = placed
        if moved:
            self.epoch += 1
            self.settled = self.settings.copies is None
            self._owners.clear()
            self.digests.clear()
        self.workers_know = False
        self.tell_workers()
        return moved

    def is_settled(self) -> None:
        """Everything was compared with everybody who can be reached since sessions were last spread anew."""
        self.settled, self.workers_know = True, False
        self.tell_workers()

    def tell_workers(self) -> None:
        """Let the workers know who is there, unless they do. What the storage does not take is tried again later.

        Whatever else is to be done about it cannot wait for the storage: a stream that has broken is forgotten now.
        """
        if self.workers_know:
            return
        try:
            self.tables.keep_view(View(self.members.all(), self.knows_all))
            self.workers_know = True
        except StoreUnavailable as error:
            self.unusable(error)

    # -- what is where -----------------------------------------------------------------------------------------------

    def owners(self, name: bytes) -> tuple[str, ...]:
        """Return the hosts that should hold a name, the best first."""
        place = name[:PLACE]
        owners = self._owners.get(place)
        if owners is None:
            if len(self._owners) >= KEPT_OWNERS:
                self._owners.clear()
            owners = self._owners[place] = ring.owners(place, self._placed, self.settings.copies)
        return owners

    def others_of(self, name: bytes) -> Collection[str]:
        """Return the hosts other than this one that should hold a name."""
        names = self._placed if self.settings.copies is None else self.owners(name)
        return [other for other in names if other != self.me]

    def is_here(self, name: bytes) -> bool:
        """Tell whether this host should hold a name."""
        return self.me in (self._placed if self.settings.copies is None else self.owners(name))

    @property
    def knows_all(self) -> bool:
        """Whether what this host should hold and has not is nowhere: it has caught up, and taken its share over."""
        return self.members.me.ready and self.settled

    def knows(self, name: bytes) -> bool:
        """Tell whether a name that is missing here is missing everywhere."""
        return self.knows_all and self.is_here(name)

    def held_by(self, *hosts: str) -> Holds | None:
        """Return what tells of a name whether all the *hosts* should hold it; None: they should hold everything."""
        if self.settings.copies is None:
            return None
        wanted = frozenset(hosts)
        return lambda name: wanted.issubset(self.owners(name))

    # -- questions ---------------------------------------------------------------------------------------------------

    def call(
        self,
        link: Link,
        message: Callable[[int], Message],
        answered: Callable[[Message], bool],
        lost: Callable[[], None],
    ) -> None:
        """Ask on a stream. *message* makes the question of its number; for the others see Call."""
        self._numbers += 1
        self._calls[self._numbers] = Call(link.number, answered, lost)
        self.send(link, message(self._numbers))

    def answered(self, link: Link, number: int, message: Message) -> None:
        """An answer has come. One that nobody waits for any more is let go."""
        call = self._calls.get(number)
        if call and call.link == link.number and call.answered(message):
            self._calls.pop(number, None)

    def broken(self, link: Link) -> None:
        """A stream is gone, and the answers on it."""
        lost = [number for number, call in self._calls.items() if call.link == link.number]
        for call in [self._calls.pop(number) for number in lost]:
            call.lost()


def _myself(settings: Settings, tables: Tables, view: View) -> Member:
    """Return this host as it goes on from what it knew: a later incarnation where it had left."""
    before = next((one for one in view.members if one.name == settings.me and one.origin == tables.origin), None)
    if before is None:
        return Member(settings.me, 0, "alive", tables.origin)
    return before._replace(state="alive", ready=view.ready, incarnation=before.incarnation + (before.state != "alive"))


def _patience(settings: Settings) -> tuple[float, float]:
    return settings.suspect_after, settings.dead_after


def rules_of(settings: Settings) -> str:
    """Return what all hosts of a cluster must have set alike."""
    return f"copies={'all' if settings.copies is None else settings.copies}"


def parcels(changes: Iterable[Change]) -> list[tuple[Change, ...]]:
    """Cut copies into parts that fit into a message each; at least one, perhaps empty."""
    parts: list[list[Change]] = [[]]
    size = 0
    for change in changes:
        size += weight(change)
        if size > PARCEL and parts[-1]:
            parts.append([])
            size = weight(change)
        parts[-1].append(change)
    return [tuple(part) for part in parts]
