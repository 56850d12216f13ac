"""The agent as a process: one a host, started and ended as a service manager or a worker would; its log, its memory."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers.process import HeldPort, until
from tests.store.peers.harness import Host, Hosts
from tests.store.peers.wires import directories

from sojourn.cluster import wire
from sojourn.cluster.clock import Stamp, tick
from sojourn.cluster.replica import Cell, Head, Mark, Replica, Times
from sojourn.cluster.wire import Change, Changes, Frames, Hello, Message, Progress
from sojourn.core.record import Record
from sojourn.store.peers import agent as agents
from sojourn.store.peers import channel
from sojourn.store.peers.start import FAILED

pytestmark = pytest.mark.slow
GRACE = 15.0  # seconds for a process on a busy machine


@pytest.fixture
def directory() -> Iterator[Path]:
    with directories() as path:
        yield path


@pytest.fixture
def url(directory: Path) -> Iterator[str]:
    port = HeldPort()
    yield f"peers://127.0.0.1:{port.number}?self=127.0.0.1:{port.number}&path={directory}&sync=no&max_size=1GiB"
    port.close()


def spawn(url: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", agents.__name__, url, *more], stderr=subprocess.PIPE, text=True)


def serving(process: subprocess.Popen[str], directory: Path) -> None:
    until(lambda: channel.agent_of(directory) == process.pid, "the agent serves", GRACE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_agent_that_stays_ends_in_order_when_told_to(url: str, directory: Path, number: int) -> None:
    process = spawn(url, "--stay")
    serving(process, directory)
    until(lambda: (directory / "data.mdb").exists(), "it has its storage")
    process.send_signal(number)
    _, said = process.communicate(timeout=GRACE)
    assert process.returncode == 0, said
    assert channel.agent_of(directory) is None


def test_a_second_agent_that_is_to_stay_is_an_error_and_another_one_ends_quietly(url: str, directory: Path) -> None:
    process = spawn(url, "--stay")
    serving(process, directory)
    second, third = spawn(url, "--stay"), spawn(url)
    assert f"process {process.pid} is the agent" in second.communicate(timeout=GRACE)[1]
    assert second.returncode == 1
    assert third.communicate(timeout=GRACE)[1] == ""
    assert third.returncode == 0
    process.kill()
    process.communicate()


def test_a_killed_agent_leaves_nothing_that_keeps_the_next_from_serving(url: str, directory: Path) -> None:
    first = spawn(url, "--stay")
    serving(first, directory)
    first.kill()
    first.communicate()
    second = spawn(url, "--stay")
    serving(second, directory)
    second.terminate()
    second.communicate(timeout=GRACE)


def test_a_successor_waits_for_an_agent_that_is_ending(directory: Path) -> None:
    with agents._only_one(directory) as first:
        assert first
        began = time.monotonic()
        agents_patience, agents.PATIENCE = agents.PATIENCE, 0.1
        try:
            with agents._only_one(directory) as second:
                assert not second
        finally:
            agents.PATIENCE = agents_patience
        assert time.monotonic() - began >= 0.1
    with agents._only_one(directory) as third:
        assert third


def test_why_an_agent_cannot_start_is_told_to_the_workers(url: str, directory: Path) -> None:
    process = spawn(f"{url}&tls={directory}/nothing")
    said = process.communicate(timeout=GRACE)[1]
    assert process.returncode == 1
    assert "do not prove that this is 127.0.0.1" in said
    assert "do not prove that this is 127.0.0.1" in (directory / FAILED).read_text()
    process = spawn(url, "--stay")
    serving(process, directory)
    until(lambda: not (directory / FAILED).exists(), "the note is gone")
    process.terminate()
    process.communicate(timeout=GRACE)


def test_an_agent_without_workers_ends_by_itself(url: str, directory: Path) -> None:
    process = spawn(url)
    serving(process, directory)
    process.communicate(timeout=agents.LINGER + GRACE)
    assert process.returncode == 0
    assert "the agent ends" in (directory / "agent.log").read_text()


def test_the_log_lets_so_many_lines_through_and_says_how_many_it_left_out() -> None:
    rate = agents.Rate()

    def line() -> logging.LogRecord:
        return logging.LogRecord("x", logging.INFO, "x", 1, "line %d", (1,), None)

    through = [rate.filter(line()) for _ in range(agents.BURST + 30)]
    assert agents.BURST <= sum(through) < agents.BURST + 10
    rate._at -= 1.0
    last = line()
    assert rate.filter(last)
    assert f"{through.count(False)} lines before this were left out" in last.getMessage()


# -- memory --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_agents_own_memory_does_not_grow_with_the_sessions() -> None:
    """What is mapped from the file is the system's to keep or drop; RssAnon is what the process needs itself."""
    with Hosts(2) as hosts, channel.connect(hosts[0].directory, 0), channel.connect(hosts[1].directory, 0):
        fill(hosts, 1_000)
        before = [own_memory(host) for host in hosts.all]
        fill(hosts, 8_000)  # 80 MB
        after = [own_memory(host) for host in hosts.all]
        assert max(after) < 60 << 20
        assert all(now - then < 8 << 20 for now, then in zip(after, before, strict=True)), (before, after)


def fill(hosts: Hosts, number: int) -> None:
    tables, now = hosts[0].pair.tables, time.time()
    record = Record({"a": os.urandom(10_000)}, now, now, now + 3600, 1)
    for _ in range(number):
        tables.perform("create", (os.urandom(32), record))
    end = tables.progress()[tables.origin].level
    other = hosts[1].pair.tables
    until(lambda: other.progress()[tables.origin].level >= end, "the other host has it all", 60.0)


def own_memory(host: Host) -> int:
    text = Path(f"/proc/{host.agent}/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) << 10


# -- what came once and comes again ----------------------------------------------------------------------------------


class Stranger:
    """A host made of a socket and of what it is told to send."""

    def __init__(self, to: Host) -> None:
        host, _, port = to.name.rpartition(":")
        self.sock = socket.create_connection((host, int(port)), timeout=5.0)
        self.frames = Frames()
        self.heard: list[Message] = []

    def send(self, *messages: Message) -> None:
        self.sock.sendall(b"".join(map(wire.to_frame, messages)))

    def hears(self, kind: type[Message]) -> Message:
        while not (found := [message for message in self.heard if isinstance(message, kind)]):
            data = self.sock.recv(65536)
            assert data, "the agent closed the stream"
            for message in self.frames.feed(data):
                self.heard.append(message)
                self.frames.greeted = True
        self.heard.clear()
        return found[-1]


def test_traffic_that_is_replayed_duplicated_or_reordered_changes_nothing() -> None:
    origin, key = b"\1\2\3\4", bytes(range(32))
    port = HeldPort()
    hello = Hello(wire.VERSIONS, "sojourn", "copies=all", f"127.0.0.1:{port.number}", origin, {}, ())
    now = time.time_ns() // 1_000_000
    one, two = tick(0, now), tick(0, now + 5)
    first = copy(Stamp(one, origin), b"\x01", 1)
    second = copy(Stamp(two, origin), b"\x02", 2)
    rounds = (
        Changes(origin, 0, Progress(one, one), (Change(key, one, True, first),)),
        Changes(origin, 0, Progress(two, two), (Change(key, two, True, second),)),
    )
    with Hosts(1) as hosts:
        tables = hosts[0].pair.tables
        for sent in ((*rounds,), (*rounds, *rounds), (rounds[1], rounds[0])):
            stranger = Stranger(hosts[0])
            stranger.send(hello)
            stranger.hears(Hello)
            for changes in sent:
                stranger.send(changes)
                stranger.hears(wire.Stored)
            stranger.sock.close()
            assert tables.replica(key) == second
            assert tables.progress()[origin] == Progress(two, two)
        pid = hosts[0].agent
        stranger = Stranger(hosts[0])
        stranger.send(hello, hello)  # a second hello ends the stream, and nothing else
        with pytest.raises((AssertionError, ConnectionError)):
            stranger.hears(wire.Stored)
        stranger.sock.close()
        assert hosts[0].agent == pid
    port.close()


def copy(stamp: Stamp, value: bytes, writes: int) -> Replica:
    far = stamp.time // 65536 + 3_600_000  # milliseconds
    marks = {stamp.origin: Mark(stamp.time, writes)}
    return Replica({"n": Cell(stamp, value)}, Head(stamp, 1), Times(stamp, 1, far), marks)
