"""Hosts of the lab that share nothing: each has a store and an agent of its own, as ``peers:`` has it.

In the lab a host is one node (one web process), the agent beside it, and a directory. The agent is run as a service
manager would run it, so that it is on the lab's leash and ends with the lab.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sojourn.errors import ConfigurationError
from sojourn.lab.child import REAP, Child
from sojourn.lab.cluster import START_WITHIN, Node, NodeStatus
from sojourn.lab.relay import Network
from sojourn.lab.shop import Setup
from sojourn.lab.urls import url_of
from sojourn.lab.waiting import until


class Host(Node):
    """A node with a store and an agent of its own, reached by the others through a relay of *network*."""

    def __init__(
        self, setup: Setup, directory: Path, number: int, network: Network, settings: Mapping[str, str]
    ) -> None:
        self.path = directory / f"host-{number + 1}"
        names = [str(name) for name in network.names]
        url = url_of(names[number], names, str(network.ports[number]), str(self.path), settings)
        super().__init__(replace(setup, store=url), directory)
        self._number, self._network = number, network
        self.agent_address = network.ports[number]
        self.agent_log = directory / f"agent-{number + 1}.log"
        self._agent: Child | None = None

    def status(self) -> NodeStatus:
        """Return its state, with the agent's pid and whether it is cut off."""
        cut = self._network.is_cut(self._number)
        return replace(super().status(), agent=self._agent_pid() or 0, cut=cut)

    def launch(self) -> None:
        """Start the agent and the web process; :meth:`ready` waits for both."""
        command = [sys.executable, "-m", "sojourn.cli", "cluster", "agent", self.setup.store]
        self._agent = Child(command, log=self.agent_log, env={})
        super().launch()

    async def ready(self) -> None:
        """Wait until both answer. Raises ConfigurationError when one of them ends instead."""
        assert self._agent is not None
        agent = self._agent
        await until(lambda: self._agent_pid() is not None or agent.ended(), START_WITHIN)
        if agent.ended():
            raise ConfigurationError(f"the agent of {self.setup.node} {agent.obituary()}")
        await super().ready()

    async def kill(self) -> None:
        """Kill both with -9, the web process first: it would start the agent again."""
        await super().kill()
        await self._end_agent(signal.SIGKILL)

    async def wipe(self) -> None:
        """Kill the host, remove its store, and start it. Raises ConfigurationError when it does not come up."""
        async with self._turn:
            await self.kill()
            await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)
            self.launch()
            await self.ready()

    def cut(self) -> None:
        """Cut it off from the other hosts; visitors still reach it."""
        self._network.cut(self._number)

    def heal(self) -> None:
        """Undo :meth:`cut`."""
        self._network.heal(self._number)

    async def _end(self) -> None:
        await super()._end()
        await self._end_agent(signal.SIGTERM)

    async def _end_agent(self, how: signal.Signals) -> None:
        """End the agent that we started, and one that the web process has put in its place."""
        if self._agent:
            await (self._agent.kill() if how is signal.SIGKILL else self._agent.end())
        if pid := self._agent_pid():
            with suppress(ProcessLookupError):
                os.kill(pid, how)
            await until(lambda: self._agent_pid() is None, REAP)

    def _agent_pid(self) -> int | None:
        from sojourn.store.peers.channel import agent_of  # noqa: PLC0415  (needs an extra)

        return agent_of(self.path)
