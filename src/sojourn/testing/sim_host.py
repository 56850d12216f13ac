"""One simulated host: a node, its tables, and the workers that serve requests on it.

A process is a generator: it yields seconds to sleep, or a request to the agent, and is sent the answer, or None where
none came in time. It ends with its host's life: when the host is killed, it is never heard of again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from random import Random
from typing import Any, TypeAlias, TypeVar

from sojourn.cluster import worker
from sojourn.cluster.clock import Origin
from sojourn.cluster.effects import Close, Dial, Effect, End, Reply, Report, Send
from sojourn.cluster.local import READS, Answer, Ask, Await, Forward, Forwarded, Nudge, Request, Settled, Status, View
from sojourn.cluster.node import Node
from sojourn.cluster.replica import Replica, merge
from sojourn.cluster.settings import Settings
from sojourn.cluster.tables import BUCKETS, Holds, bucket_of
from sojourn.cluster.wire import Changes, Do, Message
from sojourn.core.ops import Flow, Performable, Written
from sojourn.core.policy import LONGEST
from sojourn.errors import StoreUnavailable
from sojourn.store.peers.packing import digest_of
from sojourn.testing.dict_tables import DictTables
from sojourn.testing.fakes import START
from sojourn.testing.sim_history import History, Question
from sojourn.testing.sim_history import Settled as SettledLine
from sojourn.testing.sim_network import SimNetwork

T = TypeVar("T")

Process: TypeAlias = Generator[float | Request, Answer | None, T]

SOCKET = 0.00005  # seconds between a worker and its agent
GRACE = 0.25  # seconds that an answer of the agent may be late
KEY = 32  # bytes of a session's name; one in the index is longer
LEAST = 0.001  # seconds between two ticks


class SimTables(DictTables):
    """A host's storage in memory, which remembers the digests of what has not changed: most time went there."""

    def __init__(self, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        super().__init__(clock, random)
        self.piece = 512
        """The most changes in one piece of a log: few of them show what goes wrong between two pieces."""
        self.fails_in = 0
        """Of how many write transactions from now on the last one fails; 0: none does."""
        self._digests: dict[bytes, tuple[object, int]] = {}

    def writing(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return what *work* returns, unless the storage fails."""
        if self.fails_in:
            self.fails_in -= 1
            if not self.fails_in:
                raise StoreUnavailable("the storage is full, for a moment")
        return super().writing(work, *arguments)

    def log(self, origin: Origin, cursor: int, cut: int, limit: int, holds: Holds | None = None) -> Changes:
        """Return the next piece of an origin's log."""
        return super().log(origin, cursor, cut, min(limit, self.piece), holds)

    def writes_of(self, origin: Origin) -> dict[bytes, int]:
        """Return of each session the time of an origin's last write to it that is here."""
        entries = ((name, stored.entry) for name, stored in self._rows.stored.items())
        return {
            name: entry.seen[origin].time
            for name, entry in entries
            if isinstance(entry, Replica) and origin in entry.seen
        }

    def written_at(self, time: int) -> bytes | None:
        """Return the name that stands at a place of the own log."""
        return next((name for at, name in self._rows.logged(self.origin, time - 1) if at == time), None)

    def until_ms(self, name: bytes) -> int:
        """Return when the copy here is over, in milliseconds since the epoch; 0: there is none, or not any more."""
        for change in self.copies((name,)):
            entry = change.replica or change.listing
            return entry.keep_ms if isinstance(entry, Replica) else entry.until_ms if entry else 0
        return 0

    def digests(self, first: int, count: int, holds: Holds | None = None) -> dict[int, int]:
        """Return one number for each of *count* buckets from *first* on."""
        found = dict.fromkeys(range(first, min(first + count, BUCKETS)), 0)
        stored, known = self._rows.stored, self._digests
        for name, what in stored.items():
            bucket = bucket_of(name)
            if bucket in found and (holds is None or holds(name)):
                before = known.get(name)
                if before is None or before[0] is not what:
                    before = known[name] = (what, digest_of(name, what.entry))
                found[bucket] ^= before[1]
        return found


class SimHost:
    """A host of the network, from its first start on through all its lives. It is down until :meth:`start`."""

    def __init__(
        self,
        network: SimNetwork,
        settings: Settings,
        random: Random,
        history: History,
        *,
        piece: int = 512,
        lifetime: float = LONGEST,
    ) -> None:
        """*piece* is the most changes that go to another host at once, *lifetime* the longest life of a session."""
        self._piece, self._lifetime = piece, lifetime
        self.name = settings.me
        self.settings = settings
        self.up = False
        self.agent_up = False
        self.asleep_until = 0.0
        self.jumped = 0.0
        """Seconds by which this host's clock is ahead."""
        self.ended = False
        """Whether the node has left the cluster."""
        self.told_too_few = self.made_for_others = 0
        self.reports: list[Report] = []
        self.node: Node
        self.births = 0
        """How often it was killed: what was under way in an earlier life is never heard of again."""
        self.clock = self._clock = network.clock
        self._network, self._random, self._history = network, random, history
        self._running: dict[int, Callable[[], None]] = {}
        self.tables = self._new_tables()
        self._life = 0
        self._tick_at = 0.0
        self._numbers = 0
        self._waiting: dict[int, tuple[Process[Any], Request, float]] = {}
        self._written: dict[int, bytes] = {}
        self._links: set[int] = set()

    def wall(self) -> float:
        """Return what this host believes the time to be, in seconds since the epoch."""
        return START + self._clock.now + self.jumped

    # -- life and death ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the host, on what its disk holds."""
        self.up = True
        self._network.hosts[self.name] = self
        self.start_agent()

    def start_agent(self) -> None:
        """Start the agent alone, where it has died and the workers live."""
        self.agent_up = True
        self.told_too_few = self.made_for_others = 0
        self._links.clear()
        self._network.reset(self.name)
        self._life += 1
        self.node = Node(self.settings, self.tables, self._clock.now, self._random.randbytes)
        self._do(self.node.started(self._clock.now))

    def stop_agent(self) -> None:
        """Kill the agent; workers go on, and find nobody to ask."""
        self.agent_up = False
        self._life += 1
        self._network.forget(self.name, politely=True)

    def kill(self, *, power: bool = False) -> None:
        """Kill agent and workers; the disk stays. With *power* nobody closes the streams."""
        self.up = self.agent_up = False
        self.asleep_until = 0.0
        self._life += 1
        self.births += 1
        self._waiting.clear()
        self._network.forget(self.name, politely=not power)
        running, self._running = self._running, {}
        for lost in running.values():
            self._clock.after(0.001, lost)

    def lose_disk(self) -> None:
        """Lose everything that was stored. For a host that is down."""
        assert not self.up
        self.tables = self._new_tables()

    def _new_tables(self) -> SimTables:
        tables = SimTables(self.wall, self._random.randbytes)
        tables.piece, tables.lifetime_ms = self._piece, round(self._lifetime * 1000)
        return tables

    # -- what the network says -----------------------------------------------------------------------------------

    def dialed(self, link: int, name: str) -> None:
        """Take over a stream that was dialed."""
        if self.agent_up:
            self._links.add(link)
            self._do(self.node.dialed(link, name, self._clock.now))

    def unreachable(self, name: str) -> None:
        """Hear that a dial failed."""
        if self.agent_up:
            self._do(self.node.unreachable(name, self._clock.now))

    def accepted(self, link: int, name: str) -> None:
        """Take over a stream that another host opened."""
        if self.agent_up:
            self._links.add(link)
            identities = None if self.settings.tls is None else frozenset({name.rpartition(":")[0]})
            self._do(self.node.accepted(link, identities, self._clock.now))
        else:
            self._network.close(link)  # nobody listens at that port

    def received(self, link: int, message: Message) -> None:
        """Hear a message."""
        if link in self._links and self.agent_up:
            self.made_for_others += isinstance(message, Do) and message.verb not in READS
            self._do(self.node.received(link, message, self._clock.now))

    def closed(self, link: int) -> None:
        """Hear that a stream broke."""
        if link in self._links and self.agent_up:
            self._links.discard(link)
            self._do(self.node.closed(link, self._clock.now))

    def blocked(self, link: int) -> None:
        """Hear that a stream is full."""
        if link in self._links and self.agent_up:
            self._do(self.node.blocked(link, self._clock.now))

    def drained(self, link: int) -> None:
        """Hear that a stream is empty again."""
        if link in self._links and self.agent_up:
            self._do(self.node.drained(link, self._clock.now))

    # -- what the node wants -------------------------------------------------------------------------------------

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(link, message):
                    self._network.send(link, message)
                case Reply(_, answer):
                    self._reply(answer)
                case Dial(name):
                    self._network.dial(self.name, name)
                case Close(link, _):
                    self._links.discard(link)
                    self._network.close(link)
                case Report():
                    self.reports.append(effect)
                case End():
                    self.ended = True
                    self._clock.after(0.0, self.kill)
        self._wind()

    def _wind(self) -> None:
        """See to it that the node is called when it wants to be."""
        due = max(self.node.due(), self._clock.now + LEAST)
        if due < self._tick_at or self._tick_at <= self._clock.now:
            self._tick_at = due
            self._clock.at(due, partial(self._tick, self._life, due))

    def _tick(self, life: int, due: float) -> None:
        if life != self._life or not self.agent_up or due != self._tick_at:
            return
        if self.asleep_until > self._clock.now:
            self._tick_at = self.asleep_until
            self._clock.at(self.asleep_until, partial(self._tick, life, self.asleep_until))
            return
        self._tick_at = 0.0
        self._do(self.node.tick(self._clock.now))

    # -- processes -----------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """Whether processes are under way."""
        return bool(self._running)

    def places(self, key: bytes) -> bool:
        """Tell whether this host is one that keeps *key*."""
        return worker.places(self.tables, self.settings, key)

    def run(self, process: Process[T], done: Callable[[T], None], lost: Callable[[], None] = lambda: None) -> None:
        """Run a process to its end, and say what it returned; *lost* is called when the host is down or is killed."""
        if not self.up:
            self._clock.after(SOCKET, lost)
            return
        self._numbers += 1
        number = self._numbers
        self._running[number] = lost
        self._later(SOCKET, lambda: self._step(self._with_end(number, process, done), None))

    def _with_end(self, number: int, process: Process[T], done: Callable[[T], None]) -> Process[None]:
        result = yield from process
        del self._running[number]
        done(result)

    def _step(self, process: Process[Any], answer: Answer | None) -> None:
        try:
            wanted = process.send(answer) if answer is not None else next(process)
        except StopIteration:
            return
        if isinstance(wanted, float):
            self._later(wanted, lambda: self._step(process, None))
        elif isinstance(wanted, Nudge):
            self._later(SOCKET, self._nudged)
            self._later(0.0, lambda: self._step(process, None))
        else:
            self._ask(process, wanted)

    def _later(self, seconds: float, event: Callable[[], None]) -> None:
        """Have *event* called unless this host is killed before; a pause delays it."""
        births = self.births

        def unless_dead() -> None:
            if births != self.births or not self.up:
                return
            if self.asleep_until > self._clock.now:
                self._clock.at(self.asleep_until, unless_dead)
            else:
                event()

        self._clock.after(seconds, unless_dead)

    def _ask(self, process: Process[Any], request: Request) -> None:
        self._numbers += 1
        number = request.number = self._numbers  # type: ignore[union-attr]
        self._waiting[number] = (process, request, self._clock.now)
        if isinstance(request, Await):  # of several names that one verb may write it names another
            self._written[number] = self.tables.written_at(request.time) or request.name
        wait = getattr(request, "wait_ms", 1000) / 1000 + GRACE
        self._later(SOCKET, lambda: self._asked(request))
        self._later(wait, lambda: self._resume(number, None))

    def _asked(self, request: Request) -> None:
        if not self.agent_up:
            return
        questions = self.node.questions.asked
        self._do(self.node.asked(1, request, self._clock.now))
        if isinstance(request, Ask) and self.node.questions.asked > questions:
            self._history.append(Question(self._clock.now, self.name, request.key.hex()[:8]))
        if isinstance(request, Await):
            self._do(self.node.written(self._clock.now))

    def _nudged(self) -> None:
        if self.agent_up:
            self._do(self.node.written(self._clock.now))

    def counted(self, what: str) -> int:
        """Return a number out of the agent's view of the cluster."""
        for effect in self.node.asked(1, Status(-1), self._clock.now):
            if isinstance(effect, Reply) and isinstance(effect.answer, View):
                return int(effect.answer.view[what])
        raise AssertionError("a node answers Status at once")

    def _reply(self, answer: Answer) -> None:
        self.told_too_few += isinstance(answer, Settled) and not answer.enough
        if waiting := self._waiting.get(answer.number):
            _, request, since = waiting
            if isinstance(answer, Settled) and isinstance(request, Await):
                self._note(answer, request.time, self._written.pop(answer.number), since)
            self._later(SOCKET, lambda: self._resume(answer.number, answer))

    def _resume(self, number: int, answer: Answer | None) -> None:
        if waiting := self._waiting.pop(number, None):
            self._step(waiting[0], answer)

    def _note(self, answer: Settled, time: int, name: bytes, since: float) -> None:
        """Write down how many hosts have a write by their disks, beside what the worker is told."""
        until_ms, origin = self.tables.until_ms(name), self.tables.origin
        others = [host for host in self._network.hosts.values() if isinstance(host, SimHost) and host is not self]
        really = sum(until_ms <= host.tables.now_ms() or host.holds(name, origin, time) for host in others)
        self._history.append(
            SettledLine(self._clock.now, self.name, name.hex()[:8], answer.hosts, really, answer.enough, since)
        )

    def _beside(self, key: bytes) -> int:
        """Return how many hosts at least have, beside the one that has just written it, what is written under *key*.

        That one tells nobody in numbers, and which it was is not known: what the fewest others have counts.
        """
        hosts = [host for host in self._network.hosts.values() if isinstance(host, SimHost)]
        copies = [replica for host in hosts if (replica := host.tables.replica(key))]
        return min((sum(_contains(one, other) for one in copies) - 1 for other in copies), default=0)

    def check_level(self, other: SimHost) -> None:
        """Write down what another host lacks of what it has said it has, as if a worker had waited for each write."""
        peer, origin = self.node.host.peers.get(other.name), self.tables.origin
        if peer is None or peer.origin != other.tables.origin:
            return  # it has said nothing yet in this life of its storage
        level, theirs, now = self.node.shipping.level(other.name), other.tables.writes_of(origin), self._clock.now
        for name, time in self.tables.writes_of(origin).items():
            if theirs.get(name, 0) < time <= level:
                self._history.append(SettledLine(now, self.name, name.hex()[:8], 1, 0, True, now))

    def holds(self, name: bytes, origin: bytes, time: int) -> bool:
        """Tell whether this host's disk has what *origin* wrote under *name* at *time*."""
        for change in self.tables.copies((name,)):
            if change.listing:
                return (change.listing.time, change.listing.origin) >= (time, origin)
            if change.replica:
                mark = change.replica.seen.get(origin)
                return bool(mark and mark.time >= time) or tuple(change.replica.times.stamp) >= (time, origin)
        return False

    # -- a store, for the flows of the core ------------------------------------------------------------------------

    def perform(self, flow: Flow[T], told: list[Settled]) -> Process[T]:
        """Run a flow on this host's store; *told* collects what the agent said of its writes."""
        store = _Talks(self)
        try:
            op: Performable = next(flow)
            while True:
                yield self._random.random() * 0.0004
                try:
                    reply = yield from self._talk(op.on(store), told)
                except StoreUnavailable as error:
                    op = flow.throw(error)
                else:
                    op = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _talk(self, talk: worker.Talk[Any], told: list[Settled]) -> Process[Any]:
        try:
            request = next(talk)
            while True:
                answer = yield request
                if isinstance(request, Await) and len(request.name) == KEY:  # the index is not what browsers see
                    told.append(answer if isinstance(answer, Settled) else Settled(0, 0, False))
                elif isinstance(request, Forward) and _is_written(request, answer):
                    told.append(Settled(0, self._beside(request.key), True))
                request = talk.send(answer)
        except StopIteration as end:
            return end.value


def _is_written(request: Forward, answer: Answer | None) -> bool:
    """Tell whether another host has written to a session."""
    return len(request.key) == KEY and isinstance(answer, Forwarded) and answer.answer == Written.DONE.value


def _contains(one: Replica, other: Replica) -> bool:
    """Tell whether *one* has all that *other* has."""
    return merge(one, other) == one


class _Talks:
    """A store whose methods return talks."""

    def __init__(self, host: SimHost) -> None:
        self._host = host

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        return partial(getattr(worker, verb), self._host.tables, self._host.settings)
