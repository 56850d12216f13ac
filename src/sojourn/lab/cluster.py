"""Some nodes and a balancer before them: started, killed, restarted and, whatever happens, ended."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Literal, Self

from sojourn.balancer.nodes import Address, Aside, Site
from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import Balancer
from sojourn.lab.child import Child
from sojourn.lab.ports import Berth, address_of
from sojourn.lab.shop import Setup
from sojourn.lab.waiting import LOOK_EVERY, answers

START_WITHIN = 30.0  # seconds until a process answers; it takes under one, but a busy machine is no failure
LOOK_AFTER = 0.2  # seconds between looks whether the balancer still runs

State = Literal["up", "down", "starting"]


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node at this moment."""

    name: str
    port: int
    pid: int
    state: State
    log: str
    agent: int = 0
    """The pid of its host's agent, where it has one."""
    cut: bool = False
    """Whether its host is cut off from the others."""


class Node:
    """One application process, and the port that stays its own while it is dead."""

    def __init__(self, setup: Setup, directory: Path) -> None:
        self.setup = setup
        self._log = directory / f"{setup.node}.log"
        self._berth = Berth()
        self.address = self._berth.address
        self._child: Child | None = None
        self._ready = False
        self._turn = asyncio.Lock()

    def status(self) -> NodeStatus:
        """Return its state, and the pid of the process that runs or ran last."""
        child = self._child
        state: State = "down" if child is None or child.ended() else "up" if self._ready else "starting"
        return NodeStatus(self.setup.node, self.address.port, child.pid if child else 0, state, str(self._log))

    def launch(self) -> None:
        """Start its process; :meth:`ready` waits for it."""
        self._ready = False
        with self._berth.listener() as sock:
            command = [sys.executable, "-m", "sojourn.lab.node", str(sock.fileno())]
            self._child = Child(command, log=self._log, env=self.setup.to_environment(), fds=[sock.fileno()])

    async def ready(self) -> None:
        """Wait until it answers. Raises ConfigurationError when it ends instead."""
        assert self._child is not None
        await _answering(self.setup.node, self._child, self.address)
        self._ready = True

    async def kill(self) -> None:
        """Kill it with -9. One that is dead already stays so."""
        if self._child:
            await self._child.kill()

    async def restart(self) -> None:
        """Start it, after asking it to end if it runs. Raises ConfigurationError when it does not come up."""
        async with self._turn:
            await self._end()
            self.launch()
            await self.ready()

    async def close(self) -> None:
        """End it for good, after a restart that may be under way."""
        async with self._turn:
            await self._end()
            self._berth.close()

    async def _end(self) -> None:
        if self._child:
            await self._child.end()


class Cluster:
    """Nodes and a balancer. ``async with`` starts them, and ends whatever runs, also when a start fails half way.

    The balancer listens on *sock*, which it takes over. *aside* is answered by somebody else.
    """

    def __init__(
        self, nodes: Sequence[Node], balancer: Balancer, *, program: str, sock: socket, aside: Aside, directory: Path
    ) -> None:
        self.directory, self.nodes = directory, nodes
        self.site = Site(address_of(sock), tuple(node.address for node in self.nodes), aside)
        self._kind, self._program, self._sock = balancer, program, sock
        self._balancer: Child | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            await node.ready()
        command = self._kind.prepare(self._program, self.site, self.directory, self._sock)
        log = self.directory / "balancer.log"
        self._balancer = Child(command.argv, log=log, env=command.env, fds=command.fds)
        self._sock.close()
        await _answering("the balancer", self._balancer, self.site.listen)

    async def stop(self) -> None:
        """End the balancer, so that nobody new comes, then the nodes."""
        self._sock.close()
        if self._balancer:
            await self._balancer.end()
        await asyncio.gather(*(node.close() for node in self.nodes))

    async def watch(self) -> None:
        """Wait for as long as the balancer runs. Raises ConfigurationError when it ends by itself."""
        while not self.balancer.ended():
            await asyncio.sleep(LOOK_AFTER)
        raise ConfigurationError(f"the balancer {self.balancer.obituary()}")

    @property
    def balancer(self) -> Child:
        """The balancer's process."""
        assert self._balancer is not None
        return self._balancer


async def _answering(name: str, child: Child, address: Address) -> None:
    try:
        async with asyncio.timeout(START_WITHIN):
            while not await answers(address, "/health"):
                if child.ended():
                    raise ConfigurationError(f"{name} {child.obituary()}")
                await asyncio.sleep(LOOK_EVERY)
    except TimeoutError as error:
        raise ConfigurationError(f"{name} gives no answer after {START_WITHIN:g} s; read {child.log}") from error
