"""One connection to a Redis server that all tasks of an event loop share: what Redis's protocol adds to `multiplex`.

RESP2 is spoken: it has no messages that come unasked.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, NamedTuple

from hiredis import ProtocolError, Reader, pack_command

from sojourn.store.multiplex import Lost, SharedConnection
from sojourn.store.redis.commands import Command


class ErrorReply(Exception):
    """What Redis answered instead of a result, such as ``NOSCRIPT No matching script``. The text is the server's."""

    @property
    def word(self) -> str:
        """The kind of error, such as ``NOSCRIPT``."""
        return str(self).partition(" ")[0]


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


class Wire(SharedConnection):
    """A connection to *peer*. Calls end within *timeout* seconds after they were sent, anyhow."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, peer: str) -> None:
        reader = Reader(replyError=ErrorReply, notEnoughData=_MORE)
        super().__init__(loop, timeout / 2, reader, _MORE, ProtocolError)
        self._timeout, self.peer = timeout, peer

    def call(self, command: Command) -> asyncio.Future[Any]:
        """Return what will be the reply to *command*, or an exception as a value: ErrorReply or Lost. Raises Lost."""
        return self.ask(pack_command(command), self._timeout)

    def call_asking(self, command: Command) -> asyncio.Future[Any]:
        """Return what will be the reply to *command* after ASKING. Raises Lost.

        Both go out at once, or neither: cancelled in between, or refused, the call would leave its ASKING to somebody
        else's command.
        """
        asking = self.call(("ASKING",))
        try:
            future = self.call(command)
        except Lost:
            asking.cancel()
            raise
        self._send()
        return future


async def dial(endpoint: Endpoint, greeting: Sequence[Command], timeout: float) -> Wire:
    """Return a connection to *endpoint* that has answered each command of *greeting*; CLIENT may be refused.

    Takes no time limit of its own; *timeout* is that of the calls. Raises OSError, Lost or ErrorReply.
    """
    wire = Wire(asyncio.get_running_loop(), timeout, str(endpoint))
    await wire.connect(*endpoint)
    try:
        for command, call in [(command, wire.call(command)) for command in greeting]:
            if isinstance(reply := await call, Exception) and (command[0] != "CLIENT" or isinstance(reply, Lost)):
                raise reply
    except BaseException as error:
        wire.close(error)
        raise
    return wire


_MORE = object()
