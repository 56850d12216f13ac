"""Hosts of a cluster: each a directory, an agent and web processes, alone on its address; what a test does to them.

    with Hosts(3, acks="1") as hosts:
        hosts[0].kill()             every process of it at once, by kill -9
        hosts[0].wipe()             the same, and its disk is lost
        hosts[0].start()

Everything is found by the host's directory, which stands in the command line of each of its processes: the agent is
started by the web processes, and is nobody's child.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

import msgspec
from tests.faults.peers.visits import SOCKET, Broken, Request, Response, ask
from tests.servers.network import Network
from tests.servers.process import HeldPort, until

from sojourn.cluster import ring
from sojourn.cluster.replica import Replica
from sojourn.cluster.settings import Settings
from sojourn.cluster.tables import BUCKETS
from sojourn.crypto.certificates import Authority
from sojourn.errors import StoreUnavailable
from sojourn.lab import leash
from sojourn.store.peers import channel, operators, settings_of
from sojourn.store.peers.tables import HostTables

ROOT = Path(__file__).parents[3]
PORT = 7946  # on a network of its own
START = 30.0  # seconds until a host serves, on a busy machine
CONVERGE = 60.0  # seconds until all copies are equal, after everything is well again, on a busy machine
ANSWER = 5.0  # seconds for a request of a test itself
PAGE = 1000
TAG = 32  # bytes of a session's key, or of a principal's tag in front of one


class Host:
    """One host. *name* is its ``host:port``; *prefix* stands in front of its commands."""

    def __init__(self, name: str, directory: Path, url: str, *, workers: int, prefix: Sequence[str] = ()) -> None:
        self.name, self.directory, self.url, self.workers = name, directory, url, workers
        self.store = directory / "store"
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<host {self.name}>"

    # -- its life

    def start(self) -> None:
        """Start the web processes, which start the agent, and wait until the host is well."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting."""
        program = [sys.executable, "-m", "tests.faults.peers.worker", str(self.directory), str(self.workers), self.url]
        with (self.directory / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *self._prefix, *program],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the web processes serve, and the agent answers."""
        try:
            until(self.is_well, f"{self.name} serves", START)
        except TimeoutError as error:
            raise RuntimeError(f"{self!r} does not serve; it said:\n{self.said()[-3000:]}") from error

    def is_well(self) -> bool:
        """Tell whether it serves visitors, by its own account."""
        assert self._process is None or self._process.poll() is None, self.said()[-3000:]
        with suppress(Broken):
            return self.ask(Request("ping")).ok
        return False

    def stop(self) -> None:
        """End it as an operator does: the web processes first, then the agent, each by SIGTERM."""
        self._signal(signal.SIGTERM, self._web())
        until(lambda: not self._web(), f"the web processes of {self.name} ended")
        self._reap()
        if agent := self.agent:
            self._signal(signal.SIGTERM, [agent])
        until(lambda: not self.processes(), f"the agent of {self.name} ended")

    def kill(self) -> float:
        """End every process of it by kill -9, and return the moment at which that began."""
        found = self.processes()
        begun = time.monotonic()
        while found:
            self._signal(signal.SIGKILL, found)
            self._reap()
            found = self.processes()
        return begun

    def wipe(self) -> float:
        """Kill it, and lose its disk."""
        begun = self.kill()
        shutil.rmtree(self.store, ignore_errors=True)
        return begun

    def pause(self) -> float:
        """Let the clock of every process of it stand still, and return the moment at which that began."""
        begun = time.monotonic()
        while awake := [pid for pid in self.processes() if _state(pid) not in "TZX"]:
            self._signal(signal.SIGSTOP, awake)
        return begun

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT, self.processes())

    # -- its agent alone

    @property
    def agent(self) -> int | None:
        """The process id of the agent that answers; None: no agent does."""
        return channel.agent_of(self.store)

    def kill_agent(self) -> None:
        """End the agent alone by kill -9, and wait until the workers have started another one."""
        self._replace_agent(signal.SIGKILL)

    def end_agent(self) -> None:
        """Do so as a service manager does, by SIGTERM."""
        self._replace_agent(signal.SIGTERM)

    def pause_agent(self) -> None:
        """Let the agent alone stand still; :meth:`resume` lets it go on."""
        self._signal(signal.SIGSTOP, [self._agent()])

    def _replace_agent(self, number: signal.Signals) -> None:
        former = self._agent()
        self._signal(number, [former])
        until(lambda: self.agent not in (None, former), f"{self.name} has another agent")

    def _agent(self) -> int:
        agent = self.agent
        assert agent is not None, "no agent answers"
        return agent

    def settings(self) -> Settings:
        """Return what its URL says."""
        return settings_of(self.url)

    def status(self) -> dict[str, Any]:
        """Return the cluster as the agent sees it. Raises StoreUnavailable where none answers."""
        return operators.status(self.settings())

    def sees(self, other: Host) -> dict[str, Any]:
        """Return what the agent knows of another host; nothing where it does not know it or does not answer."""
        with suppress(StoreUnavailable):
            return next((one for one in self.status()["members"] if one["name"] == other.name), {})
        return {}

    def state_of(self, other: Host) -> str | None:
        """Return what the agent thinks of another host."""
        return self.sees(other).get("state")

    def is_ready_for(self, *others: Host) -> bool:
        """Tell whether the agent is ready, and has a stream to each of the others, which it knows to be ready, too."""
        with suppress(StoreUnavailable):
            return self.status()["ready"] and all(
                seen.get("connected") and seen["state"] == "alive" and seen["ready"] for seen in map(self.sees, others)
            )
        return False

    # -- its visitors and its storage

    def ask(self, request: Request, timeout: float = ANSWER) -> Response:
        """Send a visitor's request to this host and no other. Raises Broken."""
        return ask(self.directory, request, timeout)

    def tables(self) -> HostTables:
        """Return its storage, as another process of it would see it."""
        return HostTables(self.store, sync=False, max_size=1 << 30)

    def copies(self) -> dict[bytes, bytes]:
        """Return every copy that is stored here, by its name, in bytes that equal copies have alike."""
        tables = self.tables()
        try:
            encode = msgspec.msgpack.encode
            return {
                change.name: change.packed or encode((change.replica, change.listing))
                for names in _pages(tables)
                for change in tables.copies(names)
            }
        finally:
            tables.close()

    def replicas(self) -> dict[bytes, Replica]:
        """Return every session's copy, by its key."""
        tables = self.tables()
        try:
            found = {name: tables.replica(name) for names in _pages(tables) for name in names if len(name) == 32}
            return {name: replica for name, replica in found.items() if replica is not None}
        finally:
            tables.close()

    def digests(self) -> dict[int, int]:
        """Return a number for each bucket of names."""
        tables = self.tables()
        try:
            found: dict[int, int] = tables.digests(0, BUCKETS)
            return found
        finally:
            tables.close()

    # -- behind the scenes

    def processes(self) -> list[int]:
        """Return the ids of the processes whose command line names this host's directory."""
        mine = os.fsencode(f"{self.directory}")
        return [pid for pid, line in _command_lines() if mine in line and _state(pid) not in "ZX"]

    def _web(self) -> list[int]:
        mine = os.fsencode(f"{self.directory}")
        return [
            pid for pid, line in _command_lines() if mine in line and b"peers.worker" in line and _state(pid) != "Z"
        ]

    def said(self) -> str:
        """Return the logs."""
        files = [self.directory / "log", self.store / "agent.log"]
        return "\n".join(f"{file.name}:\n{file.read_text(errors='replace')}" for file in files if file.exists())

    def _signal(self, number: signal.Signals, processes: Sequence[int]) -> None:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _reap(self) -> None:
        if self._process:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process = None
        with suppress(FileNotFoundError):
            (self.directory / SOCKET).unlink()  # as a host that is gone: nothing is there to connect to

    def close(self) -> None:
        """End everything and remove the files."""
        self.kill()
        self._reap()
        shutil.rmtree(self.directory, ignore_errors=True)


class Hosts(Sequence[Host]):
    """*count* hosts that know each other. Settings of the URL are given by name. A context manager.

    *network* gives each its own address, with TLS; without one they have ports of the loopback. *running* says how many
    are started at first, *seeds* how many stand in the URL.
    """

    def __init__(
        self,
        count: int,
        *,
        network: Network | None = None,
        workers: int = 2,
        running: int | None = None,
        seeds: int | None = None,
        **settings: str,
    ) -> None:
        self._stack, self._hosts = ExitStack(), list[Host]()
        self._running = count if running is None else running
        self._network, self._workers = network, workers
        self.copies = None if settings.get("copies", "all") == "all" else int(settings["copies"])
        self._settings = {"sync": "no", "max_size": "1GiB"} | settings
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="sojourn-hosts-"))
            self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)
            names = [self._name(number) for number in range(count)]
            self.authority = Authority(self._directory / "certificates")
            if network:
                self.authority.create(time.time())
            self._hosts = [self._host(number, names[number], names[:seeds]) for number in range(count)]
        except BaseException:
            self._stack.close()
            raise

    def _name(self, number: int) -> str:
        if self._network:
            return f"{self._network.address(number)}:{PORT}"
        held = HeldPort()
        self._stack.callback(held.close)
        return f"127.0.0.1:{held.number}"

    def _host(self, number: int, name: str, seeds: Sequence[str]) -> Host:
        directory = self._directory / f"host-{number}-of-it"  # no path is the beginning of another
        directory.mkdir(mode=0o700)
        said = {"self": name, "path": str(directory / "store"), **self._settings}
        if self._network:
            host = name.rpartition(":")[0]
            said["tls"] = str(self.authority.issue(host, time.time(), 30).directory)
        url = f"peers://{','.join(seeds)}?{urlencode(said, safe='/:[]')}"
        prefix = self._network.prefix(number) if self._network else ()
        return Host(name, directory, url, workers=self._workers, prefix=prefix)

    def __len__(self) -> int:
        return len(self._hosts)

    def __getitem__(self, number: Any) -> Any:
        return self._hosts[number]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __enter__(self) -> Self:
        try:
            started = self._hosts[: self._running]
            for host in started:
                host.launch()
            for host in started:
                host.wait()
            self.meet(*started)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def others(self, *without: Host) -> list[Host]:
        """Return the hosts but those."""
        return [host for host in self._hosts if host not in without]

    def meet(self, *hosts: Host) -> None:
        """Wait until each of *hosts*, or of all, is connected to each other one and has caught up."""
        some = hosts or tuple(self._hosts)

        try:
            until(lambda: all(one.is_ready_for(*some_but(some, one)) for one in some), "the hosts have met", START)
        except TimeoutError as error:
            raise RuntimeError(f"{error}; they said:\n" + "\n".join(host.said()[-1500:] for host in some)) from error

    def due(self, name: bytes, hosts: Sequence[Host] = ()) -> tuple[str, ...]:
        """Return the names of those of *hosts*, or of all, that are to have a copy of what is called *name*."""
        return ring.owners(name[:TAG], [host.name for host in hosts or self._hosts], self.copies)

    def converge(self, *hosts: Host, seconds: float = CONVERGE) -> float:
        """Wait until all that are to have a copy have one, of equal bytes, and nobody else has any; return the seconds.

        *hosts* are those that there are, all when none is named.
        """
        some, begun = hosts or tuple(self._hosts), time.monotonic()
        if self.copies is None:
            self._until(lambda: _all_equal([host.digests() for host in some]), some, seconds)
        taken = time.monotonic() - begun
        self._until(lambda: not self.misplaced(*some), some, 1.0 if self.copies is None else seconds)
        return taken if self.copies is None else time.monotonic() - begun

    def misplaced(self, *some: Host) -> list[bytes]:
        """Return the names of which copies are missing, differ, or lie where they should not."""
        copies = {host.name: host.copies() for host in some}
        return [
            name
            for name in set().union(*copies.values())
            if {host for host in copies if name in copies[host]} != {*self.due(name, some)}
            or len({copies[host][name] for host in copies if name in copies[host]}) > 1
        ]

    def _until(self, condition: Callable[[], bool], some: Sequence[Host], seconds: float) -> None:
        try:
            until(condition, "copies are equal, and where they should be", seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {differences([host.copies() for host in some])}") from error

    def close(self) -> None:
        """End all of them and remove their files."""
        with self._stack:
            for host in self._hosts:
                self._stack.callback(host.close)


def some_but(hosts: Sequence[Host], one: Host) -> list[Host]:
    """Return *hosts* without one."""
    return [host for host in hosts if host is not one]


def differences(copies: Sequence[dict[bytes, bytes]]) -> str:
    """Say how the copies of several hosts differ."""
    names = sorted(set().union(*copies))
    lacking = [sum(name not in some for name in names) for some in copies]
    differing = [name.hex()[:16] for name in names if len({some[name] for some in copies if name in some}) > 1]
    return f"of {len(names)} names the hosts lack {lacking}; {len(differing)} differ: {differing[:5]}"


def _all_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)


def _pages(tables: HostTables) -> Iterator[tuple[bytes, ...]]:
    names = tables.some_names(None, PAGE)
    while names:
        yield names
        names = tables.some_names(names[-1], PAGE)


def _command_lines() -> Iterator[tuple[int, bytes]]:
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes()


def _state(pid: int) -> str:
    """Return how a process is: R S D running, T standing still, Z dead and not yet buried, X gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
