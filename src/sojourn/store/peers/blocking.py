"""PeersStore: sessions of this host and its cluster, for callers that may block.

Round trips: none for a session that is here. A write takes one to this host's agent, and so does what is on other
hosts. Threads may share the store: each asks on a connection of its own out of a stack, so that an answer never finds
the wrong one. A child of a fork opens its own. Every wait ends after ``wait`` seconds and a quarter more. After one in
vain nobody waits until the agent has answered a probe (``asking.Breaker``).
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from sojourn.cluster import worker
from sojourn.cluster.local import Answer, Nudge, Request
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
    UNHEARD,
    Asker,
    Breaker,
    Complaints,
    may_repeat,
    suffices,
)
from sojourn.store.peers.examination import findings
from sojourn.store.peers.start import start

if TYPE_CHECKING:
    from sojourn.store.peers.tables import HostTables

T = TypeVar("T")

CHUNK = 65_536  # bytes


class PeersStore:
    """The sessions in *tables*, this host's storage, and what the hosts of *settings* have of them."""

    waits = True

    def __init__(self, settings: Settings, tables: HostTables) -> None:
        self._settings, self._tables = settings, tables
        self._agent = _Agent(settings)

    def __repr__(self) -> str:
        return f"<PeersStore {self._settings}>"

    # -- the five verbs, and the floor ------------------------------------------------------------------------

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        return self.load_seen(key, b"")

    def load_seen(self, key: bytes, floor: bytes) -> Record | None:
        """Return the record under *key*, no older than *floor* says."""
        if not self._agent.greeted:
            self._agent.greet()
        record = self._tables.load(key)
        if suffices(record, floor) and worker.serves(self._tables, self._settings, key):
            return record
        return self._run(worker.load_seen(self._tables, self._settings, key, floor))

    def floor(self, key: bytes) -> bytes:
        """Return what a browser has seen that was shown what is under *key* now."""
        record = self._tables.load(key)
        if record and worker.shows_own_writes(self._tables, self._settings, key):
            return record.seen
        return self._run(worker.floor(self._tables, self._settings, key))

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record."""
        return self._write(worker.create(self._tables, self._settings, key, record))

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        return self._write(worker.update(self._tables, self._settings, key, record, base))

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        return self._write(worker.touch(self._tables, self._settings, key, accessed_at, expires_at, base))

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """End the session if it still has version *base*, or any when that is None."""
        return self._write(worker.delete(self._tables, self._settings, key, base))

    # -- many, the index, the scan ---------------------------------------------------------------------------

    def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys* in their order, None for each that is missing."""
        return self._run(worker.load_many(self._tables, self._settings, keys))

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """End the sessions under *keys* and return how many there were."""
        return self._write(worker.delete_many(self._tables, self._settings, keys))

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Note *key* under *tag* until then."""
        self._write(worker.enlist(self._tables, self._settings, tag, key, now, until))

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        """Take *keys* out of what stands under *tag*."""
        self._write(worker.delist(self._tables, self._settings, tag, keys))

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of *tag*."""
        return self._run(worker.find(self._tables, self._settings, tag, cursor, limit))

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return the next keys of all sessions; with ``copies=k`` each comes as often as it is kept."""
        return self._run(worker.scan(self._tables, self._settings, cursor, limit))

    def sweep(self, now: float, limit: int = 64) -> int:
        """Bury what is dead at *now* on this host. Its agent does that by itself."""
        count: int = self._tables.perform("sweep", (now, limit)).answer
        return count

    def examine(self) -> list[Finding]:
        """Return what puts sessions at risk: on this host, and in the cluster as its agent sees it."""
        self._agent.greet()
        return findings(self._settings, self._tables)

    def close(self) -> None:
        """Close the connections to the agent, and the storage. The next operation opens them again."""
        self._agent.close()
        self._tables.close()

    def _write(self, talk: Talk[T]) -> T:
        """Run a talk that writes. Raises StoreUnavailable before that where it is known that nobody would have it."""
        if self._settings.alone == "refuse" and not self._agent.answers():
            raise StoreUnavailable(UNHEARD)
        return self._run(talk)

    def _run(self, talk: Talk[T]) -> T:
        if not self._agent.greeted:
            self._agent.greet()
        try:
            request = next(talk)
            while True:
                request = talk.send(self._agent.ask(request))
        except StopIteration as end:
            result: T = end.value
            return result


# -- the agent -----------------------------------------------------------------------------------------------


class _Agent(Asker):
    """This process's connections to the agent. Where none runs it is started."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, Complaints(settings))
        self._idle: list[_Connection] = []
        self._numbers = count(1)
        self._look_due = 0.0
        self._begin()
        _agents.add(self)

    def _begin(self) -> None:
        self._breaker, self._probing = Breaker(), Lock()
        self._probe: _Connection | None = None
        """Where the answer to the probe will come; a thread that holds *_probing* looks."""

    # -- whether it is there

    @property
    def greeted(self) -> bool:
        """Whether this process has looked after its agent a moment ago. Each read asks that, and no more."""
        return time.monotonic() < self._look_due

    def greet(self) -> None:
        """See to it that an agent runs, in the first operation and now and then: nothing comes from others without."""
        self._look_due = time.monotonic() + LOOK_AGAIN
        self.answers()
        while connection := self._take(0):
            if connection.is_alive():
                self._idle.append(connection)
                return
            connection.close()

    def attend(self) -> None:
        """Look whether the probe was answered, or send one that is due. Waits for nobody."""
        if not self._probing.acquire(blocking=False):
            return  # another thread does that just now
        try:
            if self._probe:
                self._hear(self._probe)
            elif self._breaker.wants_probe(time.monotonic()) and (connection := self._connected(0)):
                self._send_probe(connection)
        finally:
            self._probing.release()

    def _send_probe(self, connection: _Connection) -> None:
        if self._breaker.absent:
            self._breaker.reset()  # somebody is there again
        if connection.tell(channel.to_frame(self._breaker.probe())):
            self._probe = connection
        else:
            connection.close()

    def _hear(self, connection: _Connection) -> None:
        try:
            if not connection.has_answered():
                return
        except (OSError, Malformed):
            connection.close()
            self._breaker.reset()
        else:
            self._idle.append(connection)
            self._breaker.answered()
        self._probe = None

    # -- asking

    def ask(self, request: Request) -> Answer | None:
        """Return the agent's answer; None where it has none in time."""
        if isinstance(request, Nudge):
            self._nudge()
            return None
        answer = self._answer(request) if self.answers() else None
        if answer is None:
            self._missed(request)
        return answer

    def _answer(self, request: Request) -> Answer | None:
        request.number = next(self._numbers)  # type: ignore[union-attr]  # a Nudge has none
        begun = time.monotonic()
        due = begun + self._patience
        while connection := self._take(due):
            connected = time.monotonic()
            try:
                answer = connection.ask(request, due)
            except (OSError, Malformed) as error:
                connection.close()
                if isinstance(error, TimeoutError):
                    self._complaints.note(error)
                    if connected - begun < AT_ONCE:
                        self._breaker.fail(absent=False)
                    else:  # it was starting: the next request gives it all its time
                        self.greet()  # an agent that no worker is connected to ends
                    return None
                if isinstance(error, Malformed) or not (may_repeat(request) or connection.unsent):
                    self._complaints.note(error)
                    self.greet()  # an agent that no worker is connected to ends
                    return None
                if not connection.has_spoken:
                    time.sleep(LOOK_EVERY)
            except BaseException:
                connection.close()  # its answer is still to come
                raise
            else:
                self._idle.append(connection)
                return answer
        self._breaker.fail(absent=True)
        return None

    def _nudge(self) -> None:
        """Tell the agent that there is something; if it is busy or away it finds that out by itself."""
        if not self._nudges.due(time.monotonic()):
            return
        while connection := self._take(0):
            if connection.tell(channel.NUDGE):
                self._idle.append(connection)
                return
            connection.close()

    def _take(self, due: float) -> _Connection | None:
        """Return a connection that nobody uses."""
        with suppress(IndexError):
            return self._idle.pop()
        return self._connected(due)

    def _connected(self, due: float) -> _Connection | None:
        """Return a new connection; start an agent where there is none, and look for it until *due*; 0: do not wait."""
        while True:
            try:
                return _Connection(channel.connect(self._directory, 0))
            except OSError as error:
                self._start()
                if time.monotonic() + LOOK_EVERY >= due:
                    self._complaints.note(error if due else None)
                    return None
            time.sleep(LOOK_EVERY)

    def _start(self) -> None:
        try:
            start(self._directory, self._url)
        except StoreUnavailable as error:
            self._complaints.note(error)  # what can be done without an agent still is

    def close(self) -> None:
        """Close what nobody uses."""
        self._look_due = 0.0
        if probe := self._probe:
            self._probe = None
            probe.close()
            self._breaker.reset()
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def forget(self) -> None:
        """In a forked child: leave the parent's connections alone. Closing its own descriptors does them no harm."""
        self._numbers = count(1)
        self.close()
        self._begin()  # what was not confirmed is the parent's to report


class _Connection:
    """A connection to the agent, used by one thread at a time. Its socket never blocks; who waits, polls."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._answers, self._poll = sock, channel.Answers(), select.poll()
        self.unsent = True
        """Whether nothing of the last request can have reached the agent."""
        self.has_spoken = False
        """Whether anything has ever come from it."""

    def ask(self, request: Request, due: float) -> Answer:
        """Return the answer to *request*. Raises OSError, TimeoutError among them, and Malformed."""
        self.unsent = True
        self._send(channel.to_frame(request), due)
        while True:
            self._wait(select.POLLIN, due)
            data = self._socket.recv(CHUNK)
            if not data:
                raise ConnectionResetError("the agent has ended")
            self.has_spoken = True
            for answer in self._answers.feed(data):
                if answer.number == request.number:  # type: ignore[union-attr]  # a Nudge has none, and no answer
                    return answer

    def _send(self, frame: bytes, due: float) -> None:
        while frame:
            try:
                frame = frame[self._socket.send(frame) :]
                self.unsent = False
            except BlockingIOError:
                self._wait(select.POLLOUT, due)

    def _wait(self, event: int, due: float) -> None:
        self._poll.register(self._socket, event)
        left = due - time.monotonic()
        if left <= 0 or not self._poll.poll(left * 1000):
            raise TimeoutError("no answer in time")

    def tell(self, frame: bytes) -> bool:
        """Send *frame* without waiting; return False where the connection is of no use any more."""
        try:
            return self._socket.send(frame) == len(frame)
        except BlockingIOError:
            return True  # it has more than enough to wake up for
        except OSError:
            return False

    def is_alive(self) -> bool:
        """Tell whether the agent is still at the other end, where nothing was asked."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def has_answered(self) -> bool:
        """Tell whether the answer to what was told has come. Raises OSError and Malformed."""
        try:
            while data := self._socket.recv(CHUNK):
                if list(self._answers.feed(data)):
                    return True
        except BlockingIOError:
            return False
        raise ConnectionResetError("the agent has ended")

    def close(self) -> None:
        """Close it."""
        self._socket.close()


# -- forks ---------------------------------------------------------------------------------------------------

_agents: WeakSet[_Agent] = WeakSet()


def _after_fork_in_child() -> None:
    for agent in list(_agents):
        agent.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
