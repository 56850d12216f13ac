"""Waiting for a condition, always with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from sojourn.balancer.nodes import Address

LOOK_EVERY = 0.02  # seconds; far below what a process needs to start or to end


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until *condition* holds, at most *seconds*. Return whether it does."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(LOOK_EVERY)
    return condition()


async def answers(address: Address, path: str) -> bool:
    """Tell whether a GET of *path* is answered with 200."""
    try:
        reader, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
    except OSError:
        return False
    finally:
        writer.close()
    return status.split(b" ")[1:2] == [b"200"]
