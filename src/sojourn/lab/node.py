"""One node of the lab's cluster: ``python -m sojourn.lab.node FD`` serves the shop on a socket that it inherits.

A program of its own, and not ``uvicorn --fd``, for the sake of :mod:`sojourn.lab.gathering`.
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from sojourn.lab.gathering import GatheringProtocol
from sojourn.lab.shop import Setup, shop

GRACE = 1  # seconds for requests under way when the node is asked to end


def serve(fd: int) -> None:
    """Serve the shop that the environment describes on the listening socket *fd*, until a signal comes."""
    app = shop(Setup.from_environment(os.environ))
    config = uvicorn.Config(app, http=GatheringProtocol, ws="none", lifespan="off", timeout_graceful_shutdown=GRACE)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=fd)])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
