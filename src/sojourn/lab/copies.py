"""What each host answers for one session by itself: the visitor's cookie without its floor, so that nobody is asked."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from sojourn.balancer.nodes import Address
from sojourn.core import floor
from sojourn.lab.cart import Cart
from sojourn.lab.shop import COOKIE, NAMESPACE

PATIENCE = 0.5  # seconds; the panel looks again each second
MOST_BYTES = 65_536


async def cart_at(node: Address, token: str) -> int | None:
    """Return how many things are in the cart of the session as *node* has it; None when it does not say."""
    presented = floor.parse(token, NAMESPACE)
    if presented is None:
        return 0
    with suppress(OSError, ValueError, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            facts = json.loads(await _get(node, f"{COOKIE}={presented.id.public}"))
            cart: Cart = facts["values"].get("cart", {})
            return sum(cart.values())
    return None


async def _get(node: Address, cookie: str) -> bytes:
    """Return the body of the answer. Raises OSError, ValueError for an answer that is none."""
    reader, writer = await asyncio.open_connection(node.host, node.port)
    try:
        head = f"GET /api/session HTTP/1.1\r\nHost: {node}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        answer = await _everything(reader)
    finally:
        writer.close()
    first, _, body = answer.partition(b"\r\n\r\n")
    if first.split(b" ", 2)[1:2] != [b"200"]:
        raise ValueError(first[:20])
    return body


async def _everything(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    while (data := await reader.read(MOST_BYTES)) and sum(map(len, parts)) < MOST_BYTES:
        parts.append(data)
    return b"".join(parts)
