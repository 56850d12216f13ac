"""Stamps of a hybrid logical clock: they follow real time, and never run against cause and effect.

Source: Kulkarni, Demirbas, Madappa, Avva, Leone: Logical Physical Clocks (OPODIS 2014). As there, the time is one
number of 64 bits: 48 of milliseconds since the epoch and 16 that count what happened within one of them, so that it
stays within the clocks' difference of real time and survives a clock that jumps back.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

Origin: TypeAlias = bytes
"""Four random bytes that name one life of a host's storage. A host whose disk was wiped has another one."""

ORIGIN_BYTES = 4
TIME_BYTES = 8
_COUNTER_BITS = 16


class Stamp(NamedTuple):
    """When, and where: totally ordered, and no two writes have the same."""

    time: int
    """Hybrid logical time: milliseconds since the epoch << 16, and a counter."""
    origin: Origin


ZERO = Stamp(0, b"")
"""Earlier than every stamp."""


def tick(last: int, now_ms: int) -> int:
    """Return the time of an event at *now_ms* on a host whose latest known time is *last*."""
    return max(last + 1, now_ms << _COUNTER_BITS)


def milliseconds(time: int) -> int:
    """Return the milliseconds since the epoch in a hybrid *time*."""
    return time >> _COUNTER_BITS
