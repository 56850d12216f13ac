"""A host whose storage and whose agent are scripts, for tests of what a worker makes of its agent's answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sojourn.cluster import tables as contract
from sojourn.cluster.limits import Recent
from sojourn.cluster.local import Answer, Forwarded, Nudge, Settled, Status, View
from sojourn.cluster.replica import Replica
from sojourn.cluster.tables import Done
from sojourn.cluster.wire import Member
from sojourn.core.ops import Written
from sojourn.core.record import Record
from sojourn.store.peers import channel

ME, OTHER = "127.0.0.1:1", "127.0.0.1:2"

Script = Callable[[Any], Sequence[Answer] | None]
"""Says what the agent answers to a request; None: it closes the connection."""


class ScriptedTables:
    """A host's storage with nothing in it, of which other hosts keep everything; each write goes through."""

    def __init__(self) -> None:
        self.written = 0
        self.mine = True
        self.shown_away: Recent[bytes] = Recent(1)
        self.written_away: Recent[bytes] = Recent(1)

    def view(self) -> contract.View:
        state = "dead" if self.mine else "alive"
        return contract.View((Member(OTHER, 1, state, b"2222", True), Member(ME, 1, "alive", b"1111", True)), True)

    def load(self, key: bytes) -> Record | None:
        return None

    def replica(self, key: bytes) -> Replica | None:
        return None

    def perform(self, verb: str, arguments: Sequence[Any]) -> Done:
        self.written += 1
        return Done(Written.DONE, self.written)

    def close(self) -> None:
        pass


class Agent:
    """An agent that answers by a *script*, on the socket of *directory*."""

    def __init__(self, directory: Path, script: Script) -> None:
        self._directory, self._script = directory, script
        self.requests: list[Any] = []
        self.connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.start()

    def start(self) -> None:
        self._listening = channel.listen(self._directory)
        self._listening.settimeout(None)
        self._serve(self._accept)

    def _serve(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(sock)
            self._serve(self._talk, sock)

    def _talk(self, sock: socket.socket) -> None:
        requests = channel.Requests()
        with sock:
            while data := _received(sock):
                for request in requests.feed(data):
                    self.requests.append(request)
                    answers = self._script(request)
                    if answers is None:
                        return
                    with suppress(OSError):  # who asked may have given up
                        sock.sendall(b"".join(map(channel.to_frame, answers)))

    def stop(self) -> None:
        _shut(self._listening)
        self._threads[0].join(5)  # it may be accepting one more
        for sock in self.connections:
            _shut(sock)
        for thread in self._threads:
            thread.join(5)
        self._listening.close()
        (self._directory / channel.SOCKET).unlink(missing_ok=True)


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65_536)
    except OSError:
        return b""


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def enough(request: Any) -> Sequence[Answer]:
    if isinstance(request, Status):
        return [View(request.number, {})]
    return [] if isinstance(request, Nudge) else [Settled(request.number, 1, True)]


def nothing(request: Any) -> Sequence[Answer]:
    return []


def done(request: Any) -> Sequence[Answer]:
    return [Forwarded(request.number, "done")]
