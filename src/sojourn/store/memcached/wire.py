"""One connection to a memcached that all tasks of an event loop share: what its protocol adds to `multiplex`."""

from __future__ import annotations

import asyncio
import ssl

from sojourn.store.memcached.protocol import ErrorReply, Malformed, Replies, Reply
from sojourn.store.memcached.settings import Address
from sojourn.store.multiplex import Lost, SharedConnection


class Wire(SharedConnection):
    """A connection; *patience* is `SharedConnection`'s."""

    def __init__(self, loop: asyncio.AbstractEventLoop, patience: float) -> None:
        super().__init__(loop, patience, Replies(), None, Malformed)

    def unasked(self, data: bytes) -> Exception:
        """Return why the connection is closed when *data* came though nobody asked.

        A memcached that takes no more connections says so before it is asked; its own words hold nobody's session.
        """
        if data.startswith(b"ERROR "):
            return ErrorReply(data.partition(b"\r\n")[0].decode("ascii", "replace"))
        return super().unasked(data)

    def call(self, request: bytes, due: float) -> asyncio.Future[Reply | Lost]:
        """Return what will be the reply to *request* before *due*, on the loop's clock, or a Lost as a value.

        Raises Lost, also from TimeoutError when there is no time left; then nothing was sent.
        """
        if (left := due - self._loop.time()) <= 0:
            raise Lost from TimeoutError("no time left to ask")
        return self.ask(request, left)


async def dial(address: Address, tls: ssl.SSLContext | None, patience: float) -> Wire:
    """Return a connection to *address*. Takes no time limit of its own. Raises OSError."""
    wire = Wire(asyncio.get_running_loop(), patience)
    await wire.connect(*address, tls)
    return wire
