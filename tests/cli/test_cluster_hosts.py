"""The commands of docs/stores/peers.md on real hosts: certificates, agents in the foreground, status, leave, doctor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.process import HeldPort, until

from sojourn.cli import main
from sojourn.lab import leash

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8 on its loopback"),
]

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Hosts:
    """Three hosts with an address, a directory and certificates each. The agents run as a service manager runs them."""

    def __init__(self, directory: Path) -> None:
        self.directory, self._port = directory, HeldPort()
        named = [word for address in ADDRESSES for word in ("--host", address)]
        assert main(["cluster", "certs", *named, "--out", str(directory / "certs")]) == 0
        self._agents: dict[int, subprocess.Popen[str]] = {}

    def url(self, number: int, more: str = "") -> str:
        address, port = ADDRESSES[number], self._port.number
        seeds = ",".join(f"{one}:{port}" for one in ADDRESSES[:2])
        tls = f"tls={self.directory / 'certs' / address}"
        return f"peers://{seeds}?self={address}:{port}&path={self.directory / f'host-{number}'}&sync=no&{tls}{more}"

    def name(self, number: int) -> str:
        return f"{ADDRESSES[number]}:{self._port.number}"

    def start(self, number: int) -> None:
        self._agents[number] = self.agent(number)

    def agent(self, number: int) -> subprocess.Popen[str]:
        """Run the command, the URL in the environment; it dies with this thread at the latest."""
        command = [sys.executable, "-m", "sojourn.cli", "cluster", "agent", "env:SESSIONS"]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command],
            env={**os.environ, "SESSIONS": self.url(number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number: int, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End an agent; return its exit status and what it has logged."""
        agent = self._agents.pop(number)
        agent.send_signal(how)
        return self.ended(agent)

    @staticmethod
    def ended(agent: subprocess.Popen[str]) -> tuple[int, str]:
        _, log = agent.communicate(timeout=20)
        return agent.returncode, log

    def left(self, number: int) -> tuple[int, str]:
        return self.ended(self._agents.pop(number))

    def close(self) -> None:
        for agent in self._agents.values():
            agent.kill()
            agent.communicate()
        self._port.close()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with contextlib.closing(Hosts(tmp_path)) as hosts:
        yield hosts


@pytest.fixture
def cluster(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> Hosts:
    """All three, met and ready."""
    for number in range(3):
        hosts.start(number)
    for number in range(3):
        wait_for(hosts, number, capsys, ["alive"] * 3)
    return hosts


def wait_for(hosts: Hosts, number: int, capsys: pytest.CaptureFixture[str], expected: list[str]) -> None:
    until(lambda: states(hosts, number, capsys) == expected, f"host {number} sees {expected}", 20)


def states(hosts: Hosts, number: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the states of all members as one sees them; "late" for one that has not caught up. Empty: no answer."""
    main(["cluster", "status", "--json", hosts.url(number)])
    out, _ = capsys.readouterr()
    members: list[dict[str, Any]] = json.loads(out)["members"] if out else []
    return sorted(one["state"] if one["state"] != "alive" or one["ready"] else "late" for one in members)


def test_three_hosts_with_certificates_meet_and_status_says_so(
    cluster: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    until(lambda: main(["cluster", "status", cluster.url(0)]) == 0, "all can be reached", 20)
    out, err = capsys.readouterr()
    assert err == ""
    assert all(address in out for address in ADDRESSES)
    assert "copies=all, acks=1, alone=accept" in out


def test_a_dead_host_is_seen_and_is_status_3_until_it_is_back(
    cluster: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.end(1, signal.SIGKILL)
    until(lambda: "suspect" in states(cluster, 0, capsys), "the dead one is missed", 5)
    assert main(["cluster", "status", cluster.url(0)]) == 3
    assert f"{ADDRESSES[1]}:" in capsys.readouterr().out.splitlines()[-1]
    cluster.start(1)
    wait_for(cluster, 0, capsys, ["alive"] * 3)


def test_a_host_that_leaves_hands_on_and_its_agent_ends(cluster: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "leave", cluster.url(2)]) == 0
    assert "has left: its sessions are on other hosts" in capsys.readouterr().out
    status, _ = cluster.left(2)
    assert status == 0
    for number in (0, 1):
        wait_for(cluster, number, capsys, ["alive", "alive", "left"])
    assert main(["cluster", "status", cluster.url(0)]) == 0


def test_a_dead_host_is_forgotten_and_one_that_lives_is_not(cluster: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "forget", cluster.url(0), cluster.name(1)]) == 1
    assert "is alive, and only a dead host can be forgotten" in capsys.readouterr().err
    cluster.end(2, signal.SIGKILL)
    wait_for(cluster, 0, capsys, ["alive", "alive", "dead"])
    assert main(["cluster", "forget", cluster.url(0), cluster.name(2)]) == 0
    assert "is forgotten" in capsys.readouterr().out
    for number in (0, 1):
        wait_for(cluster, number, capsys, ["alive", "alive", "left"])


def test_a_second_agent_is_one_line_and_status_2(cluster: Hosts) -> None:
    status, log = cluster.ended(cluster.agent(0))
    assert (status, log.count("\n")) == (2, 1)
    assert "is the agent of" in log


def test_a_service_manager_can_stop_it_and_the_host_stays_a_member(
    cluster: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    status, log = cluster.end(2)
    assert status == 0
    assert "Traceback" not in log
    wait_for(cluster, 0, capsys, ["alive", "alive", "suspect"])


def test_renewed_certificates_are_used_without_a_restart(cluster: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    """The others' streams are new after a restart of one host, so all show the certificates that are there by then."""
    assert main(["cluster", "certs", "--renew", "--out", str(cluster.directory / "certs")]) == 0
    capsys.readouterr()
    cluster.end(1)
    cluster.start(1)
    for number in range(3):
        wait_for(cluster, number, capsys, ["alive"] * 3)


def test_the_doctor_finds_what_puts_sessions_at_risk(hosts: Hosts, capsys: pytest.CaptureFixture[str]) -> None:
    hosts.start(0)
    until(lambda: states(hosts, 0, capsys), "it answers", 20)
    assert main(["doctor", hosts.url(0, "&acks=0&copies=1")]) == 3
    out, _ = capsys.readouterr()
    assert "has met no other host" in out
    assert "acks=0" in out
    assert "copies=1" in out


def test_the_doctor_has_nothing_to_say_of_a_cluster_in_order(
    cluster: Hosts, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", cluster.url(0)])
    out, err = capsys.readouterr()
    assert err == ""
    ours = [line for line in out.splitlines() if not line.startswith(" ") and "sync=no" not in line and line]
    assert [line for line in ours if "file system" not in line] in ([], ["Nothing here puts sessions at risk."])
