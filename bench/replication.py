"""What replication costs: reads and commits on one host, writes that others acknowledge, bytes, lag, and recovery."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.places import on_disk
from bench.replica_fill import fill
from bench.replica_floor import floor
from bench.replica_hosts import Cluster, Host, alive, cluster, waited, working
from bench.replica_verbs import verbs
from bench.table import say, table, title, verdict

GOAL_READ, GOAL_COMMIT = 1.2, 2.0  # times those of local:
GOAL_ACKED = 1.5  # ms
GOAL_BYTES = 250
GOAL_RATE, GOAL_CPU, GOAL_LAG = 5000, 150, 50  # writes a second; µs of agent CPU a write and host; ms
GOAL_WIPED = 4.0  # seconds
GOAL_KILLED, GOAL_PAUSED = 0.1, 2.0  # seconds
GOAL_MEMORY = 150  # MB
LOOK_EVERY = 0.2  # seconds between two questions for the lag, which cost the agents some time
SETTLED = 0.5  # seconds in which what was written before is on its way


def report(quick: bool = False) -> None:
    """Print the tables."""
    title("Replication")
    say(
        "Hosts are processes of one machine with a directory each in memory-backed storage, an agent each, and mutual "
        "TLS between the agents. All of them share this machine's cores with the workers that write. A session has 1 "
        "KB in six values; a write counts up one more."
    )
    _one_host(quick)
    _acknowledged(quick)
    _bytes(quick)
    _faults(quick)
    _wiped(10_000 if quick else 100_000)
    if not quick:
        _memory(1_000_000)


def _one_host(quick: bool) -> None:
    title("A read and a commit beside `local:`", 3)
    say(
        "In one process, in turns, wall clock, with the agent idle beside it. A commit of `peers:` has its place in "
        "the log in the same transaction. Nobody waits for other hosts (`acks=0`). The first two rows are the store's "
        "verbs alone; in the third a session is opened by its cookie, read, changed and committed."
    )
    with cluster(1, "acks=0") as one:
        found = verbs(one.hosts[0].url, rounds=10 if quick else 200)
    rows = ("load", found.load), ("update", found.update), ("open, write, commit", found.commit)
    table(("call", "peers:, µs", "local:, µs", "ratio in one round"), [(name, *row.cells()) for name, row in rows])
    said = verdict(found.load.ratio, GOAL_READ, " times"), verdict(found.commit.ratio, GOAL_COMMIT, " times")
    say("The read: {}. The commit: {}.".format(*said))


def _acknowledged(quick: bool) -> None:
    title("Writes that another host acknowledges, three hosts", 3)
    seconds = 2.0 if quick else 10.0
    bare, bare_cpu = floor(500, seconds)
    with cluster(3, "acks=1") as three:
        slow = _run(three, rate=500, tasks=4, seconds=seconds)
        half = _run(three, rate=GOAL_RATE / 2, tasks=24, seconds=seconds)
        some = _run(three, rate=0, tasks=24, seconds=seconds)
        full = _run(three, rate=0, tasks=64, seconds=seconds)
    runs = {
        "500 a second": slow,
        "2,500 a second": half,
        "as fast as it goes, 24 tasks a worker": some,
        "the same, 64 tasks": full,
    }
    times = "p50, ms", "p99, ms", "agent CPU a write and host, µs", "lag p50, ms", "lag p99, ms"
    table(("load", "writes a second", *times), [(name, *run.cells()) for name, run in runs.items()])
    say(
        f"p50 at 500 a second: {verdict(slow.p50, GOAL_ACKED, ' ms')}. Most writes a second, at least {GOAL_RATE:,}: "
        f"{'PASS' if full.rate >= GOAL_RATE else 'MISS'}. Lag at half of that, p99: "
        f"{verdict(half.lag99, GOAL_LAG, ' ms')}. Agent CPU as fast as it goes: {verdict(full.cpu, GOAL_CPU, ' µs')}; "
        f"at 2,500: {verdict(half.cpu, GOAL_CPU, ' µs')}."
    )
    say(
        f"The floor: the same way at 500 a second with nothing done on it, through as many processes, sockets and TLS "
        f"streams, took {bare:.2f} ms p50 and {bare_cpu:.0f} µs of CPU a message and host in this run. A write takes "
        f"{slow.p50 / bare:.1f} times as long, and {slow.cpu / bare_cpu:.1f} times the CPU."
    )


class Run:
    """What a run of writes came to."""

    def __init__(self, rate: float, p50: float, p99: float, cpu: float, lags: list[float]) -> None:
        self.rate, self.p50, self.p99, self.cpu = rate, p50, p99, cpu
        lags.sort()
        self.lag50, self.lag99 = (lags[min(int(len(lags) * share), len(lags) - 1)] for share in (0.5, 0.99))

    def cells(self) -> tuple[str, ...]:
        """Return it as cells of a table."""
        times = f"{self.p50:.2f}", f"{self.p99:.2f}", f"{self.cpu:.0f}", f"{self.lag50:.1f}", f"{self.lag99:.1f}"
        return f"{self.rate:,.0f}", *times


def _run(cluster: Cluster, *, rate: float, tasks: int, seconds: float) -> Run:
    """Write on all hosts at once. The lag is asked of the agents five times a second."""
    before, lags = [host.cpu() for host in cluster.hosts], list[float]()
    with working(cluster.hosts, sessions=tasks * 4, tasks=tasks, rate=rate, seconds=seconds) as wait:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(LOOK_EVERY)
            lags.extend(lag for host in cluster.hosts for lag in _lags(host))
        work = wait()
    writes = len(work.took) + len(cluster.hosts) * tasks * 4
    cpu = sum(host.cpu() - was for host, was in zip(cluster.hosts, before, strict=True))
    each = cpu / len(cluster.hosts) / writes * 1e6
    return Run(work.rate, work.percentile(0.5), work.percentile(0.99), each, lags)


def _lags(host: Host) -> list[float]:
    view = host.view()
    others = [member for member in view["members"] if member["name"] != view["me"]] if view else []
    return [float(member["lag_ms"]) for member in others if member["lag_ms"] is not None]


def _bytes(quick: bool) -> None:
    title("Bytes of a write, and what more hosts cost", 3)
    say(
        "One worker on one host counts up at 100 writes a second; what the agents send, TLS included, less what they "
        "send in as many seconds when nobody writes. A read sends nothing: it is one of the store's lookups above. "
        "With `copies=2` what a write costs the whole cluster is to stay the same however many hosts there are."
    )
    rows, most = [], 0.0
    for count, copies in ((3, "all"), (5, "all"), (3, "2"), (5, "2"), (9, "2")):
        with cluster(count, f"copies={copies}", "acks=1") as hosts:
            cost = _cost(hosts, seconds=3.0 if quick else 10.0)
        each = cost.writer / ((count if copies == "all" else int(copies)) - 1)
        most = max(most, each)
        rows.append((f"{count} hosts, copies={copies}", f"{each:.0f}", f"{cost.all:.0f}", f"{cost.cpu:.0f}"))
    head = "to each that holds a copy, bytes", "all hosts, with the answers, bytes", "CPU of all agents, µs"
    table(("a write", *head), rows)
    say(f"To each that holds a copy: {verdict(most, GOAL_BYTES, ' bytes')}.")


class _Cost(NamedTuple):
    """What goes out, and the CPU time of the agents: of one write, or of all."""

    writer: float
    """Bytes that the agent of the host that writes sends."""
    all: float
    """Those, and what the others answer or send each other."""
    cpu: float
    """Microseconds, of all agents together."""


def _cost(hosts: Cluster, seconds: float) -> _Cost:
    """Return what a write costs."""
    time.sleep(SETTLED)
    idle, _ = _spent(hosts, lambda: time.sleep(seconds) or 1)
    with working(hosts.hosts[:1], sessions=16, tasks=4, rate=100, seconds=seconds) as wait:
        busy, writes = _spent(hosts, lambda: len(wait().took))
    return _Cost(*[(more - less) / writes for more, less in zip(busy, idle, strict=True)])


def _spent(hosts: Cluster, work: Any) -> tuple[_Cost, int]:
    before = _counted(hosts)
    writes = work()
    return _Cost(*[after - was for after, was in zip(_counted(hosts), before, strict=True)]), writes


def _counted(hosts: Cluster) -> _Cost:
    sent = hosts.sent()
    return _Cost(sent[0], sum(sent), sum(host.cpu() for host in hosts.hosts) * 1e6)


def _faults(quick: bool) -> None:
    title("How soon a fault is noticed", 3)
    with cluster(3) as three:
        rows = []
        for name, number, goal in (("kill -9", signal.SIGKILL, GOAL_KILLED), ("SIGSTOP", signal.SIGSTOP, GOAL_PAUSED)):
            took = []
            for _ in range(1 if quick else 5):
                three.ready()
                three.hosts[0].signal(number)
                took.append(waited(lambda: all(map(_notices, three.hosts[1:])), 10, "the fault is noticed", 0.001))
                if number == signal.SIGSTOP:
                    three.hosts[0].signal(signal.SIGCONT)
                else:
                    three.hosts[0].start()
            rows.append((name, f"{min(took) * 1000:.0f}", f"{max(took) * 1000:.0f}", verdict(max(took), goal, " s")))
    table(("of an agent", "soonest, ms", "latest, ms", "goal"), rows)


def _notices(host: Host) -> bool:
    view = host.view()
    return bool(view) and alive(view or {}) == 2


def _wiped(sessions: int) -> None:
    title(f"A host that comes back with an empty disk, {sessions:,} sessions of 2 KB", 3)
    with cluster(3) as three:
        fill(three.hosts[0].url, sessions, 2048)
        three.ready(120)
        victim = three.hosts[2]
        victim.wipe()
        begun = time.perf_counter()
        victim.start()
        waited(lambda: victim.view() is not None, 30, "the agent answers")
        answered = time.perf_counter() - begun
        waited(lambda: bool((victim.view() or {}).get("ready")), 120, "it has caught up")
        took = time.perf_counter() - begun
    say(
        f"The agent answered {answered:.2f} s after its start, and had everything after {took:.2f} s; "
        f"{verdict(took, GOAL_WIPED, ' s')} from its start, the interpreter's included."
    )


def _memory(sessions: int) -> None:
    title(f"{sessions:,} sessions of 10 KB on a host", 3)
    with on_disk() as place, cluster(1, place=place) as one:
        host = one.hosts[0]
        before = host.memory()
        fill(host.url, sessions, 10_240)
        time.sleep(SETTLED)
        after, size = host.memory(), _size(host.path)
    say(
        f"The file has {size / 2**30:.1f} GiB. The agent's own memory was {before / 1e6:.0f} MB before and "
        f"{after / 1e6:.0f} MB with them; {verdict(after / 1e6, GOAL_MEMORY, ' MB')}."
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in path.iterdir())


if __name__ == "__main__":
    report("--quick" in sys.argv)
