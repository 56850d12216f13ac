"""A TCP proxy between a client and a server, which does to their connections what networks do.

It forwards bytes in a thread of its own, and is told from any thread what to do with them: be late, hold them back, cut
or reset a connection in the middle of a reply, refuse new connections. What it is told holds for the connections that
exist and for those that come, until `heal`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread
from typing import Any, Self, TypeVar

from tests.servers.process import LOOPBACK, HeldPort

PIECE = 1 << 16  # bytes read at once
PIECES = 64  # read ahead of a delay or a hold; then the sender has to wait, as before a full network
PATIENCE = 10.0  # seconds that the thread may take to do as told
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close() sends RST (RFC 9293, section 3.10.7.4)

T = TypeVar("T")


@dataclass
class Rule:
    """What happens to one direction: bytes are *delay* seconds late, and wait until *open*."""

    delay: float
    open: asyncio.Event


@dataclass(eq=False)
class Cut:
    """Where replies end: *after* so many bytes of a connection's replies, by RST or by FIN; perhaps only *once*."""

    after: int
    reset: bool
    once: bool


class Severed(Exception):
    """This connection ends now, by RST or by FIN."""

    def __init__(self, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class Proxy:
    """A proxy before the server on *target*, a port of the loopback. A context manager; `port` is its own port.

    It listens while it is entered. `connections` counts those it accepted, `requested` and `replied` the bytes that it
    has passed on.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._held_port = HeldPort()
        self.port = self._held_port.number
        self.connections = self.requested = self.replied = 0
        self._links: set[Link] = set()
        self.cut_rule: Cut | None = None
        self._ready = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="proxy")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE), "the proxy does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the proxy does not end"
        self._held_port.close()

    @property
    def address(self) -> str:
        """``host:port`` of the proxy."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def open(self) -> int:
        """How many connections it has now."""
        return len(self._links)

    @property
    def held(self) -> int:
        """How many bytes, of both directions, it has read and not passed on yet."""
        return sum(link.held for link in list(self._links))

    # -- what a test does to the network

    def delay_replies(self, seconds: float) -> None:
        """Pass on each reply *seconds* later than it came."""
        self._do(lambda: setattr(self.replies, "delay", seconds))

    def delay_requests(self, seconds: float) -> None:
        """Pass on each request *seconds* later than it came."""
        self._do(lambda: setattr(self.requests, "delay", seconds))

    def hold_replies(self) -> None:
        """Pass on no reply until `release`; the server sees and executes each request."""
        self._do(lambda: self.replies.open.clear())

    def hold_requests(self) -> None:
        """Pass on no request until `release`; the server sees nothing."""
        self._do(lambda: self.requests.open.clear())

    def release(self) -> None:
        """Pass on what was held, and what comes."""
        self._do(self._release)

    def cut_replies(self, after: int = 0, *, reset: bool = False, once: bool = False) -> None:
        """End each connection *after* so many further bytes of replies, by FIN, or by RST; or only the first *once*.

        The bytes up to there arrive. The server sees its side of the connection reset.
        """
        self._do(lambda: setattr(self, "cut_rule", Cut(after, reset, once)))

    def drop(self, *, reset: bool = False) -> None:
        """End all connections that exist, by FIN or by RST. New ones are welcome."""
        self._do(lambda: self._drop(reset))

    def refuse(self) -> None:
        """Refuse new connections; those that exist go on."""
        self._wait(self._stop_listening())

    def accept(self) -> None:
        """Take new connections again."""
        self._wait(self._listen())

    def heal(self) -> None:
        """Behave as a network should: no delay, no hold, no cut, and connections welcome."""
        self._do(self._heal)
        self.accept()

    # -- in the thread

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self.requests, self.replies = Rule(0, asyncio.Event()), Rule(0, asyncio.Event())
        self._listener: asyncio.Server | None = None
        self._heal()
        await self._listen()
        self._ready.set()
        await self._ended.wait()
        await self._stop_listening()
        for link in self._links:
            link.task.cancel()
        await asyncio.gather(*(link.task for link in self._links), return_exceptions=True)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._met, LOOPBACK, self.port, reuse_address=True)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            await asyncio.sleep(0)  # the socket is closed in the loop's next round

    def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        link = Link(self, End(reader, writer))
        self._links.add(link)
        link.task = asyncio.ensure_future(link.run(self._target))
        link.task.add_done_callback(lambda _: self._links.discard(link))

    def _heal(self) -> None:
        self.requests.delay = self.replies.delay = 0
        self.cut_rule = None
        self._release()

    def _drop(self, reset: bool) -> None:
        for link in self._links:
            link.sever(reset)

    def _release(self) -> None:
        self.requests.open.set()
        self.replies.open.set()

    def done(self, cut: Cut) -> None:
        """Note that *cut* has cut a connection."""
        if cut.once and self.cut_rule is cut:
            self.cut_rule = None

    # -- from other threads

    def _do(self, action: Callable[[], object]) -> None:
        async def act() -> None:
            action()

        self._wait(act())

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)


@dataclass
class End:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, piece: bytes) -> None:
        """Send *piece*; an empty one says that nothing more comes (FIN)."""
        if piece:
            self.writer.write(piece)
            await self.writer.drain()
        else:
            self.writer.write_eof()

    async def close(self) -> None:
        """Close it when all is sent."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    def reset(self) -> None:
        """Close it by RST, unless it is closed."""
        if self.writer.is_closing():
            return
        with suppress(OSError):  # it may be gone already
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.writer.transport.abort()

    async def finish(self) -> None:
        """Say that nothing more comes (FIN), then swallow what the peer still says: unread bytes would send a RST."""
        with suppress(OSError):
            self.writer.write_eof()
            while await self.reader.read(PIECE):
                pass
        self.writer.transport.abort()


class Link:
    """A client's connection and the one to the server that it goes on in."""

    task: asyncio.Task[None]

    def __init__(self, proxy: Proxy, client: End) -> None:
        self._proxy, self._client = proxy, client
        self._told, self._by_reset = asyncio.Event(), False
        self._cut: Cut | None = None
        self._counted = 0  # bytes of replies since this cut was ordered
        self.held = 0

    def sever(self, reset: bool) -> None:
        """End this connection."""
        self._by_reset = reset
        self._told.set()

    async def run(self, target: int) -> None:
        """Pass on both directions until both are done or one of them fails."""
        try:
            server = End(*await asyncio.open_connection(LOOPBACK, target))
        except OSError:
            self._client.reset()
            return
        try:
            await self._pass_on(server)
        finally:
            server.reset()
            self._client.reset()

    async def _pass_on(self, server: End) -> None:
        resets: list[bool] = []
        try:
            async with asyncio.TaskGroup() as group:
                told = group.create_task(self._await_order())
                await asyncio.wait([group.create_task(part) for part in self._parts(server)])
                told.cancel()
        except* Severed as ends:
            resets += [end.reset for end in ends.exceptions if isinstance(end, Severed)]
        except* OSError:
            resets.append(True)
        if not resets:
            await asyncio.gather(server.close(), self._client.close())
        elif not any(resets):
            server.reset()
            await self._client.finish()

    def _parts(self, server: End) -> Iterator[Coroutine[Any, Any, None]]:
        proxy = self._proxy
        for rule, source, passed in (
            (proxy.requests, self._client, partial(self._request, server)),
            (proxy.replies, server, self._reply),
        ):
            queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PIECES)
            yield self._collect(source, rule, queue)
            yield self._deliver(queue, rule, passed)

    async def _await_order(self) -> None:
        await self._told.wait()
        raise Severed(self._by_reset)

    async def _collect(self, source: End, rule: Rule, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Read, and note when each piece is due. The last piece is empty."""
        piece = b"first"
        while piece:
            piece = await source.reader.read(PIECE)
            self.held += len(piece)
            await queue.put((asyncio.get_running_loop().time() + rule.delay, piece))

    async def _deliver(
        self, queue: asyncio.Queue[tuple[float, bytes]], rule: Rule, passed: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Pass on each piece when it is due and the rule lets it through."""
        piece = b"first"
        while piece:
            due, piece = await queue.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await rule.open.wait()
            self.held -= len(piece)
            await passed(piece)

    async def _request(self, server: End, piece: bytes) -> None:
        self._proxy.requested += len(piece)
        await server.send(piece)

    async def _reply(self, piece: bytes) -> None:
        cut = self._proxy.cut_rule
        if cut is not self._cut:
            self._cut, self._counted = cut, 0
        room = None if cut is None or not piece else cut.after - self._counted
        part = piece if room is None else piece[:room]
        self._counted += len(part)
        self._proxy.replied += len(part)
        if part or not piece:
            await self._client.send(part)
        if cut is not None and room is not None and len(piece) >= room:
            self._proxy.done(cut)
            raise Severed(cut.reset)
