"""Loopback ports that nobody can take in between."""

from __future__ import annotations

import socket
import sys

from sojourn.balancer.nodes import Address
from sojourn.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
BACKLOG = 512  # connections that wait while a node starts or is busy


def listen(port: int = 0) -> socket.socket:
    """Return a listening socket on *port*, or on any free one. Raises ConfigurationError when the port is taken."""
    sock = socket.socket()
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else the last demo blocks its port for a minute
        sock.bind((LOOPBACK, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigurationError(
            f"port {port} cannot be used ({error.strerror}); choose another with --port, or 0 for any free one"
        ) from error
    return sock


def address_of(sock: socket.socket) -> Address:
    """Return where *sock* listens."""
    host, port = sock.getsockname()
    return Address(host, port)


class Berth:
    """A port that stays ours while its server is dead, and that refuses connections meanwhile, as a dead host would.

    A socket that is bound but does not listen keeps the number. Each start of the server gets another socket on the
    same port (SO_REUSEPORT), already listening; whoever passes it on closes his own copy.
    """

    def __init__(self) -> None:
        self._held = self._bound(0)
        self.address = address_of(self._held)

    def listener(self) -> socket.socket:
        """Return a listening socket on this port for the server that is about to start."""
        sock = self._bound(self.address.port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port is free at once when all is over
        sock.listen(BACKLOG)
        return sock

    def close(self) -> None:
        """Let go of the port."""
        self._held.close()

    @staticmethod
    def _bound(port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((LOOPBACK, port))
        return sock


class Reserved:
    """A port for a server that binds it by itself, and that nobody else is given while it does not run.

    Linux lets two sockets with SO_REUSEADDR bind to one port as long as only one of them listens; ours never does.
    Other systems do not; there the port is only looked up, and somebody faster makes the server end with an error.
    """

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((LOOPBACK, 0))
        self.address = address_of(self._held)
        if sys.platform != "linux":
            self._held.close()

    def close(self) -> None:
        """Let go of the port."""
        self._held.close()
