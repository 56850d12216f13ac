"""A real balancer in front of upstreams whose every step a test decides."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sojourn.balancer.nodes import Address, Aside, Site
from sojourn.errors import ConfigurationError
from sojourn.lab.balancers import BALANCERS
from sojourn.lab.child import Child
from sojourn.lab.ports import address_of, listen

Behaviour = Callable[[socket.socket], None]


class Upstream:
    """A server of one behaviour that keeps what it was sent."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.requests: list[bytes] = []
        self._behaviour = behaviour
        self._socket = listen()
        self.address = address_of(self._socket)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                self.requests.append(read_request(connection))
                self._behaviour(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and (more := connection.recv(65536)):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", b"0")) and (more := connection.recv(65536)):
        body += more
    return head + b"\r\n\r\n" + body


def answer(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")


def sorry(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry")


def break_off(connection: socket.socket) -> None:
    """Read the request, do its work for all anybody knows, and die without an answer."""


@contextmanager
def upstream(behaviour: Behaviour) -> Iterator[Upstream]:
    server = Upstream(behaviour)
    try:
        yield server
    finally:
        server.close()


def nobody() -> Address:
    """Return an address where connections are refused."""
    with listen() as sock:
        return address_of(sock)


@contextmanager
def balanced(kind: str, directory: Path, *nodes: Address, aside: Aside | None = None) -> Iterator[str]:
    """Run a balancer before *nodes*; yields its URL."""
    try:
        program = BALANCERS[kind].find()
    except ConfigurationError as error:
        pytest.skip(str(error))
    with listen() as sock:
        site = Site(address_of(sock), nodes, aside)
        command = BALANCERS[kind].prepare(program, site, directory, sock)
        child = Child(command.argv, log=directory / "log", env=command.env, fds=command.fds)
    try:
        wait_for_listener(site.listen)
        yield f"http://{site.listen}"
    finally:
        asyncio.run(child.end())


def wait_for_listener(address: Address) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((address.host, address.port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the balancer does not listen"
            time.sleep(0.01)
        else:
            return


@pytest.fixture(params=["caddy", "nginx"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Stage:
    """What a test sets up: upstreams and one balancer, all ended with the test."""

    def __init__(self, stack: ExitStack, kind: str, directory: Path) -> None:
        self._stack, self._kind, self._directory = stack, kind, directory

    def upstream(self, behaviour: str) -> Upstream:
        return self._stack.enter_context(upstream({"answers": answer, "breaks": break_off, "sorry": sorry}[behaviour]))

    def nobody(self) -> Address:
        return nobody()

    def balancer(self, *nodes: Address, aside: Aside | None = None) -> str:
        return self._stack.enter_context(balanced(self._kind, self._directory, *nodes, aside=aside))


@pytest.fixture
def stage(kind: str, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack, kind, tmp_path)
