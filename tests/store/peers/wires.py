"""Engines without rules, for tests of sockets: a node that notes what it is told, and those who speak to it."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvloop
from tests.servers.process import HeldPort

from sojourn.cluster import effects, local, wire
from sojourn.cluster.effects import Effect, Send
from sojourn.cluster.settings import Settings
from sojourn.store.peers import channel
from sojourn.store.peers.engine import Engine

PATIENCE = 5.0  # seconds for what should take milliseconds
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
HELLO = wire.Hello(wire.VERSIONS, "sojourn", "copies=all", "127.0.0.1:1", b"orig", {}, ())


class PoliteNode:
    """Says hello where it has to, and nothing else. ``events`` has what it was told, ``on`` what it does besides."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.on: dict[str, Callable[..., list[Effect]]] = {}
        self.wanted = float("inf")

    def due(self) -> float:
        return self.wanted

    def __getattr__(self, what: str) -> Any:
        if what.startswith("_"):
            raise AttributeError(what)
        call = lambda *about: self._told(what, *about[:-1])  # noqa: E731  (the last one is the time)
        call.__name__ = what
        return call

    def _told(self, what: str, *about: Any) -> list[Effect]:
        self.events.append((what, *about))
        if what in self.on:
            return self.on[what](*about)
        if what == "dialed" or (what == "received" and self.was(about[0], "accepted") and self.heard(about[0]) == 1):
            return [Send(about[0], HELLO)]
        return []

    def was(self, link: int, what: str) -> bool:
        return any(event[:2] == (what, link) for event in self.events)

    def heard(self, link: int) -> int:
        return len([event for event in self.events if event[:2] == ("received", link)])

    def told(self, what: str) -> list[tuple[Any, ...]]:
        """Return what it was told of one kind."""
        return [event[1:] for event in self.events if event[0] == what]


async def until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {PATIENCE} s in vain until {what}")
        await asyncio.sleep(0.002)
    return answer


@contextmanager
def directories() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sojourn-test-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def run(work: Callable[..., Awaitable[None]], *about: Any, loop: str = "uvloop") -> None:
    """Run an async story to its end, within a minute."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work(*about)
        await asyncio.sleep(0.01)  # for transports that were closed in the last line: the loop calls them once more

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(bounded())


class Running:
    """An engine that serves, with the node behind it."""

    def __init__(self, engine: Engine, node: PoliteNode, directory: Path) -> None:
        self.engine, self.node, self.directory = engine, node, directory

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.engine.settings.listen.rpartition(":")
        return host, int(port)

    def dial(self, name: str) -> None:
        self.engine._dial(effects.Dial(name))

    def send(self, link: int, message: wire.Message) -> None:
        self.engine._send(Send(link, message))
        self.engine.turn_soon()

    async def worker(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(sock=channel.connect(self.directory, 0))


@asynccontextmanager
async def running(
    tls: Path | None = None, *, linger: float | None = None, node: PoliteNode | None = None, **said: Any
) -> AsyncIterator[Running]:
    """Run an engine in this loop; it is stopped and waited for at the end."""
    port = HeldPort()
    node = node or PoliteNode()
    name = f"127.0.0.1:{port.number}"
    with directories() as directory:
        sock: socket.socket | None = None
        try:
            settings = Settings(
                seeds=(), me=name, listen=name, path=str(directory), tls=str(tls) if tls else None, **said
            )
            engine = Engine(settings, node, linger=linger)  # type: ignore[arg-type]
            sock = channel.listen(directory)
            task = asyncio.create_task(engine.serve(sock))
            await engine.ready.wait()
            try:
                yield Running(engine, node, directory)
            finally:
                engine.stop()
                await task
            assert not engine._tasks, "the engine left tasks behind"
        finally:
            port.close()
            if sock:
                sock.close()


async def connected(to: Running, context: Any = None, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = to.address
    return await asyncio.open_connection(host, port, ssl=context, **more)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Tell whether the other end closes the stream, whatever it says before."""
    with suppress(ConnectionError, OSError):
        async with asyncio.timeout(PATIENCE):
            while await reader.read(65536):
                pass
    return True


def request(message: local.Request) -> bytes:
    return channel.to_frame(message)
