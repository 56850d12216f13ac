"""Which server holds a key: one server, the primary that Sentinels name, or a node of a Cluster. Blocking.

Reads go to the primary, always: a replica may not know yet that a session was ended. Redirections and look-ups happen
within the deadline of the call that needs them, and no thread does them in advance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple, Protocol

from redis import SSLConnection, exceptions
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from sojourn.store.redis.commands import BATCH, Command
from sojourn.store.redis.examine import Link
from sojourn.store.redis.failures import Busy, code_of
from sojourn.store.redis.pool import Connector, Lender, Pool, Reply, ask
from sojourn.store.redis.settings import Address

HOPS = 5  # redirections that one call follows

Lost = (exceptions.ConnectionError, exceptions.TimeoutError)


class Shard(NamedTuple):
    """A primary: all keys from slot *first* on that no later shard has are its."""

    first: int
    server: Lender


class Servers(Protocol):
    """Where keys lie."""

    where: str
    """All of it, in words that show no secret."""
    timeout: float
    """Seconds within which a call ends."""
    link: Link

    def ask(self, name: bytes, command: Command, deadline: float, *, again: bool = False) -> Reply:
        """Return the reply to *command*, which is about the key *name*. Raises error replies and redis-py's errors.

        For *deadline* and *again* see `Lender.ask`.
        """

    def ask_many(self, names: Sequence[bytes], commands: Sequence[Command]) -> list[Reply]:
        """Return the replies to *commands*, each about the key of *names* in its place; error replies among them.

        Each packet of them has the timeout for itself.
        """

    def ask_shard(self, shard: Shard, commands: Sequence[Command]) -> list[Reply]:
        """Return the replies of one server, error replies among them."""

    def shards(self) -> list[Shard]:
        """Return the primaries by their first slot."""

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""


class One:
    """One primary: a server, or whichever the Sentinels name."""

    def __init__(self, server: Lender, timeout: float, link: Link) -> None:
        self.where, self.timeout, self.link = server.where, timeout, link
        self._server = server

    def ask(self, name: bytes, command: Command, deadline: float, *, again: bool = False) -> Reply:
        """Return the reply to *command*."""
        try:
            return self._server.ask(command, deadline, again=again)
        except (exceptions.ReadOnlyError, *Lost) as error:
            self._leave(error)
            raise

    def _leave(self, error: Exception) -> None:
        """Use no connection to a server that is the primary no more, or does not answer: who connects anew finds out.

        Else each idle connection would cost a call its timeout, long after another server has taken over.
        """
        if not isinstance(error, Busy):
            self._server.renew()

    def ask_many(self, names: Sequence[bytes], commands: Sequence[Command]) -> list[Reply]:
        """Return the replies to *commands*, in packets."""
        replies: list[Reply] = []
        try:
            for start in range(0, len(commands), BATCH):
                replies += self._server.ask_many(commands[start : start + BATCH], monotonic() + self.timeout)
        except Lost as error:
            self._leave(error)
            raise
        if any(isinstance(reply, exceptions.ReadOnlyError) for reply in replies):
            self._server.renew()
        return replies

    def ask_shard(self, shard: Shard, commands: Sequence[Command]) -> list[Reply]:
        """Return the replies of the one server."""
        return shard.server.ask_many(commands, monotonic() + self.timeout)

    def shards(self) -> list[Shard]:
        """Return the one server."""
        return [Shard(0, self._server)]

    def close(self) -> None:
        """Close the connections."""
        self._server.renew()


class Sentinels:
    """Who is the primary, by those who watch it. Each connection asks anew, and then the server itself."""

    def __init__(self, addresses: Sequence[Address], master: str, connector: Connector, primary: Connector) -> None:
        self._addresses, self._master = list(addresses), master
        self._connector, self._primary = connector, primary

    def connect(self, deadline: float) -> Any:
        """Return a connection to the primary. Raises redis-py's errors."""
        address = self._find(deadline)
        connection = self._primary.connect(address, deadline)
        try:
            if (role := _role(connection, deadline, self._primary.timeout)) != b"master":
                said = bytes(role).decode(errors="replace")
                raise exceptions.ConnectionError(f"{address} is no primary any more, or not yet; it is a {said}")
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def _find(self, deadline: float) -> Address:
        errors = []
        for number, sentinel in enumerate(list(self._addresses)):
            share = (deadline - monotonic()) / (len(self._addresses) - number)  # so that one that hangs leaves time
            try:
                return self._asked(sentinel, share)
            except exceptions.RedisError as error:
                errors.append(f"{sentinel}: {error}")
                self._put_last(sentinel)
        raise exceptions.ConnectionError(f"no Sentinel names a primary {self._master!r} ({'; '.join(errors)})")

    def _asked(self, sentinel: Address, share: float) -> Address:
        deadline = monotonic() + share
        connection = replace(self._connector, timeout=max(share, 0.001)).connect(sentinel, deadline)
        try:
            reply = ask(connection, ("SENTINEL", "get-master-addr-by-name", self._master), deadline, share)
        finally:
            connection.disconnect()
        if not reply:
            raise exceptions.ConnectionError("it does not know that name")
        return Address(reply[0].decode(), int(reply[1]))

    def _put_last(self, sentinel: Address) -> None:
        self._addresses = [*(other for other in self._addresses if other != sentinel), sentinel]


def _role(connection: Any, deadline: float, timeout: float) -> bytes:
    try:
        role: bytes = ask(connection, ("ROLE",), deadline, timeout)[0]
    except exceptions.NoPermissionError:
        return b"master"  # this user may not ask; a replica would refuse to write
    return role


class Node(Pool):
    """A node of a Cluster."""

    def __init__(self, address: Address, connector: Connector, size: int) -> None:
        tls = "rediss" if issubclass(connector.kind, SSLConnection) else "redis"
        super().__init__(f"{tls}://{address}", partial(connector.connect, address), size, connector.timeout)
        self.address = address


class Cluster:
    """The nodes of a Cluster and what each holds, learnt from the nodes themselves.

    The map is asked for at the first call; after a redirection; and by calls for keys of a node that did not answer
    the last time.
    """

    def __init__(self, where: str, addresses: Sequence[Address], connector: Connector, size: int, link: Link) -> None:
        self.where, self.timeout, self.link = where, connector.timeout, link
        self._connector, self._size = connector, size
        self._start, self._known = tuple(addresses), tuple(addresses)
        self._pools: dict[Address, Node] = {}
        self._owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._lost: set[Address] = set()
        self._outdated, self._epoch, self._lock = True, 0, Lock()

    def ask(self, name: bytes, command: Command, deadline: float, *, again: bool = False) -> Reply:
        """Return the reply to *command* of whoever holds the key *name* now."""
        slot = key_slot(name)
        pool = self._owner(slot, deadline)
        asking = False
        for _ in range(HOPS):
            try:
                return self._ask(pool, command, deadline, again, asking)
            except exceptions.ResponseError as error:
                asking = code_of(error) == "ASK"
                pool = self._redirected(pool, slot, error)
            except Lost:
                self._lost.add(pool.address)
                raise
        raise exceptions.ClusterDownError("its nodes send this call from one to another")

    def ask_many(self, names: Sequence[bytes], commands: Sequence[Command]) -> list[Reply]:
        """Return the replies to *commands*: one packet to each node, then what was redirected one by one."""
        replies: list[Reply] = [None] * len(commands)
        for pool, places in self._places(names).items():
            for start in range(0, len(places), BATCH):
                batch = places[start : start + BATCH]
                for place, reply in zip(batch, self._batch(pool, [commands[place] for place in batch]), strict=True):
                    redirected = isinstance(reply, Exception) and code_of(reply) in ("MOVED", "ASK", "TRYAGAIN")
                    replies[place] = self._once_more(names[place], commands[place]) if redirected else reply
        return replies

    def ask_shard(self, shard: Shard, commands: Sequence[Command]) -> list[Reply]:
        """Return the replies of one primary."""
        assert isinstance(shard.server, Node)
        return self._batch(shard.server, commands)

    def shards(self) -> list[Shard]:
        """Return the primaries by their first slot. Raises redis-py's errors when no node tells."""
        self._owner(0, monotonic() + self.timeout)
        firsts: dict[Node, int] = {}
        for slot, pool in enumerate(self._owners):
            if pool is not None:
                firsts.setdefault(pool, slot)
        return [Shard(first, pool) for pool, first in firsts.items()]

    def close(self) -> None:
        """Close the connections."""
        for pool in list(self._pools.values()):
            pool.renew()

    # -- who holds what

    def _owner(self, slot: int, deadline: float) -> Node:
        pool = self._owners[slot]
        if self._outdated or pool is None or pool.address in self._lost:
            self._look_around(deadline, must=pool is None, wait=pool is None or pool.address in self._lost)
            pool = self._owners[slot]
        if pool is None:
            raise exceptions.ClusterDownError(f"no node holds slot {slot}")
        return pool

    def _ask(self, pool: Node, command: Command, deadline: float, again: bool, asking: bool) -> Reply:
        if not asking:
            return pool.ask(command, deadline, again=again)
        reply = pool.ask_many([("ASKING",), command], deadline)[1]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _batch(self, pool: Node, commands: Sequence[Command]) -> list[Reply]:
        try:
            return pool.ask_many(commands, monotonic() + self.timeout)
        except Lost:
            self._lost.add(pool.address)
            raise

    def _once_more(self, name: bytes, command: Command) -> Reply:
        try:
            return self.ask(name, command, monotonic() + self.timeout)
        except exceptions.ResponseError as error:
            return error

    def _places(self, names: Sequence[bytes]) -> dict[Node, list[int]]:
        deadline = monotonic() + self.timeout
        places: dict[Node, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(self._owner(key_slot(name), deadline), []).append(place)
        return places

    def _redirected(self, pool: Node, slot: int, error: exceptions.ResponseError) -> Node:
        """Return whom a MOVED or an ASK names; raise any other error reply again."""
        code = code_of(error)
        if code not in ("MOVED", "ASK"):
            raise error
        host, _, port = str(error).rpartition(" ")[2].rpartition(":")
        target = self._pool(Address(host.strip("[]") or pool.address.host, int(port)))
        if code == "MOVED":
            self._owners[slot], self._outdated = target, True
        return target

    # -- the map

    def _look_around(self, deadline: float, *, must: bool, wait: bool) -> None:
        """Learn the map anew, or *wait* for a thread that does.

        Where no node tells, the old one serves on, unless it *must* be had.
        """
        epoch = self._epoch
        if not self._lock.acquire(timeout=max(0.0, deadline - monotonic()) if wait else 0):
            if wait:
                raise exceptions.TimeoutError("no time left to wait for the map of the Cluster")
            return
        try:
            if epoch == self._epoch:  # else another thread has just done it
                self._learn(*self._asked(deadline))
        except exceptions.RedisError:
            if must:
                raise
        finally:
            self._lock.release()

    def _asked(self, deadline: float) -> tuple[Address, list[Any]]:
        """Return a node's CLUSTER SLOTS, and which node that was."""
        known = sorted({*self._known, *self._start}, key=lambda address: (address in self._lost, random.random()))  # noqa: S311
        errors = []
        for number, address in enumerate(known):
            share = (deadline - monotonic()) / min(3, len(known) - number)  # one that hangs leaves time for others
            try:
                return address, self._slots_of(address, share)
            except exceptions.RedisError as error:
                errors.append(f"{address}: {error}")
        raise exceptions.ConnectionError(f"no node tells who holds what ({'; '.join(errors)})")

    def _slots_of(self, address: Address, share: float) -> list[Any]:
        deadline = monotonic() + share
        connection = replace(self._connector, timeout=max(share, 0.001)).connect(address, deadline)
        try:
            slots: list[Any] = ask(connection, ("CLUSTER", "SLOTS"), deadline, share)
        finally:
            connection.disconnect()
        if not slots:
            raise exceptions.ClusterDownError("it knows of no slots")
        return slots

    def _learn(self, teller: Address, slots: list[Any]) -> None:
        owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        nodes = {}
        for first, last, *holders in slots:
            addresses = [_address(holder, teller) for holder in holders]
            nodes.update(dict.fromkeys(addresses))
            owners[first : last + 1] = [self._pool(addresses[0])] * (last + 1 - first)
        self._owners, self._known = owners, tuple(nodes)
        self._lost, self._outdated, self._epoch = set(), False, self._epoch + 1
        for address in self._pools.keys() - nodes.keys():
            self._pools.pop(address).renew()

    def _pool(self, address: Address) -> Node:
        if (pool := self._pools.get(address)) is None:
            pool = self._pools.setdefault(address, Node(address, self._connector, self._size))
        return pool


def _address(holder: Sequence[Any], teller: Address) -> Address:
    """Return a node's address out of CLUSTER SLOTS, where a node may leave its own host out."""
    host = (holder[0] or b"").decode()
    return Address(teller.host if host in ("", "?") else host, int(holder[1]))
