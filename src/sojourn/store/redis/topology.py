"""Where a command goes: to one server, or to the primary that Sentinels name; and what holds for a Cluster, too.

Each object here belongs to one event loop. Nothing connects before there is something to ask, and nothing runs in the
background: a lost connection, a failover or a moved slot is dealt with by the next call that meets it.

No write is sent twice after it may have arrived. Sent again is what a server says that it did not do (NOSCRIPT, MOVED,
ASK), and once a read whose connection turned out to be dead.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, suppress
from typing import Any, NamedTuple, TypeVar

from sojourn.errors import ConfigurationError, StoreUnavailable
from sojourn.store.multiplex import Lost
from sojourn.store.redis.commands import Command, with_source
from sojourn.store.redis.failures import replied
from sojourn.store.redis.settings import Address, insecure
from sojourn.store.redis.wire import Endpoint, ErrorReply, Wire, dial

HOPS = 8  # the most servers and forms in which one command is tried; a slot that moves needs three
READS = frozenset({"GET", "MGET", "SCAN", "ZSCAN", "INFO", "CONFIG", "ROLE", "CLUSTER"})

T = TypeVar("T")
Then = Callable[[], Awaitable[None]]


class Terms(NamedTuple):
    """How servers are spoken to."""

    place: str
    """The servers' names for messages, without passwords."""
    timeout: float
    """Seconds within which each call ends."""
    connect_timeout: float
    """Seconds within which a connection stands, with all that is asked to find it."""
    greeting: Sequence[Command] = ()
    """What each connection begins with: password, database, name."""
    local_only: bool = False
    """Whether there is neither TLS nor a password, so that the way must not leave this host."""


class NoConnection(TimeoutError):
    """No connection came to stand in time."""


class Server:
    """A connection that is made when it is needed, by *find*, and shared by all who need it.

    *at* is where a server of a Cluster is; who the Sentinels name is known by its connection alone.
    """

    def __init__(self, find: Callable[[], Awaitable[Wire]], connect_timeout: float, at: Endpoint | None = None) -> None:
        self._find, self._connect_timeout, self.at = find, connect_timeout, at
        self._dialing: asyncio.Task[Wire | Exception] | None = None
        self.wire: Wire | None = None
        """The last connection; it may have ended."""
        self.lost = False
        """Whether the last call ended without an answer."""
        self._closed = False

    async def connected(self) -> Wire:
        """Return a connection that stands. All who wait for one wait for the same.

        Raises Lost, and ConfigurationError for a server that must not be spoken to.
        """
        if self.wire and not self.wire.cause:
            return self.wire
        if self._closed:
            raise Lost from ConnectionAbortedError("the store was closed")
        if self._dialing is None:
            self._dialing = asyncio.create_task(self._dial())
        found = await result_of(self._dialing)
        if isinstance(found, ConfigurationError):
            raise ConfigurationError(str(found)) from found
        if isinstance(found, Exception):
            self.lost = True
            raise Lost from found
        return found

    async def _dial(self) -> Wire | Exception:
        try:
            async with asyncio.timeout(self._connect_timeout):
                self.wire = await self._find()
        except TimeoutError:
            return NoConnection(f"no connection within {self._connect_timeout:g} s")
        except (OSError, ValueError, Lost, ErrorReply, ConfigurationError) as error:
            return error
        finally:
            self._dialing = None
        return self.wire

    def leave(self) -> bool:
        """Close the connection if nobody needs it; tell whether it is closed."""
        if self._dialing or (self.wire and not self.wire.idle):
            return False
        if self.wire:
            self.wire.close(ConnectionAbortedError("the server has left the cluster"))
        return True

    async def close(self) -> None:
        """Close the connection for good, and wait until its socket is closed."""
        self._closed = True
        if task := self._dialing:
            task.cancel()
            await asyncio.wait({task})
        if self.wire:
            self.wire.close(ConnectionAbortedError("the store was closed"))
            await self.wire.closed()


class Shard(NamedTuple):
    """A primary, by the first slot that is its; the name tells it from one that takes over from it."""

    first: int
    name: str
    server: Any


class Way(ABC):
    """The way to the servers from one event loop. *then* is awaited after a call that was not of the usual, quick kind.

    The first call is never of that kind.
    """

    splits = False
    """Whether each of many keys must be asked for by a command of its own."""

    def __init__(self, terms: Terms, then: Then) -> None:
        self._loop = asyncio.get_running_loop()
        self._terms, self.then = terms, then

    async def ask(self, command: Command, server: Server | None = None) -> Any:
        """Return the reply to *command*, from *server* or from the one that it belongs to. Raises StoreUnavailable."""
        due, pinned, reply = self._loop.time() + self._terms.timeout, server, None
        server = server or self.serving(command)
        if server and (wire := server.wire) and not wire.cause:
            try:
                reply = await wire.call(command)
            except Lost as error:
                raise self._unavailable(error) from _root(error)
            if not isinstance(reply, Exception):
                return reply
        return await self._finish(command, server, reply, due, pinned)

    async def ask_many(self, commands: Sequence[Command]) -> list[Any]:
        """Return the replies to *commands*, which are sent together. Raises StoreUnavailable when one has none.

        A task for each would triple what it costs, so there are tasks only for those that need a connection first.
        """
        due = self._loop.time() + self._terms.timeout
        asked = [self._sent(command) or (None, asyncio.ensure_future(self.ask(command))) for command in commands]
        try:
            replies = []
            for command, (server, call) in zip(commands, asked, strict=True):
                reply = await call
                replies.append(
                    await self._finish(command, server, reply, due) if isinstance(reply, Exception) else reply
                )
            return replies
        finally:
            for _, call in asked:
                call.cancel()
            await asyncio.gather(*(call for _, call in asked), return_exceptions=True)

    def _sent(self, command: Command) -> tuple[Server, asyncio.Future[Any]] | None:
        """Return the server for *command* and what will be its reply, if there is a connection that takes it."""
        server = self.serving(command)
        if server and (wire := server.wire) and not wire.cause:
            with suppress(Lost):
                return server, wire.call(command)
        return None

    async def _finish(
        self, command: Command, server: Server | None, reply: Any, due: float, pinned: Server | None = None
    ) -> Any:
        try:
            reply = await self._go_on(command, server, reply, due, pinned)
        except (Lost, ErrorReply, TimeoutError) as error:
            raise self._unavailable(error) from _root(error)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due):
                await self.then()
        return reply

    @abstractmethod
    def serving(self, command: Command) -> Server | None:
        """Return the server for *command*; None where that is to be found out."""

    @abstractmethod
    async def find(self, command: Command) -> Server:
        """Return the server for *command*, and ask for it where it is not known. Raises Lost."""

    async def shards(self) -> Sequence[Shard]:
        """Return all primaries, by their first slots. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(self._terms.timeout):
                return await self._shards()
        except (Lost, TimeoutError) as error:
            raise self._unavailable(error) from _root(error)

    @abstractmethod
    async def _shards(self) -> Sequence[Shard]:
        """Return all primaries, by their first slots. Raises Lost."""

    @abstractmethod
    def servers(self) -> Iterator[Server]:
        """Return all servers that there may be a connection to."""

    def redirect(self, error: ErrorReply, server: Server) -> Server:
        """Return the server that a MOVED or ASK of *server* names. Raises *error* where there is no Cluster."""
        raise error

    def refused(self, error: ErrorReply, server: Server) -> None:  # noqa: B027  most have nothing to learn
        """Learn from an *error* that *server* answered."""

    async def close(self) -> None:
        """Close all connections."""
        for server in list(self.servers()):
            await server.close()

    async def _go_on(
        self, command: Command, server: Server | None, reply: Any, due: float, pinned: Server | None
    ) -> Any:
        """Return the reply, after *reply*: what *server* answered instead of a result, or None if it was not asked.

        *pinned* is the only server that the command is for, if there is one.
        """
        asking, repeatable = False, command[0] in READS
        async with asyncio.timeout_at(due):
            for _ in range(HOPS):
                if server and isinstance(reply, ErrorReply):
                    command, server, asking = self._after(reply, command, server, asking)
                elif server and isinstance(reply, Lost):
                    server.lost = True
                    if not repeatable or not isinstance(reply.__cause__, ConnectionError):
                        raise reply
                    server, repeatable = pinned, False
                server = server or self.serving(command) or await self.find(command)
                reply = await self._send(command, server, asking)
                if not isinstance(reply, Exception):
                    return reply
        raise reply

    async def _send(self, command: Command, server: Server, asking: bool) -> Any:
        wire = await server.connected()
        reply = await (wire.call_asking(command) if asking else wire.call(command))
        server.lost = isinstance(reply, Lost)
        return reply

    def _after(self, error: ErrorReply, command: Command, server: Server, asking: bool) -> tuple[Command, Server, bool]:
        word = error.word
        if word == "NOSCRIPT":
            return with_source(command), server, asking
        if word in ("MOVED", "ASK"):
            return command, self.redirect(error, server), word == "ASK"
        self.refused(error, server)
        raise error

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        place, cause = self._terms.place, _root(error)
        if isinstance(cause, ErrorReply):
            return replied(place, cause.word, str(cause))
        if isinstance(cause, TimeoutError) and cause.errno is None and not isinstance(cause, NoConnection):
            return StoreUnavailable(f"{place} did not answer within {self._terms.timeout:g} s")
        if isinstance(cause, BlockingIOError):
            return StoreUnavailable(f"{place} is asked for more than it answers: {cause}")
        return StoreUnavailable(f"{place} cannot be reached, or the connection was lost: {cause}")


class One(Way):
    """A single server; or, with *find*, whichever is found whenever a connection is needed."""

    def __init__(self, terms: Terms, find: Callable[[], Awaitable[Wire]], then: Then) -> None:
        super().__init__(terms, then)
        self._server = Server(find, terms.connect_timeout)

    def serving(self, command: Command) -> Server:
        """Return the server."""
        return self._server

    async def find(self, command: Command) -> Server:
        """Return the server."""
        return self._server

    async def _shards(self) -> Sequence[Shard]:
        wire = await self._server.connected()
        return (Shard(0, wire.peer, self._server),)

    def servers(self) -> Iterator[Server]:
        """Return the server."""
        yield self._server

    def refused(self, error: ErrorReply, server: Server) -> None:
        """Leave a server that became a replica: the next call asks who is the primary now."""
        if error.word == "READONLY" and server.wire:
            server.wire.close(error)


def standalone(terms: Terms, endpoint: Endpoint, then: Then) -> Way:
    """Return the way to one server."""
    return One(terms, lambda: reach(endpoint, terms), then)


async def reach(endpoint: Endpoint, terms: Terms) -> Wire:
    """Return a connection to *endpoint* on *terms*. Raises OSError, Lost or ErrorReply.

    Raises ConfigurationError for a server of which a Sentinel or a node has told, and that must not be spoken to.
    """
    if terms.local_only and not endpoint.path and not Address(endpoint.host, endpoint.port).is_loopback:
        raise insecure(str(endpoint))
    return await dial(endpoint, terms.greeting, terms.timeout)


def sentinel(terms: Terms, sentinels: Sequence[Endpoint], greeting: Sequence[Command], master: str, then: Then) -> Way:
    """Return the way to the primary called *master*; the *sentinels* are greeted with *greeting*.

    Redis, "Guidelines for Redis clients with support for Redis Sentinel": the first answer counts, and the server named
    must itself say that it is a primary. All Sentinels are asked at once, so that a dead one costs no time.
    """

    async def ask(endpoint: Endpoint) -> Endpoint:
        wire = await dial(endpoint, greeting, terms.timeout)
        try:
            reply = await wire.call(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master))
        finally:
            wire.close(ConnectionAbortedError("asked"))
            await wire.closed()
        if isinstance(reply, Exception):
            raise reply
        if reply is None:
            raise ConnectionError(f"a Sentinel knows no primary called {master!r}")
        return endpoint._replace(host=reply[0].decode(), port=int(reply[1]))

    async def find() -> Wire:
        trouble: Exception = ConnectionError("no Sentinel answered")
        tried: set[Endpoint] = set()
        with ExitStack() as undo:
            async with aclosing(in_order([ask(endpoint) for endpoint in sentinels])) as answers:
                async for answer in answers:
                    if isinstance(answer, Exception):
                        trouble = answer
                    elif answer not in tried:
                        tried.add(answer)
                        try:
                            wire = await _primary(answer, terms)
                        except (OSError, Lost, ErrorReply) as error:
                            trouble = error
                        else:
                            undo.callback(wire.close, ConnectionAbortedError("too late"))
                            break
                else:
                    raise trouble
            undo.pop_all()
        return wire

    return One(terms, find, then)


async def _primary(endpoint: Endpoint, terms: Terms) -> Wire:
    wire = await reach(endpoint, terms)
    try:
        role = await wire.call(("ROLE",))
        if isinstance(role, Exception):
            raise role
        if role[0] != b"master":
            raise ConnectionError(f"{endpoint} is no primary any more")
    except BaseException as error:
        wire.close(error)
        raise
    return wire


async def result_of(task: asyncio.Task[T]) -> T:
    """Wait for *task*, which others wait for, too: it goes on when this caller is cancelled. Raises Lost at its end."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError as error:
        if task.cancelled() and not _is_cancelled():
            raise Lost from ConnectionAbortedError("the store was closed")
        raise error


def _is_cancelled() -> bool:
    current = asyncio.current_task()
    return current is not None and current.cancelling() > 0


def _root(error: BaseException) -> BaseException:
    """Return why a connection was lost, or *error* itself."""
    while isinstance(error, Lost) and error.__cause__:
        error = error.__cause__
    return error


async def in_order(questions: Sequence[Coroutine[Any, Any, T]]) -> AsyncGenerator[T | Exception, None]:
    """Ask all *questions* at once, and yield answers and exceptions as they come; the rest is cancelled at the end."""
    tasks = {asyncio.ensure_future(question) for question in questions}
    waiting = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                yield error if isinstance(error, Exception) else task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
