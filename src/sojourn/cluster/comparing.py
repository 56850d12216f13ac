"""Comparing: two hosts make sure that they hold the same, whatever has gone wrong before (anti-entropy).

All names lie in 1,024 buckets, and a bucket has one number that changes with anything in it (after Demers et al.:
Epidemic Algorithms, 1987). The host that asks sends its numbers; the other answers with the names in those buckets
that differ; then what one lacks or has otherwise goes over whole, and merging makes it the same. As fast as it goes
where there is a reason: a host has come or gone. And slowly all the time, with one host in turn; since under writes
there is always something that is only on its way, a bucket that differs then is looked at again before it matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from sojourn.cluster.host import Host, Peer, parcels
from sojourn.cluster.tables import BUCKETS, bucket_of
from sojourn.cluster.wire import Copies, Digests, Fetch, Message, Names

LOOKED_AT = 4096  # names behind one question, about; storage reads them in some milliseconds
AT_REST = 1024  # the same where there is no hurry
SLOW_EVERY = 1.0  # seconds between two such questions of a host, whatever the number of hosts; and for a second look
AT_ONCE = 64  # names whose copies are fetched or sent in one go


@dataclass(slots=True)
class Round:
    """Where the comparison with one host is."""

    bucket: int = 0
    urgent: bool = False
    epoch: int = -1
    """For which spread of sessions this pass began."""
    left: tuple[int, ...] = ()
    """Buckets that differ and are still to be looked at."""
    doubted: tuple[int, ...] = ()
    """Buckets that differed, perhaps since something was on its way: to be looked at again."""
    names: bool = False
    """Whether names were asked for."""
    mine: tuple[int, dict[bytes, int]] | None = None
    """The bucket that was looked into last, and what is in it here."""
    waiting: bool = False
    """Whether digests are out."""
    work: deque[tuple[bool, list[bytes]]] = field(default_factory=deque)
    """Names to be fetched (True) or sent (False)."""
    calls: int = 0
    at: float = 0.0
    """When something last went on."""
    passes: int = 0
    moved: int = 0
    """Names that differed, in all passes."""


class Comparing:
    """Compares one host with all others: slowly by the host of a pair whose name comes first, at need by both."""

    def __init__(self, host: Host, may: Callable[[Peer], bool], done: Callable[[str, int], None]) -> None:
        """*may* says whether it is time to compare with a host; *done* hears of each pass, and of its epoch."""
        self.host = host
        self._may, self._done = may, done
        self.rounds: dict[str, Round] = {}
        self._slow_at = host.now

    def urgently(self, *names: str) -> None:
        """Compare everything with these hosts, or with all, as fast as it goes, from the beginning."""
        for name in names or list(self.rounds):
            if round := self.rounds.get(name):  # what is on its way still is, and does no harm
                round.bucket, round.urgent, round.epoch = 0, True, self.host.epoch

    def greeted(self, name: str) -> None:
        """A stream leads to a host now."""
        self.rounds[name] = Round()
        self.urgently(name)

    def broken(self, name: str) -> None:
        """There is no stream to it any more."""
        self.rounds.pop(name, None)

    def busy(self) -> bool:
        """Tell whether anything is being compared urgently."""
        return any(one.urgent for one in self.rounds.values())

    def go_on(self) -> None:
        """Take the next step with every host where one is due."""
        for name in list(self.rounds):
            if (round := self.rounds.get(name)) and (peer := self.host.peers.get(name)):
                self._step(name, peer, round)
        self._go_on_slowly()

    def _step(self, name: str, peer: Peer, round: Round) -> None:
        if peer.out is None or peer.out.blocked or round.waiting or round.calls:
            return
        if round.work:
            self._move(name, peer, round)
        elif round.left:
            self._ask(peer, round, round.left)
        elif round.urgent:
            if self._may(peer):
                self._ask(peer, round, self._next(round))
        elif round.doubted and round.at + SLOW_EVERY <= self.host.now:
            self._ask(peer, round, round.doubted)

    def _go_on_slowly(self) -> None:
        """Ask the next host in turn, once in a while."""
        if self._slow_at + SLOW_EVERY > self.host.now:
            return
        self._slow_at = self.host.now
        for name, round in list(self.rounds.items()):
            peer = self.host.peers.get(name)
            is_there = peer and peer.out and not peer.out.blocked
            if peer and is_there and _is_idle(round) and self._is_ours(peer) and self._may(peer):
                self.rounds[name] = self.rounds.pop(name)  # behind all the others
                self._ask(peer, round, self._next(round), names=False)
                return

    def _next(self, round: Round) -> range:
        """Return the next buckets: as many as hold a fair number of names."""
        fair = LOOKED_AT if round.urgent else AT_REST
        names = self.host.tables.some_names(None, fair)
        step = BUCKETS if len(names) < fair else bucket_of(names[-1]) + 1
        return range(round.bucket, min(round.bucket + step, BUCKETS))

    def _is_ours(self, peer: Peer) -> bool:
        return self.host.me < peer.name or peer.into is None

    def _ask(self, peer: Peer, round: Round, buckets: range | tuple[int, ...], *, names: bool = True) -> None:
        assert peer.out
        mine = self.host.digests.of(peer.name, sorted(buckets))
        if isinstance(buckets, range):
            round.bucket = buckets.stop
            used = {bucket: number for bucket, number in mine.items() if number}
            question = Digests(used, buckets.start, len(buckets), names)
        else:
            question = Digests(mine)
        round.waiting, round.names, round.left, round.doubted, round.at = True, names, (), (), self.host.now
        self.host.send(peer.out, question)

    # -- answers -----------------------------------------------------------------------------------------------------

    def names(self, peer: Peer, message: Names) -> None:
        """The names in a bucket that differs, or a part of them."""
        round = self.rounds.get(peer.name)
        if round is None or not round.waiting or not 0 <= message.bucket < BUCKETS:
            return
        mine, theirs = self._mine(peer, round, message), message.digests
        # In a hurry both hosts compare and send what the other lacks: if they fetched as well, all would go over twice.
        waits = round.urgent and self.host.members.me.ready
        fetch = [] if waits else [name for name, digest in theirs.items() if mine.get(name) != digest]
        send = [name for name, digest in mine.items() if theirs.get(name) != digest]
        round.moved += len({*fetch, *send})
        for is_fetch, names in ((True, fetch), (False, send)):
            for start in range(0, len(names), AT_ONCE):
                round.work.append((is_fetch, names[start : start + AT_ONCE]))

    def _mine(self, peer: Peer, round: Round, message: Names) -> dict[bytes, int]:
        """Return what is here of the names that a message speaks of."""
        if round.mine is None or round.mine[0] != message.bucket:
            holds = self.host.held_by(self.host.me, peer.name)
            round.mine = message.bucket, self.host.tables.names(message.bucket, holds)
        after, until, here = message.after, message.until, round.mine[1]
        if not after and until is None:
            return here
        return {name: here[name] for name in here if after < name and (until is None or name <= until)}

    def digests(self, peer: Peer, message: Digests) -> None:
        """The end of the answer, and the buckets that it left out."""
        round = self.rounds.get(peer.name)
        if round and round.waiting:
            round.waiting, round.mine, round.at = False, None, self.host.now
            differ = tuple(bucket for bucket in message.buckets if 0 <= bucket < BUCKETS)[:BUCKETS]
            round.left, round.doubted = (differ, ()) if round.names else ((), differ)
            self._went_on(peer.name, round)

    def _went_on(self, name: str, round: Round) -> None:
        """End the pass where all is done, and go on at once where it is urgent."""
        peer = self.host.peers.get(name)
        if peer is None or self.rounds.get(name) is not round:
            return
        if _is_idle(round) and round.bucket >= BUCKETS:
            round.bucket, round.passes = 0, round.passes + 1
            was_urgent, round.urgent = round.urgent, False
            if was_urgent:
                self._done(name, round.epoch)
        if round.urgent or round.work or round.left:
            self._step(name, peer, round)

    # -- copies ------------------------------------------------------------------------------------------------------

    def _move(self, name: str, peer: Peer, round: Round) -> None:
        is_fetch, names = round.work.popleft()
        round.at = self.host.now
        if is_fetch:
            self._call(name, peer, round, lambda number: Fetch(number, tuple(names)))
            return
        for part in parcels(self.host.tables.copies(names)):
            self._call(name, peer, round, partial(Copies, changes=part))

    def _call(self, name: str, peer: Peer, round: Round, message: Callable[[int], Message]) -> None:
        def answered(message: Message) -> bool:
            round.at = self.host.now
            if isinstance(message, Copies):
                self.host.clashed(self.host.tables.accept(message.changes).clashes)
                if message.more:
                    return False
            round.calls -= 1
            self._went_on(name, round)
            return True

        def lost() -> None:
            round.calls -= 1

        assert peer.out
        round.calls += 1
        self.host.call(peer.out, message, answered, lost)


def _is_idle(round: Round) -> bool:
    """Tell whether nothing is on its way, and nothing is left of what was."""
    return not (round.waiting or round.calls or round.work or round.left or round.doubted)
