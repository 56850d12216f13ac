"""Streams: one object for each connection of the engine, to another host or to a worker, and the bounds on it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from typing import TYPE_CHECKING, Any, cast

from sojourn.cluster.wire import Frames, Hello, Malformed
from sojourn.store.peers import channel
from sojourn.store.tls import identities

if TYPE_CHECKING:
    from sojourn.store.peers.engine import Engine

GREETING = 5.0  # seconds until both have shaken hands and said hello
FAREWELL = 1.0  # seconds for what was sent last
STALLED = 15.0  # seconds for which a host may take nothing of what waits for it
PAUSE_ABOVE, RESUME_BELOW = 1 << 20, 1 << 18  # bytes that wait for a host: the node holds back, and goes on
LARGE = 1 << 16  # bytes of a message that takes long to work up: its answer waits for no other
MOST_WAITING = 64 << 20  # bytes that may wait for a host or a worker; it is given up
MOST_WORKERS = 4096  # as many as may read the storage

_log = logging.getLogger("sojourn.cluster")


class Stream(asyncio.Protocol):
    """What streams to hosts and to workers have in common: sending, and an end that is not waited for."""

    transport: asyncio.Transport

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.number = 0  # once it is open
        self.closing = False
        self._pending: list[bytes] = []
        self._waiting = 0
        self._last_words: asyncio.TimerHandle | None = None

    def put(self, frame: bytes) -> None:
        """Send *frame* at the end of this turn."""
        self._pending.append(frame)
        self._waiting += len(frame)
        if self._waiting > MOST_WAITING:
            self.give_up("too much waits for it")
        self.engine.queue(self)

    def flush(self) -> None:
        """Hand what is to be sent to the transport."""
        if self._pending and not self.transport.is_closing():
            data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending.clear()
            self.transport.write(data)
            self._waiting = self.transport.get_write_buffer_size()

    def give_up(self, why: str) -> None:
        """Break it off: what was sent is of no use to the other end."""
        raise NotImplementedError

    def finish(self) -> None:
        """Close it, once what was sent is out or its time is over."""
        if not self.closing:
            self.closing = True
            self.engine.left_behind(self, gone=False)
            self.flush()
            self.transport.close()
            self._last_words = self.engine.later(FAREWELL, self.transport.abort)

    def _abort(self) -> None:
        self.closing = True
        self.engine.left_behind(self, gone=False)
        self.transport.abort()

    def ended(self) -> None:
        """Tidy up after the transport."""
        self.closing = True
        if self._last_words:
            self._last_words.cancel()
        self.engine.left_behind(self, gone=True)


class HostStream(Stream):
    """A stream to another host; *name* is the host that was dialled, None for one that came by itself."""

    def __init__(self, engine: Engine, name: str | None = None) -> None:
        super().__init__(engine)
        self.name = name
        self.identities: frozenset[str] | None = None
        self._frames = Frames()
        self._said = self._heard = False
        self._stalled_since: float | None = None
        self._peer = "somebody"  # kept: a transport that is closed may not know it any more
        self._certificate: dict[str, Any] = {}
        self._expires = float("inf")
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def words(self) -> str:
        """What the log calls it."""
        return f"to {self.name}" if self.name else f"from {self._peer}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by the loop once hands are shaken."""
        self.transport = cast(asyncio.Transport, transport)  # which those of uvloop are by their methods alone
        self.transport.set_write_buffer_limits(PAUSE_ABOVE, RESUME_BELOW)
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self._certificate = secured.getpeercert()
            self.identities = identities(self._certificate)
            self._expires = ssl.cert_time_to_seconds(self._certificate["notAfter"])
        if peer := transport.get_extra_info("peername"):
            self._peer = f"{peer[0]}:{peer[1]}"
        self._deadline = self.engine.later(GREETING, self._late)
        self.number = self.engine.number()
        self.engine.opened(self)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        try:
            for message in self._frames.feed(data):
                if self.closing:
                    return
                if isinstance(message, Hello):
                    self.greet(heard=True)
                self.engine.received(self, message)
                if self._frames.size > LARGE:
                    self.engine.flush()  # before the next one is worked up, so that the other end has something to do
        except Malformed as error:
            self.give_up(f"it sent what is no message: {error}")

    def greet(self, *, said: bool = False, heard: bool = False) -> None:
        """Note that one side has said hello; after both have, other messages are read."""
        self._said, self._heard = self._said or said, self._heard or heard
        if self._said and self._heard and not self._frames.greeted:
            self._frames.greeted = True
            self._end_deadline()
            self.engine.greeted(self)

    def _late(self) -> None:
        self.give_up(f"no hello within {GREETING:g} s")

    def _end_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()

    def pause_writing(self) -> None:
        """Hold back: the other end takes less than it is sent."""
        self._stalled_since = time.monotonic()
        if not self.closing:
            self.engine.tell(self.engine.node.blocked, self.number)

    def resume_writing(self) -> None:
        """Go on: the other end has caught up."""
        self._stalled_since = None
        if not self.closing:
            self.engine.tell(self.engine.node.drained, self.number)

    def outdated(self, renewed: bool) -> str:
        """Return why the stream must not go on; empty when it may. *renewed*: there are new certificates here."""
        if self._stalled_since is not None and time.monotonic() - self._stalled_since > STALLED:
            return f"it has taken nothing for {STALLED:g} s"
        if self._expires < time.time():
            return "its certificate has expired"
        certificates = self.engine.certificates
        if renewed and certificates and certificates.may_be_revoked(self._certificate):
            return "its certificate was revoked"
        return ""

    def give_up(self, why: str) -> None:  # noqa: D102  (as in Stream)
        if not self.closing:
            self._abort()
            self.engine.lost(self, why)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; called by the loop."""
        self._end_deadline()
        self.engine.lost(self, str(exc) if exc else "the other end closed it")
        self.ended()


class WorkerStream(Stream):
    """A worker process of this host, and what it asks."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._requests = channel.Requests()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin; called by the loop once hands are shaken."""
        self.transport = cast(asyncio.Transport, transport)  # which those of uvloop are by their methods alone
        with transport.get_extra_info("socket").dup() as sock:  # a real one, whatever the loop has
            ours = channel.is_ours(sock)
        if not ours or len(self.engine.workers) >= MOST_WORKERS:
            self.give_up("there are too many" if ours else "it is another user's process")
            return
        self.number = self.engine.number()
        self.engine.workers[self.number] = self

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        try:
            for request in self._requests.feed(data):
                if self.closing:
                    return
                self.engine.asked(self, request)
        except Malformed as error:
            self.give_up(f"it sent what is no request: {error}")

    def give_up(self, why: str) -> None:  # noqa: D102  (as in Stream)
        if not self.closing:
            _log.warning("a worker is let go: %s", why)
            self._abort()
            self.engine.left(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; called by the loop."""
        self.engine.left(self)
        self.ended()
