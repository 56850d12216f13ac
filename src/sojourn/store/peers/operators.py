"""What an operator asks of this host's agent: how the cluster is, to leave it, to forget one. It starts no agent."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from sojourn.cluster.local import Forget, Leave, Request, Status, View
from sojourn.cluster.settings import Settings
from sojourn.cluster.wire import Malformed
from sojourn.errors import StoreUnavailable
from sojourn.store.peers import channel
from sojourn.store.peers.start import why_not

PATIENCE = 5.0  # seconds for an answer, beyond the time that the agent was given
CHUNK = 1 << 16


def status(settings: Settings) -> dict[str, Any]:
    """Return the cluster as this host's agent sees it: plain data. Raises StoreUnavailable where none answers."""
    return _asked(settings, Status(1), PATIENCE)


def leave(settings: Settings, wait: float) -> dict[str, Any]:
    """Have this host leave: it hands its sessions on, for *wait* seconds at most. Raises as :func:`status`.

    The answer says ``left``. Where it is false the host is a member as before.
    """
    return _asked(settings, Leave(1, round(wait * 1000)), wait + PATIENCE)


def forget(settings: Settings, name: str) -> dict[str, Any]:
    """Have the cluster forget a dead host (``host:port``), which will not come back. Raises as :func:`status`.

    The answer says ``forgotten``. It is false for a host that lives, or may live, and for one that nobody knows.
    """
    return _asked(settings, Forget(1, name), PATIENCE)


def _asked(settings: Settings, request: Request, patience: float) -> dict[str, Any]:
    directory = Path(settings.path)
    try:
        with channel.connect(directory, patience) as sock:
            sock.sendall(channel.to_frame(request))
            return _answer(sock, time.monotonic() + patience).view
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise StoreUnavailable(f"no agent runs for {directory}{_because(directory)}") from error
    except (OSError, Malformed) as error:
        raise StoreUnavailable(f"the agent of {directory} does not answer ({error}); read its log there") from error


def _answer(sock: socket.socket, due: float) -> View:
    answers = channel.Answers()
    while (left := due - time.monotonic()) > 0:
        sock.settimeout(left)
        data = sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError("it has ended")
        for answer in answers.feed(data):
            if isinstance(answer, View):
                return answer
    raise TimeoutError("its time is over")


def _because(directory: Path) -> str:
    if failed := why_not(directory):
        return f": the last could not start ({failed})"
    return "; the first worker of the application starts one, or: sojourn cluster agent URL"
