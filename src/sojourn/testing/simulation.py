"""A whole cluster from one number: hosts, browsers and faults of a seed, and the history of what became of them.

    python -m sojourn.testing.simulation 17            repeat a seed, and print what is wrong with its history
    python -m sojourn.testing.simulation 17 --story    print the whole history for a reader
    python -m sojourn.testing.simulation 17 --lines    print it for another checker (see ``sim_history``)
    python -m sojourn.testing.simulation --seeds 0 10000 [--jobs 4]

A history has rounds. In each browsers send requests while faults happen; then everything is well again, and the hosts
come to rest until all copies are alike. At the end each browser looks at its session on every host.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from random import Random
from typing import NamedTuple

import msgspec

from sojourn.cluster import ring
from sojourn.cluster.local import Forget, Leave
from sojourn.cluster.replica import Replica
from sojourn.cluster.settings import Settings
from sojourn.cluster.wire import Change
from sojourn.codec import Codec
from sojourn.testing.fakes import START
from sojourn.testing.sim_bounds import bounded
from sojourn.testing.sim_browser import Shared, SimBrowser
from sojourn.testing.sim_checks import Held, are_alike, check
from sojourn.testing.sim_faults import Faults, plan
from sojourn.testing.sim_history import Begins, Copy, Counted, Does, Finding, History, State, story, to_lines
from sojourn.testing.sim_host import Process, SimHost
from sojourn.testing.sim_network import SimNetwork
from sojourn.testing.sim_shape import ACTS, Shape

KEY = 32  # bytes; a name that is longer begins with a tag
CODEC = Codec()
REST = 60.0  # seconds that hosts may take to come to rest
FORGET_EVERY = 0.5  # seconds between two attempts of an operator
OFTEN = 7  # requests with one cookie, one after the other
LOOK_EVERY = 0.5  # seconds between two looks at what hosts have said they have


class Simulation:
    """One cluster, from its first start to its last rest. ``history`` is complete after :meth:`run`."""

    def __init__(self, seed: int, shape: Shape | None = None) -> None:
        self.shape = shape = shape or Shape.of(seed)
        self.random = random = Random(seed)  # noqa: S311  (a schedule needs no secrecy)
        delay = shape.delay or random.choice((0.0002, 0.001, 0.02))
        self.network = SimNetwork(random, delay=delay, repeats=shape.repeats, framed=shape.framed)
        self.clock = self.network.clock
        names = tuple(f"host{number}:7946" for number in range(shape.hosts))
        self.history: History = [Begins(seed, names, shape.copies, shape.acks, shape.alone, shape.idle, shape.lifetime)]
        self.members = [self._host(name, names) for name in names]
        self.leaving: set[str] = set()
        self._unheard: set[str] = set()
        """Hosts that have left, until all others know."""
        self._is_over = False
        self.faults = Faults(self.network, self.history, random, lambda: self.members, shape.jumps)
        shared = Shared(random, self.history, shape.policy(), self._choices)
        self.browsers = [
            SimBrowser(shared, number, sticks=random.choice((0.0, 0.5, 0.9))) for number in range(shape.browsers)
        ]
        self.forger = SimBrowser(shared, shape.browsers, sticks=0.9)

    def _host(self, name: str, seeds: tuple[str, ...]) -> SimHost:
        settings = self._settings(name, seeds)
        shape = self.shape
        return SimHost(self.network, settings, self.random, self.history, piece=shape.piece, lifetime=shape.lifetime)

    def _settings(self, name: str, seeds: tuple[str, ...]) -> Settings:
        beat = 0.2 * max(1.0, self.shape.hosts / 8)  # many hosts that ping as often as few would do nothing else
        return Settings(
            seeds=seeds,
            me=name,
            listen=name,
            path=f"/simulated/{name}",
            copies=self.shape.copies,
            acks=self.shape.acks,
            alone=self.shape.alone,
            wait=0.5,
            beat=beat,
            suspect_after=3 * beat,
            dead_after=10 * beat,
            tls="/simulated/tls" if self.shape.tls else None,
        )

    def _choices(self) -> list[SimHost]:
        up = [host for host in self.members if host.up and host.name not in self.leaving]
        return up or self.members

    def run(self) -> History:
        """Return the history of this cluster."""
        with bounded(self.random if self.shape.small else None):
            self._live()
        return self.history

    def _live(self) -> None:
        for host in self.members:
            self.clock.after(self.random.random() * 0.2, host.start)
        self._advance(1.5)
        for number in range(self.shape.rounds):
            self._round(number)
            if not self._come_to_rest():
                break
        else:
            self._advance(2.0)  # a host that was paused until a moment ago has to meet the others first
            self.network.slow = 0.0
            self.faults.note("over")
        self._look_everywhere()
        self._come_to_rest()  # a host may have fetched what it was asked for, and does not keep
        self._note_copies()

    def _advance(self, seconds: float) -> None:
        self.clock.run(self.clock.now + seconds)

    # -- a round -------------------------------------------------------------------------------------------------

    def _round(self, number: int) -> None:
        self.faults.schedule(plan(self.random, self.shape.seconds, self.shape.faults))
        if number == 0 and self.shape.joins:
            self.clock.after(self.random.random() * self.shape.seconds, self._join)
        if number == self.shape.rounds - 1 and self.shape.leaves:
            self.clock.after(self.random.random() * self.shape.seconds, self._leave)
        self._is_over = False
        for browser in self.browsers:
            self._go_on(browser, self.shape.requests)
        if self.shape.forger:
            self._go_on(self.forger, self.shape.requests)
        for _ in range(round(self.shape.seconds / LOOK_EVERY)):
            self._advance(LOOK_EVERY)
            self._check_levels()
        self._is_over = True

    def _check_levels(self) -> None:
        if self.shape.copies is None and self.shape.idle > self.shape.seconds:  # what is over is taken, and not kept
            agents = [host for host in self.members if host.agent_up]
            for host in agents:
                for other in agents:
                    host.check_level(other)

    def _go_on(self, browser: SimBrowser, left: int) -> None:
        if left and not self._is_over:
            pause = self.random.expovariate(1.0) * self.shape.seconds / self.shape.requests * 0.7
            if self.shape.idle < self.shape.seconds and self.random.random() < 0.06:
                pause += self.shape.idle * (0.5 + self.random.random())  # about as long as a session lives
            self.clock.after(pause, lambda: self._act(browser, left))

    def _act(self, browser: SimBrowser, left: int) -> None:
        if self._is_over:
            return
        does: Does = "forge" if browser is self.forger else self.random.choices(ACTS, self.shape.acts)[0]
        if does == "probe" and browser.stolen is None:
            does = "read"
        if browser.cookie is None and does not in ("probe", "forge"):
            does = "write"
            if browser.number % 2 and self.random.random() < 0.7:  # two browsers with one cookie, as after a theft
                browser.cookie = self.browsers[browser.number - 1].cookie
        browser.send(does, done=lambda: self._go_on(browser, left - 1))

    def _join(self) -> None:
        name = f"host{self.shape.hosts}:7946"
        seeds = tuple(host.name for host in self.members[:2])
        host = self._host(name, (*seeds, name))
        self.members.append(host)
        self.faults.note("joined", name)
        host.start()

    def _leave(self) -> None:
        host = self.random.choice(self._choices())
        if host.agent_up and len(self.members) > 2:
            self.leaving.add(host.name)
            self.faults.note("is to leave", host.name)
            host.run(_leaves(), lambda _: None)
            self._watch(host, self.clock.now + 30.0)

    def _watch(self, host: SimHost, until: float) -> None:
        if host.ended:
            self.members.remove(host)
            self.leaving.discard(host.name)
            del self.network.hosts[host.name]
            self.faults.note("left", host.name)
            self._unheard.add(host.name)
            self.clock.after(FORGET_EVERY, lambda: self._forget(host.name))
        elif self.clock.now < until:
            self.clock.after(0.1, lambda: self._watch(host, until))
        else:
            self.leaving.discard(host.name)

    def _forget(self, name: str) -> None:
        """Do as an operator does until all know that a host has left: it may have said so where nobody heard it."""
        for host in self.members:
            if host.agent_up and host.node.host.members.state(name) not in ("left", None):
                host.run(_forgets(name), lambda _: None)
                self.clock.after(FORGET_EVERY, lambda: self._forget(name))
                return
        self._unheard.discard(name)

    # -- the end -------------------------------------------------------------------------------------------------

    def _come_to_rest(self) -> bool:
        """Let everything be well, and wait until all copies are alike."""
        self.faults.end_all()
        until = self.clock.now + REST
        self._advance(1.0)
        while self.clock.now < until:
            if not self._is_busy() and self._is_quiet():
                self.faults.note("quiet")
                return True
            self._advance(0.5)
        return False

    def _is_busy(self) -> bool:
        browsers = any(one.is_busy for one in (*self.browsers, self.forger))
        return browsers or any(host.is_busy or host.asleep_until > self.clock.now for host in self.members)

    def _is_quiet(self) -> bool:
        clocks = {host.name: host.wall() - START for host in self.members}
        return (
            not self.leaving & clocks.keys()
            and not self._unheard
            and all(host.tables.view().ready for host in self.members)
            and all(are_alike(held, self.due(name), clocks.__getitem__) for name, held in self.copies().items())
        )

    def _names(self) -> list[str]:
        return [host.name for host in self.members]

    def due(self, name: bytes) -> tuple[str, ...]:
        """Return the hosts that are to have a copy."""
        return tuple(sorted(ring.owners(name[:KEY], self._names(), self.shape.copies)))

    def copies(self) -> dict[bytes, dict[str, Held]]:
        """Return what each host has of each name."""
        found: dict[bytes, dict[str, Held]] = {}
        for host in self.members:
            names = host.tables.some_names(None, 100_000)
            for change in host.tables.copies(names):
                data = msgspec.msgpack.encode((change.replica, change.listing))
                digest = hashlib.blake2b(data, digest_size=4).hexdigest()
                found.setdefault(change.name, {})[host.name] = Held(digest, _until(change))
        return found

    def _look_everywhere(self) -> None:
        for browser in self.browsers:
            for host in [*self.members]:
                if self.shape.forger:
                    self._ask(self.forger, "forge", host)
                if browser.cookie:
                    self._ask(browser, "read", host)
                if browser.stolen:
                    self._ask(browser, "probe", host)
        if self.shape.idle < self.shape.seconds:
            for _ in range(OFTEN):  # with a cookie whose session is over, and is swept
                if self.browsers[0].cookie:
                    self._ask(self.browsers[0], "read", self.members[0])

    def _ask(self, browser: SimBrowser, does: Does, host: SimHost) -> None:
        """Send a request and wait for the answer."""
        answered: list[bool] = []
        browser.send(does, host, lambda: answered.append(True))
        while not answered:
            self._advance(0.02)

    def _note_copies(self) -> None:
        copies = self.copies()
        for host in self.members:
            for change in host.tables.copies(tuple(copies)):
                self.history.append(self._copy(host, change, copies[change.name][host.name]))
            if self.shape.copies is None:  # what is forwarded is counted where it is done, and told elsewhere
                told = host.told_too_few, host.made_for_others
                self.history.append(Counted(host.name, host.counted("under_replicated"), *told))

    def _copy(self, host: SimHost, change: Change, held: Held) -> Copy:
        name, replica, due = change.name.hex(), change.replica, self.due(change.name)
        if replica is None:
            entry = f"{name[:8]}/{name[2 * KEY :][:8]}"
            return Copy(host.name, entry, "listed", held.digest, {}, due, held.until)
        state: State = "ended" if replica.deleted else "retired" if replica.retired else "live"
        reads = {key: _number(cell.data) for key, cell in replica.cells.items() if cell.data is not None}
        return Copy(host.name, name[:8], state, held.digest, reads, due, held.until)


def _until(change: Change) -> float:
    """Return when a copy is over, by its host's clock in seconds since the beginning."""
    entry = change.replica or change.listing
    assert entry
    return (entry.keep_ms if isinstance(entry, Replica) else entry.until_ms) / 1000 - START


def _leaves() -> Process[None]:
    yield Leave(0, 20_000)


def _forgets(name: str) -> Process[None]:
    yield Forget(0, name)


def _number(data: bytes) -> int:
    value = CODEC.decode(data)
    assert isinstance(value, int)
    return value


# -- many --------------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What became of a seed."""

    seed: int
    lines: int
    seconds: float
    """Of CPU time."""
    findings: tuple[Finding, ...]
    error: str = ""
    """What was raised where nothing should have been."""


def judge(seed: int, shape: Shape | None = None) -> Judged:
    """Run a seed and return what is wrong with it."""
    begun, simulation = time.process_time(), Simulation(seed, shape)
    try:
        history = simulation.run()
    except Exception:
        error = traceback.format_exc()
        return Judged(seed, len(simulation.history), time.process_time() - begun, (), error)
    return Judged(seed, len(history), time.process_time() - begun, tuple(check(history)))


def told(judged: Judged) -> str:
    """Return what a person needs who is to find the mistake: the promise, the story, and how to repeat it."""
    simulation = Simulation(judged.seed)
    with suppress(Exception):
        simulation.run()
    first = judged.findings[0] if judged.findings else None
    broken = "\n".join(f"{finding.promise}: {finding.text}" for finding in judged.findings)
    return (
        f"{story(simulation.history, first)}\n\n{broken}{judged.error}\n"
        f"repeat it: python -m sojourn.testing.simulation {judged.seed} --story\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the seeds that the command line names; return 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m sojourn.testing.simulation", description="Simulate a cluster.")
    parser.add_argument("seed", type=int, nargs="?", help="one seed")
    parser.add_argument("--seeds", type=int, nargs=2, metavar=("FIRST", "LAST"), help="many, the last one excluded")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--story", action="store_true", help="print the history for a reader")
    parser.add_argument("--lines", action="store_true", help="print the history as JSON lines")
    chosen = parser.parse_args(arguments)
    _repeatable()
    if chosen.seed is not None:
        return _one(chosen.seed, chosen.story, chosen.lines)
    if chosen.seeds is None:
        parser.error("say which seed, or --seeds FIRST LAST")
    return _many(range(*chosen.seeds), chosen.jobs)


def _repeatable() -> None:
    """Begin again with hashes that are the same each time: the order of a set is part of what a seed stands for."""
    if sys.flags.hash_randomization:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606


def _one(seed: int, as_story: bool, as_lines: bool) -> int:
    simulation = Simulation(seed)
    history = simulation.run()
    if as_lines:
        sys.stdout.buffer.write(to_lines(history))
        return 0
    findings = check(history)
    if as_story:
        sys.stdout.write(story(history) + "\n")
    for finding in findings:
        sys.stdout.write(f"{finding.promise}: {finding.text}\n")
    sys.stdout.write(f"{len(history)} lines, {len(findings)} promises broken\n")
    return min(len(findings), 1)


def _many(seeds: range, jobs: int) -> int:
    begun, bad, lines = time.monotonic(), 0, 0
    with ProcessPoolExecutor(jobs) as pool:
        for judged in pool.map(judge, seeds, chunksize=10):
            lines += judged.lines
            if judged.findings or judged.error:
                bad += 1
                sys.stdout.write(f"--- seed {judged.seed}\n{told(judged)}\n")
                sys.stdout.flush()
    took = time.monotonic() - begun
    sys.stdout.write(f"{len(seeds)} histories, {lines} lines, {bad} with a broken promise, {took:.0f} s\n")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
