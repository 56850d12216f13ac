"""One connection to a memcached, shared by all tasks of an event loop: requests go out together, replies come in order.

memcached answers the requests of a connection in their order. So any number of tasks can use one: each call takes a
place in a queue, and each reply goes to the first place. What the tasks of one turn of the loop ask is one write.

What makes sharing safe (a reply to the wrong request is the class of CVE-2023-28858):

* A cancelled call keeps its place, and its reply is thrown away. If it was not sent yet, it never is.
* A call whose time is over closes the connection, since all behind it wait for the same server. So does whatever is
  not memcached's protocol, or was not asked for. All calls of a closed connection fail; none of its replies is read.
* At most MOST_CALLS wait, and MOST_BYTES are unsent: a server that hangs does not fill the memory.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any

from sojourn.store.memcached.protocol import Malformed, Replies, Reply
from sojourn.store.memcached.settings import Address
from sojourn.store.memcached.trouble import Crowded

MOST_CALLS = 4096  # that wait for replies of one connection; some 20 µs each, so the last waits a tenth of a second
MOST_BYTES = 16 << 20  # not yet taken by the server; sixteen of the largest sessions
SECOND_LOOK = 0.001  # seconds until a late call is looked at again

Answer = Reply | Exception
"""A reply, or as a value why there is none: a cancelled caller must not leave an exception that nobody retrieves."""


class Wire(asyncio.Protocol):
    """A connection as asyncio's protocol. Each call ends when its time is over, one way or another.

    *patience* is how many seconds it may take longer where the event loop stood still and replies are coming in. Used
    by the tasks of one event loop alone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        self._loop, self._patience = loop, patience
        self._replies = Replies()
        self._unsent: list[tuple[asyncio.Future[Answer], float, bytes]] = []
        self._unsent_bytes = 0
        self._calls: deque[tuple[asyncio.Future[Answer], float]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._received = self._looked_at = 0
        self._full = False
        self._transport: Any = None  # asyncio's or uvloop's
        self._ended: asyncio.Future[None] = loop.create_future()
        self.cause: Exception | None = None
        """Why the connection cannot be used any more; None while it can."""

    # -- calls

    def call(self, request: bytes, due: float) -> asyncio.Future[Answer]:
        """Return what will be the answer to *request*, before *due* on the loop's clock.

        Raises what ended the connection, or Crowded when so much waits that this could not be served in time.
        """
        if self.cause:
            raise ConnectionError("the connection has ended") from self.cause
        if self._full or len(self._calls) + len(self._unsent) >= MOST_CALLS or self._unsent_bytes > MOST_BYTES:
            raise Crowded("too many calls wait for its replies already")
        future: asyncio.Future[Answer] = self._loop.create_future()
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append((future, due, request))
        self._unsent_bytes += len(request)
        return future

    def _send(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if self.cause or self._transport is None:
            return  # `close` has answered them
        wanted = [call for call in unsent if not call[0].done()]
        if not wanted:
            return
        self._calls.extend([(future, due) for future, due, _ in wanted])
        self._look_at(min([due for _, due, _ in wanted]))
        self._transport.write(b"".join([request for _, _, request in wanted]))

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        """Close the connection if a call is late, else come again when one would be: one timer serves all calls.

        After the loop stood still, the reply of a late call may lie there unread. So what is late is looked at again
        a moment later, and as long as replies come in, for a bounded time.
        """
        self._timer = None
        if not self._calls:
            return
        now, due = self._loop.time(), min([due for _, due in self._calls])
        if now < due:
            self._look_at(due)
        elif self._received != self._looked_at and now < due + self._patience:
            self._looked_at = self._received
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
        self._received += 1
        calls, replies = self._calls, self._replies
        replies.feed(data)
        try:
            while calls and (reply := replies.next()) is not None:
                future = calls.popleft()[0]
                if not future.done():
                    future.set_result(reply)
            if replies and not calls:
                raise Malformed("more than was asked for")
        except Malformed as error:
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

    def close(self, cause: Exception) -> None:
        """Close the connection at once, and answer *cause* to all who wait."""
        if self.cause:
            return
        self.cause = cause
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()
        for future in [call[0] for call in self._calls] + [call[0] for call in self._unsent]:
            if not future.done():
                future.set_result(cause)
        self._calls.clear()
        self._unsent.clear()

    async def closed(self) -> None:
        """Wait until the transport has let go of its socket."""
        if self._transport:
            await self._ended


async def dial(address: Address, tls: ssl.SSLContext | None, patience: float) -> Wire:
    """Return a connection to *address*. Raises OSError.

    Takes no time limit of its own.
    """
    loop = asyncio.get_running_loop()
    wire = Wire(loop, patience)
    if address.path:
        await loop.create_unix_connection(lambda: wire, address.path)
    else:
        await loop.create_connection(lambda: wire, address.host, address.port, ssl=tls)
    return wire
