"""Hosts of a cluster on this machine: a directory, an agent and worker processes each, TLS between them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.places import in_memory
from bench.rounds import Broken, check
from sojourn.cluster.local import Status, View
from sojourn.crypto.certificates import Authority
from sojourn.store.peers import channel

START = 20.0  # seconds until a cluster of a few hosts is ready on a busy machine
TICK = os.sysconf("SC_CLK_TCK")


class Host:
    """One host of the cluster."""

    def __init__(self, url: str, path: Path, log: Path) -> None:
        self.url, self.path, self._log = url, path, log
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the agent."""
        command = [sys.executable, "-m", "sojourn.cli", "cluster", "agent", self.url]
        with self._log.open("ab") as log:
            self.agent = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        """Send the agent a signal; after a SIGKILL it is gone."""
        assert self.agent is not None
        self.agent.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.agent.wait()

    def wipe(self) -> None:
        """Kill the agent and remove the storage."""
        self.signal(signal.SIGKILL)
        shutil.rmtree(self.path)

    def view(self) -> dict[str, Any] | None:
        """Return the cluster as the agent sees it; None where none answers."""
        with suppress(OSError), channel.connect(self.path, 1.0) as sock:
            sock.sendall(channel.to_frame(Status(1)))
            answers = channel.Answers()
            while data := sock.recv(65536):
                for answer in answers.feed(data):
                    return answer.view if isinstance(answer, View) else None
        return None

    def cpu(self) -> float:
        """Return the agent's CPU time in seconds."""
        assert self.agent is not None
        fields = Path(f"/proc/{self.agent.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory(self) -> int:
        """Return the bytes of memory that are the agent's alone; the mapped file's pages are the machine's cache."""
        assert self.agent is not None
        lines = Path(f"/proc/{self.agent.pid}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Anonymous:", "Swap:")))

    def sent(self) -> int:
        """Return the bytes that went out of the agent's connections to other hosts, TLS records and all."""
        assert self.agent is not None
        command = ["ss", "--tcp", "--info", "--processes", "--no-header", "--oneline"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        mine = [line for line in lines if f"pid={self.agent.pid}," in line]
        return sum(int(part[11:]) for line in mine for part in line.split() if part.startswith("bytes_sent:"))


class Cluster:
    """The hosts, all ready."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = hosts

    def ready(self, seconds: float = START) -> float:
        """Wait until every host is ready and sees all others alive; return the seconds that it took."""
        return waited(lambda: all(self._sees_all(host) for host in self.hosts), seconds, "the cluster is ready")

    def _sees_all(self, host: Host) -> bool:
        view = host.view()
        return bool(view and view["ready"] and alive(view) == len(self.hosts))

    def sent(self) -> list[int]:
        """Return what each host has sent."""
        return [host.sent() for host in self.hosts]


def alive(view: dict[str, Any]) -> int:
    """Return how many hosts are alive in *view*, its own included."""
    return sum(member["state"] == "alive" for member in view["members"])


def waited(condition: Callable[[], bool], seconds: float, what: str, pace: float = 0.005) -> float:
    """Wait until *condition* holds and return the seconds that it took. Raises Broken after *seconds*."""
    begun = time.perf_counter()
    while not condition():
        if time.perf_counter() - begun > seconds:
            raise Broken(f"waited {seconds} s in vain until {what}")
        time.sleep(pace)
    return time.perf_counter() - begun


@contextmanager
def cluster(count: int, *settings: str, place: Path | None = None) -> Iterator[Cluster]:
    """Start *count* hosts with *settings* in their URL, and end them. *place* is where they keep their sessions."""
    with in_memory() as directory, _ports(count) as ports:
        base = place or directory
        authority = Authority(directory / "tls")
        authority.create(time.time())
        tls = authority.issue("127.0.0.1", time.time(), 1).directory
        names = [f"127.0.0.1:{port}" for port in ports]
        hosts = []
        for number, name in enumerate(names):
            path = base / f"host-{number + 1}"
            query = "&".join([f"self={name}", f"path={path}", f"tls={tls}", "sync=no", *settings])
            hosts.append(Host(f"peers://{','.join(names)}?{query}", path, directory / f"agent-{number + 1}.log"))
        try:
            for host in hosts:
                host.start()
            one = Cluster(hosts)
            one.ready()
            yield one
        finally:
            for host in hosts:
                if host.agent and host.agent.poll() is None:
                    host.signal(signal.SIGCONT)
                    host.signal(signal.SIGKILL)


@contextmanager
def _ports(count: int) -> Iterator[list[int]]:
    """Yield free ports; they are held until the block ends, by sockets that never listen."""
    held = []
    try:
        for _ in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            held.append(sock)
        yield [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()


# -- workers -------------------------------------------------------------------------------------------------------


class Work:
    """What the workers of a run took, together."""

    def __init__(self, answers: Sequence[dict[str, Any]]) -> None:
        self.took = sorted(nanoseconds for answer in answers for nanoseconds in answer["took_ns"])
        check(self.took, "something was written")
        self.seconds = max(answer["seconds"] for answer in answers)
        self.cpu = sum(answer["cpu"] for answer in answers)

    @property
    def rate(self) -> float:
        """Writes a second."""
        return len(self.took) / self.seconds

    def percentile(self, share: float) -> float:
        """Return the milliseconds that this *share* of the writes took at most."""
        return self.took[min(int(len(self.took) * share), len(self.took) - 1)] / 1e6


@contextmanager
def working(
    hosts: Sequence[Host], *, sessions: int, tasks: int, rate: float, seconds: float
) -> Iterator[Callable[[], Work]]:
    """Let a worker on each of *hosts* begin, all at once; what is yielded waits for them. *rate* is of all together."""
    command = [sys.executable, "-m", "bench.replica_worker"]
    arguments = [str(sessions), str(tasks), str(rate / len(hosts)), str(seconds)]
    workers = [
        subprocess.Popen([*command, host.url, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for host in hosts
    ]
    try:
        for worker in workers:
            assert worker.stdout
            check(worker.stdout.readline() == "ready\n", "a worker is ready")
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        yield lambda: Work([json.loads(worker.communicate()[0]) for worker in workers])
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
