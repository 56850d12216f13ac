"""A second process that sends PING to a Redis server over and over, and notes how long each answer took.

It goes ahead of other processes where it may: what is wanted is how long the server was busy with something else.
"""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event

from bench.priority import hurry
from bench.rounds import check
from bench.sessions import Times, times

PAUSE = 0.0002  # seconds between two


class Pings:
    """What the process reports; filled in when it has ended."""

    answered: Times


@contextmanager
def pinging(port: int) -> Iterator[Pings]:
    """Let a second process ask the server on *port* until the block ends."""
    context = multiprocessing.get_context("spawn")
    started, stop, results = context.Event(), context.Event(), context.Queue()
    process = context.Process(target=_ping, args=(port, started, stop, results))
    process.start()
    check(started.wait(30), "the second process did not start")
    pings = Pings()
    try:
        yield pings
    finally:
        stop.set()
        pings.answered = times(results.get(timeout=30))
        process.join(30)
        check(process.exitcode == 0, "the second process failed")


def _ping(port: int, started: Event, stop: Event, results: Queue[list[int]]) -> None:
    took: list[int] = []
    hurry()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started.set()
        while not (took and stop.is_set()):
            start = time.perf_counter_ns()
            connection.sendall(b"PING\r\n")
            check(connection.recv(64) == b"+PONG\r\n", "the server said something else")
            took.append(time.perf_counter_ns() - start)
            time.sleep(PAUSE)
    results.put(took)
