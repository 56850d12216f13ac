"""A process of the cluster: on the leash, with its output in a log file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sojourn.lab import leash
from sojourn.lab.waiting import until

GRACE = 3.0  # seconds between "please end" and kill -9
REAP = 5.0  # seconds; a killed process is gone in milliseconds unless the machine is in trouble


class Child:
    """A running *command*. It has a session of its own, so that Ctrl-C in the terminal reaches the demo alone.

    *fds* are descriptors that it inherits under their own numbers.
    """

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str], fds: Sequence[int] = ()) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603  (commands of the lab's own)
                [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **env},
                pass_fds=fds,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def status(self) -> int | None:
        """Return the exit status (negative: the signal that killed it), or None while it runs."""
        return self._process.poll()

    def ended(self) -> bool:
        """Tell whether the process is gone."""
        return self.status() is not None

    async def kill(self) -> None:
        """Kill it with -9 and wait until it is gone."""
        self._process.kill()
        await until(self.ended, REAP)

    async def end(self) -> None:
        """Ask it to end, and kill it when it does not."""
        self._process.terminate()
        if not await until(self.ended, GRACE):
            await self.kill()

    def obituary(self) -> str:
        """Say in one line how it ended and where to read more."""
        return f"{_how(self.status())}: {_last_line(self.log)}; read {self.log}"


def _how(status: int | None) -> str:
    if status is None:
        return "still runs"
    if status < 0:
        name = str(-status)
        with suppress(ValueError):
            name = signal.Signals(-status).name
        return f"was killed by {name}"
    return f"ended with status {status}"


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
