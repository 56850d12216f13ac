"""AsyncRedisStore: sessions on Redis or Valkey for event loops, over one shared connection a server.

Round trips: one a verb. Extra ones: a script that the server does not know yet (it restarted, or failed over) is sent a
second time as text; a slot that moved is followed; a new connection greets; the first call of a store is followed by
the examination. ``load_many`` and ``delete_many`` take one for each 128 keys.

Event loops: the store opens a connection for each loop that uses it, and nothing is shared between them. An
``asyncio.run`` that ends closes its own; elsewhere call ``aclose``. What a fork inherits is never used.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from sojourn.core.capability import Finding, Page, Records
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.errors import StoreUnavailable
from sojourn.store.redis import commands
from sojourn.store.redis.client_loop import Client, way_of
from sojourn.store.redis.cluster import Cluster
from sojourn.store.redis.commands import PREFIX, Command, Commands, batches
from sojourn.store.redis.examine import QUESTIONS, Link, findings
from sojourn.store.redis.settings import TIMEOUT, RedisSettings, check_prefix
from sojourn.store.redis.topology import Shard, Terms, Then, Way, sentinel, standalone
from sojourn.store.redis.wire import Endpoint, ErrorReply

_log = logging.getLogger("sojourn.store")


class AsyncRedisStore:
    """Sessions under *prefix* on the servers that *client* reaches; each call ends within *timeout* seconds.

    *client* is an application's own ``redis.asyncio.Redis`` (also one of a Sentinel), ``RedisCluster`` or
    ``ConnectionPool``, used by the loop that it belongs to. A store that is made of a URL is faster.
    Raises ConfigurationError for what is none of these.
    """

    waits = True

    def __init__(self, client: Client, *, prefix: str = PREFIX, timeout: float = TIMEOUT) -> None:
        self._start(*way_of(client, timeout), prefix)

    @classmethod
    def from_settings(cls, settings: RedisSettings) -> AsyncRedisStore:
        """Return a store with connections of its own. It asks nothing before the first operation.

        Raises ConfigurationError for certificates that cannot be read.
        """
        store = cls.__new__(cls)
        link = Link(settings.on_network, settings.tls, bool(settings.password), settings.mode == "cluster")
        store._start(settings.masked, _way_of(settings), link, settings.prefix)
        return store

    def _start(self, place: str, make_way: Callable[[Then], Way], link: Link, prefix: str) -> None:
        check_prefix(prefix, cluster=link.cluster)
        self._commands = Commands(prefix)
        self._place, self._make_way, self._link = place, make_way, link
        self._examined = False
        self._ways: dict[asyncio.AbstractEventLoop, Way] = {}
        self._ends: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
        self._pid = os.getpid()
        self._inherited: list[object] = []

    def __repr__(self) -> str:
        return f"<AsyncRedisStore {self._place}>"

    # -- the five verbs --------------------------------------------------------------------------------------

    async def load(self, key: bytes) -> Record | None:
        """Return the record under *key*, expired or not."""
        return commands.record(key, await self._here().ask(self._commands.load(key)))

    async def create(self, key: bytes, record: Record) -> Written:
        """Store a new record."""
        return commands.created(await self._here().ask(self._commands.create(key, record)))

    async def update(self, key: bytes, record: Record, base: int) -> Written:
        """Replace the record if it still has version *base*."""
        return commands.written(await self._here().ask(self._commands.update(key, record, base)))

    async def touch(self, key: bytes, accessed_at: float, expires_at: float, base: int) -> Written:
        """Move the record's times if it still has version *base*."""
        return commands.written(await self._here().ask(self._commands.touch(key, accessed_at, expires_at, base)))

    async def delete(self, key: bytes, base: int | None = None) -> Written:
        """Remove the record if it still has version *base*, or any when that is None."""
        return commands.written(await self._here().ask(self._commands.delete(key, base)))

    # -- many ------------------------------------------------------------------------------------------------

    async def load_many(self, keys: Sequence[bytes]) -> Records:
        """Return the records under *keys*, None for each that is missing."""
        way, replies = self._here(), []
        for some in batches(keys):
            if way.splits:
                replies += await way.ask_many([self._commands.load(key) for key in some])
            else:
                replies += await way.ask(self._commands.load_many(some))
        return commands.records(keys, replies)

    async def delete_many(self, keys: Sequence[bytes]) -> int:
        """Remove the records under *keys*; return how many there were."""
        way, removed = self._here(), 0
        for some in batches(keys):
            if way.splits:
                removed += sum(await way.ask_many([self._commands.delete(key) for key in some]))
            else:
                removed += await way.ask(self._commands.delete_many(some))
        return removed

    async def scan(self, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return some keys of all sessions. One call looks at *limit* Redis keys, whosever they are.

        In a Cluster it goes from primary to primary; keys of a slot that moves meanwhile may be missed.
        """
        way = self._here()
        shards = await way.shards()
        first, name, inner = _parse(cursor)
        shard = max((shard for shard in shards if shard.first <= first), default=shards[0], key=lambda one: one.first)
        if shard.name != name:  # another server took over; its cursors are its own
            inner = b"0"
        page = self._commands.page(*await way.ask(self._commands.scan(inner, limit), shard.server))
        if page.cursor:
            return page._replace(cursor=b"%d %b %b" % (shard.first, page.cursor, shard.name.encode()))
        follower = next((one for one in shards if one.first > shard.first), None)
        return page._replace(cursor=follower and b"%d 0 %b" % (follower.first, follower.name.encode()))

    # -- the index of a principal ----------------------------------------------------------------------------

    async def enlist(self, tag: bytes, key: bytes, now: float, until: float) -> None:
        """Note under *tag* that *key* is one of its principal's, until *until*."""
        await self._here().ask(self._commands.enlist(tag, key, now, until))

    async def delist(self, tag: bytes, keys: Sequence[bytes]) -> None:
        """Take *keys* out of the index of *tag*."""
        for some in batches(keys):
            await self._here().ask(self._commands.delist(tag, some))

    async def find(self, tag: bytes, cursor: bytes | None = None, limit: int = 256) -> Page:
        """Return some keys of *tag*."""
        return commands.found(*await self._here().ask(self._commands.find(tag, cursor, limit)))

    # -- locks -----------------------------------------------------------------------------------------------

    async def acquire(self, key: bytes, owner: bytes, now: float, until: float) -> bool:
        """Take the lock of *key* for *owner* until *until*; True when it is ours. The server's clock ends it."""
        return await self._here().ask(self._commands.acquire(key, owner, now, until)) is not None

    async def release(self, key: bytes, owner: bytes) -> bool:
        """Give the lock of *key* back if *owner* still holds it."""
        return bool(await self._here().ask(self._commands.release(key, owner)))

    # -- looking at the servers --------------------------------------------------------------------------------

    async def examine(self) -> list[Finding]:
        """Return what in the servers' set-up puts sessions at risk. The first call does it by itself, for the log."""
        found: dict[Finding, None] = {}
        way = self._here()
        for shard in await way.shards():
            replies = [await way.ask(QUESTIONS[0], shard.server)]
            replies += [await self._answer(question, shard) for question in QUESTIONS[1:]]
            found |= dict.fromkeys(findings(shard.name, replies, self._link))
        return list(found)

    async def _answer(self, question: Command, shard: Shard) -> Any:
        """Return the reply, or the refusal: managed servers let nobody read their settings."""
        try:
            return await self._here().ask(question, shard.server)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, ErrorReply | ResponseError):
                return error.__cause__
            raise

    async def _examine_once(self) -> None:
        if self._examined:
            return
        self._examined = True
        try:
            for finding in await self.examine():
                _log.warning("%s", " ".join(finding))
        except Exception as error:  # whatever it is: the call before was answered
            _log.info("%s could not be examined: %s", self._place, error)

    # -- the end ---------------------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """Close the connections of the running loop, and have other running loops close theirs."""
        if self._pid != os.getpid():
            return
        here = asyncio.get_running_loop()
        for loop, end in [*self._ends.items()]:
            if loop is here:
                await end.aclose()
            elif not loop.is_closed():
                with suppress(RuntimeError):  # it was closed in this moment
                    asyncio.run_coroutine_threadsafe(end.aclose(), loop)

    # -- one way a loop --------------------------------------------------------------------------------------

    def _here(self) -> Way:
        """Return the way to the servers from the running loop."""
        loop = asyncio.get_running_loop()
        way = self._ways.get(loop)
        return self._arrive(loop) if way is None or self._pid != os.getpid() else way

    def _arrive(self, loop: asyncio.AbstractEventLoop) -> Way:
        if self._pid != os.getpid():
            # Kept, not closed: closing would take the parent's sockets out of the epoll set that both share.
            self._inherited.append((self._ways, self._ends))
            self._ways, self._ends, self._pid = {}, {}, os.getpid()
        for other in [other for other in [*self._ways] if other.is_closed()]:
            self._ways.pop(other, None)
            self._ends.pop(other, None)
        way = self._ways[loop] = self._make_way(self._examine_once)
        self._ends[loop] = end = self._until_the_loop_ends(loop, way)
        with suppress(StopIteration):
            end.asend(None).send(None)  # begins it: from here on the loop knows it, and ends it before it closes
        return way

    async def _until_the_loop_ends(self, loop: asyncio.AbstractEventLoop, way: Way) -> AsyncGenerator[None, None]:
        """Close the connections when ``asyncio.run`` ends its generators, or ``aclose`` ends this one."""
        try:
            yield
        finally:
            self._ways.pop(loop, None)
            self._ends.pop(loop, None)
            await way.close()


def _way_of(settings: RedisSettings) -> Callable[[Then], Way]:
    """Return what makes the way that *settings* describe, for each event loop anew."""
    tls = settings.tls_context()
    local_only = not (settings.tls or settings.password or settings.allow_insecure)
    terms = Terms(settings.masked, settings.timeout, settings.connect_timeout, _greeting(settings), local_only)
    if settings.path:
        endpoint = Endpoint("localhost", 0, settings.path)
        return lambda then: standalone(terms, endpoint, then)
    endpoints = [Endpoint(host, port, tls=tls) for host, port in settings.addresses]
    if settings.mode == "cluster":
        return lambda then: Cluster(terms, endpoints, then)
    if settings.mode == "sentinel":
        greeting = _auth(settings.sentinel_username, settings.sentinel_password)
        return lambda then: sentinel(terms, endpoints, greeting, settings.master or "", then)
    return lambda then: standalone(terms, endpoints[0], then)


def _greeting(settings: RedisSettings) -> list[Command]:
    select: list[Command] = [("SELECT", settings.db)] if settings.db else []
    return [*_auth(settings.username, settings.password), *select, ("CLIENT", "SETNAME", "sojourn")]


def _auth(username: str | None, password: str | None) -> list[Command]:
    if not password:
        return []
    return [("AUTH", username, password) if username else ("AUTH", password)]


def _parse(cursor: bytes | None) -> tuple[int, str, bytes]:
    """Return the first slot of the primary being gone through, its name, and the cursor there."""
    if cursor is None:
        return 0, "", b"0"
    first, inner, name = cursor.split(b" ", 2)
    return int(first), name.decode(), inner
