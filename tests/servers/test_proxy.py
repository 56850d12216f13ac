"""The proxy does to connections what it was told to, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial

import pytest
from tests.servers.process import LOOPBACK, until
from tests.servers.proxy import Proxy

REPLY = b"0123456789"


class Parrot:
    """Answers each byte that it receives with ten, in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        self.heard = 0
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock = self._listener.accept()[0]
                self._socks.append(sock)
                self._threads.append(threading.Thread(target=self._answer, args=(sock,)))
                self._threads[-1].start()

    def _answer(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while piece := sock.recv(100):
                self.heard += len(piece)
                sock.sendall(REPLY * len(piece))

    def close(self) -> None:
        with suppress(OSError):  # a test may have closed it before
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def parrot() -> Iterator[Parrot]:
    with closing(Parrot()) as parrot:
        yield parrot


@pytest.fixture
def proxy(parrot: Parrot) -> Iterator[Proxy]:
    with Proxy(parrot.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Iterator[Callable[[], socket.socket]]:
    socks = []

    def connect() -> socket.socket:
        socks.append(socket.create_connection((LOOPBACK, proxy.port), 5))
        return socks[-1]

    yield connect
    for sock in socks:
        sock.close()


def read(sock: socket.socket, count: int) -> bytes:
    """Return *count* bytes, or what comes before the end."""
    found = b""
    while len(found) < count and (piece := sock.recv(count - len(found))):
        found += piece
    return found


def holds(proxy: Proxy, count: int) -> bool:
    return proxy.held >= count


def is_silent(sock: socket.socket) -> bool:
    sock.settimeout(0.1)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def test_it_passes_bytes_on_and_counts_them(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    first, second = connect(), connect()
    first.sendall(b"ab")
    assert read(first, 20) == REPLY * 2
    second.sendall(b"c")
    assert read(second, 10) == REPLY
    assert (proxy.connections, proxy.open, proxy.requested, proxy.replied, proxy.held) == (2, 2, 3, 30, 0)
    second.shutdown(socket.SHUT_WR)
    assert read(second, 1) == b""
    until(lambda: proxy.open == 1, "the proxy has seen the end")


def test_replies_are_late_by_the_delay_and_not_by_its_sum(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    sock = connect()
    proxy.delay_replies(0.5)
    began = time.monotonic()
    for count in range(10, 101, 10):
        sock.sendall(b"a")
        until(partial(holds, proxy, count), "the reply is on its way")  # so each is a piece of its own
    assert read(sock, 100) == REPLY * 10
    assert 0.5 <= time.monotonic() - began < 4


def test_delayed_requests_are_late(parrot: Parrot, proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    sock = connect()
    proxy.delay_requests(0.3)
    began = time.monotonic()
    sock.sendall(b"a")
    assert read(sock, 10) == REPLY
    assert time.monotonic() - began >= 0.3


def test_a_healed_proxy_is_fast_open_and_whole(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    proxy.delay_replies(60)
    proxy.hold_requests()
    proxy.cut_replies(1)
    proxy.refuse()
    proxy.heal()
    sock = connect()
    sock.sendall(b"a")
    assert read(sock, 10) == REPLY


def test_held_replies_come_when_released(parrot: Parrot, proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    sock = connect()
    proxy.hold_replies()
    sock.sendall(b"a")
    until(lambda: proxy.held == 10, "the reply is held")
    assert parrot.heard == 1
    assert is_silent(sock)
    proxy.release()
    assert read(sock, 10) == REPLY


def test_held_requests_do_not_reach_the_server(
    parrot: Parrot, proxy: Proxy, connect: Callable[[], socket.socket]
) -> None:
    sock = connect()
    proxy.hold_requests()
    sock.sendall(b"a")
    until(lambda: proxy.held == 1, "the request is held")
    assert parrot.heard == 0
    proxy.release()
    assert read(sock, 10) == REPLY
    assert parrot.heard == 1


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("after", [0, 4, 10])
def test_a_cut_lets_so_many_bytes_through_and_ends_the_connection(
    proxy: Proxy, connect: Callable[[], socket.socket], after: int, reset: bool
) -> None:
    sock = connect()
    sock.sendall(b"a")
    assert read(sock, 10) == REPLY  # from here on bytes count
    proxy.cut_replies(after, reset=reset)
    sock.sendall(b"a")
    assert read(sock, after) == REPLY[:after]
    if reset:
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    else:
        assert sock.recv(1) == b""
        sock.sendall(b"nobody hears this, and nobody complains")
        sock.close()
    until(lambda: proxy.open == 0, "the connection is over")


def test_a_cut_that_holds_once_spares_the_next_connection(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    proxy.cut_replies(3, once=True)
    first, second = connect(), connect()
    first.sendall(b"a")
    assert read(first, 10) == REPLY[:3]
    second.sendall(b"a")
    assert read(second, 10) == REPLY


def test_a_cut_counts_over_several_replies(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    sock = connect()
    proxy.cut_replies(15)
    sock.sendall(b"a")
    assert read(sock, 10) == REPLY
    sock.sendall(b"a")
    assert read(sock, 10) == REPLY[:5]


def test_dropped_connections_are_gone_and_new_ones_welcome(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    first, second = connect(), connect()
    until(lambda: proxy.open == 2, "both are there")
    proxy.drop(reset=True)
    for sock in (first, second):
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    third = connect()
    third.sendall(b"a")
    assert read(third, 10) == REPLY


def test_while_it_refuses_old_connections_go_on(proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    old = connect()
    old.sendall(b"a")
    assert read(old, 10) == REPLY
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    old.sendall(b"a")
    assert read(old, 10) == REPLY
    proxy.accept()
    new = connect()
    new.sendall(b"a")
    assert read(new, 10) == REPLY


def test_a_dead_server_ends_the_connection(parrot: Parrot, proxy: Proxy, connect: Callable[[], socket.socket]) -> None:
    old = connect()
    old.sendall(b"a")
    assert read(old, 10) == REPLY
    parrot.close()
    assert old.recv(1) == b""
    with pytest.raises(ConnectionResetError):
        connect().recv(1)


def test_it_ends_with_connections_open_and_replies_held(parrot: Parrot) -> None:
    with Proxy(parrot.port) as proxy:
        sock = socket.create_connection((LOOPBACK, proxy.port), 5)
        proxy.hold_replies()
        sock.sendall(b"a")
        until(lambda: proxy.held, "the reply is held")
    with sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, proxy.port), 5)
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]
