"""The engine: the one file with sockets between hosts. It tells the node what happens, and does what the node says.

It decides nothing about sessions. Its own business is what a socket can do to a host: every wait has a deadline, every
buffer a bound, every count a cap, and nothing that is no message of the protocol reaches the node. Hosts speak TLS 1.3,
both sides with certificates, wherever the way leads off this machine.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from sojourn.cluster import effects, local
from sojourn.cluster.node import Node
from sojourn.cluster.settings import Settings, host_of, is_loopback, port_of
from sojourn.cluster.wire import Hello, Message, to_frame
from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.peers import channel
from sojourn.store.peers.streams import FAREWELL, GREETING, HostStream, Stream, WorkerStream
from sojourn.store.tls import HostCertificates

POLL = 0.05  # seconds between two looks into the own log: a worker's nudge can be lost
AGAIN = 0.002  # seconds from a nudge to one more look: more than ``asking.NUDGE_EVERY``, in which none follows
HOUSEKEEPING = 0.5  # seconds between two looks at slow streams, old certificates and whether anybody works here
DIALING = 3.0  # seconds to be connected and to have shaken hands
MOST_GREETING = 64  # streams that have not said hello; with one more, the oldest of them goes
MOST_LINKS = 1024  # streams in all: two for each other host
BREATH = 0.1  # seconds of rest when the system has no more sockets
SHORTEST = 0.001  # seconds: no timer is shorter, whatever the node wishes

_log = logging.getLogger("sojourn.cluster")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Engine:
    """Runs one node on an event loop. *linger* is how many seconds it stays without a worker; None: until stopped."""

    def __init__(
        self,
        settings: Settings,
        node: Node,
        *,
        linger: float | None = None,
        in_place: Callable[[], bool] = lambda: True,
    ) -> None:
        """*in_place* says whether the directory is still the one that the agent was started for.

        Raises ConfigurationError for an address on the network without TLS, or certificates that cannot be used.
        """
        if not settings.tls and not (is_loopback(settings.me) and is_loopback(settings.listen)):
            raise ConfigurationError(
                f"{settings.me} is on the network, where whoever reaches a host could read and change every session; "
                "give tls=DIRECTORY with ca.pem, host.pem and host.key"
            )
        self.settings, self.node, self.linger, self._in_place = settings, node, linger, in_place
        self.certificates = HostCertificates(settings.tls, host_of(settings.me)) if settings.tls else None
        self.links: dict[int, HostStream] = {}
        self.workers: dict[int, WorkerStream] = {}
        self.ready = asyncio.Event()
        """Set once hosts and workers can connect."""
        self._stopped = asyncio.Event()
        self._leaving: set[Stream] = set()
        self._greeting: dict[HostStream | asyncio.Task[None], None] = {}  # in the order in which they came
        self._unsent: dict[Stream, None] = {}
        self._encoded: tuple[Message | None, bytes] = None, b""  # of this turn: the same often goes to several hosts
        self._numbers = 0
        self._written = self._turning = False
        self._nudges = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._unreachable: dict[str, str] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._again: asyncio.TimerHandle | None = None
        self._perform: dict[type[Any], Callable[[Any], None]] = {
            effects.Send: self._send,
            effects.Reply: self._reply,
            effects.Dial: self._dial,
            effects.Close: self._close,
            effects.Report: lambda report: _log.log(_LEVELS[report.level], report.text),
            effects.End: lambda _: self.stop(),
        }

    # -- its life ----------------------------------------------------------------------------------------------------

    async def serve(self, workers: socket.socket) -> None:
        """Serve hosts, and workers on the listening socket *workers*, until the node has left or ``stop`` is called.

        Raises ConfigurationError where the address for hosts cannot be listened on.
        """
        self._loop = asyncio.get_running_loop()
        self._last_worker = time.monotonic()
        listening = await self._listen()
        server = await self._loop.create_unix_server(lambda: WorkerStream(self), sock=workers)
        self.tell(self.node.started)
        for sock in listening:
            self._spawn(self._accept(sock))
        self._spawn(self._watch_log())
        self._spawn(self._keep_house())
        self.ready.set()
        try:
            await self._stopped.wait()
        finally:
            server.close()
            await self._end(listening)

    def stop(self) -> None:
        """End soon: say goodbye to the hosts and let go of the workers."""
        self._stopped.set()

    async def _end(self, listening: list[socket.socket]) -> None:
        self.tell(self.node.stopping)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in listening:
            sock.close()
        for stream in (*self.links.values(), *self.workers.values()):
            stream.finish()
        deadline = time.monotonic() + 2 * FAREWELL  # each of them has been given one
        while self._leaving and time.monotonic() < deadline:
            await asyncio.sleep(SHORTEST)
        for timer in (self._timer, self._again):
            if timer:
                timer.cancel()
        self.links.clear()
        self.workers.clear()

    async def _listen(self) -> list[socket.socket]:
        listen = self.settings.listen
        try:
            found = await self._loop.getaddrinfo(host_of(listen), port_of(listen), type=socket.SOCK_STREAM)
            return [_listening(family, address) for family, _, _, _, address in dict.fromkeys(found)]
        except OSError as error:
            raise ConfigurationError(
                f"{listen} cannot be listened on ({error.strerror or error}); give listen=ADDRESS:PORT with an address "
                "of this machine and a port that is free"
            ) from error

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # -- what the node is told ---------------------------------------------------------------------------------------

    def tell(self, what: Callable[..., list[effects.Effect]], *about: Any) -> bool:
        """Call a method of the node and do what it says. Returns False when it failed: that is in the log then."""
        try:
            wanted = what(*about, time.monotonic())
        except StoreUnavailable as error:
            _log.error("%s", error)
            return False
        except Exception:
            _log.exception("the node failed in %s; report this, please", what.__name__)
            return False
        for effect in wanted:
            self._perform[type(effect)](effect)
        self.turn_soon()
        return True

    def wrote(self) -> None:
        """Let the node look into its log, once for all that is told in this turn of the loop."""
        self._written = True
        self.turn_soon()

    def turn_soon(self) -> None:
        """See to it that a turn of the loop ends with sending what it brought about."""
        if not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._written:
            self._written = False
            self.tell(self.node.written)
        self._encoded = None, b""
        self.flush()
        self._arm()
        self._turning = False
        if self._written or self._unsent:  # sending has told somebody something
            self.turn_soon()

    def flush(self) -> None:
        """Send what was said so far."""
        unsent, self._unsent = self._unsent, {}
        for stream in unsent:
            stream.flush()

    def _arm(self) -> None:
        """Set the timer for when the node wants it; one that fires too early is set again."""
        due = self.node.due()
        if self._timer and due >= self._timer_due:
            return
        if self._timer:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_later(max(due - time.monotonic(), SHORTEST), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if time.monotonic() >= self.node.due():
            self.tell(self.node.tick)
        self.turn_soon()

    async def _watch_log(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            self.wrote()

    # -- what the node says ------------------------------------------------------------------------------------------

    def _send(self, send: effects.Send) -> None:
        if link := self.links.get(send.link):
            if send.message is not self._encoded[0]:
                self._encoded = send.message, to_frame(send.message)
            link.put(self._encoded[1])
            if isinstance(send.message, Hello):
                link.greet(said=True)

    def _reply(self, reply: effects.Reply) -> None:
        if worker := self.workers.get(reply.worker):
            worker.put(channel.to_frame(reply.answer))

    def queue(self, stream: Stream) -> None:
        """Flush *stream* at the end of this turn, so that what goes the same way goes at once."""
        self._unsent[stream] = None

    def _close(self, close: effects.Close) -> None:
        if link := self.links.pop(close.link, None):
            _log.info("the stream %s is closed: %s", link.words, close.why)
            link.finish()

    # -- streams to and from hosts -----------------------------------------------------------------------------------

    async def _accept(self, sock: socket.socket) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(sock)
            except OSError as error:
                _log.error("no host can be accepted just now: %s", error)
                await asyncio.sleep(BREATH)
                continue
            self._make_room()
            self._greeting[self._spawn(self._welcome(connection))] = None
            await asyncio.sleep(0)  # where many wait, accepting one needs no waiting: all else would have to

    def _make_room(self) -> None:
        """Let the oldest go of those that have not said hello: honest hosts need milliseconds for it."""
        while len(self._greeting) >= MOST_GREETING:
            oldest = next(iter(self._greeting))
            del self._greeting[oldest]
            if isinstance(oldest, HostStream):
                oldest.give_up("too many others wait, and it has said nothing")
            else:
                oldest.cancel()

    async def _welcome(self, connection: socket.socket) -> None:
        """Shake hands. Only who has the right certificate becomes a link."""
        where = _where(connection)
        try:
            if len(self.links) >= MOST_LINKS:
                raise ConnectionRefusedError(f"there are {MOST_LINKS} streams")
            async with asyncio.timeout(GREETING):
                context = self.certificates.server() if self.certificates else None
                await self._loop.connect_accepted_socket(lambda: HostStream(self), connection, ssl=context)
        except (OSError, TimeoutError) as error:
            _log.warning("a connection from %s was refused: %s", where, _because(error, GREETING))
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            if task := asyncio.current_task():
                self._greeting.pop(task, None)

    def _dial(self, dial: effects.Dial) -> None:
        self._spawn(self._reach(dial.name))

    async def _reach(self, name: str) -> None:
        link = HostStream(self, name)
        try:
            async with asyncio.timeout(DIALING):
                await self._connect(name, link)
            self._unreachable.pop(name, None)
        except (OSError, TimeoutError, ValueError, OverflowError) as error:  # of a name that is none, too
            if link.number:  # it was there, and is gone
                link.transport.abort()
                return
            why = _because(error, DIALING)
            if self._unreachable.get(name) != why:
                self._unreachable[name] = why
                _log.warning("%s cannot be reached: %s", name, why)
            self.tell(self.node.unreachable, name)

    async def _connect(self, name: str, link: HostStream) -> None:
        if not self.certificates and not is_loopback(name):
            raise ConnectionRefusedError("it is on the network, and there is no tls= here")
        host = host_of(name)
        context = self.certificates.client() if self.certificates else None
        await self._loop.create_connection(
            lambda: link, host, port_of(name), ssl=context, server_hostname=host if context else None
        )

    def number(self) -> int:
        """Return the next number of a stream; none is used twice."""
        self._numbers += 1
        return self._numbers

    def opened(self, link: HostStream) -> None:
        """Take in a stream whose other end has proved who it is."""
        self.links[link.number] = link
        if link.name is None:
            self._greeting[link] = None
            self.tell(self.node.accepted, link.number, link.identities)
        else:
            self.tell(self.node.dialed, link.number, link.name)

    def greeted(self, link: HostStream) -> None:
        """Both ends of a stream have said hello."""
        self._greeting.pop(link, None)

    def received(self, link: HostStream, message: Message) -> None:
        """Hand a message on. A node that fails over it has done with the stream."""
        if not self.tell(self.node.received, link.number, message):
            link.give_up("what it sent could not be worked up")

    def lost(self, link: HostStream, why: str) -> None:
        """Forget a stream. The node is told, unless it was the node that closed it."""
        self._greeting.pop(link, None)
        if self.links.pop(link.number, None):
            _log.info("the stream %s has ended: %s", link.words, why)
            self.tell(self.node.closed, link.number)

    # -- workers -----------------------------------------------------------------------------------------------------

    def asked(self, worker: WorkerStream, request: local.Request) -> None:
        """Hand a request on. A nudge is only a reason to look into the log."""
        if isinstance(request, local.Nudge):
            self._nudged()
        elif not self.tell(self.node.asked, worker.number, request):
            worker.finish()
        elif isinstance(request, local.Await):
            self.wrote()

    def _nudged(self) -> None:
        """Look now, and once more in a moment: a worker sends no second nudge for what it writes until then."""
        self.wrote()
        self._nudges += 1
        if self._nudges == 1:
            self._again = self._loop.call_later(AGAIN, self._look_again)

    def _look_again(self) -> None:
        more, self._nudges = self._nudges > 1, 0
        self._nudged() if more else self.wrote()

    def left(self, worker: WorkerStream) -> None:
        """Forget a worker."""
        if self.workers.pop(worker.number, None):
            self._last_worker = time.monotonic()
            self.tell(self.node.gone, worker.number)

    # -- keeping house -----------------------------------------------------------------------------------------------

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            renewed = self._look_at_certificates()
            for link in list(self.links.values()):
                if why := link.outdated(renewed):
                    link.give_up(why)
            if self.linger is not None and not self.workers and time.monotonic() - self._last_worker > self.linger:
                _log.info("no worker has been here for %g s; the agent ends", self.linger)
                self.stop()
            if not self._in_place():
                _log.error("%s was removed or replaced; the agent ends, and one begins there anew", self.settings.path)
                self.stop()

    def _look_at_certificates(self) -> bool:
        if self.certificates:
            self.certificates.refresh()
        before, self._generation = self._generation, self.certificates.generation if self.certificates else 0
        return before != self._generation

    def left_behind(self, stream: Stream, *, gone: bool) -> None:
        """Remember who has still to take what was sent last."""
        (self._leaving.discard if gone else self._leaving.add)(stream)

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        """Call something in some seconds."""
        return self._loop.call_later(seconds, call)


def _listening(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(256)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _where(connection: socket.socket) -> str:
    with suppress(OSError):
        return str(connection.getpeername()[0])
    return "somebody who has gone"


def _because(error: BaseException, seconds: float) -> str:
    if isinstance(error, TimeoutError) and not error.errno:
        return f"no answer within {seconds:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    return str(error) or type(error).__name__
