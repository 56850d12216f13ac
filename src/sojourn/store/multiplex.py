"""One connection that all tasks of an event loop share, for servers that answer requests in their order.

Any number of tasks can use it: each call takes a place in a queue, and each reply goes to the first place. What the
tasks of one turn of the loop ask is sent by one write. A load from Redis costs a fifth of the CPU time of one over a
borrowed connection (docs/decisions.md has the numbers).

What makes sharing safe (a reply to the wrong request was CVE-2023-28858):

* A cancelled call keeps its place, and its reply is thrown away. If it was not sent yet, it never is.
* A call whose time is over closes the connection, since all behind it wait for the same server. So does whatever is
  not the protocol, or was not asked for. All calls of a closed connection fail, and none of its replies is read.
* At most MOST_CALLS wait, and MOST_BYTES are unsent: a server that hangs does not fill the memory.

It knows no protocol: a subclass says how a request is written, and brings the reader of replies.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections import deque
from typing import Any, Protocol

MOST_CALLS = 4096  # that wait for replies of one connection; some 20 µs each, so the last waits a tenth of a second
MOST_BYTES = 16 << 20  # not yet taken by the server; sixteen of the largest sessions
SECOND_LOOK = 0.001  # seconds until a late call is looked at again; see `SharedConnection._look`


class Lost(Exception):
    """The connection ended, or could not be used, before the reply came; the cause says why.

    BlockingIOError as the cause: so much waits already that the call could not be served in time. It was not sent.
    """


class Reader(Protocol):
    """Cuts what a connection receives into replies. hiredis has one for Redis; the names are its own."""

    def feed(self, data: bytes, /) -> object:
        """Take what was received."""

    def gets(self) -> Any:
        """Return the next reply, or what stands for "not yet". Raises what the protocol does not allow."""

    def has_data(self) -> bool:
        """Tell whether something was fed that no reply was cut from yet."""


class SharedConnection(asyncio.Protocol):
    """A connection as asyncio's protocol. Each call ends when its time is over, one way or another.

    *patience* is how many seconds it may take longer where the event loop stood still and replies are coming in.
    *reader* answers *nothing* when a reply is not complete, and raises *malformed* when it never can be. Used by the
    tasks of one event loop alone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        patience: float,
        reader: Reader,
        nothing: object,
        malformed: type[Exception],
    ) -> None:
        self._loop, self._patience = loop, patience
        self._reader, self._nothing, self._malformed = reader, nothing, malformed
        self._unsent: list[tuple[asyncio.Future[Any], float, bytes]] = []
        self._unsent_bytes = 0
        self._calls: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._next_look = math.inf  # when the timer rings, on the loop's clock
        self._heard = self._heard_before = 0  # how often bytes came in
        self._late_since: float | None = None
        self._full = False
        self._transport: Any = None  # asyncio's or uvloop's
        self._ended: asyncio.Future[None] = loop.create_future()
        self.cause: BaseException | None = None
        """Why the connection cannot be used any more; None while it can."""

    async def connect(self, host: str, port: int, path: str | None, tls: ssl.SSLContext | None) -> None:
        """Connect to a server, by a unix socket if *path* names one. Raises OSError. Takes no time limit of its own."""
        if path:
            await self._loop.create_unix_connection(lambda: self, path)
        else:
            await self._loop.create_connection(lambda: self, host, port, ssl=tls)

    # -- calls

    def ask(self, request: bytes, seconds: float) -> asyncio.Future[Any]:
        """Return what will be the reply to *request*, or an exception as a value: Lost, or a reply that is an error.

        (As a value, since a cancelled caller must not leave an exception that nobody retrieves.) The *seconds* that it
        may take count from the write: what the loop itself loses until then is not the server's fault. Raises Lost
        when the connection is closed, or when so much waits already that this could not be served in time.
        """
        if self.cause:
            raise Lost from self.cause
        if self._full or len(self._calls) + len(self._unsent) >= MOST_CALLS or self._unsent_bytes > MOST_BYTES:
            raise Lost from BlockingIOError("too many calls wait for its replies already")
        future = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append((future, seconds, request))
        self._unsent_bytes += len(request)
        return future

    @property
    def idle(self) -> bool:
        """Whether nobody waits for a reply."""
        return not self._calls and not self._unsent

    def _send(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if self.cause:
            return  # `close` has answered them
        calls, requests, now, soonest = self._calls, [], self._loop.time(), self._next_look
        for future, seconds, request in unsent:
            if not future.done():  # else it was cancelled
                requests.append(request)
                calls.append((future, due := now + seconds))
                if due < soonest:
                    soonest = due
        if requests:
            if soonest < self._next_look:
                self._look_at(soonest)
            self._transport.write(b"".join(requests))

    def _look_at(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._next_look = self._loop.call_at(due, self._look), due

    def _look(self) -> None:
        """Close the connection if a call is late, else come again when one would be: one timer serves all calls.

        After the loop stood still, the reply of a late call may lie there unread. So what is late is looked at again
        a moment later, and as long as something comes in, for a bounded time.
        """
        self._timer, self._next_look = None, math.inf
        now, due = self._loop.time(), min([due for _, due in self._calls], default=math.inf)
        if now < due:
            self._late_since = None
            if self._calls:
                self._look_at(due)
        elif self._late_since is None or (
            self._heard != self._heard_before and now < self._late_since + self._patience
        ):
            self._late_since, self._heard_before = self._late_since or now, self._heard
            self._look_at(now + SECOND_LOOK)
        else:
            self.close(TimeoutError("no reply in time"))

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
        calls, gets, nothing = self._calls, self._reader.gets, self._nothing
        try:
            self._reader.feed(data)
            while calls and (reply := gets()) is not nothing:
                future = calls.popleft()[0]
                if not future.done():
                    future.set_result(reply)
        except self._malformed as error:
            self.close(error)
        else:
            if not calls and self._reader.has_data():
                self.close(self.unasked(data))

    def unasked(self, data: bytes) -> Exception:
        """Return why the connection is closed when *data* came though nobody asked. Not to be quoted: whose is it?"""
        return self._malformed("more than was asked for")

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
        for future in [call[0] for call in self._calls] + [call[0] for call in self._unsent]:
            if not future.done():
                future.set_result(_lost(cause))
        self._calls.clear()
        self._unsent.clear()

    async def closed(self) -> None:
        """Wait until the transport has let go of its socket."""
        if self._transport:
            await self._ended


def _lost(cause: BaseException) -> Lost:
    lost = Lost()
    lost.__cause__ = cause
    return lost
