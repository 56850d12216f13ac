"""The server that ``asgi_served`` measures: uvicorn with every application under a prefix of its own.

Run as ``python -m bench.asgi_server FD``, where FD is a listening socket that was inherited. ``/cpu`` answers with
the CPU time of this process in nanoseconds. It ends when its standard input does, so it outlives nobody.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from bench import asgi_apps
from bench.places import in_memory


def dispatcher(apps: dict[str, ASGIApp]) -> ASGIApp:
    """Return the application that passes ``/N/route`` on to application N as ``/route``."""

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        prefix, _, route = scope["path"][1:].partition("/")
        if prefix == "cpu":
            await _answer_cpu(send)
            return
        scope["path"] = "/" + route
        await apps[prefix](scope, receive, send)

    return dispatch


async def _answer_cpu(send: Send) -> None:
    body = str(time.process_time_ns()).encode()
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until standard input ends."""
    with in_memory() as place:
        apps = {str(number): app for number, app in enumerate(asgi_apps.applications(place).values())}
        config = uvicorn.Config(dispatcher(apps), access_log=False, log_level="warning", lifespan="off")
        server = uvicorn.Server(config)

        def end_with_parent() -> None:
            os.read(sys.stdin.fileno(), 1)
            server.should_exit = True

        threading.Thread(target=end_with_parent, daemon=True).start()
        # asyncio switches Nagle's algorithm off only for sockets that say TCP; uvicorn's own fd= makes others, and then
        # each response waits 40 ms for the client's delayed acknowledgement.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=int(sys.argv[1]))
        server.run(sockets=[listening])


if __name__ == "__main__":
    main()
