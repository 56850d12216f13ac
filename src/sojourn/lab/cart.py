"""The cart: how many of what. A plain dict, as it stands in the session."""

from __future__ import annotations

from collections.abc import Mapping

from sojourn.lab.catalog import CATALOG

MOST = 99  # of one item

Cart = dict[str, int]
"""Item ids and how many of each; never zero."""


def change(cart: Cart, item: str, by: int) -> None:
    """Put *by* more of *item* into the cart, or take some out."""
    cart[item] = min(MOST, cart.get(item, 0) + by)
    if cart[item] <= 0:
        del cart[item]


def merge(read: Cart | None, found: Cart | None, written: Cart | None) -> Cart:
    """Return the cart after two parallel requests: what the other one left, and our change on top of it."""
    merged = dict(found or {})
    before, after = read or {}, written or {}
    for item in {*before, *after}:
        change(merged, item, after.get(item, 0) - before.get(item, 0))
    return merged


def total(cart: Mapping[str, int]) -> int:
    """Return the price of the whole cart in cents."""
    return sum(CATALOG[item].cents * count for item, count in cart.items())
