"""Private memcached servers, and what a test asks them behind the back of the store under test."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import BinaryIO, Self
from urllib.parse import unquote_to_bytes

from tests.servers.process import LOOPBACK, Server, until

PATIENCE = 2.0  # seconds that the tests' own connection waits for a reply
ONE_MB = 1 << 20
SMALLEST = 256 << 10  # bytes; memcached 1.6.18 with a lower limit crashes on the first larger values


class MemcachedServer(Server):
    """One ``memcached``; *memory* in megabytes, *max_item* in bytes and not below 256 KB."""

    program = "memcached"

    def __init__(self, *, memory: int = 64, max_item: int = ONE_MB, options: Sequence[str] = ()) -> None:
        if max_item < SMALLEST:
            raise ValueError(f"max_item is {max_item} bytes; memcached crashes below {SMALLEST}")
        super().__init__()
        self.memory, self.max_item, self._options = memory, max_item, options
        self._before: dict[str, int] = {}

    # -- the process

    def arguments(self) -> Sequence[str]:
        # As root it asks for a user; root again, since a change of user would take the child off its leash.
        user = ["-u", "root"] if os.geteuid() == 0 else []
        size = ["-m", str(self.memory), "-I", str(self.max_item)]
        if self.max_item < ONE_MB:  # the pieces in which it keeps large items must not be larger than an item
            size += ["-o", f"slab_chunk_max={self.max_item // 2 // 1024}"]
        return [*user, "-l", LOOPBACK, "-p", str(self.port), "-U", "0", "-t", "2", *size, *self._options]

    def start(self) -> None:
        super().start()
        self._before = {}

    def answers(self) -> bool:
        try:
            return self._line(b"version").startswith(b"VERSION")
        except OSError:
            return False

    def keep(self) -> None:
        """Raise ValueError: memcached keeps nothing."""
        raise ValueError("memcached holds its data in memory alone; a restart cannot keep it")

    @property
    def url(self) -> str:
        """``memcached://host:port``."""
        return f"memcached://{self.address}"

    # -- its data

    def flush(self) -> None:
        """Remove all keys."""
        if (answer := self._line(b"flush_all")) != b"OK":
            raise Refused(answer.decode(errors="replace"))

    def fresh(self) -> None:
        """Make it run, hold nothing and count from zero, whatever the last test did to it."""
        self.revive()
        self.flush()
        self.reset()

    def expiries(self) -> dict[bytes, int]:
        """Return all keys with the Unix time at which they end; -1 where a key has no end.

        memcached counts whole seconds from its own start, so a time is exact to about a second.
        """
        return {unquote_to_bytes(entry["key"]): int(entry["exp"]) for entry in self._entries()}

    def dump(self) -> dict[bytes, bytes]:
        """Return all keys with their values."""
        found = ((key, self.get(key)) for key in self.expiries())
        return {key: value for key, value in found if value is not None}

    def get(self, key: bytes) -> bytes | None:
        """Return the value at *key*, or None. The key must be free of spaces and control characters."""
        with self._asked(b"get " + key) as reply:
            header = reply.readline()
            return reply.read(int(header.split()[3])) if header.startswith(b"VALUE ") else None

    def set(self, key: bytes, value: bytes, exptime: int = 0) -> None:
        """Store *value* at *key*. Raises Refused when the server does not."""
        if (answer := self._line(b"set %b 0 %d %d\r\n%b" % (key, exptime, len(value), value))) != b"STORED":
            raise Refused(answer.decode(errors="replace"))

    def _entries(self) -> Iterator[dict[str, str]]:
        """Yield what the crawler tells of each item; it serves one asker at a time and says BUSY to others.

        It walks the table of keys. The other walk, ``metadump all``, passes over items that were read a moment ago.
        """
        rows: list[str] = []
        until(lambda: self._crawled(rows), "the crawler has time")
        for row in rows:
            yield dict(part.split("=", 1) for part in row.split())

    def _crawled(self, rows: list[str]) -> bool:
        try:
            rows[:] = self._list(b"lru_crawler metadump hash")
        except Refused as error:
            if str(error).startswith("BUSY"):
                return False
            raise
        return True

    # -- what it was asked

    def stats(self) -> dict[str, str]:
        """Return the general statistics as memcached names them."""
        rows = (line.split(" ", 2) for line in self._list(b"stats"))
        return {name: value for _, name, value in rows}

    def commands(self) -> dict[str, int]:
        """Return how often each command ran since the last `reset`: get, set (add and cas, too), touch, delete …

        memcached counts keys, not packets: a get of three keys counts three. ``cas`` and ``delete`` are the sums of
        their hits, misses and conflicts. What `get`, `set` and `dump` of this class ask counts as well.
        """
        now = self._counts()
        changed = {name: count - self._before.get(name, 0) for name, count in now.items()}
        return {name: count for name, count in changed.items() if count}

    def reset(self) -> None:
        """Count from zero."""
        self._before = self._counts()

    def _counts(self) -> dict[str, int]:
        stats = {name: int(value) for name, value in self.stats().items() if value.isdigit()}
        counts = {name: stats[f"cmd_{name}"] for name in ("get", "set", "touch", "flush")}
        counts["delete"] = stats["delete_hits"] + stats["delete_misses"]
        counts["cas"] = stats["cas_hits"] + stats["cas_misses"] + stats["cas_badval"]
        counts["incr"] = stats["incr_hits"] + stats["incr_misses"] + stats["decr_hits"] + stats["decr_misses"]
        return counts

    # -- its protocol

    @contextmanager
    def _asked(self, line: bytes) -> Iterator[BinaryIO]:
        """Send one request on a connection of its own; yields what comes back."""
        with socket.create_connection((LOOPBACK, self.port), PATIENCE) as sock, sock.makefile("rb") as reply:
            sock.sendall(line + b"\r\n")
            yield reply

    def _line(self, line: bytes) -> bytes:
        with self._asked(line) as reply:
            return reply.readline().rstrip()

    def _list(self, line: bytes) -> Iterator[str]:
        """Yield the lines of an answer up to END."""
        with self._asked(line) as reply:
            while (row := reply.readline().rstrip()) != b"END":
                if not row or row.startswith((b"BUSY", b"ERROR", b"CLIENT_ERROR", b"SERVER_ERROR")):
                    raise Refused(row.decode(errors="replace") or "memcached has closed the connection")
                yield row.decode()


class Refused(Exception):
    """What memcached said instead of an answer."""


class MemcachedServers:
    """Several memcached servers side by side, empty and running."""

    def __init__(self, count: int = 3, *, memory: int = 64) -> None:
        self._stack = ExitStack()
        self._count, self._memory = count, memory
        self.servers: list[MemcachedServer] = []

    def __enter__(self) -> Self:
        with self._stack:
            for _ in range(self._count):
                self.servers.append(self._stack.enter_context(MemcachedServer(memory=self._memory)))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, index: int) -> MemcachedServer:
        return self.servers[index]

    def __iter__(self) -> Iterator[MemcachedServer]:
        return iter(self.servers)

    def __len__(self) -> int:
        return len(self.servers)

    @property
    def url(self) -> str:
        """``memcached://host:port,host:port,…``."""
        return "memcached://" + ",".join(server.address for server in self)

    def fresh(self) -> None:
        """Make all run, hold nothing and count from zero, whatever the last test did to them."""
        for server in self:
            server.fresh()

    def dump(self) -> dict[bytes, bytes]:
        """Return all keys with their values, of all servers that run."""
        return {key: value for server in self if server.running for key, value in server.dump().items()}

    def commands(self) -> dict[str, int]:
        """Return how often each command ran on all servers together."""
        return dict(sum((Counter(server.commands()) for server in self), Counter()))
