"""One connection to a Redis server that all tasks of an event loop share.

Redis answers the commands of a connection in their order. So any number of tasks can use one: each call takes a place
in a queue, each reply goes to the first place. What the tasks of one turn of the loop ask is sent by one write. A load
costs a fifth of the CPU time of one over a borrowed connection (docs/decisions.md has the numbers).

What makes sharing safe (a reply to the wrong request was CVE-2023-28858):

* A cancelled call keeps its place, and its reply is thrown away. If it was not sent yet, it never is.
* A call whose time is over closes the connection, since all behind it wait for the same server. So do a protocol
  error and a reply that nobody asked for. All calls of a closed connection fail, and none of its replies is read.
* At most MOST_CALLS wait, and MOST_BYTES are unsent: a server that hangs does not fill the memory.

RESP2 is spoken: it has no messages that come unasked.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiredis import ProtocolError, Reader, pack_command

from sojourn.store.redis.commands import Command

MOST_CALLS = 4096  # that wait for replies of one connection; some 20 µs each, so the last waits a tenth of a second
MOST_BYTES = 16 << 20  # not yet taken by the server; a hundred large sessions
SECOND_LOOK = 0.001  # seconds until a late call is looked at again; see `Wire._look`


class ErrorReply(Exception):
    """What Redis answered instead of a result, such as ``NOSCRIPT No matching script``. The text is the server's."""

    @property
    def word(self) -> str:
        """The kind of error, such as ``NOSCRIPT``."""
        return str(self).partition(" ")[0]


class Lost(Exception):
    """The connection ended, or could not be used, before the reply came; the cause says why."""


class Endpoint(NamedTuple):
    """Where a server listens, and how it is spoken to."""

    host: str
    port: int
    path: str | None = None
    """A unix socket instead of host and port."""
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}"


class Wire(asyncio.Protocol):
    """A connection to *peer* as asyncio's protocol. Calls end within *timeout* seconds after they were sent, anyhow.

    Used by the tasks of one event loop alone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, peer: str) -> None:
        self._loop, self._timeout, self.peer = loop, timeout, peer
        self._reader = Reader(replyError=ErrorReply, notEnoughData=_MORE)
        self._unsent: list[tuple[asyncio.Future[Any], bytes]] = []
        self._unsent_bytes = 0
        self._calls: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._heard_before = 0  # how often bytes came in
        self._late_since: float | None = None
        self._patience = timeout / 2
        self._full = False
        self._transport: Any = None
        self._ended: asyncio.Future[None] = loop.create_future()
        self.cause: BaseException | None = None
        """Why the connection cannot be used any more; None while it can."""

    # -- calls

    def call(self, command: Command) -> asyncio.Future[Any]:
        """Return what will be the reply to *command*, or an Exception as a value: ErrorReply or Lost.

        Raises Lost when the connection is closed, or when so much waits already that this could not be served in time.
        """
        if self.cause:
            raise Lost from self.cause
        if self._full or len(self._calls) + len(self._unsent) >= MOST_CALLS or self._unsent_bytes > MOST_BYTES:
            raise Lost from BlockingIOError("too many calls wait for replies already")
        packed = pack_command(command)
        future = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append((future, packed))
        self._unsent_bytes += len(packed)
        return future

    def call_asking(self, command: Command) -> asyncio.Future[Any]:
        """Return what will be the reply to *command* after ASKING. Raises Lost.

        Both go out at once: cancelled in between, the call would leave its ASKING to somebody else's command.
        """
        self.call(("ASKING",))
        future = self.call(command)
        self._send()
        return future

    @property
    def idle(self) -> bool:
        """Whether nobody waits for a reply."""
        return not self._calls and not self._unsent

    def _send(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if self.cause:
            return  # `close` has answered them
        wanted = [call for call in unsent if not call[0].done()]
        if not wanted:
            return
        due = self._loop.time() + self._timeout
        self._calls.extend([(future, due) for future, _ in wanted])
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)
        self._transport.write(b"".join([packed for _, packed in wanted]))

    def _look(self) -> None:
        """Close the connection if the oldest call is late, else come again when it would be.

        After the loop stood still, the reply of a late call may lie there unread. So what is late is looked at again
        a moment later, and as long as something comes in, for half a timeout at most.
        """
        self._timer = None
        now, due = self._loop.time(), self._calls[0][1] if self._calls else math.inf
        if now < due:
            self._late_since = None
            if self._calls:
                self._timer = self._loop.call_at(due, self._look)
        elif self._late_since is None or (
            self._heard != self._heard_before and now < self._late_since + self._patience
        ):
            self._late_since, self._heard_before = self._late_since or now, self._heard
            self._timer = self._loop.call_later(SECOND_LOOK, self._look)
        else:
            self.close(TimeoutError(f"no reply within {self._timeout:g} s"))

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self._transport.set_write_buffer_limits(MOST_BYTES)

    def data_received(self, data: bytes) -> None:
        """Give the replies in *data* to those who wait for them."""
        if self.cause:
            return
        self._heard += 1
        calls, gets = self._calls, self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := gets()) is not _MORE:
                if not calls:
                    raise ProtocolError("a reply that nobody asked for")
                future = calls.popleft()[0]
                if not future.done():
                    future.set_result(reply)
        except ProtocolError as error:
            self.close(error)

    def pause_writing(self) -> None:
        """Take no more calls: the server does not take what was sent."""
        self._full = True

    def resume_writing(self) -> None:
        """Take calls again."""
        self._full = False

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self.close(error or ConnectionResetError("the server has closed the connection"))
        if not self._ended.done():
            self._ended.set_result(None)

    # -- the end

    def close(self, cause: BaseException) -> None:
        """Close the connection at once and answer Lost, from *cause*, to all who wait."""
        if self.cause:
            return
        self.cause = cause
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()
        for future, _ in (*self._calls, *self._unsent):
            if not future.done():
                future.set_result(_lost(cause))
        self._calls.clear()
        self._unsent.clear()

    async def closed(self) -> None:
        """Wait until the transport has let go of its socket."""
        if self._transport:
            await self._ended


async def dial(endpoint: Endpoint, greeting: Sequence[Command], timeout: float) -> Wire:
    """Return a connection to *endpoint* that has answered each command of *greeting*; CLIENT may be refused.

    Takes no time limit of its own; *timeout* is that of the calls. Raises OSError, Lost or ErrorReply.
    """
    loop = asyncio.get_running_loop()
    wire = Wire(loop, timeout, str(endpoint))
    if endpoint.path:
        await loop.create_unix_connection(lambda: wire, endpoint.path)
    else:
        await loop.create_connection(lambda: wire, endpoint.host, endpoint.port, ssl=endpoint.tls)
    try:
        for command, call in [(command, wire.call(command)) for command in greeting]:
            if isinstance(reply := await call, Exception) and (command[0] != "CLIENT" or isinstance(reply, Lost)):
                raise reply
    except BaseException as error:
        wire.close(error)
        raise
    return wire


def _lost(cause: BaseException) -> Lost:
    lost = Lost()
    lost.__cause__ = cause
    return lost


_MORE = object()
