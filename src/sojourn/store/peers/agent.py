"""The agent of a host: the process that keeps its sessions like those of the other hosts.

There is one for each directory, held by a lock on a file. The first worker starts it (``start``), it ends by itself
when no worker has been connected for some seconds, and any worker starts it again. Under a service manager it stays:
``sojourn cluster agent URL``. SIGTERM and SIGINT end it in order; kill -9 at any moment loses nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path

from sojourn.cluster.node import Node
from sojourn.cluster.settings import Settings
from sojourn.errors import ConfigurationError, SojournError
from sojourn.store.local import files
from sojourn.store.peers import channel, settings_of
from sojourn.store.peers.engine import Engine
from sojourn.store.peers.start import FAILED, LOG
from sojourn.store.peers.tables import HostTables

LOCK = "agent.lock"
LINGER = 5.0  # seconds without a worker
PATIENCE = 3.0  # seconds for a predecessor that is just ending
LONGEST_LOG = 1 << 20  # bytes; one older file of that size is kept
BURST, RATE = 50, 5  # lines in the log at once, and a second: a network that is down must not fill the disk

_ENDS = (signal.SIGTERM, signal.SIGINT)
_log = logging.getLogger("sojourn.cluster")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent of the store that the command line names; return the exit status."""
    parser = argparse.ArgumentParser(prog="sojourn cluster agent", description="keep this host's sessions like others'")
    parser.add_argument("url", help="as the application has it: peers://host1:7946,…?…")
    parser.add_argument("--stay", action="store_true", help="until it is told to end, and log to standard error")
    parsed = parser.parse_args(arguments)
    try:
        return run(settings_of(parsed.url), stay=parsed.stay)
    except SojournError as error:
        print(f"sojourn: {error}", file=sys.stderr)
        return 1


def run(settings: Settings, *, stay: bool) -> int:
    """Run the agent of this host until it ends; return 0. *stay*: it ends when told to, and logs to standard error.

    Otherwise it also ends when no worker needs it, and at once where there is one already. Raises ConfigurationError
    for what an operator must change, which includes a second agent that is to stay, and StoreUnavailable.
    """
    os.umask(0o077)
    for number in _ENDS:
        signal.signal(number, _end)  # until the loop takes over
    directory = Path(settings.path)
    files.prepare(directory)
    with ExitStack() as held:
        in_place = held.enter_context(_only_one(directory))
        if in_place is None:
            if stay:
                process = channel.agent_of(directory) or "of another name"
                raise ConfigurationError(f"process {process} is the agent of {directory} already; end that one first")
            return 0
        held.enter_context(_logging(None if stay else directory / LOG))
        with _failure_told(directory):
            sock = held.enter_context(closing(channel.listen(directory)))
            tables = held.enter_context(
                closing(HostTables(settings.path, sync=bool(settings.sync), max_size=settings.max_size))
            )
            node = Node(settings, tables, time.monotonic(), os.urandom)
            engine = Engine(settings, node, linger=None if stay else LINGER, in_place=in_place)
            gc.freeze()  # what is there by now stays: it need not be looked through again and again
            with (
                asyncio.Runner(loop_factory=_loop_factory()) as runner,
                closing(_serve(engine, sock, directory)) as work,
            ):
                runner.run(work)  # closed also where a signal comes before it has begun
    return 0


def _end(*_: object) -> None:
    sys.exit(0)


async def _serve(engine: Engine, sock: socket.socket, directory: Path) -> None:
    loop = asyncio.get_running_loop()
    for number in _ENDS:
        loop.add_signal_handler(number, engine.stop)
    told = loop.create_task(_tell_ready(engine, directory))
    try:
        await engine.serve(sock)
    finally:
        told.cancel()


async def _tell_ready(engine: Engine, directory: Path) -> None:
    await engine.ready.wait()
    (directory / FAILED).unlink(missing_ok=True)
    _log.info("the agent of %s serves, as process %d", engine.settings.me, os.getpid())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  (an extra)
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextmanager
def _only_one(directory: Path) -> Iterator[Callable[[], bool] | None]:
    """Take the lock, until the end; yield what tells whether it is still in its place, or None where another has it.

    A predecessor may need a moment to end.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(directory / LOCK, flags, 0o600), "r+b", buffering=0) as file:
        deadline = time.monotonic() + PATIENCE
        while not (held := _locked(file.fileno())):
            if channel.agent_of(directory) is not None or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        mine = os.fstat(file.fileno())
        yield (lambda: _is_at(directory / LOCK, mine)) if held else None


def _is_at(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _failure_told(directory: Path) -> Iterator[None]:
    """Write down why the agent cannot work, for the workers that started it."""
    try:
        yield
    except SojournError as error:
        _log.error("%s", error)
        with suppress(OSError):
            (directory / FAILED).write_text(str(error), encoding="utf-8")
        raise


# -- the log -------------------------------------------------------------------------------------------------------


@contextmanager
def _logging(path: Path | None) -> Iterator[None]:
    """Log to the file *path*, which stays short; None: to standard error."""
    handler = RotatingFileHandler(path, maxBytes=LONGEST_LOG, backupCount=1) if path else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(Rate())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
        handler.close()


class Rate(logging.Filter):
    """Lets so many lines through at once, and so many a second; the next one says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._left, self._at, self._missing = float(BURST), time.monotonic(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether *record* is written."""
        now = time.monotonic()
        self._left, self._at = min(self._left + (now - self._at) * RATE, BURST), now
        if self._left < 1:
            self._missing += 1
            return False
        self._left -= 1
        if self._missing:
            record.msg, record.args = f"{record.getMessage()} ({self._missing} lines before this were left out)", ()
            self._missing = 0
        return True


if __name__ == "__main__":
    sys.exit(main())
