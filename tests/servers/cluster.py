"""A Redis Cluster on this machine: three primaries, a replica each, all slots served."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

import redis
from tests.servers.process import LOOPBACK, HeldPort, until
from tests.servers.redis import RedisServer, plain
from tests.servers.sentinel import in_step, start
from tests.servers.skips import require

SLOTS = 16384  # Redis Cluster specification, "Key distribution model"
PRIMARIES = 3
AGREE = 30.0  # seconds: an election takes two or three, and a busy machine several times as long


class ClusterNode(RedisServer):
    """One node. Its bus has a held port of its own, since the usual one, port + 10000, may be taken or not exist."""

    def __init__(self, node_timeout: int, *, appendonly: bool = False, config: Sequence[str] = ()) -> None:
        require(self.program)  # skips before anything is held
        self._bus = HeldPort()
        self.bus = self._bus.number
        lines = ["cluster-enabled yes", f"cluster-port {self.bus}", f"cluster-node-timeout {node_timeout}"]
        super().__init__(appendonly=appendonly, config=[*lines, "cluster-replica-validity-factor 0", *config])

    def close(self) -> None:
        super().close()
        self._bus.close()

    def lose(self) -> None:
        """Remove the data and keep ``nodes.conf``: without it the node would come back as a stranger."""
        nodes = self.data / "nodes.conf"
        kept = nodes.read_bytes()
        super().lose()
        nodes.write_bytes(kept)

    def ask(self, *words: object) -> Any:
        """Send ``CLUSTER`` and *words*; return the plain reply."""
        return plain(self.admin, "CLUSTER", *words)

    def id(self) -> str:
        """Return its name in the cluster."""
        return str(self.ask("MYID"))

    def state(self) -> dict[str, str]:
        """Return what ``CLUSTER INFO`` says."""
        return dict(line.split(":", 1) for line in str(self.ask("INFO")).split())

    def view(self) -> dict[int, list[str]]:
        """Return its view of each node, by port: the fields of ``CLUSTER NODES`` (id, address, flags, primary …)."""
        rows = (line.split() for line in str(self.ask("NODES")).splitlines())
        return {int(row[1].split("@")[0].rsplit(":", 1)[1]): row for row in rows}


class RedisCluster:
    """Six nodes; *node_timeout* in milliseconds is how long one may be silent until the others fail it over."""

    def __init__(self, *, node_timeout: int = 1500, appendonly: bool = False, config: Sequence[str] = ()) -> None:
        self._stack = ExitStack()
        self._node_timeout, self._appendonly, self._config = node_timeout, appendonly, config
        self.nodes: list[ClusterNode] = []

    def __enter__(self) -> Self:
        with self._stack:
            for _ in range(2 * PRIMARIES):
                node = ClusterNode(self._node_timeout, appendonly=self._appendonly, config=self._config)
                self._stack.callback(node.close)
                self.nodes.append(node)
            start(self.nodes)
            self._form()
            self.settle()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _form(self) -> None:
        """Give out the slots, let all meet all (gossip alone would take a second more), and assign the replicas."""
        primaries, replicas = self.nodes[:PRIMARIES], self.nodes[PRIMARIES:]
        for index, node in enumerate(primaries):
            first, last = SLOTS * index // PRIMARIES, SLOTS * (index + 1) // PRIMARIES - 1
            node.ask("ADDSLOTSRANGE", first, last)
        for epoch, node in enumerate(self.nodes, 1):
            node.ask("SET-CONFIG-EPOCH", epoch)
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    node.ask("MEET", LOOPBACK, other.port, other.bus)
        ids = {node.port: node.id() for node in self.nodes}
        until(lambda: all(knows(node, ids) for node in self.nodes), "all nodes have met", AGREE)
        for primary, replica in zip(primaries, replicas, strict=True):
            replica.ask("REPLICATE", ids[primary.port])

    # -- reaching it

    @property
    def url(self) -> str:
        """``redis+cluster://host:port,…`` with all six."""
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def __iter__(self) -> Iterator[ClusterNode]:
        return iter(self.nodes)

    def primaries(self) -> list[ClusterNode]:
        """Return the nodes that serve slots at this moment."""
        view = self._witness().view()
        return [node for node in self.nodes if len(view[node.port]) > 8 and "fail" not in view[node.port][2].split(",")]

    def primary_of(self, key: bytes) -> ClusterNode:
        """Return the node that serves *key* at this moment. Raises LookupError when none does."""
        witness = self._witness()
        slot = witness.ask("KEYSLOT", key)
        for first, last, (_, port, *_), *_ in witness.ask("SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"slot {slot} is served by nobody")

    def replicas_of(self, primary: ClusterNode) -> list[ClusterNode]:
        """Return the nodes that replicate *primary*, dead ones included."""
        view = self._witness().view()
        return [node for node in self.nodes if view[node.port][3] == view[primary.port][0]]

    def successor(self, old: ClusterNode, key: bytes) -> ClusterNode:
        """Wait until a node other than *old* serves *key* for every node that runs; return it."""
        until(lambda: self._succeeded(old, key), "a replica has taken over", AGREE)
        return self.primary_of(key)

    def _succeeded(self, old: ClusterNode, key: bytes) -> bool:
        alive = [node for node in self.nodes if node is not old and node.answers()]
        return all(serves(node) for node in alive) and self.primary_of(key) is not old

    def _witness(self) -> ClusterNode:
        """Return a node to ask. While a failover is under way each has a view of its own."""
        alive = [node for node in self.nodes if node.running and node.answers()]
        return next(filter(serves, alive), alive[0])

    # -- its data

    def fresh(self) -> None:
        """Make all run and agree, hold nothing and count from zero, whatever the last test did to them."""
        for node in self.nodes:
            node.revive()
        self.settle()
        for primary in self.primaries():
            primary.fresh()
        self.settle()
        for node in self.nodes:
            node.reset()

    def dump(self) -> dict[bytes, bytes]:
        """Return all keys of all primaries with what is at rest under them."""
        return {key: value for node in self.primaries() for key, value in node.dump().items()}

    def commands(self) -> dict[str, int]:
        """Return how often each command ran since the last reset on all nodes together, the nodes' own included."""
        return dict(sum((Counter(node.commands()) for node in self.nodes), Counter()))

    def settle(self) -> None:
        """Wait until every node serves all slots, sees all others, and each primary's replica is in step."""
        until(self._settled, "the cluster serves all slots", AGREE)

    def _settled(self) -> bool:
        with suppress(redis.RedisError, IndexError):
            ids = {node.port: node.id() for node in self.nodes}
            primaries = self.primaries()
            return (
                all(knows(node, ids) and serves(node) for node in self.nodes)
                and len(primaries) == PRIMARIES
                and all(agrees(node, primaries) for node in self.nodes)
                and all(self._followed(primary) for primary in primaries)
            )
        return False

    def _followed(self, primary: ClusterNode) -> bool:
        replicas = self.replicas_of(primary)
        return len(replicas) == 1 and in_step(primary, replicas)


def knows(node: ClusterNode, ids: dict[int, str]) -> bool:
    """Tell whether *node* is linked to all nodes of *ids*, and suspects none."""
    view = node.view()
    return {port: row[0] for port, row in view.items()} == ids and all(
        row[7] == "connected" and not {"fail", "fail?", "handshake"} & set(row[2].split(",")) for row in view.values()
    )


def serves(node: ClusterNode) -> bool:
    """Tell whether all slots are served, as *node* sees it."""
    state = node.state()
    return state["cluster_state"] == "ok" and state["cluster_slots_ok"] == str(SLOTS)


def agrees(node: ClusterNode, primaries: Sequence[ClusterNode]) -> bool:
    """Tell whether *node* sees *primaries* as primaries, and all others as replicas of them."""
    view = node.view()
    own = {port for port, row in view.items() if "master" in row[2].split(",")}
    names = {view[primary.port][0] for primary in primaries}
    return own == {primary.port for primary in primaries} and all(
        row[3] in names for port, row in view.items() if port not in own
    )
