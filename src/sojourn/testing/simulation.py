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
from dataclasses import dataclass
from random import Random
from typing import NamedTuple, get_args

import msgspec

from sojourn.cluster import ring
from sojourn.cluster.local import Leave
from sojourn.cluster.settings import Settings
from sojourn.codec import Codec
from sojourn.core.policy import DAY, Policy
from sojourn.testing.sim_browser import Does, Shared, SimBrowser
from sojourn.testing.sim_checks import check
from sojourn.testing.sim_faults import Faults, plan
from sojourn.testing.sim_history import Begins, Copy, Counted, Finding, History, State, story, to_lines
from sojourn.testing.sim_host import Process, SimHost
from sojourn.testing.sim_network import SimNetwork

KEY = 32  # bytes; a name that is longer begins with a tag
CODEC = Codec()
REST = 60.0  # seconds that hosts may take to come to rest
ACTS: tuple[Does, ...] = get_args(Does)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large, how long, and what the cluster promises."""

    hosts: int = 3
    copies: int | None = None
    acks: int | None = 1
    alone: str = "accept"
    browsers: int = 5
    requests: int = 25
    """Of each browser in a round."""
    rounds: int = 1
    faults: int = 2
    """In a round."""
    seconds: float = 6.0
    """Of a round."""
    piece: int = 512
    """Changes in one piece of a log, at most."""
    repeats: float = 0.0
    framed: bool = False
    tls: bool = False
    joins: bool = False
    leaves: bool = False
    acts: tuple[int, ...] = (40, 45, 4, 5, 4, 2)
    """How often browsers do each of what they can do."""

    @classmethod
    def of(cls, seed: int) -> Shape:
        """Return the shape of a seed: mostly small clusters, since most mistakes show there."""
        random = Random(~seed)  # noqa: S311  (a schedule needs no secrecy)
        hosts = random.choice((2, 3, 3, 3, 3, 4, 5))
        if seed % 250 == 249:
            return cls(hosts=random.randint(12, 24), copies=3, browsers=6, faults=4)
        return cls(
            hosts=hosts,
            copies=random.choice((None, None, None, 2, 2, 3)) if hosts > 3 else None,
            acks=random.choice((1, 1, 1, 1, 1, 0, 2, None)),
            alone=random.choice(("accept", "accept", "accept", "refuse")),
            rounds=random.choice((1, 1, 2)),
            faults=random.choice((1, 2, 3, 5)),
            piece=random.choice((512, 512, 2)),
            repeats=random.choice((0.0, 0.0, 0.02)),
            framed=not seed % 4,
            tls=not seed % 3,
            joins=random.random() < 0.15,
            leaves=random.random() < 0.1 and hosts > 2,
        )


class Simulation:
    """One cluster, from its first start to its last rest. ``history`` is complete after :meth:`run`."""

    def __init__(self, seed: int, shape: Shape | None = None) -> None:
        self.shape = shape = shape or Shape.of(seed)
        self.random = random = Random(seed)  # noqa: S311  (a schedule needs no secrecy)
        delay = random.choice((0.0002, 0.001, 0.02))
        self.network = SimNetwork(random, delay=delay, repeats=shape.repeats, framed=shape.framed)
        self.clock = self.network.clock
        names = tuple(f"host{number}:7946" for number in range(shape.hosts))
        self.history: History = [Begins(seed, names, shape.copies, shape.acks, shape.alone)]
        self.members = [self._host(name, names) for name in names]
        self.leaving: set[str] = set()
        self._is_over = False
        self.faults = Faults(self.network, self.history, random, lambda: self.members)
        policy = Policy(idle_timeout=7 * DAY, lifetime=30 * DAY, touch_interval=1.0, rotation_grace=10.0)
        shared = Shared(random, self.history, policy, self._choices)
        self.browsers = [
            SimBrowser(shared, number, sticks=random.choice((0.0, 0.5, 0.9))) for number in range(shape.browsers)
        ]
        self.requests = 0

    def _host(self, name: str, seeds: tuple[str, ...]) -> SimHost:
        settings = self._settings(name, seeds)
        return SimHost(self.network, settings, self.random, self.history, piece=self.shape.piece)

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
        for host in self.members:
            self.clock.after(self.random.random() * 0.2, host.start)
        self._advance(1.5)
        for number in range(self.shape.rounds):
            self._round(number)
            if not self._come_to_rest():
                break
        else:
            self._advance(2.0)  # a host that was paused until a moment ago has to meet the others first
            self.faults.note("over")
        self._look_everywhere()
        self._come_to_rest()  # a host may have fetched what it was asked for, and does not keep
        self._note_copies()
        return self.history

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
        self._advance(self.shape.seconds)
        self._is_over = True

    def _go_on(self, browser: SimBrowser, left: int) -> None:
        if left and not self._is_over:
            pause = self.random.expovariate(1.0) * self.shape.seconds / self.shape.requests * 0.7
            self.clock.after(pause, lambda: self._act(browser, left))

    def _act(self, browser: SimBrowser, left: int) -> None:
        if self._is_over:
            return
        does: Does = self.random.choices(ACTS, self.shape.acts)[0]
        if does == "probe" and browser.stolen is None:
            does = "read"
        if browser.cookie is None and does != "probe":
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
        elif self.clock.now < until:
            self.clock.after(0.1, lambda: self._watch(host, until))
        else:
            self.leaving.discard(host.name)

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
        browsers = any(one.is_busy for one in self.browsers)
        return browsers or any(host.is_busy or host.asleep_until > self.clock.now for host in self.members)

    def _is_quiet(self) -> bool:
        copies = self.copies()
        return (
            not self.leaving & {*self._names()}
            and all(host.tables.view().ready for host in self.members)
            and all(
                len({digests[host] for host in digests}) == 1 and digests.keys() == {*self.due(name)}
                for name, digests in copies.items()
            )
        )

    def _names(self) -> list[str]:
        return [host.name for host in self.members]

    def due(self, name: bytes) -> tuple[str, ...]:
        """Return the hosts that are to have a copy."""
        return tuple(sorted(ring.owners(name[:KEY], self._names(), self.shape.copies)))

    def copies(self) -> dict[bytes, dict[str, str]]:
        """Return a digest of each host's copy of each name."""
        found: dict[bytes, dict[str, str]] = {}
        for host in self.members:
            names = host.tables.some_names(None, 100_000)
            for change in host.tables.copies(names):
                data = msgspec.msgpack.encode((change.replica, change.listing))
                found.setdefault(change.name, {})[host.name] = hashlib.blake2b(data, digest_size=4).hexdigest()
        return found

    def _look_everywhere(self) -> None:
        for browser in self.browsers:
            for host in [*self.members]:
                if browser.cookie:
                    self._ask(browser, "read", host)
                if browser.stolen:
                    self._ask(browser, "probe", host)

    def _ask(self, browser: SimBrowser, does: Does, host: SimHost) -> None:
        """Send a request and wait for the answer."""
        answered: list[bool] = []
        browser.send(does, host, lambda: answered.append(True))
        while not answered:
            self._advance(0.02)

    def _note_copies(self) -> None:
        digests = self.copies()
        for host in self.members:
            for change in host.tables.copies(tuple(digests)):
                self.history.append(self._copy(host, change.name, digests[change.name][host.name]))
            if self.shape.copies is None:  # what is forwarded is counted where it is done, and told elsewhere
                self.history.append(Counted(host.name, host.counted("under_replicated"), host.told_too_few))

    def _copy(self, host: SimHost, name: bytes, digest: str) -> Copy:
        replica = host.tables.replica(name) if len(name) == KEY else None
        if replica is None:
            entry = f"{name.hex()[:8]}/{name[KEY:].hex()[:8]}"
            return Copy(host.name, entry, "listed", digest, {}, self.due(name))
        state: State = "ended" if replica.deleted else "retired" if replica.retired else "live"
        reads = {key: _number(cell.data) for key, cell in replica.cells.items() if cell.data is not None}
        return Copy(host.name, name.hex()[:8], state, digest, reads, self.due(name))


def _leaves() -> Process[None]:
    yield Leave(0, 20_000)


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
