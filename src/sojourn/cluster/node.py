"""Node: one host of the cluster, as a machine without sockets. What happens comes in; what is to be done comes out.

Read ``wire`` first. This file says who hears of what, and what is due when; each part has its own file: ``member``
(who is there), ``greeting`` (who is let in), ``links`` (from hello to the end), ``shipping`` (the own log to the
others), ``serving`` (their logs, and what they ask), ``waiting`` and ``waiters`` (who waits for acknowledgements),
``questions`` (what is missing here), ``forwarding`` (what belongs elsewhere), ``pulling``, ``comparing`` with
``digests``, and ``handover`` (what must not depend on any one host), ``catching_up`` (when a new host is ready),
``leaving`` (when one may go) and ``status`` (what operators are shown).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sojourn.cluster import local, wire
from sojourn.cluster.catching_up import CatchingUp
from sojourn.cluster.comparing import Comparing
from sojourn.cluster.effects import Close, Dial, Effect, End, Reply, Report, Send
from sojourn.cluster.forwarding import Forwarding
from sojourn.cluster.greeting import MOST_LOGS, Dialing
from sojourn.cluster.handover import Handover
from sojourn.cluster.host import Host, Link, Peer
from sojourn.cluster.leaving import Leaving
from sojourn.cluster.links import Links
from sojourn.cluster.member import MOST_MEMBERS
from sojourn.cluster.pulling import Pulling
from sojourn.cluster.questions import Questions
from sojourn.cluster.serving import Serving, Unfit
from sojourn.cluster.settings import Settings
from sojourn.cluster.shipping import Shipping
from sojourn.cluster.status import status
from sojourn.cluster.tables import Tables
from sojourn.cluster.waiting import Waiting
from sojourn.errors import StoreUnavailable

__all__ = ["Close", "Dial", "Effect", "End", "Node", "Reply", "Report", "Send"]

GREETING = 5.0  # seconds until both have said hello
FULL_EVERY = 4  # pings: one of so many says all that is known, while hosts see the cluster differently
REPEATED = 10.0  # seconds after which it is said again though all agree
LATE_BEATS = 2  # beats of its own after which a host stood still: in less it takes nobody for silent who is not
SWEPT, SWEEP_EVERY, SWEEP_ON = 64, 1.0, 0.02  # deadlines at a time, and seconds until the next look


class _Early(NamedTuple):
    """A request from before the others were dialed for the first time."""

    worker: int
    request: local.Await | local.Ask | local.Forward
    deadline: float


class Node:
    """One host. Every input returns what is to be done; *now* is seconds of a clock that never goes back.

    No input raises: what a stream brings that does not fit closes it, and what the storage cannot do is reported.
    """

    def __init__(self, settings: Settings, tables: Tables, now: float, random: Callable[[int], bytes]) -> None:
        """*random* returns that many random bytes; they keep hosts from acting in step."""
        self.host = host = Host(settings, tables, now, random)
        self.dialing = Dialing(host)
        self.shipping = Shipping(host)
        self.waiting = Waiting(host, self.shipping)
        self.serving = Serving(host, self.shipping.is_settled)
        self.pulling = Pulling(host)
        self.questions = Questions(host)
        self.forwarding = Forwarding(host, self.waiting.for_another)
        self.comparing = Comparing(host, self._may_compare, self._compared)
        self.handover = Handover(host)
        self.catching_up = CatchingUp(host)
        self.leaving = Leaving(host, self.shipping, self.comparing, self.handover)
        self.links = Links(self)
        self._states = {member.name: member.state for member in host.members.all()}
        self._early: list[_Early] = []
        self._beat = self._sweep = now
        self._beats = 0
        self._told = now
        self._news = True
        """Whether something was not told to the others yet."""
        self._look = False
        """Whether something may be in the own log that was not shipped yet."""
        self._busy: set[str] = set()
        """Hosts that could not be sent what the last look has found: a piece was on its way to them."""
        self._ended = False

    # -- time --------------------------------------------------------------------------------------------------------

    def started(self, now: float) -> list[Effect]:
        """Begin: dial the others."""

        def begin() -> None:
            self.host.members_changed()
            self._pass_time()

        return self._do(now, begin)

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        return self._do(now, self._pass_time)

    def due(self) -> float:
        """Return when ``tick`` is wanted next, at the latest; that may be now."""
        if self._look or self.handover.wants_to_go_on():
            return self.host.now
        return min(
            self._beat,
            self._sweep,
            self.host.members.due(),
            self.dialing.due(),
            self.waiting.due(),
            self.questions.due(),
            self.forwarding.due(),
            self.leaving.due(),
        )

    def _pass_time(self) -> None:
        if self._ended:
            return
        if self.host.members.passed(self.host.now):
            self.changed()
        for name in self.dialing.now():
            self.host.out.append(Dial(name))
        self._end_what_is_late()
        if self._beat <= self.host.now:
            self._beat_once()
        self._ship()
        self.comparing.go_on()
        self.handover.go_on()
        self.handle_early()
        if self._sweep <= self.host.now:
            self._sweep = self.host.now + SWEEP_EVERY  # also where the storage fails: it is not asked all the time
            if self.host.tables.sweep(SWEPT) >= SWEPT:
                self._sweep = self.host.now + SWEEP_ON
        was_leaving = self.host.leaving
        if self.leaving.go_on():
            self._say_goodbye(leaves=True)
            self.host.out.append(End())
        elif was_leaving and not self.host.leaving:
            self.changed()  # it could not, and stays

    def _end_what_is_late(self) -> None:
        self.waiting.expired()
        self.questions.expired()
        self.forwarding.expired()
        self.pulling.passed()
        for name in self.shipping.stuck():
            self.waiting.lost(name)
        late = self.host.now - GREETING
        for link in [one for one in self.host.links.values() if not one.greeted and one.since <= late]:
            self.links.shut(link, "no hello came in time")
        for name in self.shipping.given_up():
            if (peer := self.host.peers.get(name)) and peer.out:
                self.links.shut(peer.out, "nothing was stored for too long")

    def _beat_once(self) -> None:
        """Ping everybody, and say what is new; now and then all that is known, often where hosts do not agree."""
        host = self.host
        self._beat = host.now + host.settings.beat
        self._beats += 1
        host.tell_workers()
        now_and_then = self._beats % FULL_EVERY == 0
        full = self._news or self._told + REPEATED <= host.now or (now_and_then and self._disagree())
        members, progress = (host.members.all(), host.progress()) if full else ((), {})
        ping = wire.Ping(int(host.now * 1000), members, progress)
        all_told = True
        for peer in host.peers.values():
            all_told = self._ping(peer, ping) and all_told
        if full:
            self._told, self._news = host.now, not all_told
        if full or now_and_then:
            self.pulling.consider()
        self._consider_ready()
        self._consider_settled()

    def _ping(self, peer: Peer, ping: wire.Ping) -> bool:
        """Ping a host on the stream that leads to it, or on both where it does not hear; return whether that went."""
        links = [link for link in (peer.out, peer.into) if link and not link.blocked]
        for link in links if peer.deaf else links[:1]:
            self.host.send(link, ping)
        return bool(links)

    def _disagree(self) -> bool:
        """Tell whether a host has said something else of another's state than what is known here."""
        mine = {member.name: member.state for member in self.host.members.all()}
        return "suspect" in mine.values() or any(peer.states != mine for peer in self.host.peers.values())

    def _consider_ready(self) -> None:
        if self.catching_up.is_done(self.comparing, untried=self.dialing.untried()):
            self.host.members.is_ready_now()
            self.host.report("info", "this host has caught up and is ready")
            self.changed()

    # -- streams -----------------------------------------------------------------------------------------------------

    def dialed(self, link: int, name: str, now: float) -> list[Effect]:
        """A Dial has become a stream, and the certificate of the other end is that of *name*."""

        def begin() -> None:
            self.host.links[link] = Link(link, True, name, now)
            self.host.send(self.host.links[link], self.links.hello())

        return self._do(now, begin)

    def unreachable(self, name: str, now: float) -> list[Effect]:
        """A Dial has failed."""

        def fail() -> None:
            self.dialing.failed(name)
            self.handle_early()

        return self._do(now, fail)

    def accepted(self, link: int, identities: frozenset[str] | None, now: float) -> list[Effect]:
        """Somebody has opened a stream; *identities* are the hosts that the certificate names. None: no TLS."""
        return self._do(now, lambda: self.links.accepted(Link(link, False, "", now, identities)))

    def received(self, link: int, message: wire.Message, now: float) -> list[Effect]:
        """A message has come."""

        def hear() -> None:
            if (stream := self.host.links.get(link)) is None:
                return
            try:
                self._hear(stream, message)
            except StoreUnavailable as error:
                self.host.unusable(error)
                self.links.shut(stream, "this host can store nothing now")
            except Exception as error:
                # Whatever a broken or hostile host makes up ends here, with its stream.
                what = f"{type(message).__name__}: {error or type(error).__name__}"
                self.host.report("error", f"{stream.name or 'a stranger'} has sent what cannot be used: {what}")
                self.links.shut(stream, what)

        return self._do(now, hear)

    def closed(self, link: int, now: float) -> list[Effect]:
        """A stream has broken."""

        def drop() -> None:
            if stream := self.host.links.get(link):
                self.links.drop(stream)

        return self._do(now, drop)

    def blocked(self, link: int, now: float) -> list[Effect]:
        """A stream's write buffer is full."""
        return self._do(now, lambda: self._block(link, True))

    def drained(self, link: int, now: float) -> list[Effect]:
        """It is empty again."""

        def go_on() -> None:
            self._block(link, False)
            self._ship()
            self.comparing.go_on()

        return self._do(now, go_on)

    def _block(self, link: int, blocked: bool) -> None:
        if stream := self.host.links.get(link):
            stream.blocked = blocked

    # -- messages ----------------------------------------------------------------------------------------------------

    def _hear(self, link: Link, message: wire.Message) -> None:
        if not link.greeted:
            self.links.greet(link, message)
            return
        peer = self.host.peers[link.name]
        if self.host.members.heard(peer.name, self.host.now):
            self.changed()
        if isinstance(message, wire.Ping):
            self._pinged(peer, message)
        elif isinstance(message, wire.Goodbye):
            self._goodbye(peer, message)
        elif link.dialed:
            self._hear_answer(link, peer, message)
        else:
            self._hear_question(link, peer, message)

    def _hear_question(self, link: Link, peer: Peer, message: wire.Message) -> None:
        """Somebody ships or asks, on a stream that it has opened."""
        match message:
            case wire.Changes():
                self.questions.arrived(self.serving.changes(link, peer, message))
            case wire.Copies():
                self.questions.arrived(self.serving.copies(link, message))
            case wire.Pull():
                self.serving.pull(link, peer, message)
            case wire.Fetch():
                self.serving.fetch(link, message)
            case wire.Digests():
                self.serving.digests(link, peer, message)
            case wire.Offer():
                self.serving.offer(link, message)
            case wire.Do():
                self.forwarding.do(link, peer, message)
                self._look = True
            case _:
                raise Unfit("no question")

    def _hear_answer(self, link: Link, peer: Peer, message: wire.Message) -> None:
        """Somebody acknowledges or answers, on a stream that this host has opened."""
        match message:
            case wire.Stored():
                self._stored(peer.name, message)
            case wire.Changes():
                self.questions.arrived(self.pulling.changes(link, message))
            case wire.Copies() | wire.Took() | wire.Lacks() | wire.Did():
                self.host.answered(link, message.number, message)
            case wire.Names():
                self.comparing.names(peer, message)
            case wire.Digests():
                self.comparing.digests(peer, message)
            case _:
                raise Unfit("no answer")

    def _stored(self, name: str, message: wire.Stored) -> None:
        read = self.shipping.read(name)
        if self.shipping.stored(name, message):
            self.waiting.reached(name)
        if self.shipping.read(name) < read:
            self.waiting.reconsider()  # what was on its way is read once more
        self.shipping.ship(name)
        if name in self._busy:
            self._ship()

    def _pinged(self, peer: Peer, ping: wire.Ping) -> None:
        if not ping.members or ping.sent_ms < peer.said_ms:
            return
        peer.said_ms = ping.sent_ms
        if len(ping.members) > MOST_MEMBERS or len(ping.progress) > MOST_LOGS:
            raise Unfit("more hosts or more logs than there can be")
        if self.host.members.told(peer.name, ping.members, self.host.now):
            self.changed()
        peer.progress = ping.progress
        self.host.told(peer, ping.members)
        was_deaf, peer.deaf = peer.deaf, self.host.is_unheard_by(ping.members)
        if peer.deaf and not was_deaf:
            self.waiting.lost(peer.name)

    def _goodbye(self, peer: Peer, message: wire.Goodbye) -> None:
        if message.leaves and self.host.members.left(peer.name, self.host.now):
            self.changed()
        for link in [one for one in (peer.out, peer.into) if one]:
            self.links.shut(link, "it said goodbye")

    # -- what follows ------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Somebody is in another state: tell the workers and the others, and make good what it means."""
        host = self.host
        moved = host.members_changed()
        before, self._states = self._states, {member.name: member.state for member in host.members.all()}
        self._news = True
        for name, state in self._states.items():
            if name != host.me and before.get(name) != state:
                self._changed_to(name, state)
        if moved:
            self.shipping.moved()
            self.waiting.reconsider()
            self.comparing.urgently()
            self.handover.urgently()

    def _changed_to(self, name: str, state: str) -> None:
        self.host.report("info" if state in ("alive", "left") else "warning", f"{name} is {state}")
        if state != "alive":
            self.waiting.lost(name)
        if state == "dead" or (state == "suspect" and self.host.settings.copies is not None):
            self.comparing.urgently()  # what it wrote last may be on one other host only

    def _may_compare(self, peer: Peer) -> bool:
        """Tell whether two hosts have come near enough to each other that what differs is worth a look."""
        flow = self.shipping.flows.get(peer.name)
        if flow is None or not flow.at_end or not self.catching_up.has_log_of(peer):
            return False
        if self.host.settings.copies is not None or self.host.leaving:
            return True
        return self.host.members.me.ready and self.host.members.is_ready(peer.name)

    def _compared(self, name: str, epoch: int) -> None:
        self.shipping.compared(name, epoch)
        self._consider_settled()

    def _consider_settled(self) -> None:
        if not self.host.settled and self.shipping.is_settled():
            self.host.is_settled()

    def _ship(self) -> None:
        self._look = False
        self._busy = {name for name, flow in self.shipping.flows.items() if flow.sent}
        self.shipping.ship_all()

    # -- workers -----------------------------------------------------------------------------------------------------

    def asked(self, worker: int, request: local.Request, now: float) -> list[Effect]:
        """A worker wants something."""

        def ask() -> None:
            match request:
                case local.Await() | local.Ask() | local.Forward():
                    self._handle(_Early(worker, request, now + request.wait_ms / 1000))
                case local.Status():
                    self.waiting.count(max(request.unconfirmed, 0))
                    self.host.reply(worker, local.View(request.number, self._status()))
                case local.Forget():
                    self._forget(worker, request)
                case local.Leave():
                    self.leaving.begin(worker, request, self._status)
                    self.changed()
                case local.Nudge():
                    self._look = True

        return self._do(now, ask)

    def _forget(self, worker: int, request: local.Forget) -> None:
        """Take a dead host for one that has left. One that lives, or may, cannot be forgotten."""
        forgotten = self.host.members.forget(request.name, self.host.now)
        if forgotten:
            self.changed()
        self.host.reply(worker, local.View(request.number, self._status() | {"forgotten": forgotten}))

    def _handle(self, early: _Early) -> None:
        """Handle a request; where the others were never dialed yet, once they were."""
        if self.dialing.untried() and self.host.now < early.deadline and len(self._early) < 4096:
            self._early.append(early)
            self._look = True
            return
        worker, request, deadline = early
        try:
            self._answer(worker, request, deadline)
        except StoreUnavailable as error:
            self.host.report("error", str(error))
            self.host.reply(worker, local.failed(request, str(error)))

    def _answer(self, worker: int, request: local.Await | local.Ask | local.Forward, deadline: float) -> None:
        match request:
            case local.Await():
                self._look = True
                self.waiting.begin(worker, request, deadline)
            case local.Ask():
                self.questions.ask(worker, request)
            case local.Forward():
                self.forwarding.forward(worker, request)

    def handle_early(self) -> None:
        """Handle the requests that came before the others were dialed, if they were by now."""
        if self._early and not self.dialing.untried():
            late, self._early = self._early, []
        else:
            late = [early for early in self._early if early.deadline <= self.host.now]
            self._early = [early for early in self._early if early.deadline > self.host.now]
        for early in late:
            self._handle(early)

    def gone(self, worker: int, now: float) -> list[Effect]:
        """A worker's connection has ended."""

        def forget() -> None:
            self._early = [early for early in self._early if early.worker != worker]
            for part in (self.waiting, self.questions, self.forwarding, self.leaving):
                part.forget(worker)

        return self._do(now, forget)

    def written(self, now: float) -> list[Effect]:
        """There may be something new in the own log."""
        return self._do(now, self._ship)

    def stopping(self, now: float) -> list[Effect]:
        """The agent ends."""
        return self._do(now, lambda: self._say_goodbye(leaves=False))

    def _say_goodbye(self, *, leaves: bool) -> None:
        self._ended = True
        for link in list(self.host.links.values()):
            if link.greeted:
                self.host.send(link, wire.Goodbye(leaves))

    def _status(self) -> dict[str, object]:
        return status(self)

    # -- all inputs --------------------------------------------------------------------------------------------------

    def _do(self, now: float, act: Callable[[], None]) -> list[Effect]:
        """Act at *now*, and return what is to be done. Where the host itself stood still nobody else was silent."""
        host = self.host
        stood_still = now - host.now
        if stood_still > LATE_BEATS * host.settings.beat:
            host.members.slept(stood_still)
        host.now = max(now, host.now)
        try:
            act()
        except StoreUnavailable as error:
            host.unusable(error)
        out, host.out = host.out, []
        return out
