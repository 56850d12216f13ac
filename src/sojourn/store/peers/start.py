"""Starting a host's agent, from a worker: by exec, one at a time, not too often, and without waiting for it.

The agent itself holds the lock that makes it the only one (``agent.py``); a second one ends at once. What is here only
keeps many workers from starting many at the same moment. Their lock is one of POSIX record locks, because a fork must
not inherit it: a worker that another thread forks meanwhile would keep it for life.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from sojourn.errors import StoreUnavailable

STARTED = "agent.start"  # its time of change says when an agent was started last
FAILED = "agent.failed"  # why the last one could not start; the agent writes it
LOG = "agent.log"

PACE = 0.5  # seconds from one start to the next: about as long as one takes
PACE_AFTER_FAILURE = 5.0  # the same, when the last one found its settings or its files wrong
PATIENCE = 10.0  # seconds for the shell to return, which has nothing to wait for

_here = Lock()


def start(directory: Path, url: str) -> bool:
    """Start an agent for the store in *directory*, which *url* names, unless that was done a moment ago.

    Returns whether it did; the caller connects until it can, or its time is over. Takes a few milliseconds: on an
    event loop, call it in a thread. Raises StoreUnavailable when no process can be started.
    """
    try:
        with _alone(directory) as alone:
            if not alone or not _due(directory):
                return False
            os.utime(directory / STARTED)
            _execute(directory, url)
            return True
    except (OSError, subprocess.SubprocessError) as error:
        raise StoreUnavailable(f"the agent of {directory} cannot be started ({error})") from error


def why_not(directory: Path) -> str | None:
    """Return why the last agent could not start; None when it could, or has not said yet."""
    try:
        return (directory / FAILED).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Yield whether no other thread or process is starting an agent just now."""
    if not _here.acquire(blocking=False):
        yield False
        return
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with os.fdopen(os.open(directory / STARTED, flags, 0o600), "r+b", buffering=0) as file:
            yield _locked(file.fileno())
    finally:
        _here.release()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except PermissionError:  # what some systems say instead
        return False
    return True


def _due(directory: Path) -> bool:
    found = os.stat(directory / STARTED)
    if not found.st_size:  # new: nobody has started one yet
        (directory / STARTED).write_bytes(b"1")
        return True
    age = time.time() - found.st_mtime
    pace = PACE_AFTER_FAILURE if (directory / FAILED).exists() else PACE
    return not 0 <= age < pace  # a clock that was set back must not stop it


def _execute(directory: Path, url: str) -> None:
    """Let a shell put the agent into the background: it then is no child of ours, and nobody has to wait for it."""
    log = os.open(directory / LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        subprocess.run(  # noqa: S603  (the URL is the application's own setting)
            ["/bin/sh", "-c", '"$@" &', "sh", interpreter(), "-P", "-m", "sojourn.store.peers.agent", url],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
            close_fds=True,  # a web server's listening socket would otherwise stay open with the agent
            check=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(log)


def interpreter() -> str:
    """Return the Python to run the agent with. Inside a server with Python embedded the executable is another one."""
    if Path(sys.executable or "").name.startswith(("python", "pypy")):
        return sys.executable
    found = Path(sys.prefix) / "bin" / "python3"
    return str(found) if found.exists() else "python3"


def _after_fork_in_child() -> None:
    global _here  # noqa: PLW0603  the thread that held it does not exist here
    _here = Lock()


with suppress(AttributeError):
    os.register_at_fork(after_in_child=_after_fork_in_child)
