"""Questions: what the other hosts have of a session that is missing here, or older here than its browser has seen.

The host that made a write knows best whether it was made: when it has answered, what it lacks was never written, and
somebody has forged the floor. Where the writer is gone for good, all others must answer. Until then nobody is shown an
older session; and questions that came to nothing may not come too often, since any browser can ask them. One that was
asked a moment ago has its answer: what is here is no older by now, and a browser whose session is over asks each time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from sojourn.cluster.clock import Origin
from sojourn.cluster.host import Host, Link
from sojourn.cluster.limits import Bucket, Buckets, Deadlines
from sojourn.cluster.local import Ask, Asked
from sojourn.cluster.replica import missing
from sojourn.cluster.wire import Copies, Fetch, Message

MOST_OPEN = 4096
VOID_A_SECOND, VOID_AT_ONCE = 500.0, 1000.0  # of a host, for sessions that are here, and as many for others
VOID_A_KEY, VOID_A_KEY_AT_ONCE, KEYS = 1.0, 5.0, 4096
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
        self._here = Bucket(VOID_A_SECOND, VOID_AT_ONCE, 0.0, host.now)
        self._nowhere = Bucket(VOID_A_SECOND, VOID_AT_ONCE, 0.0, host.now)
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
        elif len(self._open) >= MOST_OPEN or self._too_many(request.key):
            self.host.reply(worker, Asked(request.number, False))
        else:
            self._begin(worker, request)

    def _is_here(self, key: bytes, floor: bytes) -> bool:
        replica = self.host.tables.replica(key)
        return not missing(floor, replica) and (replica is not None or self._knows(key))

    def _knows(self, key: bytes) -> bool:
        return self.host.members.me.ready and self.host.is_here(key)

    def _too_many(self, key: bytes) -> bool:
        # Two buckets, so that whoever makes up ids cannot use up the questions of those who have a session.
        bucket = self._nowhere if self.host.tables.replica(key) is None else self._here
        return bucket.empty(self.host.now) or self._keys.empty(key, self.host.now)

    def _begin(self, worker: int, request: Ask) -> None:
        host = self.host
        deadline = host.now + request.wait_ms / 1000
        before = host.tables.replica(request.key)
        question = _Question(request.key, request.floor, deadline, [(worker, request.number)], before=before)
        self.asked += 1
        self._open[request.key, request.floor] = question
        self._deadlines.add(question.deadline, question)
        question.open = {peer.name for peer in host.connected() if host.reachable(peer.name)}
        for name in sorted(question.open):
            link = host.peers[name].out
            if link:
                self._fetch(question, name, link)
        self._look(question)

    def _fetch(self, question: _Question, name: str, link: Link) -> None:
        def answered(message: Message) -> bool:
            if not isinstance(message, Copies):
                return False
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
        replica = self.host.tables.replica(question.key)
        lacking = missing(question.floor, replica)
        if lacking and all(self._has_said(origin, question) for origin in lacking):
            lacking = {}  # their writers know nothing of it
        if not lacking and (replica is not None or missing(question.floor, None)):
            self._end(question, True)
        elif not question.open:
            away = any(self._is_away(origin, question) for origin in lacking)
            self._end(question, not away and self._all_answered(question))

    def _has_said(self, origin: Origin, question: _Question) -> bool:
        """Tell whether the host that would have made a write has answered, and would still have it.

        Where sessions move between hosts it may have handed it on: then all must answer.
        """
        if self.host.settings.copies is not None:
            return False
        name = self.host.members.of_origin(origin)
        if name == self.host.me:
            return not question.open  # a power cut may have taken it here, after others had it
        return name in question.answered

    def _is_away(self, origin: Origin, question: _Question) -> bool:
        """Tell whether the host that would have made a write is known and has not answered; even if it is dead.

        It may merely be cut off with the write, or this host may be. When it comes back with other storage, has left,
        or an operator has it forgotten, what it alone had is lost.
        """
        name = self.host.members.of_origin(origin)
        if name is None:
            return self.host.unheard()
        return name not in question.answered and name != self.host.me and self.host.members.state(name) != "left"

    def _all_answered(self, question: _Question) -> bool:
        """Tell whether everybody has answered who is not dead, and anybody at all where there are others."""
        waited_for = {name for name in self.host.members.others() if self.host.members.state(name) != "dead"}
        return waited_for <= question.answered and bool(question.answered or not self.host.expected)

    def _end(self, question: _Question, known: bool) -> None:
        if question.over:
            return  # a late answer; the same may have been asked anew meanwhile
        question.over = True
        del self._open[question.key, question.floor]
        if self.host.tables.replica(question.key) == question.before:
            self.void += 1
            (self._nowhere if question.before is None else self._here).spend(self.host.now)
            self._keys.spend(question.key, self.host.now)
            if known:
                self._settle((question.key, question.floor))
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
        """End the questions whose time is over."""
        for question in self._deadlines.expired(self.host.now):
            self._end(question, self._is_here(question.key, question.floor))

    def due(self) -> float:
        """Return when the next one is over."""
        return self._deadlines.due()

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        for question in self._open.values():
            question.askers = [asker for asker in question.askers if asker[0] != worker]
