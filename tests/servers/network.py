"""Hosts with network stacks of their own, joined by a switch: namespaces in which a test can cut whatever it likes.

    with Network(3) as network:
        network.start(0, ["python", "-m", ...])       a process on host 0, which is 10.87.0.1
        network.cut({0}, {1, 2})                       no packet between them in either direction
        network.cut_one_way(0, 1)                      packets from 0 to 1 vanish, those from 1 to 0 arrive
        network.heal()

The machine's own network is left alone: the switch has a namespace, too. Files and unix sockets are shared with the
test, so that it reaches processes on the hosts by those. Needs root and iproute2; skips, naming what it lacks.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Self

import pytest
from tests.servers.skips import require

SUBNET = "10.87.0"
_numbers = count(1)  # names are the machine's, and one test may have several networks


class Network:
    """*hosts* network namespaces on one switch. A context manager: whatever happens, nothing stays behind."""

    def __init__(self, hosts: int) -> None:
        self._ip = require("ip")
        if os.geteuid() != 0:
            pytest.skip("network namespaces need root")
        self._switch = f"sj{os.getpid()}-{next(_numbers)}"
        self._hosts = [f"{self._switch}-{number}" for number in range(hosts)]
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        self._make(self._switch)
        self._in(self._switch, "link add switch type bridge")
        self._in(self._switch, "link set switch up")
        for number, host in enumerate(self._hosts):
            self._make(host)
            self._in(host, f"link add wire type veth peer name port{number} netns {self._switch}")
            self._in(self._switch, f"link set port{number} master switch up")
            self._in(host, f"address add {self.address(number)}/24 dev wire")
            self._in(host, "link set wire up")
            self._in(host, "link set lo up")

    def address(self, host: int) -> str:
        """Return the address of *host*, counted from 0."""
        return f"{SUBNET}.{host + 1}"

    def start(self, host: int, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start *command* on *host*. It is killed with the network, unless it has ended."""
        process = subprocess.Popen([*self.prefix(host), *command], **options)
        self._started.append(process)
        return process

    def prefix(self, host: int) -> list[str]:
        """Return what stands before a command that is to run on *host*."""
        return [self._ip, "netns", "exec", self._hosts[host]]

    # -- cutting ------------------------------------------------------------------------------------------------

    def cut(self, some: Collection[int], others: Collection[int]) -> None:
        """Drop every packet between *some* and *others*. Streams stay open, as they do when a cable is pulled."""
        for one in some:
            for other in others:
                self.cut_one_way(one, other)
                self.cut_one_way(other, one)

    def cut_one_way(self, sender: int, receiver: int) -> None:
        """Drop every packet from *sender* to *receiver*."""
        self._in(self._hosts[sender], f"route replace blackhole {self.address(receiver)}/32")

    def heal(self) -> None:
        """Let every packet through again."""
        for host in self._hosts:
            self._in(host, "route flush type blackhole")

    # -- behind the scenes ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Kill what runs on the hosts, and remove them."""
        for process in self._started:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()
        for name in (*self._hosts, self._switch):
            for pid in self._run("netns", "pids", name, check=False).split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), 9)
            self._run("netns", "delete", name, check=False)

    def _make(self, name: str) -> None:
        try:
            self._run("netns", "add", name)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine lets nobody make network namespaces: {error.stderr}")

    def _in(self, name: str, command: str) -> None:
        self._run("-n", name, *command.split())

    def _run(self, *arguments: str, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run([self._ip, *arguments], capture_output=True, text=True, check=check, env=env)
        return done.stdout
