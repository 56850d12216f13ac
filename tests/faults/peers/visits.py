"""What a visitor's browser and a host's web process say to each other: one request, one answer, one connection."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import msgspec

LENGTH = 4  # bytes in front of each message
SOCKET = "web.sock"  # in a host's directory

Does = Literal["read", "write", "logout", "renew", "login", "probe", "ping"]


class Request(msgspec.Struct, array_like=True):
    """What a visitor asks for. ``ping`` is what a balancer asks: is this host well?"""

    does: Does
    client: int = 0
    token: str | None = None
    """The cookie's value."""
    sets: dict[str, int | None] = {}
    """What the handler sets, or removes where the value is None."""
    hold_ms: int = 0
    """How long the handler takes, between its first look and the commit."""


class Response(msgspec.Struct, array_like=True):
    """What came of it. The fields are those of ``sim_history.Answered``."""

    ok: bool
    found: bool = False
    reads: dict[str, int] = {}
    token: str | None = None
    """The new cookie; empty: it is taken back; None: nothing is said about it."""
    wrote: bool = False
    ended: bool = False
    hosts: int | None = None
    """Other hosts that had what was written when it was answered, the fewest of several; None: nothing was written."""
    covered: bool = True
    """Whether the browser's cookie says what the browser has seen."""
    error: str | None = None


class Broken(Exception):
    """No answer came. *sent* says whether the request may have reached the host."""

    def __init__(self, why: str, *, sent: bool) -> None:
        super().__init__(why)
        self.sent = sent


def ask(directory: Path, request: Request, timeout: float) -> Response:
    """Send a request to the host of *directory*. Raises Broken; *timeout* is seconds for each step."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(directory / SOCKET))
        except OSError as error:
            raise Broken(repr(error), sent=False) from error
        try:
            send(sock, msgspec.msgpack.encode(request))
            answer = receive(sock)
        except OSError as error:
            raise Broken(repr(error), sent=True) from error
    if answer is None:
        raise Broken("it ended without an answer", sent=True)
    return msgspec.msgpack.decode(answer, type=Response)


def send(sock: socket.socket, body: bytes) -> None:
    """Send one message."""
    sock.sendall(len(body).to_bytes(LENGTH, "big") + body)


def receive(sock: socket.socket) -> bytes | None:
    """Return the next message; None at the end."""
    head = _exactly(sock, LENGTH)
    return head and _exactly(sock, int.from_bytes(head, "big"))


def _exactly(sock: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        if not (part := sock.recv(size - len(data))):
            return None
        data += part
    return bytes(data)
