"""The visitor whom every benchmark serves: about 500 bytes of user data, one look at it and one change to it.

Rule: the bare application runs the same ``show`` and ``change`` on a plain dict, so what remains is the session.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, MutableMapping
from typing import Any

_DATA: dict[str, Any] = {
    "user": {"id": 48213, "name": "Maria Lindqvist", "email": "maria.lindqvist@example.org", "plan": "garden club"},
    "roles": ["customer", "editor", "reviewer"],
    "cart": [
        {"sku": "BK-20931", "title": "A Field Guide to Northern Lichens", "count": 100_000, "cents": 2450},
        {"sku": "TE-00417", "title": "Assam second flush, loose leaf, 500 g", "count": 2, "cents": 1290},
        {"sku": "LA-77120", "title": "Reading lamp, brass, green shade, E27", "count": 1, "cents": 8900},
    ],
    "language": "sv-SE",
    "csrf": "qk3V0sX9bT1uYzM7cR5nLw2HdF8aGj4eKp6iOvNxBtA",
}

FIRST_COUNT = 100_000
"""What the visitor has in the cart at first. A change raises it, and it never gets another digit."""

SIZE = len(json.dumps(_DATA, separators=(",", ":")))
"""Bytes of user data, as compact JSON."""


def data() -> dict[str, Any]:
    """Return the visitor's data, a copy of its own."""
    return copy.deepcopy(_DATA)


def show(session: Mapping[str, Any]) -> str:
    """Read all five keys, as the page of a shop does. Raises KeyError where a key is missing."""
    cart = session["cart"]
    return (
        f"{session['user']['name']} ({', '.join(session['roles'])}), {session['language']}, "
        f"{session['csrf'][:8]}: {len(cart)} things, {cart[0]['count']} of the first"
    )


def greet(session: Mapping[str, Any]) -> str:
    """Read one key, a short text."""
    return f"language {session['language']}"


def change(session: MutableMapping[str, Any]) -> str:
    """Put one more into the cart. The cart is set again, since other sessions do not see a change inside of it."""
    cart = session["cart"]
    cart[0]["count"] += 1
    session["cart"] = cart
    return f"{cart[0]['count']} of the first"


def shown(count: int) -> str:
    """Return what ``show`` says when the cart holds *count* of the first thing."""
    seen = data()
    seen["cart"][0]["count"] = count
    return show(seen)
