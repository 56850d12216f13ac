"""AsyncPeersStore: sessions of this host and its cluster, for callers on an event loop.

Round trips: as in ``blocking.py``. One connection to the agent for each event loop, shared by all tasks: requests are
numbered, so that a cancelled one confuses nobody, and those of one turn of the loop are sent together. What is stored
here is read and written directly, as by ``local:``, since a hop to a thread costs far more.

An ``asyncio.run`` that ends closes its connection; elsewhere call ``aclose``. What a fork inherits is never used.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from sojourn.cluster import worker
from sojourn.cluster.local import Answer, Nudge, Request, Status
from sojourn.cluster.settings import Settings
from sojourn.cluster.wire import Malformed
from sojourn.cluster.worker import Talk
from sojourn.core.capability import Finding, Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import channel
from sojourn.store.peers.asking import (
    AT_ONCE,
    LOOK_AGAIN,
    LOOK_EVERY,
    READY_WITHIN,
    UNHEARD,
    Asker,
    Complaints,
    is_ready,
    may_repeat,
    suffices,
)
from sojourn.store.peers.examination import findings
from sojourn.store.peers.start import start

if TYPE_CHECKING:
    from sojourn.store.peers.tables import HostTables

T = TypeVar("T")

READY_LOOK = 0.05  # seconds between two questions whether this host has caught up
MOST_UNSENT = 1 << 20  # bytes that an agent has not taken; one that hangs must not fill the worker's memory


class AsyncPeersStore:
    """The sessions in *tables*, this host's storage, and what the hosts of *settings* have of them."""

    waits = True

    def __init__(self, settings: Settings, tables: HostTables) -> None:
        self._settings, self._tables = settings, tables
        self._complaints = Complaints(settings)
        self._agents: dict[asyncio.AbstractEventLoop, _Agent] = {}
        self._ends: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._look_due = 0.0
        _stores.add(self)

    def __repr__(self) -> str:
        return f"<AsyncPeersStore {self._settings}>"

    # -- the five verbs, and the floor ------------------------------------------------------------------------

    async def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        return await self.load_seen(key, b"")

    async def load_seen(self, key: bytes, floor: bytes) -> Record | None:
        """Return the record under *key*, no older than *floor* says."""
        if not self._greeted:
            self._greet()
        record = self._tables.load(key)
        if suffices(record, floor) and worker.serves(self._tables, self._settings, key):
            return record
        return await self._run(worker.load_seen(self._tables, self._settings, key, floor))

    async def floor(self, key: bytes) -> bytes:
        """Return what a browser has seen that was shown what is under *key* now."""
        record = self._tables.load(key)
        if record and worker.shows_own_writes(self._tables, self._settings, key):
            return record.seen
        return await self._run(worker.floor(self._tables, self._settings, key))

    async def create(self, key: bytes, record: Record) -> Written:
        """Store a new record."""
        return await self._write(worker.create(self._tables, self._settings, key, record))

    async def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        return await self._write(worker.update(self._tables, self._settings, key, record, base))

    async def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        return await self._write(worker.touch(self._tables, self._settings, key, accessed_at, expires_at, base))

    async def delete(self, key: bytes, base: int | None = None) -> Written:
        """End the session if it still has version *base*, or any when that is None."""
        return await self._write(worker.delete(self._tables, self._settings, key, base))

    # -- many, the index, the scan ---------------------------------------------------------------------------

    async def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys* in their order, None for each that is missing."""
        return await self._run(worker.load_many(self._tables, self._settings, keys))

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        """End the sessions under *keys* and return how many there were."""
        return await self._write(worker.delete_many(self._tables, self._settings, keys))

    async def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Note *key* under *tag* until then."""
        await self._write(worker.enlist(self._tables, self._settings, tag, key, now, until))

    async def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        """Take *keys* out of what stands under *tag*."""
        await self._write(worker.delist(self._tables, self._settings, tag, keys))

    async def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of *tag*."""
        return await self._run(worker.find(self._tables, self._settings, tag, cursor, limit))

    async def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of all sessions; with ``copies=k`` each comes as often as it is kept."""
        return await self._run(worker.scan(self._tables, self._settings, cursor, limit))

    async def sweep(self, now: float, limit: int = 64) -> int:
        """Bury what is dead at *now* on this host. Its agent does that by itself."""
        count: int = self._tables.perform("sweep", (now, limit)).answer
        return count

    async def examine(self) -> list[Finding]:
        """Return what puts sessions at risk: on this host, and in the cluster as its agent sees it."""
        self._greet()
        return findings(self._settings, self._tables)

    async def prepare(self) -> None:
        """Have the agent run, and this host caught up with the others; waits five seconds for that at most.

        For a server that starts. Raises nothing: what is not here then is asked for.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN):
                while not is_ready(await self._here().ask(Status(0))):
                    await asyncio.sleep(READY_LOOK)

    async def aclose(self) -> None:
        """Close this event loop's connection and the storage. The next operation opens them again."""
        if end := self._ends.get(asyncio.get_running_loop()):
            await end.aclose()
        self._tables.close()

    def _write(self, talk: Talk[T]) -> Coroutine[Any, Any, T]:
        """Run a talk that writes. Raises StoreUnavailable before that where it is known that nobody would have it."""
        if self._settings.alone == "refuse" and not self._here().answers():
            raise StoreUnavailable(UNHEARD)
        return self._run(talk)

    async def _run(self, talk: Talk[T]) -> T:
        agent = self._here()
        if not self._greeted:
            self._greet()
        try:
            request = next(talk)
            while True:
                request = talk.send(await agent.ask(request))
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            talk.close()

    @property
    def _greeted(self) -> bool:
        """Whether somebody has looked after the agent a moment ago. Each read asks that, and no more."""
        return time.monotonic() < self._look_due

    def _greet(self) -> None:
        """See to it that an agent runs, in the first operation and now and then: nothing comes from others without."""
        self._look_due = time.monotonic() + LOOK_AGAIN
        self._here().attend()

    # -- one agent's connection a loop -----------------------------------------------------------------------

    def _here(self) -> _Agent:
        loop = asyncio.get_running_loop()
        return self._agents.get(loop) or self._arrive(loop)

    def _arrive(self, loop: asyncio.AbstractEventLoop) -> _Agent:
        for other in [other for other in self._agents if other.is_closed()]:
            self._agents.pop(other, None)
            self._ends.pop(other, None)
        agent = self._agents[loop] = _Agent(self._settings, self._complaints, loop)
        self._ends[loop] = end = self._until_the_loop_ends(loop, agent)
        with suppress(StopIteration):
            end.asend(None).send(None)  # begins it: from here on the loop knows it, and ends it before it closes
        return agent

    async def _until_the_loop_ends(self, loop: asyncio.AbstractEventLoop, agent: _Agent) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._agents.pop(loop, None)
            self._ends.pop(loop, None)
            self._look_due = 0.0
            await agent.aclose()

    def forget(self) -> None:
        """In a forked child: use nothing of the parent's. It is kept, since closing it would reach into its loop."""
        _the_parents.append((self._agents, self._ends))
        self._agents, self._ends, self._look_due = {}, {}, 0.0


# -- the agent -----------------------------------------------------------------------------------------------


class _Agent(Asker):
    """The agent as one event loop knows it: the connection to it, or the attempt to get one."""

    def __init__(self, settings: Settings, complaints: Complaints, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(settings, complaints)
        self._loop = loop
        self._connection: _Connection | None = None
        self._connected_at = 0.0
        self._dialing: asyncio.Task[None] | None = None
        self._dial_from = 0.0
        self._numbers = count(1)
        self._probe: asyncio.Future[Any] | None = None
        """The answer to come to the probe."""

    async def ask(self, request: Request) -> Answer | None:
        """Return the agent's answer; None where it has none in time."""
        if isinstance(request, Nudge):
            self._nudge()
            return None
        answer = await self._answer_in_time(request) if self.answers() else None
        if answer is None:
            self._missed(request)
        return answer

    async def _answer_in_time(self, request: Request) -> Answer | None:
        number = next(self._numbers)
        begun = self._loop.time()
        try:
            async with asyncio.timeout_at(begun + self._patience):
                answer: Answer = await self._answer(request, number)
                return answer
        except TimeoutError:
            self._complaints.note("no answer in time")
            absent = self._usable() is None
            if absent or self._connected_at < begun + AT_ONCE:  # else it was starting, and the next has all its time
                self._breaker.fail(absent=absent)
        except (OSError, Malformed) as error:
            self._complaints.note(error)
        return None

    async def _answer(self, request: Request, number: int) -> Any:
        while True:
            connection = await self._connected()
            try:
                return await connection.ask(request, number)
            except ConnectionError as error:
                if not (may_repeat(request) or isinstance(error, _Unsent)):
                    raise

    def _nudge(self) -> None:
        """Tell the agent that there is something; if it is busy or away it finds that out by itself."""
        if (connection := self._usable()) is None:
            self.look_for_it()
        elif self._nudges.due(time.monotonic()):  # the loop's own time may be that of the turn's beginning
            connection.tell(Nudge())

    # -- whether it is there

    def attend(self) -> None:
        """See to it that there is a connection, and send a probe that is due. Waits for nobody."""
        if (connection := self._usable()) is None:
            self.look_for_it()
        elif self._probe is None and not connection.is_full and self._breaker.wants_probe(time.monotonic()):
            self._probe = connection.begin(self._breaker.probe(), next(self._numbers))
            self._probe.add_done_callback(self._probed)

    def _probed(self, answer: asyncio.Future[Any]) -> None:
        self._probe = None
        if answer.cancelled() or answer.exception():
            self._breaker.reset()
        else:
            self._breaker.answered()

    # -- connecting

    def _usable(self) -> _Connection | None:
        return None if self._connection is None or self._connection.lost else self._connection

    async def _connected(self) -> _Connection:
        """Return a connection that works. Whoever is cancelled while all wait for it spoils nothing."""
        while (connection := self._usable()) is None:
            await asyncio.wait([self.look_for_it()])
        return connection

    def look_for_it(self) -> asyncio.Task[None]:
        """Begin to connect, unless that is under way."""
        if self._dialing is None:
            self._dialing = self._loop.create_task(self._dial())
            self._dialing.add_done_callback(self._dialed)
        return self._dialing

    def _dialed(self, dialing: asyncio.Task[None]) -> None:
        self._dialing = None
        if not dialing.cancelled() and (error := dialing.exception()):
            self._complaints.note(error)

    async def _dial(self) -> None:
        """Connect; start an agent where there is none, and look for it as long as a request would wait."""
        due = self._loop.time() + self._patience
        if (rest := self._dial_from - self._loop.time()) > 0:
            await asyncio.sleep(rest)
        while True:
            try:
                sock = channel.connect(self._directory, 0)
            except OSError:
                if self._loop.time() >= due:
                    raise
                await self._start()
                await asyncio.sleep(LOOK_EVERY)
            else:
                _, self._connection = await self._loop.create_unix_connection(
                    lambda: _Connection(self._loop, self.look_for_it), sock=sock
                )
                self._connected_at = self._loop.time()
                self._breaker.reset()  # whoever failed is gone
                self._dial_from = self._loop.time() + LOOK_EVERY
                return

    async def _start(self) -> None:
        try:
            await asyncio.to_thread(start, self._directory, self._url)
        except StoreUnavailable as error:
            self._complaints.note(error)  # what can be done without an agent still is

    async def aclose(self) -> None:
        """Close the connection, or the attempt to make it."""
        if dialing := self._dialing:
            dialing.cancel()
            await asyncio.wait([dialing])
        if self._connection:
            await self._connection.aclose()


class _Unsent(ConnectionError):
    """The connection ended before the request was sent."""


class _Connection(asyncio.Protocol):
    """A connection to the agent, shared by the tasks of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], object]) -> None:
        """*on_end* is called when the agent has ended."""
        self._loop, self._on_end = loop, on_end
        self._answers = channel.Answers()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._unsent: list[Request] = []
        self._transport: Any = None  # asyncio's or uvloop's
        self._ended: asyncio.Future[None] = loop.create_future()
        self.lost = False
        """Whether the connection is of no use any more."""

    @property
    def is_full(self) -> bool:
        """Whether the agent has taken so little for so long that nothing more is sent."""
        return bool(self._transport.get_write_buffer_size() > MOST_UNSENT)

    async def ask(self, request: Request, number: int) -> Any:
        """Return the answer to *request*. Raises ConnectionError and Malformed."""
        if self.lost:
            raise _Unsent("the agent has ended")
        if self.is_full:
            raise BlockingIOError("the agent takes no requests")
        try:
            return await self.begin(request, number)
        finally:
            self._waiting.pop(number, None)  # where it was cancelled

    def begin(self, request: Request, number: int) -> asyncio.Future[Any]:
        """Send *request*, on a connection that is not lost, and return the answer to come."""
        request.number = number  # type: ignore[union-attr]  # a Nudge has none
        future = self._waiting[number] = self._loop.create_future()
        self.tell(request)
        return future

    def tell(self, request: Request) -> None:
        """Send *request* at the end of this turn of the loop; one nudge will do for all."""
        if not self._unsent:
            self._loop.call_soon(self._send)
        elif isinstance(request, Nudge):
            return
        self._unsent.append(request)

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if not self.lost and not self.is_full:
            self._transport.write(b"".join(map(channel.to_frame, unsent)))

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Give the answers in *data* to those who wait for them."""
        try:
            for answer in self._answers.feed(data):
                future = self._waiting.pop(answer.number, None)
                if future and not future.done():  # else it was cancelled, or came too late
                    future.set_result(answer)
        except Malformed as error:
            self._lose(error)
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """End. Another agent is looked for at once: until there is one nothing comes from others."""
        if not self.lost:
            self._lose(ConnectionResetError("the agent has ended"))
            self._on_end()
        if not self._ended.done():
            self._ended.set_result(None)

    def _lose(self, error: Exception) -> None:
        if self.lost:
            return
        self.lost = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    async def aclose(self) -> None:
        """Close it, and wait until its socket is free."""
        self._lose(ConnectionAbortedError("the store was closed"))
        self._transport.abort()
        await self._ended


# -- forks ---------------------------------------------------------------------------------------------------

_stores: WeakSet[AsyncPeersStore] = WeakSet()
_the_parents: list[object] = []


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
