"""Questions: what the other hosts have of a session that is missing here, or older here than its browser has seen.

The host that made a write knows best whether it was made, and so does one that has said that it has all which that host
had written by then. So one of these is asked first, and mostly alone: it has what is missing, or it was never written,
and somebody has forged the floor. Where there is none, or it does not answer, all are asked. A writer that nobody knows
is no proof of a forgery: it may have joined a moment ago, or be a former life of a host. Until it is settled nobody is
shown an older session; and questions that came to nothing may not come too often, since any browser can ask them.
One that was asked a moment ago has its answer: what is here is no older by now, and a browser whose session is over
asks each time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from sojourn.cluster.clock import Origin
from sojourn.cluster.host import Host
from sojourn.cluster.limits import Bucket, Buckets, Deadlines
from sojourn.cluster.local import Ask, Asked
from sojourn.cluster.replica import missing
from sojourn.cluster.wire import Copies, Fetch, Message, Progress
from sojourn.errors import StoreUnavailable

MOST_OPEN = 4096
VOID_A_SECOND, VOID_AT_ONCE = 500.0, 1000.0  # of a host, for sessions that are here, and as many for others
WIDE_A_SECOND, WIDE_AT_ONCE = 100.0, 200.0  # of those for others, of which every host is asked
VOID_A_KEY, VOID_A_KEY_AT_ONCE, KEYS = 1.0, 5.0, 4096
WIDER_AFTER = 0.05  # seconds until everybody is asked, where the first one has not answered
SETTLED = 2.0  # seconds for which what came to nothing is not asked again: a browser may keep a dead cookie for long


@dataclass(slots=True)
class _Question:
    key: bytes
    floor: bytes
    deadline: float
    askers: list[tuple[int, int]]
    """Workers, and the numbers of their questions."""
    open: set[str] = field(default_factory=set)
    """Hosts that have not answered yet."""
    answered: set[str] = field(default_factory=set)
    gave: set[str] = field(default_factory=set)
    """Hosts that had a copy."""
    witnesses: dict[str, frozenset[Origin]] = field(default_factory=dict)
    """By host: whose writes it would have had when it was asked. What it stores later was not in its answer."""
    wide: bool = False
    """Whether everybody was asked."""
    before: object = None
    """What was here when it was asked."""
    over: bool = False


class Questions:
    """The open questions of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.asked = self.void = 0
        self._open: dict[tuple[bytes, bytes], _Question] = {}
        self._settled: OrderedDict[tuple[bytes, bytes], float] = OrderedDict()
        """Until when the answer to a question that came to nothing holds."""
        self._deadlines: Deadlines[_Question] = Deadlines()
        self._slow: Deadlines[_Question] = Deadlines()
        self._here = Bucket(VOID_A_SECOND, VOID_AT_ONCE, 0.0, host.now)
        self._nowhere = Bucket(VOID_A_SECOND, VOID_AT_ONCE, 0.0, host.now)
        self._everywhere = Bucket(WIDE_A_SECOND, WIDE_AT_ONCE, 0.0, host.now)
        self._keys: Buckets[bytes] = Buckets(VOID_A_KEY, VOID_A_KEY_AT_ONCE, KEYS)

    def __len__(self) -> int:
        return len(self._open)

    def ask(self, worker: int, request: Ask) -> None:
        """A worker asks."""
        name = (request.key, request.floor)
        if question := self._open.get(name):
            question.askers.append((worker, request.number))
        elif self._is_here(*name) or self._settled.get(name, 0.0) > self.host.now:
            self.host.reply(worker, Asked(request.number, True))
        elif len(self._open) >= MOST_OPEN or self._too_many(*name):
            self.host.reply(worker, Asked(request.number, False))
        else:
            self._begin(worker, request)

    def _is_here(self, key: bytes, floor: bytes) -> bool:
        replica = self.host.tables.replica(key)
        return not missing(floor, replica) and (replica is not None or self.host.knows(key))

    def _too_many(self, key: bytes, floor: bytes) -> bool:
        bucket = self._bucket(key, wide=self._witness(key, floor) is None)
        return bucket.empty(self.host.now) or self._keys.empty(key, self.host.now)

    def _bucket(self, key: bytes, *, wide: bool) -> Bucket:
        """Return what limits questions about *key*; a *wide* one goes to everybody.

        There are several, so that whoever makes up ids cannot use up the questions of those who have a session, and
        whoever makes up hosts not those of a few who come to this one first.
        """
        if self.host.tables.replica(key) is not None:
            return self._here
        return self._everywhere if wide and self.host.knows(key) else self._nowhere

    def _begin(self, worker: int, request: Ask) -> None:
        host = self.host
        deadline = host.now + request.wait_ms / 1000
        before = host.tables.replica(request.key)
        question = _Question(request.key, request.floor, deadline, [(worker, request.number)], before=before)
        self.asked += 1
        self._open[request.key, request.floor] = question
        self._deadlines.add(question.deadline, question)
        if (first := self._witness(request.key, request.floor)) is None:
            self._ask_all(question)
        else:
            self._slow.add(host.now + WIDER_AFTER, question)
            self._fetch(question, first)

    def _ask_all(self, question: _Question) -> None:
        """Ask everybody who was not asked yet."""
        question.wide = True
        for name in sorted(self._askable() - question.open - question.answered):
            self._fetch(question, name)
        self._look(question)

    def _fetch(self, question: _Question, name: str) -> None:
        link = self.host.peers[name].out
        if link is None:
            return
        question.open.add(name)
        question.witnesses[name] = self._attested(name, question)

        def answered(message: Message) -> bool:
            if not isinstance(message, Copies):
                return False
            if message.changes:
                question.gave.add(name)
            self.host.clashed(self.host.tables.accept(message.changes).clashes)
            if not message.more:
                question.answered.add(name)
                question.open.discard(name)
                self._look(question)
            return not message.more

        def lost() -> None:
            question.open.discard(name)
            self._look(question)

        self.host.call(link, lambda number: Fetch(number, (question.key,)), answered, lost)

    def _look(self, question: _Question) -> None:
        """End a question that is answered, or that nobody is left to answer."""
        if question.over:
            return
        replica = self.host.tables.replica(question.key)
        lacking = missing(question.floor, replica)
        if lacking and self._is_refuted(max(lacking, key=lambda origin: lacking[origin]), question):
            lacking = {}
        if not lacking and (replica is not None or missing(question.floor, None)):
            self._end(question, True)
        elif not question.open and not question.wide:
            self._ask_all(question)
        elif not question.open:
            self._end(question, self._is_lost_here(lacking) or self._has_everybody_said(lacking, question))

    def _askable(self) -> set[str]:
        """Return the hosts that can be asked; those that are about to leave have what they hand on."""
        host = self.host
        leaving = {peer.name for peer in host.connected() if host.members.state(peer.name) == "left" and not peer.deaf}
        return leaving | {peer.name for peer in host.connected() if host.reachable(peer.name)}

    # -- who can tell ------------------------------------------------------------------------------------------------

    def _witness(self, key: bytes, floor: bytes) -> str | None:
        """Return a host whose answer will do, most likely: it would have the last of the writes that are missing here.

        That one has often what came before, too. Where it knows of no such write somebody has made up the floor.
        """
        lacking = missing(floor, self.host.tables.replica(key))
        for origin, time in sorted(lacking.items(), key=lambda one: one[1], reverse=True):
            able = sorted(name for name in self._askable() if self._would_have(name, origin, time))
            maker = self.host.members.of_origin(origin)
            if able:
                return maker if maker in able else able[key[0] % len(able)]
        return None

    def _would_have(self, name: str, origin: Origin, time: int) -> bool:
        """Tell whether a host has all that *origin* had written by *time*: it is the writer, or has said so."""
        peer = self.host.peers.get(name)
        return peer is not None and (peer.origin == origin or peer.progress.get(origin, Progress()).level >= time)

    def _attested(self, name: str, question: _Question) -> frozenset[Origin]:
        """Return the hosts of the floor whose writes a host would have by now, as far as they are missing here."""
        lacking = missing(question.floor, self.host.tables.replica(question.key))
        return frozenset(origin for origin, time in lacking.items() if self._would_have(name, origin, time))

    def _is_refuted(self, origin: Origin, question: _Question) -> bool:
        """Tell whether somebody has answered who would have the last write, and has not: then the floor is made up.

        A floor names writes that were in one copy, so that none of them is true where one is not. An earlier one proves
        less: where it was made the session may have ended by itself, and gone on on the other side of a cut. Where
        sessions move between hosts a writer may have handed the session on: there all must answer.
        """
        if self.host.settings.copies is not None:
            return False
        return any(origin in question.witnesses[name] for name in self._believed(question))

    def _believed(self, question: _Question) -> set[str]:
        """Return those that have answered, without who knows nothing of a session that is known here.

        Its copy may be damaged. The same goes for all who know nothing, while this host itself still catches up.
        """
        nowhere = question.before is None and self.host.members.me.ready
        return question.answered if nowhere else question.answered & question.gave

    def _is_lost_here(self, lacking: dict[Origin, int]) -> bool:
        """Tell whether all that is missing was written by this host: a power cut took it, and nobody had it."""
        mine = self.host.tables.origin
        return self.host.settings.copies is None and bool(lacking) and all(origin == mine for origin in lacking)

    def _has_everybody_said(self, lacking: dict[Origin, int], question: _Question) -> bool:
        away = any(self._is_away(origin, question) for origin in lacking)
        return not away and self._all_answered(question)

    def _is_away(self, origin: Origin, question: _Question) -> bool:
        """Tell whether the host that would have made a write is known and has not answered; even if it is dead.

        It may merely be cut off with the write, or this host may be. When it comes back with other storage, has said
        goodbye, or an operator has it forgotten, what it alone had is lost. While it leaves it still has it, and hands
        it on; also where it cannot be reached just now.
        """
        name = self.host.members.of_origin(origin)
        if name is None:  # any host that is away may have begun anew, with other storage, and have made it since
            return self.host.unheard() or not question.answered.issuperset(self.host.members.others())
        gone = self.host.members.is_gone(name, self.host.now) and name not in self.host.peers
        return name not in question.answered and name != self.host.me and not gone

    def _all_answered(self, question: _Question) -> bool:
        """Tell whether everybody has answered who is not dead, and anybody at all where there are others."""
        waited_for = {name for name in self.host.members.others() if self.host.members.state(name) != "dead"}
        return waited_for <= question.answered and bool(question.answered or not self.host.expected)

    def _end(self, question: _Question, known: bool) -> None:
        if question.over:
            return  # a late answer; the same may have been asked anew meanwhile
        self._answer(question, known)
        if self.host.tables.replica(question.key) == question.before:
            self.void += 1
            self._bucket(question.key, wide=question.wide).spend(self.host.now)
            self._keys.spend(question.key, self.host.now)
            if known:
                self._settle((question.key, question.floor))

    def _answer(self, question: _Question, known: bool) -> None:
        """Tell all who ask; the question is over, if it was not."""
        if not question.over:
            question.over = True
            del self._open[question.key, question.floor]
            for worker, number in question.askers:
                self.host.reply(worker, Asked(number, known))

    def _settle(self, name: tuple[bytes, bytes]) -> None:
        self._settled[name] = self.host.now + SETTLED
        self._settled.move_to_end(name)
        if len(self._settled) > KEYS:
            self._settled.popitem(last=False)

    # -- what happens meanwhile --------------------------------------------------------------------------------------

    def arrived(self, names: tuple[bytes, ...]) -> None:
        """Something came by itself: perhaps what was asked for."""
        if self._open:
            came = set(names)
            for question in [one for one in self._open.values() if one.key in came]:
                self._look(question)

    def expired(self) -> None:
        """End the questions whose time is over, and ask more hosts where one is slow."""
        for question in self._slow.expired(self.host.now):
            if not question.wide:
                self._ask_all(question)
        for question in self._deadlines.expired(self.host.now):
            self._end_late(question)

    def _end_late(self, question: _Question) -> None:
        """End a question whose time is over, also where the storage fails: its askers have waited long enough."""
        try:
            self._end(question, self._is_here(question.key, question.floor))
        except StoreUnavailable as error:
            self.host.unusable(error)
            self._answer(question, False)

    def due(self) -> float:
        """Return when the next one is over, or slow."""
        return min(self._deadlines.due(), self._slow.due())

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        for question in self._open.values():
            question.askers = [asker for asker in question.askers if asker[0] != worker]
