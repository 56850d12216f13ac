"""Small bounds: what hosts do in batches that a small cluster never fills is cut into small ones, to show the gaps.

What goes wrong between two pieces, two messages or two pages shows only where there are two. These bounds are constants
of the product, and nothing but time and memory depends on them. So a simulation that is to have small ones sets them
while it runs, and puts them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from types import ModuleType

from sojourn.cluster import comparing, handover, host, node, serving, shipping
from sojourn.store.peers import tables_base, tables_merge, tables_verbs

BOUNDS: tuple[tuple[ModuleType, str, tuple[int, ...]], ...] = (
    (shipping, "ROUND", (1, 3, 8)),
    (shipping, "SKIMMED", (1, 2)),
    (serving, "ROUND", (1, 3)),
    (serving, "ANSWERED", (1, 4)),
    (host, "PARCEL", (300, 1000)),
    (comparing, "AT_ONCE", (1, 3)),
    (comparing, "LOOKED_AT", (8, 30)),
    (handover, "AT_ONCE", (1, 3)),
    (node, "SWEPT", (1, 4)),
    (tables_base, "BATCH", (1, 3)),
    (tables_merge, "MOST", (150, 1000)),
    (tables_merge, "_PASSED", (1, 2)),
    (tables_verbs, "LONGEST_PAGE", (1, 3)),
)
"""Where each bound is, and how small it may be."""


@contextmanager
def bounded(random: Random | None) -> Iterator[None]:
    """Have about half of the bounds small meanwhile, as they are drawn; without *random* none."""
    drawn = (
        [(place, name, random.choice(small)) for place, name, small in BOUNDS if random.random() < 0.5]
        if random
        else []
    )
    before = [(place, name, getattr(place, name)) for place, name, _ in drawn]
    try:
        _set(drawn)
        yield
    finally:
        _set(before)


def _set(values: list[tuple[ModuleType, str, int]]) -> None:
    for place, name, value in values:
        setattr(place, name, value)
