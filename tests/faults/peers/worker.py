"""The web processes of a host: ``python -m tests.faults.peers.worker DIRECTORY COUNT URL``.

They are forked after everything is imported, as web servers do that load an application first, and share one listening
socket. Every second one serves in threads with the blocking store, the others on an event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import msgspec
from tests.faults.peers.visits import LENGTH, SOCKET, Request, Response, receive, send

from sojourn.cluster import worker as rules
from sojourn.cluster.local import Await, Settled
from sojourn.core import floor
from sojourn.core.ids import SessionId
from sojourn.core.outcome import Action, Happened, Outcome
from sojourn.core.policy import Policy
from sojourn.core.session import Session
from sojourn.errors import SojournError, StoreUnavailable
from sojourn.lab.leash import PR_SET_PDEATHSIG
from sojourn.manager import SessionManager
from sojourn.store.peers import PeersPair, operators

GRACE = 0.5  # seconds for which a renewed id serves; short, so that runs get beyond it
THREADS = 4
LOOK = 0.05  # seconds from one such look to the next: what starts beside it needs the machine
KEY = 32  # bytes of the name of a session; an entry of the index has a longer one
BACKLOG = 256

_requests = msgspec.msgpack.Decoder(Request)
_encode = msgspec.msgpack.encode
_settled: ContextVar[list[int]] = ContextVar("settled")


# -- how many other hosts had a write ------------------------------------------------------------------------------


def listen_in() -> None:
    """Note for each request what its writes to sessions were told by the agent, so that the history can say it.

    Not those to the index: that a session which has ended stays listed there for a while costs nothing, and no request
    fails for it.
    """
    acknowledged = rules._acknowledged

    def noting(*arguments: Any) -> Generator[Any, Any, None]:
        talk = acknowledged(*arguments)
        try:
            request = next(talk)
            while True:
                answer = yield request
                if isinstance(request, Await) and len(request.name) == KEY and (told := _settled.get(None)) is not None:
                    told.append(answer.hosts if isinstance(answer, Settled) else 0)
                request = talk.send(answer)
        except StopIteration:
            return

    setattr(rules, "_acknowledged", noting)  # noqa: B010  (no type checker is to believe that this is an API)


# -- the application -----------------------------------------------------------------------------------------------


def handle(session: Session, request: Request) -> Response:
    """Do as an application's handler does, and say what it found."""
    response = Response(True, not session.is_new, {key: session[key] for key in session})
    if request.does == "write":
        for key, value in request.sets.items():
            if value is None:
                session.pop(key, None)
            else:
                session[key] = value
    elif request.does == "login":
        session.login(f"visitor {request.client}")
        session.update(request.sets)
    elif response.found and request.does == "logout":
        session.logout()
    elif response.found and request.does == "renew":
        session.rotate()
    response.wrote = bool(session.delta() or session.rotation or session.ending)
    return response


def conclude(session: Session, response: Response, request: Request, outcome: Outcome, told: list[int]) -> Response:
    """Complete the response of a request that was committed."""
    changes_id = response.found and request.does in ("renew", "login")
    response.hosts = min(told) if told else None
    response.wrote = response.wrote and not any(event.kind is Happened.LOST for event in outcome.events)
    if outcome.action is Action.EXPIRE:
        response.token, response.ended = "", True
    elif outcome.action is Action.ISSUE and outcome.id:
        response.token = floor.spell(outcome.id, outcome.floor)
        response.ended = changes_id and not (request.token or "").startswith(outcome.id.public)
        response.covered = bool(outcome.floor)
    else:
        response.covered = not response.wrote and floor.is_settled(session)
    return response


def fields(manager: SessionManager, request: Request) -> tuple[str, ...]:
    """Return the Cookie header fields of a request."""
    return (f"{manager.cookie.name}={request.token}",) if request.token else ()


def serve_one(manager: SessionManager, request: Request) -> Response:
    """Serve a request, blocking."""
    told: list[int] = []
    _settled.set(told)
    try:
        session = manager.begin(lambda asked: fields(manager, asked), request)
        response = handle(session, request)
        if request.hold_ms:
            time.sleep(request.hold_ms / 1000)
        return conclude(session, response, request, manager.commit(session), told)
    except SojournError as error:
        return Response(False, error=f"{type(error).__name__}: {error}")


async def aserve_one(manager: SessionManager, request: Request) -> Response:
    """Serve a request on an event loop."""
    told: list[int] = []
    _settled.set(told)
    try:
        session = await manager.abegin(lambda asked: fields(manager, asked), request)
        response = handle(session, request)
        if request.hold_ms:
            await asyncio.sleep(request.hold_ms / 1000)
        return conclude(session, response, request, await manager.acommit(session), told)
    except SojournError as error:
        return Response(False, error=f"{type(error).__name__}: {error}")


def health(manager: SessionManager) -> Response:
    """Say whether this host can serve: its agent answers, and is connected to another host where there is one."""
    settings = cast(PeersPair, manager.store).settings
    try:
        others = [one for one in operators.status(settings)["members"] if one["name"] != settings.me]
    except StoreUnavailable as error:
        return Response(False, error=str(error))
    return Response(not others or any(one["connected"] for one in others))


# -- the processes -------------------------------------------------------------------------------------------------


def serve_blocking(manager: SessionManager, listening: socket.socket) -> None:
    """Serve in threads until the process is ended."""
    for _ in range(THREADS - 1):
        threading.Thread(target=_accept, args=(manager, listening), daemon=True).start()
    _accept(manager, listening)


def _accept(manager: SessionManager, listening: socket.socket) -> None:
    while True:
        select.select([listening], [], [])  # blocking would be so for the processes with a loop, too: one description
        try:
            sock, _ = listening.accept()
        except BlockingIOError:
            continue  # another one was faster
        sock.setblocking(True)
        with sock, suppress(OSError):
            if (body := receive(sock)) is not None:
                request = _requests.decode(body)
                response = health(manager) if request.does == "ping" else serve_one(manager, request)
                send(sock, _encode(response))


async def serve_loop(manager: SessionManager, listening: socket.socket) -> None:
    """Serve on an event loop until the process is ended."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            size = int.from_bytes(await reader.readexactly(LENGTH), "big")
            request = _requests.decode(await reader.readexactly(size))
            if request.does == "ping":
                response = await asyncio.to_thread(health, manager)
            else:
                response = await aserve_one(manager, request)
            body = _encode(response)
            writer.write(len(body).to_bytes(LENGTH, "big") + body)
            await writer.drain()
        writer.close()

    await (await asyncio.start_unix_server(connected, sock=listening)).serve_forever()


def manager_of(url: str) -> SessionManager:
    """Return the application's manager."""
    policy = Policy(idle_timeout=3600, touch_interval=0.2, rotation_grace=GRACE)
    return SessionManager(url, policy=policy, insecure_dev=True)


def work(number: int, listening: socket.socket, url: str) -> None:
    """Be one of the web processes."""
    manager = manager_of(url)
    if not number:
        threading.Thread(target=_look_once, args=(manager,), daemon=True).start()
    if number % 2:
        asyncio.run(serve_loop(manager, listening))
    else:
        serve_blocking(manager, listening)


def _look_once(manager: SessionManager) -> None:
    """Look at the storage before the first visitor does, so that the agent is on its way, until it has answered."""
    store = manager.blocking_store()
    while True:
        with suppress(StoreUnavailable):
            store.load(os.urandom(32))
            return
        time.sleep(LOOK)


def key_of(token: str) -> str:
    """Return how a history names the session of a cookie."""
    id = SessionId.parse(token.partition(floor.MARK)[0])
    assert id is not None
    return id.private.hex()[:16]


def main(directory: Path, count: int, url: str) -> None:
    """Listen, fork the web processes, and wait for a signal."""
    listen_in()
    with suppress(FileNotFoundError):
        (directory / SOCKET).unlink()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(directory / SOCKET))
    listening.listen(BACKLOG)
    listening.setblocking(False)
    supervisor = os.getpid()
    for number in range(count):
        if not os.fork():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == supervisor:
                work(number, listening, url)
            os._exit(1)
    signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
