"""Connections to one server, bounded in number and in time, each used by one call at a time.

The connections are redis-py's: it connects, authenticates, encrypts and parses. Its pools and clients are not used for
servers named by a URL, for three reasons. They give each step a time of its own, so that waiting for a connection,
connecting and reading add up; here all of it ends at one deadline. They repeat commands that may have been executed.
And they keep a connection whose handshake was cut short by an exception from outside.

A connection goes back only after its reply was read to the end. After anything else it is closed: a late reply must
never meet another call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol
from weakref import WeakSet, ref

import redis
from redis.exceptions import ConnectionError, RedisError, ResponseError, TimeoutError

from sojourn.store.redis.commands import Command
from sojourn.store.redis.failures import Busy
from sojourn.store.redis.settings import Address, insecure

Reply = Any

# Before redis-py 7.2 a reply waits for the connection's whole timeout, however late it is already: up to twice as long.
_TIMED = "timeout" in signature(redis.Connection.read_response).parameters
_LATE = 0.75  # share of the timeout; with more left there is no need to set another for this one reply


class Lender(Protocol):
    """What lends connections to one server."""

    where: str
    """The server, in words that show no secret."""

    def ask(self, command: Command, deadline: float, *, again: bool = False) -> Reply:
        """Return the reply to *command* by *deadline* (monotonic seconds); raise an error reply, or the driver's error.

        *again*: it changes nothing, so it may be sent once more when a used connection turned out to be dead.
        """

    def ask_many(self, commands: Sequence[Command], deadline: float) -> list[Reply]:
        """Return the replies to *commands*, sent all at once; error replies are among them as exceptions."""

    def renew(self) -> None:
        """Use none of the present connections for another call."""


@dataclass(frozen=True)
class Connector:
    """Makes connections of one kind. *timeout* and *connect_timeout* are in seconds."""

    kind: type[Any]
    options: dict[str, Any]
    timeout: float
    connect_timeout: float
    local_only: bool = False
    """Whether there is neither TLS nor a password, so that the way must not leave this host."""

    def connect(self, address: Address | None, deadline: float) -> Any:
        """Return a connection that is ready for commands. Raises redis-py's errors.

        Raises ConfigurationError for a server of which a Sentinel or a node has told, and that must not be spoken to.
        """
        if self.local_only and address and not address.is_loopback:
            raise insecure(str(address))
        if (left := deadline - monotonic()) <= 0:
            raise TimeoutError("no time left to connect")
        place = {"host": address.host, "port": address.port} if address else {}
        times = {"socket_timeout": self.timeout, "socket_connect_timeout": min(left, self.connect_timeout)}
        connection = self.kind(**self.options | place | times)
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()  # else a reply to the handshake could be taken for another
            raise
        return connection


class Pool:
    """At most *size* connections, made by *connect* with a deadline when no idle one is left."""

    def __init__(self, where: str, connect: Callable[[float], Any], size: int, timeout: float) -> None:
        self.where = where
        self._connect, self._size, self._timeout = connect, size, timeout
        self.begin_anew()
        _POOLS.add(self)

    def begin_anew(self) -> None:
        """Forget all connections, as a child of a fork must: they are its parent's."""
        self._generation = object()
        self._idle: list[Any] = []
        self._places: SimpleQueue[_Place] = SimpleQueue()
        for _ in range(self._size):
            self._places.put(_Place(self._places))

    def ask(self, command: Command, deadline: float, *, again: bool = False) -> Reply:
        """Return the reply to *command*."""
        place = self._take(deadline)
        try:
            reply = ask(place.connection, command, deadline, self._timeout)
        except ResponseError:  # a reply, too
            self._give(place)
            raise
        except BaseException as error:
            place.vacate()
            if not (again and place.used and isinstance(error, ConnectionError)):
                raise
        else:
            self._give(place)
            return reply
        self.renew()  # if one is dead, so are those that have been idle as long
        return self.ask(command, deadline)

    def ask_many(self, commands: Sequence[Command], deadline: float) -> list[Reply]:
        """Return the replies to *commands*, sent all at once."""
        place = self._take(deadline)
        try:
            replies = ask_many(place.connection, commands, deadline, self._timeout)
        except BaseException:
            place.vacate()
            raise
        self._give(place)
        return replies

    def renew(self) -> None:
        """Close the idle connections now, and those in use when they come back."""
        self._generation = object()
        while connection := self._idle_one():
            connection.disconnect()

    def _take(self, deadline: float) -> _Place:
        """Return a place with a connection."""
        try:
            place = self._places.get(timeout=max(0.0, deadline - monotonic()))
        except Empty:
            raise Busy("all connections are in use") from None
        try:
            place.generation = self._generation
            while connection := self._idle_one():
                if _is_usable(connection):
                    place.connection, place.used = connection, True
                    return place
                connection.disconnect()
            place.connection, place.used = self._connect(deadline), False
        except BaseException:
            place.vacate()
            raise
        return place

    def _idle_one(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _give(self, place: _Place) -> None:
        if place.generation is self._generation:
            connection, place.connection = place.connection, None  # never in two hands, whatever comes in between
            self._idle.append(connection)
        place.vacate()


class _Place:
    """The right to use one connection. Where an exception from outside makes it forgotten, it comes back by itself."""

    __slots__ = ("_free", "connection", "generation", "used")

    def __init__(self, free: SimpleQueue[_Place]) -> None:
        self._free = ref(free)  # weak: the queue holds the places, and must be able to end with them
        self.connection: Any = None
        self.generation: object = None
        self.used = False

    def vacate(self) -> None:
        """Close the connection, if it is still here, and let another call have the place."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.disconnect()
        if (free := self._free()) is not None:
            free.put(self)

    def __del__(self) -> None:
        if (free := self._free()) is not None:
            if self.connection is not None:
                self.connection.disconnect()
            free.put(_Place(free))


def ask(connection: Any, command: Command, deadline: float, timeout: float) -> Reply:
    """Send *command* and return its reply, as bytes where it is text. Raises redis-py's errors."""
    connection.send_packed_command(connection.pack_command(*command), check_health=False)
    return _read(connection, deadline, timeout)


def ask_many(connection: Any, commands: Sequence[Command], deadline: float, timeout: float) -> list[Reply]:
    """Send *commands* at once and return their replies; error replies are among them as exceptions."""
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [_read_any(connection, deadline, timeout) for _ in commands]


def _read_any(connection: Any, deadline: float, timeout: float) -> Reply:
    try:
        return _read(connection, deadline, timeout)
    except ResponseError as error:
        return error


def _read(connection: Any, deadline: float, timeout: float) -> Reply:
    # disconnect_on_error is said because Sentinel's connections of redis-py would go on after a timeout.
    left = deadline - monotonic()
    if not _TIMED or left > timeout * _LATE:
        return connection.read_response(disable_decoding=True, disconnect_on_error=True)
    return connection.read_response(disable_decoding=True, disconnect_on_error=True, timeout=max(left, 0.001))


def _is_usable(connection: Any) -> bool:
    """Tell whether an idle connection is open and silent: the server may have closed it, or said something unasked."""
    try:
        return not connection.can_read(0)
    except (RedisError, OSError):
        return False


_POOLS: WeakSet[Pool] = WeakSet()


def _after_fork_in_child() -> None:
    for pool in list(_POOLS):
        pool.begin_anew()


os.register_at_fork(after_in_child=_after_fork_in_child)
