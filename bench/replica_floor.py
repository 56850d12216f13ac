"""The way of an acknowledged write with nothing done on it: what processes, sockets and TLS alone cost on this machine.

    python -m bench.replica_floor host PORT TLS
    python -m bench.replica_floor relay SOCKET TLS PORT PORT
    python -m bench.replica_floor worker SOCKET RATE SECONDS

A worker sends 256 bytes to the relay of its host, that to the two others over TLS, and these send them back; the first
answer goes to the worker. On uvloop, as agents are.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench.places import in_memory
from bench.replica_hosts import TICK, _ports, waited
from sojourn.crypto.certificates import Authority
from sojourn.store.tls import HostCertificates

SIZE = 256  # bytes of a message; the first eight are its number
HOSTS = 3
HERE = "127.0.0.1"


class Messages(asyncio.Protocol):
    """A stream of messages of one size; *come* is called with each."""

    transport: asyncio.Transport

    def __init__(self, come: Callable[[Messages, bytes], object]) -> None:
        self._come, self._rest = come, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Cut what came into messages."""
        self._rest += data
        while len(self._rest) >= SIZE:
            message, self._rest = self._rest[:SIZE], self._rest[SIZE:]
            self._come(self, message)


async def _host(port: str, tls: str) -> None:
    echo = lambda: Messages(lambda stream, message: stream.transport.write(message))  # noqa: E731
    context = HostCertificates(tls, HERE).server()
    server = await asyncio.get_running_loop().create_server(echo, HERE, int(port), ssl=context)
    await server.serve_forever()


async def _relay(path: str, tls: str, *ports: str) -> None:
    loop, waiting = asyncio.get_running_loop(), dict[bytes, Messages]()

    def back(_: Messages, message: bytes) -> None:
        if worker := waiting.pop(message[:8], None):
            worker.transport.write(message)

    def ask(worker: Messages, message: bytes) -> None:
        waiting[message[:8]] = worker
        for other in others:
            other.transport.write(message)

    context = HostCertificates(tls, HERE).client()
    connecting = [
        loop.create_connection(lambda: Messages(back), HERE, int(port), ssl=context, server_hostname=HERE)
        for port in ports
    ]
    others = [protocol for _, protocol in await asyncio.gather(*connecting)]
    server = await loop.create_unix_server(lambda: Messages(ask), path)
    await server.serve_forever()


async def _worker(path: str, rate: str, seconds: str) -> None:
    loop, futures, took = asyncio.get_running_loop(), dict[bytes, asyncio.Future[None]](), list[float]()
    come: Any = lambda _, message: futures.pop(message[:8]).set_result(None)  # noqa: E731
    _, stream = await loop.create_unix_connection(lambda: Messages(come), path)
    begun = time.perf_counter()
    while (now := time.perf_counter() - begun) < float(seconds):
        await asyncio.sleep(max(len(took) / float(rate) - now, 0.0))
        number = len(took).to_bytes(8, "big")
        future = futures[number] = loop.create_future()
        start = time.perf_counter()
        stream.transport.write(number.ljust(SIZE, b"\0"))
        await future
        took.append(time.perf_counter() - start)
    print(json.dumps(took))


def floor(rate: float, seconds: float) -> tuple[float, float]:
    """Return the median in ms, and the microseconds of CPU of a host a message, at *rate* a second over three hosts."""
    with in_memory() as place, _ports(2 * HOSTS) as ports, ExitStack() as stack:
        authority = Authority(place / "tls")
        authority.create(time.time())
        tls = str(authority.issue(HERE, time.time(), 1).directory)
        relays = []
        for number in range(HOSTS):
            pair = [str(port) for port in ports[2 * number : 2 * number + 2]]
            relays += [_start(stack, "host", port, tls) for port in pair]
            waited(lambda pair=pair: all(map(_listens, pair)), 20, "hosts listen")  # type: ignore[misc]
            relays.append(_start(stack, "relay", str(place / f"{number}.sock"), tls, *pair))
        waited(lambda: all((place / f"{number}.sock").exists() for number in range(HOSTS)), 20, "relays listen")
        before = sum(map(_cpu, relays))
        about = [str(rate / HOSTS), str(seconds)]
        workers = [_start(stack, "worker", str(place / f"{number}.sock"), *about) for number in range(HOSTS)]
        took = sorted(one for worker in workers for one in json.loads(worker.communicate()[0]))
        cpu = sum(map(_cpu, relays)) - before
    return took[len(took) // 2] * 1e3, cpu / HOSTS / len(took) * 1e6


def _start(stack: ExitStack, *arguments: str) -> subprocess.Popen[str]:
    command: Sequence[str] = [sys.executable, "-m", "bench.replica_floor", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return process


def _listens(port: str) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(f":{int(port):04X} 00000000:0000 0A" in line for line in lines)


def _cpu(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def main() -> None:
    """Play one part."""
    part, *arguments = sys.argv[1:]
    uvloop.run({"host": _host, "relay": _relay, "worker": _worker}[part](*arguments))


if __name__ == "__main__":
    main()
