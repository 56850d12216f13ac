"""A Redis primary with two replicas, watched by three Sentinels."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.process import LOOPBACK, Server, until
from tests.servers.redis import PATIENCE, RedisServer, plain

NAME = "main"  # by which the Sentinels know the primary
QUORUM = 2
AGREE = 30.0  # seconds: a failover takes two or three, and a busy machine several times as long

# Sentinel's own timers in milliseconds (SENTINEL DEBUG, since Redis 7.0): what it looks at every second or every ten is
# looked at five times a second, and a machine that stood still does not put it to rest ("tilt") for half a minute.
# It calls a server down when a ping waits for longer than down_after, and takes a fresh connection for unanswered until
# the first ping: a period near down_after makes it fail over twice. Less than 250 spoils the choice of a successor,
# which must have been heard of within five periods, and after a failure is asked once a second.
TIMERS = {
    "ping-period": 300,
    "info-period": 200,
    "ask-period": 200,
    "publish-period": 200,
    "tilt-trigger": 20_000,
    "tilt-period": 1_000,
}


class Sentinel(Server):
    """One ``redis-server --sentinel``, which knows the others from the start as after a restart."""

    program = "redis-server"

    def __init__(self) -> None:
        super().__init__()
        self.id = secrets.token_hex(20)
        self.config = self.directory / "sentinel.conf"
        self.admin = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    def configure(self, lines: Sequence[str]) -> None:
        """Write its configuration file, which it will rewrite as the cluster changes."""
        own = [f"bind {LOOPBACK}", f"port {self.port}", f"dir {self.directory}", f"sentinel myid {self.id}"]
        self.config.write_text("\n".join([*own, *lines]) + "\n")

    def arguments(self) -> Sequence[str]:
        return [str(self.config), "--sentinel"]

    def answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def wait(self) -> None:
        super().wait()
        self.ask("debug", *(word for timer in TIMERS.items() for word in timer))

    def close(self) -> None:
        if hasattr(self, "admin"):
            self.admin.close()
        super().close()

    def ask(self, *words: object) -> Any:
        """Send ``SENTINEL`` and *words*; return the plain reply."""
        return plain(self.admin, "SENTINEL", *words)

    def rows(self, *words: object) -> list[dict[str, str]]:
        """Send ``SENTINEL`` and *words*; return a reply of several instances."""
        return [
            row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)) for row in self.ask(*words)
        ]

    def primary_port(self) -> int:
        """Return the port of the server that it holds to be the primary."""
        host, port = self.ask("get-master-addr-by-name", NAME)
        assert host == LOOPBACK
        return int(port)


class Sentinels:
    """Three Redis servers and three Sentinels, all agreed, replicas in step; *down_after* in milliseconds.

    *config* holds further lines for the Redis servers, such as ``min-replicas-to-write 1``.
    """

    name = NAME

    def __init__(
        self,
        *,
        down_after: int = 1000,
        failover_timeout: int = 3000,
        appendonly: bool = False,
        config: Sequence[str] = (),
    ) -> None:
        self._stack = ExitStack()
        self._lines = [
            f"sentinel down-after-milliseconds {NAME} {down_after}",
            f"sentinel failover-timeout {NAME} {failover_timeout}",
            f"sentinel parallel-syncs {NAME} 2",
        ]
        self._appendonly, self._config = appendonly, config
        self.servers: list[RedisServer] = []
        self.sentinels: list[Sentinel] = []

    def __enter__(self) -> Self:
        with self._stack:
            for _ in range(3):
                self._add(RedisServer(appendonly=self._appendonly, config=[*self._following(), *self._config]))
            for _ in range(3):
                self._add(Sentinel())
            for sentinel in self.sentinels:
                sentinel.configure([*self._watching(sentinel)])
            start(self.servers)
            start(self.sentinels)
            self.settle()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _add(self, server: RedisServer | Sentinel) -> None:
        self._stack.callback(server.close)
        (self.servers if isinstance(server, RedisServer) else self.sentinels).append(server)  # type: ignore[arg-type]

    def _following(self) -> list[str]:
        return [f"replicaof {LOOPBACK} {self.servers[0].port}"] if self.servers else []

    def _watching(self, sentinel: Sentinel) -> Iterator[str]:
        """Yield what a Sentinel writes about the others when it has met them; to be told saves seconds of gossip."""
        first, *replicas = self.servers
        yield f"sentinel monitor {NAME} {LOOPBACK} {first.port} {QUORUM}"
        yield from self._lines
        for replica in replicas:
            yield f"sentinel known-replica {NAME} {LOOPBACK} {replica.port}"
        for other in self.sentinels:
            if other is not sentinel:
                yield f"sentinel known-sentinel {NAME} {LOOPBACK} {other.port} {other.id}"

    # -- reaching it

    @property
    def url(self) -> str:
        """``redis+sentinel://host:port,host:port,host:port/name``."""
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{NAME}"

    def primary(self) -> RedisServer:
        """Return the server that most Sentinels hold to be the primary. Raises RuntimeError when no two agree."""
        ports = [port for sentinel in self.sentinels if (port := believed(sentinel))]
        for server in self.servers:
            if ports.count(server.port) >= QUORUM:
                return server
        raise RuntimeError(f"the Sentinels do not agree on a primary: {ports}")

    def replicas(self) -> list[RedisServer]:
        """Return the other servers, dead ones included."""
        primary = self.primary()
        return [server for server in self.servers if server is not primary]

    def fail_over(self) -> RedisServer:
        """Kill the primary, wait until another one has taken over, and return that."""
        old = self.primary()
        old.kill()
        return self.successor(old)

    def successor(self, old: RedisServer) -> RedisServer:
        """Wait until a server other than *old* is the primary for every Sentinel that runs, and for itself."""
        until(lambda: self._succeeded(old), "a replica has taken over", AGREE)
        return self.primary()

    def _succeeded(self, old: RedisServer) -> bool:
        ports = {believed(sentinel) for sentinel in self.sentinels if sentinel.running}
        if len(ports) != 1 or ports <= {old.port, None}:
            return False
        return role(self.primary()) == "master" and all(row["flags"] == "master" for row in self._watched())

    def _watched(self) -> Iterator[dict[str, str]]:
        """Yield how each Sentinel that runs sees the primary; its flags tell of doubts and of a failover under way."""
        for sentinel in self.sentinels:
            if sentinel.running:
                yield from sentinel.rows("masters")

    def fresh(self) -> None:
        """Make all run and agree, hold nothing and count from zero, whatever the last test did to them."""
        for server in (*self.servers, *self.sentinels):
            server.revive()
        self.settle()
        self.primary().fresh()
        self.settle()
        for server in self.servers:
            server.reset()

    def settle(self) -> None:
        """Wait until all agree, both replicas are in step, and a failover could begin. Raises TimeoutError."""
        until(self._settled, "Sentinels and servers agree", AGREE)

    def _settled(self) -> bool:
        with suppress(redis.RedisError, RuntimeError):
            primary = self.primary()
            return all(self._sees_all(sentinel, primary) for sentinel in self.sentinels) and in_step(
                primary, [server for server in self.servers if server is not primary]
            )
        return False

    def _sees_all(self, sentinel: Sentinel, primary: RedisServer) -> bool:
        replicas, others = sentinel.rows("replicas", NAME), sentinel.rows("sentinels", NAME)
        (watched,) = sentinel.rows("masters")
        expected = {server.port for server in self.servers} - {primary.port}
        return (
            sentinel.primary_port() == primary.port
            and watched["flags"] == "master"
            and {int(row["port"]) for row in replicas if row["flags"] == "slave"} == expected
            and all(row["master-port"] == str(primary.port) for row in replicas)
            and all(row["master-link-status"] == "ok" for row in replicas)
            and [row["flags"] for row in others] == ["sentinel"] * 2
            and str(sentinel.ask("ckquorum", NAME)).startswith("OK")
        )


def start(servers: Sequence[Server]) -> None:
    """Start *servers* side by side and wait until each answers."""
    for server in servers:
        server.launch()
    for server in servers:
        server.wait()


def role(server: RedisServer) -> str | None:
    """Return ``master`` or ``slave``; None when it does not answer."""
    try:
        return str(server.admin.info("replication")["role"])
    except redis.RedisError:
        return None


def believed(sentinel: Sentinel) -> int | None:
    """Return the port that *sentinel* holds to be the primary's; None when it does not answer."""
    try:
        return sentinel.primary_port() if sentinel.running else None
    except redis.RedisError:
        return None


def in_step(primary: RedisServer, replicas: Sequence[RedisServer]) -> bool:
    """Tell whether *primary* is one, and each of *replicas* follows it with its link up and nothing outstanding."""
    state = primary.admin.info("replication")
    offset = state["master_repl_offset"]
    return state["role"] == "master" and all(follows(replica, primary.port, offset) for replica in replicas)


def follows(replica: RedisServer, port: int, offset: int) -> bool:
    """Tell whether *replica* has all that the primary on *port* had written up to *offset*."""
    state = replica.admin.info("replication")
    linked = (state["role"], state.get("master_port"), state.get("master_link_status")) == ("slave", port, "up")
    return linked and int(state["slave_repl_offset"]) >= offset
