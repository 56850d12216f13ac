"""The socket between a host's workers and its agent: where it lies, who may use it, how messages lie in it.

It lies in the store's directory. Only processes of the same user get through: the directory and the socket are closed
to others, and both sides ask the kernel who the other is.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from sojourn.cluster.local import Answer, Nudge, Request
from sojourn.cluster.wire import LENGTH, MOST, Bodies, Malformed
from sojourn.errors import ConfigurationError

SOCKET = "agent.sock"
LONGEST = 103  # bytes of a path that every system takes for a socket
_CREDENTIALS = struct.Struct("3i")  # process, user, group: `struct ucred`, see unix(7)

_encode = msgspec.msgpack.Encoder().encode
_request = msgspec.msgpack.Decoder(Request).decode
_answer = msgspec.msgpack.Decoder(Answer).decode


# -- messages --------------------------------------------------------------------------------------------------------


def to_frame(message: Request | Answer) -> bytes:
    """Return *message* as it goes into the socket, from either side."""
    body = _encode(message)
    return len(body).to_bytes(LENGTH, "big") + body


NUDGE = to_frame(Nudge())
"""The one frame that is always the same."""


class Requests:
    """Cuts what a worker sends into requests."""

    def __init__(self) -> None:
        self._bodies = Bodies(MOST)

    def feed(self, data: bytes) -> Iterator[Request]:
        """Yield the requests that *data* completes. Raises Malformed."""
        for body in self._bodies.feed(data):
            try:
                request: Request = _request(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise Malformed(str(error)) from error
            yield request


class Answers:
    """Cuts what the agent sends into answers."""

    def __init__(self) -> None:
        self._bodies = Bodies(MOST)

    def feed(self, data: bytes) -> Iterator[Answer]:
        """Yield the answers that *data* completes. Raises Malformed."""
        for body in self._bodies.feed(data):
            try:
                answer: Answer = _answer(body)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise Malformed(str(error)) from error
            yield answer


# -- the socket ------------------------------------------------------------------------------------------------------


def connect(directory: Path, timeout: float | None) -> socket.socket:
    """Return a socket to the agent of the store in *directory*, with *timeout* (seconds; 0: it never blocks) set on it.

    A local connect does not wait for the agent to accept, so this takes microseconds, whatever the timeout. Raises
    OSError: most often FileNotFoundError or ConnectionRefusedError, and then no agent runs; see ``start``.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        with _address(directory) as address:
            sock.connect(address)
        if not is_ours(sock):
            raise ConnectionRefusedError(f"{directory / SOCKET} is served by another user's process")
    except BaseException:
        sock.close()
        raise
    return sock


def listen(directory: Path) -> socket.socket:
    """Return the agent's listening socket. Only for the process that holds the agent's lock."""
    with suppress(FileNotFoundError):
        (directory / SOCKET).unlink()  # of an agent that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # 0600 from the first moment: a chmod afterwards would come too late
    try:
        with _address(directory) as address:
            sock.bind(address)
        sock.listen(1024)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def is_ours(sock: socket.socket) -> bool:
    """Tell whether this user's process is at the other end. Where the kernel does not say, the modes of files do."""
    return sys.platform != "linux" or _credentials(sock)[1] == os.geteuid()


def agent_of(directory: Path) -> int | None:
    """Return the process id of the agent that serves *directory*; None when none does, or the system does not tell."""
    try:
        with connect(directory, 0) as sock:
            return _credentials(sock)[0] if sys.platform == "linux" else None
    except OSError:
        return None


def _credentials(sock: socket.socket) -> tuple[int, int, int]:
    if sys.platform != "linux":
        raise NotImplementedError
    process, user, group = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return process, user, group


@contextmanager
def _address(directory: Path) -> Iterator[str]:
    """Yield a path to the socket that is short enough: through a descriptor of the directory where it must be."""
    path = str(directory / SOCKET)
    if len(os.fsencode(path)) <= LONGEST:
        yield path
        return
    if not os.path.isdir("/proc/self/fd"):
        raise ConfigurationError(f"{path} is longer than the {LONGEST} bytes that a socket's path may have; shorten it")
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
