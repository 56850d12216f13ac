"""Callers of a memcached store in either colour, which tests use as one; and servers of other kinds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.certificates import Certificates
from tests.servers.memcached import MemcachedServer
from tests.servers.process import LOOPBACK, HeldPort

from sojourn.core.record import Record
from sojourn.drive import aperform, perform
from sojourn.errors import StoreUnavailable
from sojourn.store.memcached.blocking import MemcachedStore
from sojourn.store.memcached.loop import AsyncMemcachedStore
from sojourn.store.memcached.settings import MemcachedSettings
from sojourn.testing.store_contract import a_record

THREADS = 40


class Caller:
    """Performs operations, one or many at once. `all` answers with StoreUnavailable as a value."""

    def __init__(self, store: Any, do: Callable[[Any], Any], all: Callable[[Sequence[Any]], list[Any]]) -> None:
        self.store, self.do, self.all = store, do, all


@contextmanager
def calling(url: str, *, loop: bool) -> Iterator[Caller]:
    """A caller of the store that *url* names, on an event loop or in threads."""
    settings = MemcachedSettings.from_url(url)
    with _on_a_loop(settings) if loop else _in_threads(settings) as caller:
        yield caller


@contextmanager
def _in_threads(settings: MemcachedSettings) -> Iterator[Caller]:
    store = MemcachedStore(settings)

    def attempt(op: Any) -> Any:
        try:
            return perform(op, store)
        except StoreUnavailable as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield Caller(store, lambda op: perform(op, store), lambda ops: list(pool.map(attempt, ops)))
        finally:
            store.close()


@contextmanager
def _on_a_loop(settings: MemcachedSettings) -> Iterator[Caller]:
    store = AsyncMemcachedStore(settings)

    async def attempt(op: Any) -> Any:
        try:
            return await aperform(op, store)
        except StoreUnavailable as error:
            return error

    async def all_of(ops: Sequence[Any]) -> list[Any]:
        return list(await asyncio.gather(*map(attempt, ops)))

    with asyncio.Runner() as runner:
        try:
            yield Caller(store, lambda op: runner.run(aperform(op, store)), lambda ops: runner.run(all_of(ops)))
        finally:
            runner.run(store.aclose())


def secret_of(key: bytes, **changes: Any) -> Record:
    """Return a record that carries its own key, so that a foreign reply shows."""
    return a_record(values={"secret": key}, **changes)


class TlsServer(MemcachedServer):
    """A memcached that speaks TLS on `tls_port`; tests look behind it without, on `port`."""

    def __init__(self, files: Certificates) -> None:
        super().__init__()
        self._files, self._tls = files, HeldPort()
        self.tls_port = self._tls.number

    def arguments(self) -> Sequence[str]:
        listen = f"notls:{LOOPBACK}:{self.port},{LOOPBACK}:{self.tls_port}"
        tls = ["-Z", "-o", f"ssl_chain_cert={self._files.certificate},ssl_key={self._files.key}"]
        return ["-u", "root", "-l", listen, "-U", "0", "-t", "2", *tls]

    def close(self) -> None:
        super().close()
        self._tls.close()


class UnixServer(MemcachedServer):
    """A memcached on a unix socket, `socket`."""

    @property
    def socket(self) -> Path:
        return self.directory / "memcached.sock"

    def arguments(self) -> Sequence[str]:
        return ["-u", "root", "-s", str(self.socket), "-t", "2"]

    def answers(self) -> bool:
        return self.socket.exists()


class GuardedServer(MemcachedServer):
    """A memcached that wants a password first."""

    def answers(self) -> bool:
        return b"unauthenticated" in self._line(b"version") if not refuses(self.port) else False


def refuses(port: int) -> bool:
    """Tell whether nobody listens at *port*."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0
