"""Become another program, one that dies when the process which started it dies, even by kill -9.

Run by path, with ``python -I -S``: it imports nothing of sojourn and takes about 20 ms. Linux does the watching
(PR_SET_PDEATHSIG), and the wish survives the exec. Other systems offer nothing like it; there only a clean end
(Ctrl-C, SIGTERM) ends the children.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def become(parent: int, command: list[str]) -> None:
    """Replace this process by *command*, to be killed when *parent* dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel began to watch
        sys.exit("the process that started this one has ended")
    os.execv(command[0], command)  # noqa: S606  (to become the command is the purpose)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])
