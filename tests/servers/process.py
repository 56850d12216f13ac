"""A real server as a child of the tests: on a port of its own, in a directory of its own, gone with them.

The port is *held* while the server exists, also while it is stopped: a socket is bound to it that never listens. Linux
lets another socket with SO_REUSEADDR bind to the same number as long as only one of them listens, and gives the number
to nobody else. So no start can lose a race for its port, a restart finds the same one, and a dead server refuses
connections. (Other systems do not share a port like that; there it is only looked up, and a lost race fails the start.)

A child dies with the *thread* that started it, even when that is killed: see `sojourn.lab.leash`. Start servers in the
test's own thread, and use them from any.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from tests.servers.skips import require

from sojourn.lab import leash

LOOPBACK = "127.0.0.1"
START = 10.0  # seconds that a server may need until it answers
GRACE = 5.0  # seconds between "please end" and kill -9
PACE = 0.005  # seconds between two looks

T = TypeVar("T")


def until(condition: Callable[[], T], what: str, seconds: float = START) -> T:
    """Return the first true answer of *condition*. Raises TimeoutError, naming *what*, after *seconds*."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s in vain until {what}")
        time.sleep(PACE)
    return answer


class HeldPort:
    """A free port of the loopback that stays ours until it is closed, whether or not a server listens on it."""

    def __init__(self) -> None:
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind((LOOPBACK, 0))
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self._held.close()

    def close(self) -> None:
        """Let go of the port."""
        self._held.close()


class Server:
    """One server program. Subclasses say its command line and how to tell that it answers.

    A context manager: entered it runs and answers, left it is gone with all its files. Between the two it may be
    stopped, killed, paused and started again as often as a test likes; it keeps its port. One that is made and never
    entered must be closed.
    """

    program = ""

    def __init__(self) -> None:
        self.path = require(self.program)
        self.directory = Path(tempfile.mkdtemp(prefix=f"sojourn-{self.program}-"))
        self._port = HeldPort()
        self.port = self._port.number
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # also Ctrl-C: nothing may stay behind
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.address}, {'running' if self.running else 'not running'}>"

    # -- what a subclass says

    def arguments(self) -> Sequence[str]:
        """Return the command line after the program."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Tell whether the server serves requests now. It is asked again and again while the server starts."""
        raise NotImplementedError

    def keep(self) -> None:
        """Bring the data to where the next start finds it. Raises ValueError when the server cannot."""
        raise NotImplementedError

    def lose(self) -> None:
        """Remove what a stopped server has left on disk."""

    # -- what it is

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError when it was never started, or has been closed."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the process lives; a paused one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return (self.directory / "log").read_text(errors="replace")

    # -- what a test does to it

    def start(self) -> None:
        """Start it and wait until it answers. Raises RuntimeError with its last words when it does not."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start it without waiting, so that several can start side by side."""
        assert not self.running, "it runs already"
        with (self.directory / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), self.path, *self.arguments()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C reaches the tests alone; they end the server
            )
        self._paused = False

    def wait(self) -> None:
        """Wait until it answers. Raises RuntimeError with its last words when it does not."""
        try:
            until(lambda: not self.running or self.answers(), "it answers")
        except TimeoutError as error:
            raise RuntimeError(f"{self!r} does not answer; it said:\n{self.log[-2000:]}") from error
        if not self.running:
            raise RuntimeError(f"{self!r} ended when it should start; it said:\n{self.log[-2000:]}")

    def stop(self) -> None:
        """Ask it to end as an operator would (SIGTERM), and kill it when it does not within five seconds."""
        process = self._running()
        process.terminate()
        self.resume()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        process = self._running()
        process.kill()
        process.wait(GRACE)
        self._paused = False

    def pause(self) -> None:
        """Stop its clock (SIGSTOP): the kernel still accepts connections for it, and nothing is answered."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        self._paused = True

    def resume(self) -> None:
        """Let a paused server go on (SIGCONT)."""
        if self._paused:
            self._running().send_signal(signal.SIGCONT)
            self._paused = False

    def restart(self, *, keep_data: bool) -> None:
        """End it and start it on the same port, with or without what it held. It may be stopped already."""
        if keep_data:
            self.keep()
        if self.running:
            self.stop()
        if not keep_data:
            self.lose()
        self.start()

    def revive(self) -> None:
        """Make it run and answer again, whatever a test did to it."""
        self.resume()
        if not self.running:
            self.start()

    def close(self) -> None:
        """End it at once, remove its files and let go of its port. Does no harm twice."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self.kill()
            self._process = None
        shutil.rmtree(self.directory, ignore_errors=True)
        self._port.close()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self.program} has not been started, or has been closed")
        return self._process
