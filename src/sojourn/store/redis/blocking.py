"""RedisStore: sessions on Redis or Valkey for callers that may block, over redis-py.

Round trips: one a verb. Extra ones: a server that has forgotten a script (it restarted, or another took over) is sent
it with the next call; a redirection in a Cluster; connecting, which asks the Sentinels, too; the examination after the
first call. ``load_many`` and ``delete_many`` take one for each 128 keys, and in a Cluster for each node.

Every call ends within ``timeout``, waiting for a connection and connecting included. (Only what a name resolves to is
asked without a deadline of ours; and a server that sends its reply drop by drop is given as much time for each.)
What may have been executed is never sent again: a lost reply is StoreUnavailable, and the caller asks anew.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from sojourn.core.capability import Finding, Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store.redis import commands
from sojourn.store.redis.client_blocking import Client, servers_of
from sojourn.store.redis.commands import PREFIX, Command, Commands, batches, with_source
from sojourn.store.redis.examine import QUESTIONS, Link, findings
from sojourn.store.redis.failures import DRIVER_ERRORS, unavailable
from sojourn.store.redis.pool import Connector, Pool, Reply
from sojourn.store.redis.servers import Cluster, One, Sentinels, Servers, Shard
from sojourn.store.redis.settings import RedisSettings, check_prefix

_RUN_ID = re.compile(rb"run_id:([0-9a-f]+)")
AT_ONCE = 512  # keys that leave an index by one command

_log = logging.getLogger("sojourn.store")


class RedisStore:
    """Sessions under *prefix* on the servers that *client* reaches.

    *client* is an application's own ``redis.Redis`` (also one of a Sentinel), ``redis.RedisCluster`` or
    ``redis.ConnectionPool``, whose settings for connections and timeouts hold. Usually a store is made of a URL
    instead. Threads may share it; a child of a fork opens connections of its own.
    Raises ConfigurationError for a client that would wait without end or that answers from copies.
    """

    waits = True

    def __init__(self, client: Client, *, prefix: str = PREFIX) -> None:
        self._start(servers_of(client), prefix)

    @classmethod
    def from_settings(cls, settings: RedisSettings) -> RedisStore:
        """Return a store with connections of its own. It asks nothing before the first operation.

        Raises ConfigurationError for certificates that cannot be read.
        """
        store = cls.__new__(cls)
        store._start(_servers(settings), settings.prefix)
        return store

    def _start(self, servers: Servers, prefix: str) -> None:
        check_prefix(prefix, cluster=isinstance(servers, Cluster))
        self._servers, self._commands = servers, Commands(prefix)
        self._unexamined = [True]  # a list, since one thread only can take it

    def __repr__(self) -> str:
        return f"<RedisStore {self._servers.where}>"

    # -- the five verbs --------------------------------------------------------------------------------------

    def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        return commands.record(key, self._ask(self._commands.load(key), again=True))

    def create(self, key: bytes, record: Record) -> Written:
        """Store a new record."""
        return commands.created(self._ask(self._commands.create(key, record)))

    def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        return commands.written(self._ask(self._commands.update(key, record, base)))

    def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        return commands.written(self._ask(self._commands.touch(key, accessed_at, expires_at, base)))

    def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        return commands.written(self._ask(self._commands.delete(key, base)))

    # -- many ------------------------------------------------------------------------------------------------

    def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys*, None for each that is missing."""
        if isinstance(self._servers, Cluster):
            return commands.records(keys, self._each([self._commands.load(key) for key in keys]))
        asked = [self._commands.load_many(some) for some in batches(keys)]
        return commands.records(keys, [reply for one in asked for reply in self._ask(one, again=True)])

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Remove the records under *keys*; return how many there were."""
        if isinstance(self._servers, Cluster):
            return sum(self._each([self._commands.delete(key) for key in keys]))
        return sum(self._ask(self._commands.delete_many(some)) for some in batches(keys))

    def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return keys of sessions on one server; *limit* is how many Redis keys are looked at, whosever they are.

        In a Cluster the primaries take their turns. The cursor is of use to the process alone that gave it: after a
        failover or a restart its keys are gone through from the beginning.
        """
        with self._reporting():
            return self._scan(*_place(cursor), limit)

    # -- the index of a principal ----------------------------------------------------------------------------

    def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Note *key* under *tag* until then, and bury the tag's entries that were dead by *now*."""
        self._ask(self._commands.enlist(tag, key, now, until))

    def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        """Take *keys* out of what stands under *tag*."""
        for start in range(0, len(keys), AT_ONCE):
            self._ask(self._commands.delist(tag, keys[start : start + AT_ONCE]))

    def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return keys of *tag*; all of them where there are few."""
        return commands.found(*self._ask(self._commands.find(tag, cursor, limit)))

    # -- locks -----------------------------------------------------------------------------------------------

    def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Take the lock of *key* for *owner* if nobody has it, for ``until - now`` seconds by the server's clock."""
        return self._ask(self._commands.acquire(key, owner, now, until)) is not None

    def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lock of *key* back if it is still *owner*'s."""
        return bool(self._ask(self._commands.release(key, owner)))

    # -- looking at the servers --------------------------------------------------------------------------------

    def examine(self) -> list[Finding]:
        """Return what in the servers' set-up puts sessions at risk. The first call does it by itself, for the log."""
        with self._reporting():
            return self._findings()

    def close(self) -> None:
        """Close the idle connections, and those in use when their calls end. The next call opens new ones."""
        self._servers.close()

    # -- asking ------------------------------------------------------------------------------------------------

    def _ask(self, command: Command, *, again: bool = False) -> Reply:
        servers = self._servers
        deadline = monotonic() + servers.timeout
        name = command[3] if command[0] == "EVALSHA" else command[1]
        try:
            try:
                reply = servers.ask(name, command, deadline, again=again)
            except NoScriptError:  # it was not executed, so it may be sent again
                reply = servers.ask(name, with_source(command), deadline)
        except DRIVER_ERRORS as error:
            raise unavailable(servers.where, error, servers.timeout) from error
        if self._unexamined:
            self._examine_once()
        return reply

    def _each(self, asked: Sequence[Command]) -> list[Reply]:
        """Return the replies to commands whose key is their first argument."""
        with self._reporting():
            replies = self._servers.ask_many([command[1] for command in asked], asked)
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Turn the driver's errors into StoreUnavailable."""
        try:
            yield
        except DRIVER_ERRORS as error:
            raise unavailable(self._servers.where, error, self._servers.timeout) from error

    def _scan(self, first: int, server: bytes, cursor: bytes, limit: int) -> Page:
        shards = self._servers.shards()
        shard = max((shard for shard in shards if shard.first <= first), default=shards[0])
        later = [other for other in shards if other.first > shard.first]
        reply, now = self._scan_shard(shard, cursor, limit)
        if cursor != b"0" and now != server:
            reply, now = self._scan_shard(shard, b"0", limit)
        page = self._commands.page(*reply)
        if page.cursor:
            return Page(page.keys, b"%d %b %b" % (shard.first, now, page.cursor))
        return Page(page.keys, b"%d - 0" % later[0].first if later else None)

    def _scan_shard(self, shard: Shard, cursor: bytes, limit: int) -> tuple[Reply, bytes]:
        """Return what SCAN answered, and the run id of the process that did; ``-`` where it may not be asked for."""
        reply, info = self._servers.ask_shard(shard, [self._commands.scan(cursor, limit), ("INFO", "server")])
        if isinstance(reply, Exception):
            raise reply
        found = None if isinstance(info, Exception) else _RUN_ID.search(info)
        return reply, found[1] if found else b"-"

    def _findings(self) -> list[Finding]:
        found: dict[Finding, None] = {}
        for shard in self._servers.shards():
            replies = self._servers.ask_shard(shard, QUESTIONS)
            if isinstance(replies[0], Exception):
                raise replies[0]
            found |= dict.fromkeys(findings(shard.server.where, replies, self._servers.link))
        return list(found)

    def _examine_once(self) -> None:
        try:
            self._unexamined.pop()
            for finding in self._findings():
                _log.warning("%s", " ".join(finding))
        except IndexError:  # another thread does it
            return
        except DRIVER_ERRORS as error:
            _log.info("%s could not be examined: %s", self._servers.where, error)


def _place(cursor: bytes | None) -> tuple[int, bytes, bytes]:
    """Return a scan's place: a primary's first slot, the process that answered, and its cursor."""
    first, server, inner = (cursor or b"0 - 0").split(b" ")
    return int(first), server, inner


# -- from settings ---------------------------------------------------------------------------------------------


def _servers(settings: RedisSettings) -> Servers:
    connector = _connector(settings, settings.db, settings.username, settings.password)
    link = Link(settings.on_network, settings.tls, bool(settings.password), settings.mode == "cluster")
    if settings.mode == "cluster":
        return Cluster(settings.masked, settings.addresses, connector, settings.pool, link)
    if settings.mode == "sentinel":
        ask = _connector(settings, 0, settings.sentinel_username, settings.sentinel_password)
        connect = Sentinels(settings.addresses, settings.master or "", ask, connector).connect
    else:
        connect = partial(connector.connect, settings.addresses[0] if settings.addresses else None)
    return One(Pool(settings.masked, connect, settings.pool, settings.timeout), settings.timeout, link)


def _connector(settings: RedisSettings, db: int, username: str | None, password: str | None) -> Connector:
    options: dict[str, Any] = {
        "db": db,
        "username": username,
        "password": password,
        "protocol": 2,  # as fast as RESP3, and nothing comes unasked, so that any such thing shows what is wrong
        "retry": Retry(NoBackoff(), 0),
    }
    if hasattr(redis, "DriverInfo"):
        options["driver_info"] = redis.DriverInfo()  # one for all: making it reads a file and takes a millisecond
    kind: type[Any] = redis.Connection
    if settings.path:
        kind = redis.UnixDomainSocketConnection
        options["path"] = settings.path
    elif settings.tls:
        settings.tls_context()  # read once now; each connection does it again, so new files need no restart
        kind = redis.SSLConnection
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True, "ssl_ca_certs": settings.ca}
        options |= {"ssl_certfile": settings.cert, "ssl_keyfile": settings.key}
    local_only = not (settings.tls or password or settings.allow_insecure)
    return Connector(kind, options, settings.timeout, settings.connect_timeout, local_only)
