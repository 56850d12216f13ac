"""Blocking connections to one memcached server, and a bounded pool of them in which every wait has a deadline.

* One call at a time has a connection. Whatever ends a call early, be it a timeout, Ctrl-C or a greenlet's timeout, ends
  its connection, too: a reply that comes late finds nobody (the class of CVE-2023-28858).
* A connection that the server has closed while it lay idle is replaced before anything is sent, and so is one on which
  something came that nobody asked for.
* No write is sent twice. A read is repeated once, if it finds that its connection had ended.
* A forked child forgets its parent's connections: two processes on one would read each other's replies.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import weakref
from collections import deque
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TypeVar

from sojourn.store.memcached.commands import Flow
from sojourn.store.memcached.protocol import ErrorReply, Malformed, Replies, Reply, is_read
from sojourn.store.memcached.settings import Address, MemcachedSettings
from sojourn.store.memcached.trouble import unavailable

T = TypeVar("T")

PIECE = 1 << 16  # bytes taken from a socket at a time
AT_ONCE = 4096  # bytes that the kernel's buffer takes without waiting, where nothing else lies in it


class Pool:
    """The connections to *address*. Nothing is connected before it is used. Threads may share it."""

    def __init__(self, address: Address, settings: MemcachedSettings) -> None:
        self.server = settings.describe(address)
        self._address, self._tls = address, settings.tls_context
        self._timeout, self._connect_timeout, self._size = settings.timeout, settings.connect_timeout, settings.pool
        self._start_empty()
        _pools.add(self)

    def run(self, flow: Flow[T]) -> T:
        """Run *flow* to its end on one connection. Raises StoreUnavailable, and what the flow raises before it asks."""
        request = next(flow)
        due = monotonic() + self._timeout
        try:
            return self._run(flow, request, due)
        except (OSError, ErrorReply, Malformed) as error:
            raise unavailable(self.server, error, self._timeout) from error

    def close(self) -> None:
        """Close the idle connections; those in use close when their calls end."""
        self._generation += 1
        self._close_idle()

    def _run(self, flow: Flow[T], request: bytes, due: float) -> T:
        permits, generation = self._permits, self._generation
        _take(permits, due, self._size)
        connection = None
        try:
            connection, reply = self._begin(request, due)
            while True:
                reply = connection.ask(flow.send(reply), due)
        except StopIteration as end:
            assert connection is not None
            if generation == self._generation:
                self._idle.append(connection)
            else:
                connection.close()
            result: T = end.value
            return result
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        finally:
            permits.put(None)

    def _begin(self, request: bytes, due: float) -> tuple[Connection, Reply]:
        """Return a connection and its first reply. A read is repeated if it was the one to find an idle one dead."""
        if idle := self._idle_one():
            try:
                return idle, idle.ask(request, due)
            except OSError as error:
                if isinstance(error, TimeoutError) or not is_read(request):
                    raise
        connection = self._connect(due)
        return connection, connection.ask(request, due)

    def _connect(self, due: float) -> Connection:
        try:
            return Connection(_dial(self._address, self._tls, min(due, monotonic() + self._connect_timeout)))
        except TimeoutError as error:
            raise ConnectionError(f"no connection within {self._connect_timeout:g} s") from error

    def _idle_one(self) -> Connection | None:
        while self._idle:
            try:
                connection = self._idle.pop()  # the last one that was used; the others may rest
            except IndexError:
                break  # another thread was quicker
            if connection.is_fit():
                return connection
            connection.close()
        return None

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.popleft().close()

    def _start_empty(self) -> None:
        self._generation = 0
        self._idle: deque[Connection] = deque()
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(self._size):
            self._permits.put(None)

    def forget(self) -> None:
        """In a forked child: let go of what is the parent's."""
        self._close_idle()
        self._start_empty()  # also anew: a lock that another thread held at the fork stays locked for ever


class Connection:
    """A connected socket and what has been read from it."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._replies = sock, Replies()
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def ask(self, request: bytes, due: float) -> Reply:
        """Send *request* and return its reply before *due*, on the monotonic clock. Raises OSError or Malformed.

        Closed by whatever ends it early: the reply may still come.
        """
        try:
            return self._ask(request, due)
        except BaseException:
            self.close()
            raise

    def _ask(self, request: bytes, due: float) -> Reply:
        sock, replies = self._socket, self._replies
        sock.settimeout(_left(due))
        sock.sendall(request)
        fresh = len(request) <= AT_ONCE  # then sending took no time, and the time limit needs no system call
        while (reply := replies.gets()) is None:
            if not fresh:
                sock.settimeout(_left(due))
            if not (data := sock.recv(PIECE)):
                raise ConnectionResetError("the server has closed the connection")
            replies.feed(data)
            fresh = False
        if replies.has_data():
            raise Malformed("more than was asked for")
        return reply

    def is_fit(self) -> bool:
        """Tell whether an idle connection may be used: nothing is to be read, not even its end."""
        return not self._poll.poll(0)

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def _take(permits: SimpleQueue[None], due: float, size: int) -> None:
    try:
        permits.get(timeout=max(due - monotonic(), 0.0))
    except Empty:
        raise BlockingIOError(f"all {size} connections of this process (pool=) were in use all the time") from None


def _left(due: float) -> float:
    left = due - monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _dial(address: Address, tls: ssl.SSLContext | None, due: float) -> socket.socket:
    """Return a socket connected to *address*, the first of its addresses that can be reached, before *due*."""
    if address.path:
        return _dial_one(socket.AF_UNIX, address.path, due)
    error: OSError = ConnectionError(f"{address.host} has no address")
    for family, _, _, _, where in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        try:
            sock = _dial_one(family, where, due)
        except OSError as this:
            error = this
        else:
            return _secured(sock, address.host, tls, due)
    raise error


def _dial_one(family: int, where: object, due: float) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(_left(due))
        sock.connect(where)  # type: ignore[arg-type]  # what getaddrinfo gave, or a path
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _secured(sock: socket.socket, host: str, tls: ssl.SSLContext | None, due: float) -> socket.socket:
    if tls is None:
        return sock
    try:
        sock.settimeout(_left(due))
        return tls.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


# -- forks ---------------------------------------------------------------------------------------------------

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_pools):
        pool.forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
