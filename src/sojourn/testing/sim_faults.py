"""What goes wrong in a simulated cluster, and when: faults begin and end by a plan that was drawn beforehand.

Some faults promise nothing to be lost: cuts, pauses, kills, clocks that jump. A lost disk takes what was on it alone,
so plans lose no more than one between two quiets, unless they are to find out what is left then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from sojourn.testing.sim_history import History, Trouble
from sojourn.testing.sim_host import SimHost
from sojourn.testing.sim_network import SimNetwork

FAULTS = (
    "cut",
    "cut one way",
    "cut between two",
    "alone",
    "break",
    "pause",
    "clock jumps",
    "killed",
    "power lost",
    "agent killed",
    "disk lost",
    "storage fails",
)


class Fault(NamedTuple):
    """One fault: after so many seconds, for so long."""

    at: float
    lasts: float
    what: str


def plan(random: Random, seconds: float, count: int) -> list[Fault]:
    """Return *count* faults within so many *seconds*, of which at most one loses a disk."""
    faults, losses = [], 0
    for _ in range(count):
        what = random.choice(FAULTS)
        if what == "disk lost" and losses:
            what = "killed"
        losses += what == "disk lost"
        lasts = random.choice((0.05, 0.4, 1.5, 5.0))
        faults.append(Fault(random.random() * seconds * 0.8, lasts, what))
    return sorted(faults)


class Faults:
    """Carries faults out on the hosts of a network, and notes them in the history."""

    def __init__(
        self,
        network: SimNetwork,
        history: History,
        random: Random,
        members: Callable[[], list[SimHost]],
        jumps: Sequence[float],
    ) -> None:
        """*jumps* are by how many seconds a clock may jump."""
        self._network, self._history, self._random, self._members = network, history, random, members
        self._jumps = jumps

    def note(self, what: str, *hosts: str, ahead: float | None = None) -> None:
        """Write down that something happened."""
        self._history.append(Trouble(self._network.clock.now, what, hosts, ahead))

    def schedule(self, faults: list[Fault]) -> None:
        """Have *faults* happen."""
        for fault in faults:
            self._network.clock.after(fault.at, lambda fault=fault: self.begin(fault))  # type: ignore[misc]

    def begin(self, fault: Fault) -> None:
        """Let a fault happen to somebody now, if there is anybody left to whom it can."""
        up = [host for host in self._members() if host.up and host.asleep_until <= self._network.clock.now]
        if len(up) < 2:
            return
        one, other = self._random.sample(up, 2)
        match fault.what:
            case "cut":
                self._cut(fault, up, both=True)
            case "cut one way":
                self._cut(fault, up, both=False)
            case "cut between two":  # others still reach both
                self._withhold(fault, [(one.name, other.name), (other.name, one.name)], one, other)
            case "alone":
                pairs = [(one.name, host.name) for host in self._members() if host is not one]
                self._withhold(fault, [*pairs, *((to, from_) for from_, to in pairs)], one)
            case "break":
                self._network.break_stream(one.name, other.name)
                self.note("streams broken", one.name, other.name)
            case "pause":
                one.asleep_until = self._network.clock.now + fault.lasts
                self.note(f"paused for {fault.lasts} s", one.name)
            case "clock jumps":
                one.jumped += self._random.choice(self._jumps)
                self.note(f"clock is {one.jumped:+.1f} s", one.name, ahead=one.jumped)
            case "storage fails":  # also between two batches of what it has begun to store
                one.tables.fails_in = self._random.randint(1, 6)
                self.note("storage is about to fail", one.name)
            case "agent killed":
                self._kill_agent(fault, one)
            case _:
                self._kill(fault, one)

    def _cut(self, fault: Fault, up: list[SimHost], *, both: bool) -> None:
        names = [host.name for host in self._members()]
        some = {*self._random.sample(names, self._random.randint(1, len(names) - 1))}
        pairs = [(one, other) for one in some for other in names if other not in some]
        back = [(other, one) for one, other in pairs] if both else []
        self._withhold(fault, pairs + back, *(host for host in up if host.name in some))

    def _withhold(self, fault: Fault, pairs: list[tuple[str, str]], *hosts: SimHost) -> None:
        self._network.cut(pairs)
        self.note(f"{fault.what}: for {fault.lasts} s", *(host.name for host in hosts))
        self._network.clock.after(fault.lasts, self.heal)

    def heal(self) -> None:
        """End all cuts."""
        if self._network.is_whole:
            return
        self._network.heal()
        self.note("healed")

    def _kill_agent(self, fault: Fault, host: SimHost) -> None:
        if host.agent_up:
            host.stop_agent()
            self.note("agent killed", host.name)
            self._raise_later(fault, host)

    def _kill(self, fault: Fault, host: SimHost) -> None:
        host.kill(power=fault.what == "power lost" or (fault.what == "disk lost" and self._random.random() < 0.5))
        if fault.what == "disk lost":
            host.lose_disk()
        self.note(fault.what, host.name)
        self._raise_later(fault, host)

    def _raise_later(self, fault: Fault, host: SimHost) -> None:
        def unless_killed_again(births: int = host.births) -> None:
            if births == host.births and host in self._members():
                self.raise_up(host)

        self._network.clock.after(fault.lasts, unless_killed_again)

    def raise_up(self, host: SimHost) -> None:
        """Start what is down of a host."""
        if host.ended:
            return
        if not host.up:
            host.start()
            self.note("started", host.name)
        elif not host.agent_up:
            host.start_agent()
            self.note("agent started", host.name)

    def end_all(self) -> None:
        """Let everything be well again. A paused host goes on in its time: it must not hear new messages before old."""
        self.heal()
        for host in self._members():
            self.raise_up(host)
            host.tables.fails_in = 0
