"""A private Redis server, and what a test asks it behind the back of the store under test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.servers.certificates import issue
from tests.servers.process import LOOPBACK, Server

PATIENCE = 2.0  # seconds that the tests' own connection waits for a reply
OURS = frozenset({"config|resetstat", "info"})  # what counting itself adds to the counts


class RedisServer(Server):
    """One ``redis-server``, which keeps nothing on disk unless told otherwise.

    *maxmemory* is a Redis size ("2mb"), *policy* its ``maxmemory-policy``; *tls* replaces the plain port by a TLS one
    with a throwaway authority (`authority` is its file); *unix* adds a socket (`socket_path`); *config* holds further
    lines of redis.conf.
    """

    program = "redis-server"

    def __init__(
        self,
        *,
        appendonly: bool = False,
        maxmemory: str | None = None,
        policy: str = "noeviction",
        password: str | None = None,
        tls: bool = False,
        unix: bool = False,
        config: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.appendonly, self.password, self.tls = appendonly, password, tls
        self.data = self.directory / "data"
        self.data.mkdir()
        self.socket_path = self.directory / "redis.sock" if unix else None
        self.authority: Path | None = None
        lines = [f"maxmemory {maxmemory}", f"maxmemory-policy {policy}"] if maxmemory else []
        self._write([*self._listening(), *self._keeping(), *lines, *config])
        self.admin: redis.Redis = self.client(protocol=2)

    def _listening(self) -> Iterator[str]:
        yield f"bind {LOOPBACK}"
        yield "daemonize no"
        yield "loglevel warning"
        if self.tls:
            files = issue(self.directory)
            self.authority = files.authority
            yield f"port 0\ntls-port {self.port}\ntls-auth-clients no"
            yield f"tls-ca-cert-file {files.authority}\ntls-cert-file {files.certificate}\ntls-key-file {files.key}"
        else:
            yield f"port {self.port}"
        if self.socket_path:
            yield f"unixsocket {self.socket_path}"
        if self.password:
            yield f'requirepass "{self.password}"\nmasterauth "{self.password}"'

    def _keeping(self) -> Iterator[str]:
        yield f"dir {self.data}"
        yield 'save ""'
        yield f"appendonly {'yes' if self.appendonly else 'no'}"
        yield "rdbcompression no"  # else a test that searches a dump for a secret finds nothing
        yield "repl-diskless-sync-delay 0"  # else a replica waits five seconds for others that might come, too

    def _write(self, lines: Sequence[str]) -> None:
        self.config = self.directory / "redis.conf"
        self.config.write_text("\n".join(lines) + "\n")

    # -- the process

    def arguments(self) -> Sequence[str]:
        return [str(self.config)]

    def answers(self) -> bool:
        try:
            return bool(self.admin.ping())
        except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
            return False

    def keep(self) -> None:
        """Write a snapshot, unless the append-only file has it all. Raises ValueError when there is nothing to keep."""
        if self.appendonly:
            return  # written before each reply; the end of the process loses nothing of it
        if not self.running:
            raise ValueError("a stopped server without an append-only file has nothing left to keep")
        self.admin.save()

    def lose(self) -> None:
        for file in sorted(self.data.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()

    def close(self) -> None:
        if hasattr(self, "admin"):
            self.admin.close()
        super().close()

    # -- reaching it

    @property
    def url(self) -> str:
        """``redis://`` or ``rediss://``, with the password if there is one."""
        return f"{'rediss' if self.tls else 'redis'}://{self._secret()}{self.address}/0"

    @property
    def unix_url(self) -> str:
        """``unix://`` and the path of the socket."""
        return f"unix://{self._secret()}{self.socket_path}"

    def _secret(self) -> str:
        return f":{quote(self.password, safe='')}@" if self.password else ""

    def client(self, **options: Any) -> redis.Redis:
        """Return a raw client, to be closed by the caller: one try, a deadline of two seconds, replies as bytes."""
        if self.tls:
            options |= {"ssl": True, "ssl_ca_certs": str(self.authority)}
        return redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self.password,
            socket_timeout=PATIENCE,
            socket_connect_timeout=PATIENCE,
            retry=Retry(NoBackoff(), 0),
            **options,
        )

    # -- its data

    def flush(self) -> None:
        """Remove all keys."""
        self.admin.flushall()

    def fresh(self) -> None:
        """Make it run, hold nothing, know no script and count from zero, whatever the last test did to it."""
        self.revive()
        self.admin.flushall()
        self.admin.script_flush()
        self.admin.config_resetstat()

    def dump(self) -> dict[bytes, bytes]:
        """Return all keys with all that is at rest under them: strings as they are, other types as DUMP has them."""
        return {key: self._raw(key) for key in self.admin.scan_iter(count=1000)}

    def _raw(self, key: bytes) -> bytes:
        value: Any = self.admin.get(key) if self.admin.type(key) == b"string" else self.admin.dump(key)
        return value or b""  # it may have ended meanwhile

    def lifetimes(self) -> dict[bytes, int]:
        """Return all keys with their remaining milliseconds; -1 where a key has no end."""
        return {key: self.admin.pttl(key) for key in self.admin.scan_iter(count=1000)}

    @contextmanager
    def configured(self, **settings: object) -> Iterator[None]:
        """Change settings of the running server (``maxmemory_policy="allkeys-lru"``) and put them back."""
        changed = {name.replace("_", "-"): str(value) for name, value in settings.items()}
        before = {name: self.admin.config_get(name)[name] or "" for name in changed}
        try:
            for name, value in changed.items():
                self.admin.config_set(name, value)
            yield
        finally:
            for name, old in before.items():
                self.admin.config_set(name, old)

    # -- what it was asked

    def commands(self) -> dict[str, int]:
        """Return how often each command ran since the last `reset`, by the server's own statistics.

        What a Lua script calls counts as well: one EVALSHA that gets and sets counts as three. To count round trips,
        take `heard`.
        """
        stats = self.admin.info("commandstats")
        counts = {name.removeprefix("cmdstat_"): int(entry["calls"]) for name, entry in stats.items()}
        return {name: count for name, count in counts.items() if name not in OURS and count}

    def reset(self) -> None:
        """Count from zero."""
        self.admin.config_resetstat()

    @contextmanager
    def heard(self) -> Iterator[Heard]:
        """Collect each command that clients send meanwhile, in order, by MONITOR; complete when the block has ended.

        What scripts call is kept apart. Redis hides AUTH and the commands of administrators from MONITOR.
        """
        heard, mark = Heard(), uuid4().hex
        with self.client() as client, client.monitor() as monitor:
            yield heard
            self.admin.echo(mark)
            for entry in monitor.listen():
                if mark in entry["command"]:
                    break
                (heard.scripted if entry["client_type"] == "lua" else heard.commands).append(entry["command"])


def plain(client: redis.Redis, *words: object) -> Any:
    """Send a command and return the reply as the server has it, bytes decoded.

    redis-py parses what CLUSTER and SENTINEL answer, and differently from version to version. Raises redis.RedisError.
    """
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        connection.send_command(*words)
        return decoded(connection.read_response())
    finally:
        pool.release(connection)


def decoded(reply: Any) -> Any:
    """Return *reply* with text for bytes, however deep."""
    if isinstance(reply, list):
        return [decoded(item) for item in reply]
    return reply.decode() if isinstance(reply, bytes) else reply


@dataclass
class Heard:
    """Commands as text: those that clients sent, and those that scripts called."""

    commands: list[str] = field(default_factory=list)
    scripted: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Return the names of the commands that clients sent, in capitals and in order."""
        return [command.split(" ", 1)[0].upper() for command in self.commands]
