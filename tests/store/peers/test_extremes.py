"""Messages of the right shape with extreme contents, from a host that is let in: nothing that they say stops an agent.

The cluster's certificate makes a host trusted with every session, but a damaged or hostile one must not take the others
down with it. Each seed is a conversation; what a node raises in it, or cannot send on, is a failure.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.pump import START, Pump, key_of, record

from sojourn.cluster import wire
from sojourn.cluster.clock import Stamp
from sojourn.cluster.effects import Effect, Send
from sojourn.cluster.forwarding import VERBS
from sojourn.cluster.host import Link
from sojourn.cluster.replica import Cell, Deleted, Head, Mark, Replica, Retired, Times
from sojourn.cluster.wire import Change, Listing, Member, Message, Progress
from sojourn.store.peers.tables import HostTables

HERE, THERE = "a:1", "b:1"
MESSAGES = 60
SEEDS = 30
MUCH_LATER = 4000.0  # seconds: the session of a conversation is over, and is buried

NUMBERS = (0, 1, -1, 5, 1 << 20, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63), int(START * 1000) << 16)
NAMES = (key_of("s"), key_of("t"), b"", b"x" * 31, b"x" * 64, key_of("s") + key_of("t"), b"y" * 600)
HOSTS = (HERE, THERE, "c:1", "bad", "x" * 300 + ":1", "a\nb:1")
STATES = ("alive", "suspect", "dead", "left", "unheard of")
BUCKETS = (0, 5, 1023, 1024, -1)


class Stranger:
    """Makes up what a host might say."""

    def __init__(self, dice: random.Random, origins: tuple[bytes, ...]) -> None:
        self.dice, self._origins = dice, (*origins, b"zzzz", b"", b"too long")

    def message(self) -> Message:
        kinds: tuple[Callable[[], Message], ...] = (
            self._changes,
            self._stored,
            self._ping,
            self._pull,
            self._fetch,
            self._copies,
            self._took,
            self._digests,
            self._names,
            self._offer,
            self._lacks,
            self._do,
            self._did,
        )
        return self.dice.choice(kinds)()

    # -- its parts

    def _number(self) -> int:
        return self.dice.choice(NUMBERS)

    def _small(self) -> int:
        """Return what may be the number of an open question."""
        return self.dice.choice((*range(8), self._number()))

    def _is(self, share: float) -> bool:
        return self.dice.random() < share

    def _some(self, share: float, make: Callable[[], Any]) -> Any:
        return make() if self._is(share) else None

    def _name(self) -> bytes:
        return self.dice.choice(NAMES)

    def _names_of(self, most: int = 2) -> tuple[bytes, ...]:
        return tuple(self.dice.sample(NAMES, self.dice.randrange(most + 1)))

    def _origin(self) -> bytes:
        return self.dice.choice(self._origins)

    def _progress(self) -> Progress:
        return Progress(self._number(), self._number())

    def _stamp(self) -> Stamp:
        return Stamp(self._number(), self._origin())

    def _replica(self) -> Replica:
        cells = {"k": Cell(self._stamp(), self.dice.choice((b"1", None)))} if self._is(0.7) else {}
        head = Head(self._stamp(), self._number(), self.dice.choice((None, "p")), self._some(0.5, self._number))
        times = Times(self._stamp(), self._number(), self._number())
        marks = {self._origin(): Mark(self._number(), self._number())} if self._is(0.8) else {}
        return Replica(cells, head, times, marks, *self._ends(), self._number())

    def _ends(self) -> tuple[Retired | None, Deleted | None]:
        into = self.dice.choice((None, key_of("t"), b"q"))
        return (
            self._some(0.2, lambda: Retired(self._stamp(), self._number(), self._number(), into)),
            self._some(0.2, lambda: Deleted(self._stamp(), self._number())),
        )

    def _change(self) -> Change:
        return self._credible() if self._is(0.5) else self._incredible()

    def _credible(self) -> Change:
        """Return a change that is stored unless it is looked at closely."""
        time, origin = (round(START * 1000) + self.dice.randrange(1000)) << 16, self._origin()
        stamp, now = Stamp(time, origin), round(START * 1000)
        head, times = Head(stamp, self._number(), None, None), Times(stamp, now, now + 1_000_000)
        marks = {origin: Mark(time, self.dice.choice((1, 2, 1 << 62)))}
        replica = Replica({"k": Cell(stamp, b"1")}, head, times, marks, forgotten=self._number())
        return Change(self.dice.choice(NAMES[:2]), time, self._is(0.6), replica)

    def _incredible(self) -> Change:
        return Change(
            self._name(),
            self._number(),
            self._is(0.5),
            self._some(0.6, self._replica),
            self._some(0.4, lambda: Listing(self._number(), self._origin(), self._number(), self._is(0.5))),
            self.dice.choice((None, b"", b"junk" * 20)),
        )

    def _several(self) -> tuple[Change, ...]:
        return tuple(self._change() for _ in range(self.dice.randrange(3)))

    # -- what it says

    def _changes(self) -> Message:
        return wire.Changes(self._origin(), self._number(), self._progress(), self._several(), self._number())

    def _stored(self) -> Message:
        return wire.Stored(self._origin(), self._progress(), self._names_of())

    def _ping(self) -> Message:
        members = [self._member() for _ in range(self.dice.randrange(3))]
        return wire.Ping(self._number(), tuple(members), {self._origin(): self._progress()})

    def _member(self) -> Member:
        state = self.dice.choice(STATES)
        return Member(self.dice.choice(HOSTS), self._number(), state, self._origin(), self._is(0.5))

    def _pull(self) -> Message:
        return wire.Pull(self._origin(), self._number(), self._number())

    def _fetch(self) -> Message:
        return wire.Fetch(self._number(), self._names_of())

    def _copies(self) -> Message:
        return wire.Copies(self._small(), self._several(), self._is(0.3))

    def _took(self) -> Message:
        return wire.Took(self._small())

    def _digests(self) -> Message:
        buckets = {self.dice.choice(BUCKETS): self._number()}
        return wire.Digests(buckets, self._number(), self._number(), self._is(0.5))

    def _names(self) -> Message:
        until = self.dice.choice((None, *NAMES))
        return wire.Names(self.dice.choice(BUCKETS), {self._name(): self._number()}, self._name(), until)

    def _offer(self) -> Message:
        return wire.Offer(self._number(), {self._name(): self._number()})

    def _lacks(self) -> Message:
        return wire.Lacks(self._small(), self._names_of())

    def _do(self) -> Message:
        things = (*NAMES, NAMES[:2], self._number(), None, 1.5, float("inf"), float("nan"), "s", [{}], record())
        arguments = [self.dice.choice(things) for _ in range(self.dice.randrange(5))]
        return wire.Do(self._number(), self.dice.choice(sorted(VERBS)), tuple(arguments))

    def _did(self) -> Message:
        return wire.Did(self._small(), self.dice.choice((None, "done", 5)))


def as_received(message: Message) -> Message | None:
    """Return what arrives of a message; None where it cannot be written, or ends the stream before a node sees it."""
    frames = wire.Frames()
    frames.greeted = True
    try:
        (arrived,) = frames.feed(wire.to_frame(message))
    except (OverflowError, wire.Malformed):
        return None
    return arrived


def links_of(pump: Pump) -> list[Link]:
    peer = pump.machines[HERE].node.host.peers.get(THERE)
    return [link for link in (peer.out, peer.into) if link] if peer else []


def hears(pump: Pump, dice: random.Random, message: Message) -> list[Effect]:
    """Have the host hear a message, and time pass; return what it wants done."""
    node, link = pump.machines[HERE].node, dice.choice(links_of(pump)).number
    blocked, free = dice.random() < 0.2, dice.random() < 0.3
    effects = [*node.blocked(link, pump.now)] if blocked else []
    effects += node.received(link, message, pump.now)
    effects += node.drained(link, pump.now) if free else []
    pump.now += 0.05
    return effects + node.tick(pump.now)


def carry_out(pump: Pump, effects: list[Effect]) -> None:
    """Do what the host wants, but for its messages: those only have to fit into a frame. Nobody is there to answer."""
    for effect in effects:
        if isinstance(effect, Send):
            wire.to_frame(effect.message)
    pump.do(pump.machines[HERE], [effect for effect in effects if not isinstance(effect, Send)])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_that_a_host_says_stops_another(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    pump = Pump(HERE, THERE, **({"copies": 2} if seed % 3 == 0 else {}))
    tables = HostTables(tmp_path / HERE, max_size=16 << 20, clock=lambda: START + pump.now)
    pump.start(HERE, tables)  # type: ignore[arg-type]  # a storage like any other
    pump.start(THERE)
    assert pump.run(5, lambda: pump.is_ready(HERE) and pump.is_ready(THERE))
    pump.create(HERE, "s", k="1")
    stranger = Stranger(dice, (tables.origin, pump.machines[THERE].tables.origin))
    for _ in range(MESSAGES):
        if not links_of(pump):
            pump.run(3)
        elif (message := as_received(stranger.message())) is not None:
            carry_out(pump, hears(pump, dice, message))
    pump.now += MUCH_LATER
    carry_out(pump, pump.machines[HERE].node.tick(pump.now))
    carry_out(pump, pump.machines[HERE].node.tick(pump.now + 2))
    tables.close()
