"""Real hosts of a cluster on this machine: directories and agents of their own, gone with the test. And a harness.

A host's agent is started as in production, by the first operation of a store, and so it is no child of the tests. When
a test is killed its agents end by themselves, some seconds after the last connection to them.

The times of stories lie years ahead, and a host remembers an ended session for as long as it could have lived. So the
cluster is emptied between two stories by sweeps in a year by which all is forgotten.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Self

import lmdb
from tests.servers.process import GRACE, LOOPBACK, HeldPort, until

from sojourn.cluster.wire import Progress
from sojourn.core.capability import (
    Batched,
    Examinable,
    Floored,
    Indexed,
    LoadMany,
    Purgeable,
    Scannable,
    Sweep,
)
from sojourn.core.ops import Load
from sojourn.core.policy import DAY, LONGEST
from sojourn.core.record import Record
from sojourn.drive import aperform, perform
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import PeersPair, channel, operators, settings_of
from sojourn.testing import StoreHarness
from sojourn.testing.fakes import START

CAPABILITIES = frozenset({Batched, Indexed, Scannable, Purgeable, Examinable, Floored})
PATIENT = "wait=5"  # seconds; a story is about answers, and a busy machine must not make them late
READY = 20.0  # seconds within which hosts find each other
ALL_FORGOTTEN = START + LONGEST + 400 * DAY
_HEAD = struct.Struct(">QIH")  # what stands before floor and frame, see store/peers/packing.py


class Host:
    """One host: its directory, its agent, the store of its workers."""

    def __init__(self, name: str, url: str, directory: Path) -> None:
        self.name, self.url, self.directory = name, url, directory
        self.pair = PeersPair(settings_of(url))
        self._worker: socket.socket | None = None

    def attend(self) -> None:
        """Start its agent as a worker does, and stay connected as one, or the agent would end some time."""
        self.leave()
        self.pair.blocking.examine()  # type: ignore[attr-defined]
        self._worker = until(self._connected, "the agent listens")

    def _connected(self) -> socket.socket | None:
        with suppress(OSError):
            return channel.connect(self.directory, 0)
        return None

    def leave(self) -> None:
        """Be no worker any more."""
        if self._worker:
            self._worker.close()
            self._worker = None

    @property
    def agent(self) -> int | None:
        """The process id of its agent; None where none answers."""
        return channel.agent_of(self.directory)

    @property
    def log(self) -> str:
        """What its agents have said."""
        with suppress(FileNotFoundError):
            return (self.directory / "agent.log").read_text(errors="replace")
        return ""

    def signal(self, number: int) -> int:
        """Send its agent a signal; return which process it was."""
        pid = self.agent
        assert pid, f"no agent at {self.name}"
        os.kill(pid, number)
        return pid

    def kill(self) -> None:
        """End its agent at once, as a crash would, and wait until it is gone."""
        pid = self.signal(signal.SIGKILL)
        until(lambda: not runs(pid), f"agent {pid} is gone")

    def close(self) -> None:
        """End its agent and remove what it has stored."""
        self.leave()
        if "tables" in vars(self.pair):
            self.pair.tables.close()
        if pid := self.agent:
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGTERM)
            try:
                until(lambda: not runs(pid), f"agent {pid} ends", GRACE)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise
        shutil.rmtree(self.directory, ignore_errors=True)


class Hosts:
    """*number* hosts of one cluster. A context manager; entered, they know each other and are ready."""

    def __init__(self, number: int, query: str = "", start: bool = True) -> None:
        self._ports = [HeldPort() for _ in range(number)]
        self._start = start
        self.directory = Path(tempfile.mkdtemp(prefix="sojourn-peers-", dir="/dev/shm" if _has_shm() else None))
        names = [f"{LOOPBACK}:{port.number}" for port in self._ports]
        patient = query if "wait=" in query else f"{PATIENT}&{query}"
        self.all = [self._host(names, name, f"sync=no&max_size=1GiB&{patient}") for name in names]

    def _host(self, names: Sequence[str], name: str, query: str) -> Host:
        directory = self.directory / name.replace(":", "-")
        url = f"peers://{','.join(names)}?self={name}&path={directory}&{query.rstrip('&')}"
        return Host(name, url, directory)

    def __enter__(self) -> Self:
        try:
            if self._start:
                self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, number: int) -> Host:
        return self.all[number]

    def start(self) -> None:
        """Start all agents as a worker would, and wait until the hosts know each other."""
        for host in self.all:
            host.attend()
        self.wait()

    def wait(self) -> None:
        """Wait until every host has met all others, and has what they have."""
        try:
            until(lambda: all(map(self._is_ready, self.all)), "the hosts are ready", READY)
        except TimeoutError as error:
            logs = "".join(f"\n{host.name} {host.pair.tables.view()}\n{host.log[-2000:]}" for host in self.all)
            raise RuntimeError(f"the hosts do not find each other:{logs}") from error

    def _is_ready(self, host: Host) -> bool:
        view = host.pair.tables.view()
        alive = {member.name for member in view.members if member.state == "alive"} | {host.name}
        return view.ready and alive >= {other.name for other in self.all} and self._is_heard(host)

    def _is_heard(self, host: Host) -> bool:
        """Tell whether all others say that they hear a host: one that was silent for a moment is asked again then."""
        try:
            members = operators.status(host.pair.settings)["members"]
        except StoreUnavailable:
            return False
        hearing = {one["name"] for one in members if one["hears"]}
        return hearing >= {other.name for other in self.all}

    def settle(self) -> None:
        """Wait until every host has all that the others have written."""
        until(self._is_settled, "all writes are everywhere")

    def _is_settled(self) -> bool:
        progress = {host.pair.tables.origin: host.pair.tables.progress() for host in self.all}
        return all(
            here.get(origin, Progress()).level >= there.get(origin, Progress()).level
            for origin, there in progress.items()
            for here in progress.values()
        )

    def close(self) -> None:
        """End all agents and remove everything."""
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            for port in self._ports:
                stack.callback(port.close)
            for host in self.all:
                stack.callback(host.close)


def _has_shm() -> bool:
    return Path("/dev/shm").is_dir()


def runs(pid: int) -> bool:
    """Tell whether a process lives; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- the harness ---------------------------------------------------------------------------------------------------


@contextmanager
def peers_harness(hosts: Hosts, *, loop: bool = False, rotating: bool = False) -> Iterator[StoreHarness]:
    """Give a harness around the store of the first host, or of one after the other, on emptied *hosts*."""
    used = hosts.all if rotating else hosts.all[:1]
    empty(hosts)
    door = Door(hosts.all if rotating or spread(hosts) else used)
    with (asynchronous if loop else blocking)(used) as (do, do_all):
        try:
            yield StoreHarness(
                do, do_all, door, partial(sweep, hosts), partial(outage, hosts), capabilities(hosts, rotating)
            )
        finally:
            door.mend()


def spread(hosts: Hosts) -> bool:
    """Tell whether a session lies on some of the hosts only."""
    return hosts[0].pair.settings.copies is not None


def capabilities(hosts: Hosts, rotating: bool) -> frozenset[type]:
    """Return what stories can be told about; each host sweeps its own, so none about the sweep of several."""
    return CAPABILITIES - {Purgeable} if rotating or spread(hosts) else CAPABILITIES


@contextmanager
def blocking(used: Sequence[Host]) -> Iterator[Any]:
    stores = [host.pair.blocking for host in used]
    turn = in_turns(stores)

    def do(op: Any) -> Any:
        return as_stored(op, perform(op, turn()))

    def do_all(ops: Sequence[Any]) -> list[Any]:
        """On one host: on several, each can win a race, and what they have written is merged."""
        store = turn()
        return list(pool.map(lambda op: as_stored(op, perform(op, store)), ops))

    with ThreadPoolExecutor(8) as pool:
        try:
            yield do, do_all
        finally:
            for store in stores:
                store.close()  # type: ignore[attr-defined]


@contextmanager
def asynchronous(used: Sequence[Host]) -> Iterator[Any]:
    stores = [host.pair.loop for host in used]
    turn = in_turns(stores)

    async def do(op: Any) -> Any:
        return as_stored(op, await aperform(op, turn()))

    async def do_all(ops: Sequence[Any]) -> list[Any]:
        store = turn()
        return [as_stored(op, answer) for op, answer in zip(ops, await together(ops, store), strict=True)]

    async def together(ops: Sequence[Any], store: Any) -> list[Any]:
        return list(await asyncio.gather(*(aperform(op, store) for op in ops)))

    with asyncio.Runner() as runner:
        try:
            yield lambda op: runner.run(do(op)), lambda ops: runner.run(do_all(ops))
        finally:
            for store in stores:
                runner.run(store.aclose())  # type: ignore[attr-defined]


def in_turns(stores: Sequence[Any]) -> Callable[[], Any]:
    """Return what names the store for the next operation."""
    turns = count()
    return lambda: stores[next(turns) % len(stores)]


def as_stored(op: Any, answer: Any) -> Any:
    """Return *answer* without what a browser has seen by it, which is no part of what was stored."""
    if isinstance(op, Load) and isinstance(answer, Record):
        return answer._replace(seen=b"")
    if isinstance(op, LoadMany):
        return [record and record._replace(seen=b"") for record in answer]
    return answer


# -- behind the store's back ---------------------------------------------------------------------------------------


class Door:
    """The side door into the hosts' storage. What it writes stands on all hosts, or one would help another out."""

    def __init__(self, used: Sequence[Host]) -> None:
        self._used = used
        self._damaged: list[tuple[Host, bytes, bytes]] = []

    def read(self, key: bytes) -> bytes | None:
        frames = (parts(stored)[1] for host in self._used if (stored := at_rest(host, key)))
        return next((frame for frame in frames if frame), None)

    def write(self, key: bytes, data: bytes) -> None:
        for host in self._used:
            if stored := at_rest(host, key):
                self._damaged.append((host, key, stored))
                before, _, meta = parts(stored)
                filed, _, floor = _HEAD.unpack_from(before)
                put(host, key, _HEAD.pack(filed, len(data), floor) + before[_HEAD.size :] + data + meta)

    def mend(self) -> None:
        """Put back what was there: a record that cannot be read is left in place, also by sweeps."""
        for host, key, stored in reversed(self._damaged):
            put(host, key, stored)

    def dump(self) -> bytes:
        return b"".join(map(dump, self._used))


def at_rest(host: Host, key: bytes) -> bytes | None:
    env = environment(host)
    with env.lmdb.begin(db=env.records) as txn:
        stored: bytes | None = txn.get(key)
    return stored


def put(host: Host, key: bytes, stored: bytes) -> None:
    env = environment(host)
    with env.lmdb.begin(write=True, db=env.records) as txn:
        txn.put(key, stored)


def parts(stored: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what stands before the frame, the frame, and what follows."""
    _, size, floor = _HEAD.unpack_from(stored)
    start = _HEAD.size + floor
    return stored[:start], stored[start : start + size], stored[start + size :]


def environment(host: Host) -> Any:
    return host.pair.tables._open()


def dump(host: Host) -> bytes:
    """Return what the host stores of sessions, and not what it knows of the cluster."""
    env = environment(host)
    with env.lmdb.begin() as txn:
        return b"".join(k + v for name, db in databases(env).items() if name != b"meta" for k, v in txn.cursor(db=db))


def databases(env: Any) -> dict[bytes, Any]:
    return dict(zip(env.names, env.databases, strict=True))


def sweep(hosts: Hosts, now: float) -> None:
    """Bury everywhere what is dead at *now*, when all hosts have all of it."""
    hosts.settle()
    for host in hosts.all:
        while perform(Sweep(now, 64), host.pair.blocking) == 64:
            pass


def empty(hosts: Hosts) -> None:
    """Let all be forgotten, on all hosts: one that has forgotten later than another may have told it once more."""
    until(lambda: _emptied(hosts), "all is forgotten")


def _emptied(hosts: Hosts) -> bool:
    sweep(hosts, ALL_FORGOTTEN)
    return not any(map(dump, hosts.all))


@contextmanager
def outage(hosts: Hosts) -> Iterator[None]:
    """Let every transaction of the workers fail as LMDB does on a disk that does not answer."""

    class Dead:
        def begin(self, **_: Any) -> Any:
            raise lmdb.Error("mdb_txn_begin", 5)

        def reader_check(self) -> int:
            return 0

    with ExitStack() as stack:
        for host in hosts.all:
            env = environment(host)
            stack.callback(setattr, env, "lmdb", env.lmdb)
            env.lmdb = Dead()
        yield
