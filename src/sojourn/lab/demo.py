"""The demo from start to end: the cluster, the control API beside it, and the signals that end both."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from socket import socket

import uvicorn
from starlette.types import ASGIApp

from sojourn.balancer.nodes import Aside
from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import BALANCERS
from sojourn.lab.cluster import Cluster, Node
from sojourn.lab.control import DOWN, PREFIX, control
from sojourn.lab.hosts import Host
from sojourn.lab.ports import address_of, listen
from sojourn.lab.relay import Network
from sojourn.lab.settings import Settings
from sojourn.lab.shop import Setup
from sojourn.lab.urls import is_replicated, settings_in

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Process:
    """One running part of the demo; *log* is None for the demo's own process."""

    name: str
    port: int
    pid: int
    log: str | None


@dataclass(frozen=True, slots=True)
class Started:
    """What runs once the demo is up."""

    url: str
    settings: Settings
    processes: tuple[Process, ...]


def demo(settings: Settings, announce: Callable[[Started], None]) -> None:
    """Run the demo until Ctrl-C, SIGTERM or SIGHUP; *announce* is called once everything answers.

    Whatever happens, no process is left behind. Raises ConfigurationError for what cannot be started.
    """
    asyncio.run(_until_told(settings, announce))


async def _until_told(settings: Settings, announce: Callable[[Started], None]) -> None:
    told = _cancelled_by_signals()
    try:
        async with _running(settings) as cluster:
            announce(_started(settings, cluster))
            await cluster.watch()
    except asyncio.CancelledError:
        if not told.is_set():
            raise


def _cancelled_by_signals() -> asyncio.Event:
    """Let the first signal cancel this task, so that it leaves every block in order; later ones change nothing."""
    task, told = asyncio.current_task(), asyncio.Event()
    assert task is not None

    def tell() -> None:
        if not told.is_set():
            told.set()
            task.cancel()

    for number in ENDING:
        asyncio.get_running_loop().add_signal_handler(number, tell)
    return told


@asynccontextmanager
async def _running(settings: Settings) -> AsyncIterator[Cluster]:
    balancer = BALANCERS[settings.balancer]
    program, token = balancer.find(), secrets.token_urlsafe(16)
    with listen(settings.port) as sock, listen() as own, _directory() as directory:
        async with _nodes(settings, token, directory) as nodes:
            aside = Aside(PREFIX, address_of(own), DOWN)
            cluster = Cluster(nodes, balancer, program=program, sock=sock, aside=aside, directory=directory)
            async with cluster, _served(control(nodes, token), own):
                yield cluster


@asynccontextmanager
async def _nodes(settings: Settings, token: str, directory: Path) -> AsyncIterator[Sequence[Node]]:
    """Make the nodes: web processes that share a store, or hosts of which each has its own."""
    setup = Setup(store=settings.store, nodes=settings.nodes, token=token)
    setups = [replace(setup, node=f"node-{number}") for number in range(1, settings.nodes + 1)]
    if not is_replicated(settings.store):
        yield [Node(setup, directory) for setup in setups]
        return
    chosen = settings_in(settings.store)
    async with Network(len(setups)) as network:
        yield [Host(setup, directory, number, network, chosen) for number, setup in enumerate(setups)]


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory that only this user can read. It stays when its logs are needed to explain a failure."""
    path = Path(tempfile.mkdtemp(prefix="sojourn-demo-"))
    try:
        yield path
    except ConfigurationError:
        raise
    except BaseException:
        _remove(path)
        raise
    else:
        _remove(path)


def _remove(path: Path) -> None:
    """Remove what is there. An agent that a web process has just put in the place of a killed one may still write."""
    shutil.rmtree(path, ignore_errors=True)


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()  # signals are the demo's business


@asynccontextmanager
async def _served(app: ASGIApp, sock: socket) -> AsyncIterator[None]:
    config = uvicorn.Config(app, log_config=None, ws="none", lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _started(settings: Settings, cluster: Cluster) -> Started:
    nodes = [node.status() for node in cluster.nodes]
    address, balancer, own = cluster.site.listen, cluster.balancer, cluster.site.aside
    assert own is not None
    return Started(
        f"http://{address}",
        settings,
        (
            Process("balancer", address.port, balancer.pid, str(balancer.log)),
            *(Process(node.name, node.port, node.pid, node.log) for node in nodes),
            *(_agent(host) for host in cluster.nodes if isinstance(host, Host)),
            Process("control", own.to.port, os.getpid(), None),
        ),
    )


def _agent(host: Host) -> Process:
    status = host.status()
    name = status.name.replace("node", "agent")
    return Process(name, host.agent_address.port, status.agent, str(host.agent_log))
