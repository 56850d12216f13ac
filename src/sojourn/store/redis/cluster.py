"""Where a command goes in a Redis Cluster: to the node that serves the slot of its key. For event loops.

Source: Redis Cluster specification, "MOVED Redirection", "ASK redirection" and "Client's first connection and handling
of redirections". The map of slots is asked for when a call needs it and it is not known, or cannot be right any more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from typing import Any

from redis.crc import key_slot

from sojourn.store.multiplex import Lost
from sojourn.store.redis.commands import Command
from sojourn.store.redis.topology import Server, Shard, Terms, Then, Way, in_order, reach, result_of
from sojourn.store.redis.wire import Endpoint, ErrorReply

ASKED = 4  # nodes asked at once for the map, so that a hung one costs nothing
SLOTS = 16384  # Redis Cluster specification, "Key distribution model"


class Cluster(Way):
    """A Redis Cluster: each key belongs to a slot, each slot to a primary."""

    splits = True

    def __init__(self, terms: Terms, seeds: Sequence[Endpoint], then: Then) -> None:
        super().__init__(terms, then)
        self._seeds = seeds
        self._nodes: dict[Endpoint, Server] = {}
        self._slots: list[Server | None] = [None] * SLOTS
        self._learning: asyncio.Task[Exception | None] | None = None
        self._outdated = True

    def serving(self, command: Command) -> Server | None:
        """Return the node for the command's key; None where the map must be asked for first."""
        server = self._slots[_slot(command)]
        return None if server is None or server.lost or self._outdated else server

    async def find(self, command: Command) -> Server:
        """Return the node for the command's key by a new map."""
        await self._learn()
        if server := self._slots[_slot(command)]:
            return server
        raise Lost from ErrorReply("CLUSTERDOWN no node serves the slot")

    async def _shards(self) -> Sequence[Shard]:
        if self._outdated:
            await self._learn()
        first = {server: slot for slot, server in reversed([*enumerate(self._slots)]) if server}
        if not first:
            raise Lost from ErrorReply("CLUSTERDOWN no node serves any slot")
        return sorted(Shard(slot, str(server.at), server) for server, slot in first.items())

    def servers(self) -> Iterator[Server]:
        """Return all nodes."""
        yield from self._nodes.values()

    def redirect(self, error: ErrorReply, server: Server) -> Server:
        """Return the node that MOVED or ASK names, and note which slot has moved."""
        word, slot, address = str(error).split(" ")[:3]
        host, _, port = address.rpartition(":")
        node = self._node(server, host, int(port))
        if word == "MOVED":
            self._slots[int(slot)] = node
        return node

    def refused(self, error: ErrorReply, server: Server) -> None:
        """Ask for a new map when this one cannot be right."""
        self._outdated = self._outdated or error.word in ("CLUSTERDOWN", "READONLY", "MASTERDOWN")

    async def close(self) -> None:
        """Close all connections."""
        if task := self._learning:
            task.cancel()
            await asyncio.wait({task})
        await super().close()

    async def _learn(self) -> None:
        """Ask for the map of slots. All who need it wait for the same answer."""
        if self._learning is None:
            self._learning = asyncio.create_task(self._ask_for_map())
        if error := await result_of(self._learning):
            raise Lost from error

    async def _ask_for_map(self) -> Exception | None:
        trouble: Exception | None = ConnectionError("no node answered")
        for seed in self._seeds:
            self._nodes.setdefault(seed, self._server(seed))
        nodes = [*self._nodes.values()]
        questions = [self._map_of(node) for node in random.sample(nodes, min(ASKED, len(nodes)))]
        try:
            async with asyncio.timeout(self._terms.connect_timeout), aclosing(in_order(questions)) as answers:
                async for answer in answers:
                    if not isinstance(answer, Exception):
                        self._adopt(*answer)
                        return None
                    trouble = answer
        except TimeoutError:
            trouble = TimeoutError("no map of the slots came in time")
        finally:
            self._learning = None
        return trouble

    async def _map_of(self, node: Server) -> tuple[Server, list[Any]]:
        reply = await (await node.connected()).call(("CLUSTER", "SLOTS"))
        if isinstance(reply, Exception):
            raise reply
        return node, reply

    def _adopt(self, told_by: Server, rows: list[Any]) -> None:
        slots: list[Server | None] = [None] * SLOTS
        for first, last, primary, *_ in rows:
            node = self._node(told_by, (primary[0] or b"").decode(), primary[1])
            slots[first : last + 1] = [node] * (last + 1 - first)
        self._slots, self._outdated = slots, False
        serving = set(slots)
        for at, node in [*self._nodes.items()]:
            if node not in serving and at not in self._seeds and node.leave():
                del self._nodes[at]

    def _node(self, told_by: Server, host: str, port: int) -> Server:
        """Return the node at *host*, which is empty or a question mark where it means the one that said so."""
        assert told_by.at
        at = told_by.at._replace(host=told_by.at.host if host in ("", "?") else host, port=port)
        return self._nodes.setdefault(at, self._server(at))

    def _server(self, at: Endpoint) -> Server:
        terms = self._terms
        return Server(lambda: reach(at, terms), terms.connect_timeout, at)


def _slot(command: Command) -> int:
    return key_slot(command[3] if command[0] in ("EVALSHA", "EVAL") else command[1])
